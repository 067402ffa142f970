/*
 * argon2.c
 *	  argon2id by libsodium, in a thread of low priority.
 *
 * A hash keeps a core busy for some 20 ms, and the scheduler would let requests
 * that need a fraction of that wait for their share behind it. Priority is a
 * thread's own on Linux, and a process without privileges cannot raise it
 * again: so each hash has a thread, which lowers its own and ends, while the
 * backend waits for it with its priority untouched. On an idle core that costs
 * nothing; on a busy one the hash takes longer.
 *
 * Where the kernel groups tasks by session (sched(7), autogroup), a thread's
 * niceness counts within its group alone, and each backend is a session: there
 * the group's is lowered too. It may be changed ten times a second only, by
 * everybody together. So a backend that hashes in one transaction after the
 * other keeps it, and the first one that ends without a hash puts it back.
 *
 * The thread touches nothing of the server's: it calls libsodium with memory
 * that the backend, waiting, leaves alone, raises no error and takes no signal
 * (all are blocked in it; the backend's own are handled as ever, and those that
 * would end it take effect after the hash, which is bounded).
 */
#include "postgres.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "access/xact.h"

#include "secrets/argon2.h"

/*
 * A sixtieth of the weight of a request's work: as much as a log-in gets of a core
 * that others could use whole.
 */
#define NICENESS 19

/* How long the scheduler may let the hash go on before it looks at who waits; by itself some milliseconds. */
#define SLICE_NS 100000

#define STACK_SIZE (1024 * 1024)

typedef struct Work
{
	const char *input;
	size_t len;
	int passes; /* 0: compare with the hash */
	size_t memory;
	const char *stored;
	char *made;
	int failed;
} Work;

/* The group has been told to be nice; a hash was made in this transaction. */
static bool is_group_nice;
static bool has_hashed;

static void run_apart(Work *work);
static void lower_group(void);
static void transaction_ends(XactEvent event, void *arg);
static bool set_group(int niceness);
static void shorten_slice(void);
static bool start(pthread_t *thread, Work *work);
static void *run_nicely(void *arg);
static void run(Work *work);

bool
ks_argon2_hash(const char *input, size_t len, int passes, int memory_kib, char hash[KS_ARGON2_SIZE])
{
	Work work = {.input = input, .len = len, .passes = passes, .memory = (size_t) memory_kib * 1024, .made = hash};

	run_apart(&work);
	return work.failed == 0;
}

bool
ks_argon2_matches(const char *input, size_t len, const char hash[KS_ARGON2_SIZE])
{
	Work work = {.input = input, .len = len, .stored = hash};

	run_apart(&work);
	return work.failed == 0;
}

/* Run in a thread of its own; where there is none to be had, here. */
static void
run_apart(Work *work)
{
	pthread_t thread;

	lower_group();
	if (start(&thread, work))
		(void) pthread_join(thread, NULL);
	else
		run(work);
}

static void
lower_group(void)
{
	static bool is_told;

	if (!is_told)
		RegisterXactCallback(transaction_ends, NULL);
	is_told = true;
	has_hashed = true;
	is_group_nice = is_group_nice || set_group(NICENESS);
}

static void
transaction_ends(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (is_group_nice && !has_hashed)
		is_group_nice = !set_group(0);
	has_hashed = false;
}

/* False where there are no groups, or when it was changed a moment ago. */
static bool
set_group(int niceness)
{
	int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	char text[8];
	int len = snprintf(text, sizeof(text), "%d", niceness);
	bool is_set = fd >= 0 && write(fd, text, len) == len;

	if (fd >= 0)
		(void) close(fd);
	return is_set;
}

/* The thread inherits the mask: no signal is ever handled in it. */
static bool
start(pthread_t *thread, Work *work)
{
	pthread_attr_t attributes;
	sigset_t all;
	sigset_t before;
	bool is_started;

	if (pthread_attr_init(&attributes) != 0)
		return false;
	sigfillset(&all);
	(void) pthread_sigmask(SIG_SETMASK, &all, &before);
	is_started = pthread_attr_setstacksize(&attributes, STACK_SIZE) == 0 &&
				 pthread_create(thread, &attributes, run_nicely, work) == 0;
	(void) pthread_sigmask(SIG_SETMASK, &before, NULL);
	(void) pthread_attr_destroy(&attributes);
	return is_started;
}

static void *
run_nicely(void *arg)
{
	/* On Linux 0 is the calling thread; should it fail, the hash is merely less polite. */
	(void) setpriority(PRIO_PROCESS, 0, NICENESS);
	shorten_slice();
	run(arg);
	return NULL;
}

/* sched_setattr(2), which the C library does not declare; kernels before 6.12 leave the slice as it is. */
static void
shorten_slice(void)
{
	struct
	{
		uint32 size;
		uint32 policy;
		uint64 flags;
		int32 niceness;
		uint32 priority;
		uint64 runtime;
		uint64 deadline;
		uint64 period;
	} attributes = {.size = sizeof(attributes), .policy = SCHED_OTHER, .niceness = NICENESS, .runtime = SLICE_NS};

	(void) syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static void
run(Work *work)
{
	if (work->passes == 0)
		work->failed = crypto_pwhash_argon2id_str_verify(work->stored, work->input, work->len);
	else
		work->failed = crypto_pwhash_argon2id_str(work->made, work->input, work->len, work->passes, work->memory);
}
