/*
 * wake.c
 *	  Hints from committing sessions to couriers, through shared memory.
 *
 * A session collects the lanes that its transaction has given work to and, once
 * it has committed, puts them into the courier's table and sets its latch. The
 * table holds a lane once, with the earliest time it was told; the courier
 * empties it. One that finds no room is dropped: the keeper looks through
 * keelson.deliveries every few seconds (sweep.c) and finds what nobody told of,
 * as it does after a restart and after a prepared transaction.
 *
 * A user's deliveries belong to one courier, by the user's id, so that caps,
 * rates and breakers are exact in that process's memory; those of nobody (the
 * server's own) are spread by lane.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/spin.h"
#include "utils/memutils.h"

#include "core/guc.h"
#include "core/shmem.h"
#include "core/uuid.h"
#include "core/worker.h"
#include "courier/courier.h"
#include "courier/wake.h"

#define HINTS 1024 /* a power of two */
#define PROBES 16

typedef struct HintSlot
{
	bool is_used;
	KsHint hint;
} HintSlot;

typedef struct Courier
{
	slock_t lock; /* guards what follows, up to the counters; held for a few probes */
	int used;
	HintSlot slots[HINTS];
	int64 life;
	int failed_lives;
	KsCourierCounters counters;
} Courier;

typedef struct Shared
{
	pg_atomic_uint64 fenced; /* database and table, 0: none yet */
	Courier couriers[KS_MAX_COURIERS];
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

/* A hint of the running transaction, in TopTransactionContext. */
typedef struct Pending
{
	slist_node node;
	KsHint hint;
} Pending;

/* Those of the running transaction; forgotten when it ends. */
static slist_head pending;
static int pending_count;

/* Beyond this many lanes in one transaction the rest is found by the keeper. */
#define MAX_PENDING 256

static void init_shared(void *area, bool found);
static void remember(const KsHint *hint);
static void at_end(XactEvent event, void *arg);
static int courier_of(const pg_uuid_t *user_id, const pg_uuid_t *lane);

void
ks_wake_init(void)
{
	ks_shmem_register("keelson courier", sizeof(Shared), init_shared, (void **) &shared);
	RegisterXactCallback(at_end, NULL);
}

static void
init_shared(void *area, bool found)
{
	Shared *couriers = area;

	if (found)
		return;
	memset(couriers, 0, sizeof(*couriers));
	pg_atomic_init_u64(&couriers->fenced, 0);
	for (int i = 0; i < KS_MAX_COURIERS; i++)
	{
		KsCourierCounters *counters = &couriers->couriers[i].counters;

		SpinLockInit(&couriers->couriers[i].lock);
		couriers->couriers[i].life = PG_INT64_MAX;
		pg_atomic_init_u64(&counters->attempts, 0);
		pg_atomic_init_u64(&counters->delivered, 0);
		pg_atomic_init_u64(&counters->retried, 0);
		pg_atomic_init_u64(&counters->exhausted, 0);
		pg_atomic_init_u64(&counters->cancelled, 0);
		pg_atomic_init_u64(&counters->blocked, 0);
		pg_atomic_init_u64(&counters->claimed, 0);
		pg_atomic_init_u64(&counters->claim_us, 0);
		pg_atomic_init_u32(&counters->in_flight, 0);
		pg_atomic_init_u32(&counters->lanes, 0);
		pg_atomic_init_u32(&counters->open_lanes, 0);
	}
}

void
ks_courier_hint(const pg_uuid_t *user_id, const pg_uuid_t *lane, TimestampTz due_at)
{
	KsHint hint = {*user_id, *lane, due_at, false};

	remember(&hint);
}

void
ks_courier_lane_changed(const pg_uuid_t *user_id, const pg_uuid_t *lane)
{
	KsHint hint = {*user_id, *lane, GetCurrentTransactionStartTimestamp(), true};

	remember(&hint);
}

/* Keep the hint until the transaction ends, one for each lane. */
static void
remember(const KsHint *hint)
{
	slist_iter iter;
	Pending *kept;

	if (shared == NULL)
		return;
	slist_foreach(iter, &pending)
	{
		kept = slist_container(Pending, node, iter.cur);
		if (memcmp(&kept->hint.lane, &hint->lane, UUID_LEN) != 0)
			continue;
		kept->hint.due_at = Min(kept->hint.due_at, hint->due_at);
		kept->hint.is_changed |= hint->is_changed;
		return;
	}
	if (pending_count == MAX_PENDING)
		return;
	kept = MemoryContextAlloc(TopTransactionContext, sizeof(Pending));
	kept->hint = *hint;
	slist_push_head(&pending, &kept->node);
	pending_count++;
}

/* What was committed is visible by now. What a rolled-back subtransaction hinted at is looked for in vain. */
static void
at_end(XactEvent event, void *arg)
{
	bool wake[KS_MAX_COURIERS] = {false};
	slist_iter iter;

	if (pending_count == 0 || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		slist_foreach(iter, &pending)
		{
			const KsHint *hint = &slist_container(Pending, node, iter.cur)->hint;

			(void) ks_hint_put(hint);
			wake[courier_of(&hint->user_id, &hint->lane)] = true;
		}
		for (int i = 0; i < KS_MAX_COURIERS; i++)
			if (wake[i])
				ks_worker_wake(KS_COURIER_SLOT(i));
	}
	slist_init(&pending);
	pending_count = 0;
}

bool
ks_hint_put(const KsHint *hint)
{
	Courier *courier = &shared->couriers[courier_of(&hint->user_id, &hint->lane)];
	uint32 hash = hash_bytes(hint->lane.data, UUID_LEN);
	HintSlot *place = NULL;

	SpinLockAcquire(&courier->lock);
	for (int i = 0; i < PROBES; i++)
	{
		HintSlot *slot = &courier->slots[(hash + i) % HINTS];

		if (!slot->is_used)
		{
			if (place == NULL)
				place = slot;
			continue;
		}
		if (memcmp(&slot->hint.lane, &hint->lane, UUID_LEN) == 0)
		{
			slot->hint.due_at = Min(slot->hint.due_at, hint->due_at);
			slot->hint.is_changed |= hint->is_changed;
			SpinLockRelease(&courier->lock);
			return true;
		}
	}
	if (place != NULL)
	{
		place->is_used = true;
		place->hint = *hint;
		courier->used++;
	}
	SpinLockRelease(&courier->lock);
	return place != NULL;
}

/* The courier that a user's deliveries belong to. */
static int
courier_of(const pg_uuid_t *user_id, const pg_uuid_t *lane)
{
	const pg_uuid_t *by = ks_uuid_is_nil(user_id) ? lane : user_id;

	return hash_bytes(by->data, UUID_LEN) % Max(ks_guc_courier_workers, 1);
}

void
ks_courier_wake_all(void)
{
	for (int i = 0; i < ks_guc_courier_workers; i++)
		ks_worker_wake(KS_COURIER_SLOT(i));
}

int
ks_hints_take(int courier, KsHint *out, int most)
{
	Courier *mine = &shared->couriers[courier];
	int taken = 0;

	SpinLockAcquire(&mine->lock);
	for (int i = 0; i < HINTS && mine->used > 0 && taken < most; i++)
		if (mine->slots[i].is_used)
		{
			out[taken++] = mine->slots[i].hint;
			mine->slots[i].is_used = false;
			mine->used--;
		}
	SpinLockRelease(&mine->lock);
	return taken;
}

void
ks_courier_life_begin(int courier, int64 life)
{
	SpinLockAcquire(&shared->couriers[courier].lock);
	shared->couriers[courier].life = life;
	SpinLockRelease(&shared->couriers[courier].lock);
}

int64
ks_courier_oldest_life(void)
{
	int64 oldest = PG_INT64_MAX;

	for (int i = 0; i < KS_MAX_COURIERS; i++)
	{
		SpinLockAcquire(&shared->couriers[i].lock);
		oldest = Min(oldest, shared->couriers[i].life);
		SpinLockRelease(&shared->couriers[i].lock);
	}
	return oldest == PG_INT64_MAX ? 0 : oldest;
}

int
ks_courier_failed_lives(int courier)
{
	int failed;

	SpinLockAcquire(&shared->couriers[courier].lock);
	failed = shared->couriers[courier].failed_lives++;
	SpinLockRelease(&shared->couriers[courier].lock);
	return failed;
}

void
ks_courier_goes_well(int courier)
{
	SpinLockAcquire(&shared->couriers[courier].lock);
	shared->couriers[courier].failed_lives = 0;
	SpinLockRelease(&shared->couriers[courier].lock);
}

KsCourierCounters *
ks_courier_counters(int courier)
{
	return shared == NULL ? NULL : &shared->couriers[courier].counters;
}

bool
ks_courier_is_fenced(Oid table)
{
	return pg_atomic_read_u64(&shared->fenced) == ((uint64) MyDatabaseId << 32 | table);
}

void
ks_courier_set_fenced(Oid table)
{
	pg_atomic_write_u64(&shared->fenced, (uint64) MyDatabaseId << 32 | table);
}

PG_FUNCTION_INFO_V1(ks_courier_hint_sql);

/* keelson._courier_hint(user_id uuid, lane uuid, is_changed boolean) */
Datum
ks_courier_hint_sql(PG_FUNCTION_ARGS)
{
	if (PG_GETARG_BOOL(2))
		ks_courier_lane_changed(PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1));
	else
		ks_courier_hint(PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1), GetCurrentTransactionStartTimestamp());
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks_courier_status);

