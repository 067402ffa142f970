/*
 * hasher.c
 *	  The background worker that hashes passwords, out of the way of others.
 *
 * A hash keeps a core busy for some 20 ms, and the scheduler would let requests
 * that need a fraction of that wait for their share behind it. So all hashes
 * are made by one process of low priority, which therefore may hold nothing
 * that others wait for: it is connected to no database, takes no lock and no
 * snapshot, and shares with backends what needs no lock (hashing.c).
 *
 * The process's main thread takes requests in their order and starts a thread
 * for each, at most keelson.password_hash_slots at once. A thread touches
 * nothing of the server's and nothing that it could leave half done for others:
 * it reads the request's input, computes into memory of its own and tells the
 * main thread by an eventfd. All signals but faults are blocked in it.
 *
 * Should the process be ended, its hashes end with it; the next one begins
 * them again. So a backend that waits has no more than a longer wait.
 */
#include "postgres.h"

#include <crypt.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sodium.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "core/compat.h"
#include "core/signals.h"
#include "core/worker.h"
#include "secrets/crypto.h"
#include "secrets/hasher.h"
#include "secrets/hashing.h"

/*
 * A sixtieth of the weight of a request's work. SCHED_IDLE would give a hash
 * that has begun next to nothing of a busy core, and no reader was seen to gain
 * by that.
 */
#define NICENESS 19

/* How long the scheduler may let a hash go on before it looks at who waits; by itself some milliseconds. */
#define SLICE_NS 100000

/*
 * What is not done by then is done at the priority of others, so that whoever
 * keeps the processors busy can delay log-ins, not keep them out.
 */
#define LATE_MS 1000

/* How often that is looked at while there are requests. */
#define LOOK_MS 250

#define STACK_SIZE (1024 * 1024)

/* Stands behind every wake-up. */
#define POLL_MS 5000

/* A hash that is being made. */
typedef struct Hash
{
	KsHashRequest *request; /* NULL: none */
	pthread_t thread;
	bool has_thread;
	bool is_late;             /* when it began */
	pg_atomic_uint32 is_over; /* set by the thread, at its end */
	char made[KS_HASH_SIZE];
	bool is_success;
} Hash;

StaticAssertDecl(KS_HASH_SIZE >= crypto_pwhash_argon2id_STRBYTES, "a hash finds room");

/* The rest is written by the hasher's main thread, when it begins. */
static WaitEventSet *waits;
static Hash *hashes;

/* Threads add to it when they have done. */
static int done_fd = -1;

/* What the process's group has been told, if it has. */
static int group_niceness;

/* There are requests; one of them is late. */
static bool is_busy;
static bool is_late;

static void begin(void);
static void leave(int code, Datum arg);
static void resume(void);
static void look(void);
static bool set_group(int niceness);
static bool publish(Hash *hash);
static void begin_oldest(Hash *hash);
static KsHashRequest *oldest(void);
static bool start(Hash *hash);
static void *run_nicely(void *arg);
static void lower_priority(void);
static void run(Hash *hash);
static bool matches_bcrypt(const KsHashTask *task);
static void await(void);

void
ks_hasher_init(void)
{
	ks_worker_register("hasher", "ks_hasher_main", 0);
}

void
ks_hasher_main(Datum arg)
{
	begin();
	for (;;)
	{
		look();
		for (int i = 0; i < ks_hashing_slots(); i++)
			if (hashes[i].request == NULL || publish(&hashes[i]))
				begin_oldest(&hashes[i]);
		await();
	}
}

