/*
 * hasher.c
 *	  The background worker that hashes passwords, out of the way of others.
 *
 * A hash keeps a core busy for some 20 ms, and requests that need a fraction of
 * that would wait behind it. So all hashes are made by one process, which stops
 * between short turns while others want the processor (turns.c) and therefore
 * may hold nothing that others wait for: it is connected to no database, takes
 * no lock and no snapshot, and shares with backends what needs no lock
 * (hashing.c).
 *
 * The process's main thread takes requests in their order and starts a thread
 * for each, at most keelson.password_hash_slots at once. A thread touches
 * nothing of the server's and nothing that it could leave half done for others:
 * it reads the request's input, computes into memory of its own and tells the
 * main thread by an eventfd. All signals but faults and its turns' are blocked
 * in it.
 *
 * Should the process be ended, its hashes end with it; the next one begins
 * them again. So a backend that waits has no more than a longer wait.
 */
#include "postgres.h"

#include <crypt.h>
#include <pthread.h>
#include <sodium.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "core/compat.h"
#include "core/signals.h"
#include "core/worker.h"
#include "secrets/crypto.h"
#include "secrets/hasher.h"
#include "secrets/hashing.h"
#include "secrets/turns.h"

#define STACK_SIZE (1024 * 1024)

/* Stands behind every wake-up. */
#define POLL_MS 5000

/* A hash that is being made. */
typedef struct Hash
{
	KsHashRequest *request; /* NULL: none */
	pthread_t thread;
	bool has_thread;
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

static void begin(void);
static void leave(int code, Datum arg);
static void resume(void);
static bool publish(Hash *hash);
static void begin_oldest(Hash *hash);
static KsHashRequest *oldest(void);
static bool start(Hash *hash);
static void *run_in_turns(void *arg);
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
	ks_turns_init();
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

/* The thread inherits the mask: of the signals that are sent it handles none but that of its turns. */
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
				 pthread_create(&hash->thread, &attributes, run_in_turns, hash) == 0;
	ks_signals_restore(&before);
	(void) pthread_attr_destroy(&attributes);
	return is_started;
}

static void *
run_in_turns(void *arg)
{
	Hash *hash = arg;
	uint64 one = 1;

	ks_turns_begin();
	run(hash);
	ks_turns_end();
	pg_atomic_write_u32(&hash->is_over, 1);
	while (write(done_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	return NULL;
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

	(void) WaitEventSetWait(waits, POLL_MS, events, lengthof(events), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	if (read(done_fd, &over, sizeof(over)) < 0 && errno != EAGAIN && errno != EINTR)
		elog(ERROR, "could not read from an eventfd: %m");
	CHECK_FOR_INTERRUPTS();
	ks_worker_reload();
}