/* keelson._courier_status() */
Datum
ks_courier_status(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[12];
	bool nulls[12] = {false};
	int64 sums[8] = {0};
	int32 gauges[3] = {0};

	ks_require_shmem();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < KS_MAX_COURIERS; i++)
	{
		KsCourierCounters *counters = &shared->couriers[i].counters;
		pg_atomic_uint64 *totals[] = {&counters->attempts, &counters->delivered, &counters->retried,
									  &counters->exhausted, &counters->cancelled, &counters->blocked,
									  &counters->claimed, &counters->claim_us};
		pg_atomic_uint32 *states[] = {&counters->in_flight, &counters->lanes, &counters->open_lanes};

		for (int j = 0; j < lengthof(totals); j++)
			sums[j] += pg_atomic_read_u64(totals[j]);
		for (int j = 0; j < lengthof(states); j++)
			gauges[j] += pg_atomic_read_u32(states[j]);
	}
	for (int i = 0; i < lengthof(sums); i++)
		values[i] = Int64GetDatum(sums[i]);
	for (int i = 0; i < lengthof(gauges); i++)
		values[lengthof(sums) + i] = Int32GetDatum(gauges[i]);
	values[lengthof(values) - 1] = BoolGetDatum(pg_atomic_read_u64(&shared->fenced) >> 32 == MyDatabaseId);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
