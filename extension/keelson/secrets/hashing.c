/*
 * hashing.c
 *	  What backends and the hasher share: a bounded number of requests.
 *
 * A request holds its input from when it is asked until it is computed or no
 * longer wanted; then it is wiped. The area is mapped like the keyring's, so
 * that no core dump has it.
 *
 * There is no lock in it: the hasher has so little of the processors that
 * everybody would wait for one it held. Every change of hands is an atomic
 * exchange of the request's state (hashing.h), which also is a barrier. A
 * backend's own request is given up on error, when it is cancelled, and when it
 * exits; kill -9 makes the server start over, and the area with it.
 */
#include "postgres.h"

#include <unistd.h>

#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/shmem.h"
#include "secrets/crypto.h"
#include "secrets/hasher.h"
#include "secrets/hashing.h"
#include "secrets/locked.h"

#define MAX_WAITING 64
#define MAX_WAIT_MS 10000

/* Stands behind every wake-up. */
#define POLL_MS 1000

typedef struct HashingShared
{
	pg_atomic_uint64 hasher;  /* its Latch, which lies in shared memory, or 0 */
	pg_atomic_uint64 tickets; /* how many have been given */
	pg_atomic_uint64 refused; /* requests that found no room, or waited too long */
	int slots;
	int count;
	KsHashRequest requests[FLEXIBLE_ARRAY_MEMBER];
} HashingShared;

/* Mapped when shared memory is made for the first time. */
static HashingShared *shared;

/* This backend's request; written by claim() and leave(). */
static KsHashRequest *mine;

static void init_shared(void *area, bool found);
static int slot_count(void);
static void run(void);
static KsHashRequest *claim(KsHashKind kind, const char *input, size_t len);
static void ask(KsHashRequest *request);
static void await(KsHashRequest *request);
static void refuse(void);
static void leave(void);
static void leave_at_exit(int code, Datum arg);

void
ks_hashing_init(void)
{
	static void *unused;

	ks_shmem_register("keelson hashing", sizeof(uint64), init_shared, &unused);
	ks_hasher_init();
}