static void
begin(void)
{
	ks_worker_begin_apart("hasher");
	if (sodium_init() < 0)
		elog(ERROR, "could not initialise libsodium");
	hashes = MemoryContextAllocZero(TopMemoryContext, mul_size(ks_hashing_slots(), sizeof(Hash)));
	done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (done_fd < 0)
		elog(ERROR, "could not create an eventfd: %m");
	waits = ks_create_wait_event_set(3);
	AddWaitEventToSet(waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(waits, WL_SOCKET_READABLE, done_fd, NULL, NULL);
	before_shmem_exit(leave, (Datum) 0);
	ks_hashing_set_hasher(MyLatch);
	resume();
}

static void
leave(int code, Datum arg)
{
	ks_hashing_set_hasher(NULL);
	/* What follows takes locks. */
	(void) set_group(0);
}

/* What the last hasher was at. */
static void
resume(void)
{
	int count;
	KsHashRequest *requests = ks_hashing_requests(&count);

	for (int i = 0; i < count; i++)
		if (!ks_hashing_step(&requests[i], KS_HASH_RUNNING, KS_HASH_ASKED) &&
			pg_atomic_read_u32(&requests[i].state) == KS_HASH_ABANDONED)
		{
			ks_wipe(&requests[i].task, sizeof(requests[i].task));
			(void) ks_hashing_step(&requests[i], KS_HASH_ABANDONED, KS_HASH_FREE);
		}
}

/* Is anything to be done, is anything late? The group's priority follows at once, also for what has begun. */
static void
look(void)
{
	int count;
	KsHashRequest *requests = ks_hashing_requests(&count);
	TimestampTz now = GetCurrentTimestamp();
	int niceness;

	is_busy = is_late = false;
	for (int i = 0; i < count; i++)
	{
		uint32 state = pg_atomic_read_u32(&requests[i].state);

		if (state != KS_HASH_ASKED && state != KS_HASH_RUNNING)
			continue;
		is_busy = true;
		is_late = is_late || TimestampDifferenceExceeds(requests[i].asked_at, now, LATE_MS);
	}
	niceness = is_late ? 0 : NICENESS;
	if (is_busy && group_niceness != niceness && set_group(niceness))
		group_niceness = niceness;
}

/* Hand over what a thread has made; false when it has not ended. */
static bool
publish(Hash *hash)
{
	KsHashRequest *request = hash->request;
	KsHashTask *task = &request->task;
	Latch *asker = request->asker;

	if (hash->has_thread)
	{
		if (pg_atomic_read_u32(&hash->is_over) == 0)
			return false;
		(void) pthread_join(hash->thread, NULL);
	}
	ks_wipe(task->input, task->len);
	memcpy(task->hash, hash->made, sizeof(task->hash));
	task->is_success = hash->is_success;
	ks_wipe(hash, sizeof(*hash));
	if (ks_hashing_step(request, KS_HASH_RUNNING, KS_HASH_DONE))
		SetLatch(asker);
	else
	{
		ks_wipe(task, sizeof(*task));
		(void) ks_hashing_step(request, KS_HASH_ABANDONED, KS_HASH_FREE);
	}
	return true;
}

/* Begin what has waited longest. */
static void
begin_oldest(Hash *hash)
{
	KsHashRequest *request;

	/* It may be given up in between. */
	do
		request = oldest();
	while (request != NULL && !ks_hashing_step(request, KS_HASH_ASKED, KS_HASH_RUNNING));
	if (request == NULL)
		return;
	hash->request = request;
	pg_atomic_init_u32(&hash->is_over, 0);
	hash->is_late = is_late;
	hash->has_thread = start(hash);
	/* Where there is no thread to be had, here. */
	if (!hash->has_thread)
	{
		run(hash);
		SetLatch(MyLatch);
	}
}

/* The request that has waited longest, or NULL. */
static KsHashRequest *
oldest(void)
{
	int count;
	KsHashRequest *requests = ks_hashing_requests(&count);
	KsHashRequest *found = NULL;

	for (int i = 0; i < count; i++)
		if (pg_atomic_read_u32(&requests[i].state) == KS_HASH_ASKED && (found == NULL || requests[i].ticket < found->ticket))
			found = &requests[i];
	return found;
}

/*
 * Where the kernel groups tasks by session (sched(7), autogroup), a thread's
 * priority counts within its group alone, and each of the server's processes is
 * a session. A group's niceness may be changed ten times a second only, by
 * everybody together: what did not succeed is tried again.
 */
static bool
set_group(int niceness)
{
	char text[8];
	int len = snprintf(text, sizeof(text), "%d", niceness);
	bool is_set;
	int fd;

	fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	is_set = fd < 0 ? errno == ENOENT : write(fd, text, len) == len;
	if (fd >= 0)
		(void) close(fd);
	return is_set;
}

/* The thread inherits the mask: no signal that is sent is ever handled in it. */
static bool
start(Hash *hash)
{
	pthread_attr_t attributes;
	sigset_t before;
	bool is_started;

	if (pthread_attr_init(&attributes) != 0)
		return false;
	ks_signals_block(&before);
	is_started = pthread_attr_setstacksize(&attributes, STACK_SIZE) == 0 &&
				 pthread_create(&hash->thread, &attributes, run_nicely, hash) == 0;
	ks_signals_restore(&before);
	(void) pthread_attr_destroy(&attributes);
	return is_started;
}

static void *
run_nicely(void *arg)
{
	Hash *hash = arg;
	uint64 one = 1;

	if (!hash->is_late)
		lower_priority();
	run(hash);
	pg_atomic_write_u32(&hash->is_over, 1);
	while (write(done_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	return NULL;
}

/* The calling thread's. Where something of it cannot be had, the hash is merely less polite. */
static void
lower_priority(void)
{
	/* sched_setattr(2), which the C library does not declare; kernels before 6.12 leave the slice as it is. */
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

	(void) setpriority(PRIO_PROCESS, 0, NICENESS);
	(void) syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static void
run(Hash *hash)
{
	const KsHashTask *task = &hash->request->task;

	switch (task->kind)
	{
		case KS_HASH_MAKE:
			hash->is_success = crypto_pwhash_argon2id_str(hash->made, task->input, task->len, task->passes, (size_t) task->memory_kib * 1024) == 0;
			break;
		case KS_HASH_ARGON2:
			hash->is_success = crypto_pwhash_argon2id_str_verify(task->hash, task->input, task->len) == 0;
			break;
		case KS_HASH_BCRYPT:
			hash->is_success = matches_bcrypt(task);
			break;
	}
}

/* $2a$, $2b$ and $2y$ name one algorithm; by the first the library would mean another for some passwords. */
static bool
matches_bcrypt(const KsHashTask *task)
{
	struct crypt_data data;
	char setting[KS_HASH_SIZE];
	const char *made;
	bool matches;

	memset(&data, 0, sizeof(data));
	memcpy(setting, task->hash, sizeof(setting));
	setting[2] = 'b';
	made = crypt_r(task->input, setting, &data);
	matches = made != NULL && strlen(made) == strlen(setting) && sodium_memcmp(made, setting, strlen(setting)) == 0;
	sodium_memzero(&data, sizeof(data));
	return matches;
}

static void
await(void)
{
	WaitEvent events[3];
	uint64 over;

	(void) WaitEventSetWait(waits, is_busy ? LOOK_MS : POLL_MS, events, lengthof(events), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	if (read(done_fd, &over, sizeof(over)) < 0 && errno != EAGAIN && errno != EINTR)
		elog(ERROR, "could not read from an eventfd: %m");
	CHECK_FOR_INTERRUPTS();
	ks_worker_reload();
}