/* Map the area, or empty it when the postmaster starts over; the server's own shared memory is not used. */
static void
init_shared(void *area, bool found)
{
	int slots = slot_count();
	Size size = add_size(offsetof(HashingShared, requests), mul_size(slots + MAX_WAITING, sizeof(KsHashRequest)));

	if (found)
		return;
	if (shared == NULL)
		shared = ks_locked_create(size, true, NULL);
	if (shared == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not map memory for the hashing of passwords: %m")));
	ks_wipe(shared, size);
	shared->slots = slots;
	shared->count = slots + MAX_WAITING;
	pg_atomic_init_u64(&shared->hasher, 0);
	pg_atomic_init_u64(&shared->tickets, 0);
	pg_atomic_init_u64(&shared->refused, 0);
	for (int i = 0; i < shared->count; i++)
		pg_atomic_init_u32(&shared->requests[i].state, KS_HASH_FREE);
}

static int
slot_count(void)
{
	if (ks_guc_password_hash_slots > 0)
		return ks_guc_password_hash_slots;
	return Max((int) sysconf(_SC_NPROCESSORS_ONLN) - 1, 1);
}

bool
ks_hashing_make(const char *input, size_t len, int passes, int memory_kib, char hash[KS_HASH_SIZE])
{
	KsHashRequest *request = claim(KS_HASH_MAKE, input, len);
	bool is_made;

	request->task.passes = passes;
	request->task.memory_kib = memory_kib;
	run();
	memcpy(hash, request->task.hash, KS_HASH_SIZE);
	is_made = request->task.is_success;
	leave();
	return is_made;
}

bool
ks_hashing_matches(KsHashKind kind, const char *input, size_t len, const char *hash)
{
	KsHashRequest *request = claim(kind, input, len);
	bool is_match;

	strlcpy(request->task.hash, hash, KS_HASH_SIZE);
	run();
	is_match = request->task.is_success;
	leave();
	return is_match;
}

bool
ks_hashing_step(KsHashRequest *request, KsHashState from, KsHashState to)
{
	uint32 expected = from;

	return pg_atomic_compare_exchange_u32(&request->state, &expected, to);
}

int
ks_hashing_slots(void)
{
	return shared->slots;
}

KsHashRequest *
ks_hashing_requests(int *count)
{
	*count = shared->count;
	return shared->requests;
}

void
ks_hashing_set_hasher(Latch *latch)
{
	pg_atomic_write_u64(&shared->hasher, (uint64) (uintptr_t) latch);
	/* Who asks looks for the hasher afterwards, which looks for requests afterwards: one sees the other. */
	pg_memory_barrier();
}

/* A request of this backend's, to be filled; it is wiped. */
static KsHashRequest *
claim(KsHashKind kind, const char *input, size_t len)
{
	static bool is_registered = false;

	ks_require_shmem();
	if (!is_registered)
		before_shmem_exit(leave_at_exit, (Datum) 0);
	is_registered = true;
	if (len > KS_HASH_INPUT_MAX)
		elog(ERROR, "the input of a hash is too long");
	for (int i = 0; i < shared->count && mine == NULL; i++)
		if (ks_hashing_step(&shared->requests[i], KS_HASH_FREE, KS_HASH_CLAIMED))
			mine = &shared->requests[i];
	if (mine == NULL)
		refuse();
	mine->asker = MyLatch;
	mine->task.kind = kind;
	mine->task.len = len;
	memcpy(mine->task.input, input, len);
	return mine;
}

/* Have this backend's request computed. */
static void
run(void)
{
	PG_TRY();
	{
		ask(mine);
		await(mine);
	}
	PG_CATCH();
	{
		leave();
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static void
ask(KsHashRequest *request)
{
	Latch *hasher;

	request->asked_at = GetCurrentTimestamp();
	request->ticket = pg_atomic_fetch_add_u64(&shared->tickets, 1);
	(void) ks_hashing_step(request, KS_HASH_CLAIMED, KS_HASH_ASKED);
	hasher = (Latch *) (uintptr_t) pg_atomic_read_u64(&shared->hasher);
	/* A latch of shared memory outlives its process, so a late call does no harm. */
	if (hasher != NULL)
		SetLatch(hasher);
}

static void
await(KsHashRequest *request)
{
	TimestampTz begun = request->asked_at;

	while (!ks_hashing_step(request, KS_HASH_DONE, KS_HASH_CLAIMED))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		/* One that is computed may have to be begun again. */
		if (pg_atomic_read_u32(&request->state) == KS_HASH_RUNNING)
			begun = GetCurrentTimestamp();
		else if (TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), MAX_WAIT_MS) &&
				 ks_hashing_step(request, KS_HASH_ASKED, KS_HASH_CLAIMED))
			refuse();
	}
}

static void
refuse(void)
{
	pg_atomic_fetch_add_u64(&shared->refused, 1);
	if (pg_atomic_read_u64(&shared->hasher) == 0)
		ereport(LOG,
				(errmsg("the process that hashes passwords is not there"),
				 errhint("It is one of max_worker_processes, and a second after it has ended the server starts the next.")));
	ks_raise(503, "UNAVAILABLE", "Try again in a few seconds.", "too many passwords are being checked");
}

/* Give up this backend's request, whatever has become of it, or free it when its answer has been read. */
static void
leave(void)
{
	KsHashRequest *request = mine;

	if (request == NULL)
		return;
	mine = NULL;
	/* Until one of them holds: the hasher takes its own steps meanwhile. */
	while (pg_atomic_read_u32(&request->state) != KS_HASH_CLAIMED &&
		   !ks_hashing_step(request, KS_HASH_ASKED, KS_HASH_CLAIMED) &&
		   !ks_hashing_step(request, KS_HASH_DONE, KS_HASH_CLAIMED))
		if (ks_hashing_step(request, KS_HASH_RUNNING, KS_HASH_ABANDONED))
			return;
	ks_wipe(&request->task, sizeof(request->task));
	(void) ks_hashing_step(request, KS_HASH_CLAIMED, KS_HASH_FREE);
}

static void
leave_at_exit(int code, Datum arg)
{
	leave();
}

PG_FUNCTION_INFO_V1(ks__password_queue);

/* keelson._password_queue(): running, waiting, refused */
Datum
ks__password_queue(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {false, false, false};
	int running = 0;
	int waiting = 0;

	ks_require_shmem();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < shared->count; i++)
	{
		uint32 state = pg_atomic_read_u32(&shared->requests[i].state);

		running += state == KS_HASH_RUNNING || state == KS_HASH_ABANDONED;
		waiting += state == KS_HASH_ASKED;
	}
	values[0] = Int32GetDatum(running);
	values[1] = Int32GetDatum(waiting);
	values[2] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->refused));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
