/*
 * counters.c
 *	  Count calls, faults and time by route, in shared memory.
 *
 * A bounded table of slots, each on a cache line of its own; a route takes the
 * first free one and keeps it until the server restarts. Counting takes no
 * lock. What finds no slot is counted in the slot of route 0.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "utils/tuplestore.h"

#include "core/shmem.h"
#include "dispatch/counters.h"

#define COUNTERS 1024

struct KsCounter
{
	pg_atomic_uint32 route_id; /* 0: free */
	pg_atomic_uint64 answered;
	pg_atomic_uint64 refused; /* with a 4xx */
	pg_atomic_uint64 failed;  /* with a 5xx */
	pg_atomic_uint64 time_us;
} pg_attribute_aligned(64);

typedef struct Counters
{
	KsCounter rest; /* of the routes that found no slot */
	KsCounter slots[COUNTERS];
} Counters;

/* Set when shared memory is made. */
static Counters *shared;

static void init_shared(void *area, bool found);
static void init_counter(KsCounter *counter);
static void put_counter(ReturnSetInfo *result, KsCounter *counter);

void
ks_counters_init(void)
{
	ks_shmem_register("keelson dispatch counters", sizeof(Counters), init_shared, (void **) &shared);
}

static void
init_shared(void *area, bool found)
{
	Counters *counters = area;

	if (found)
		return;
	init_counter(&counters->rest);
	for (int i = 0; i < COUNTERS; i++)
		init_counter(&counters->slots[i]);
}

static void
init_counter(KsCounter *counter)
{
	pg_atomic_init_u32(&counter->route_id, 0);
	pg_atomic_init_u64(&counter->answered, 0);
	pg_atomic_init_u64(&counter->refused, 0);
	pg_atomic_init_u64(&counter->failed, 0);
	pg_atomic_init_u64(&counter->time_us, 0);
}

KsCounter *
ks_counter(int32 route_id)
{
	for (int i = 0; route_id > 0 && i < COUNTERS; i++)
	{
		KsCounter *counter = &shared->slots[(route_id + i) % COUNTERS];
		uint32 known = pg_atomic_read_u32(&counter->route_id);

		/* A failed exchange leaves in `known` whose slot it is. */
		if (known == 0 && pg_atomic_compare_exchange_u32(&counter->route_id, &known, route_id))
			return counter;
		if (known == route_id)
			return counter;
	}
	return &shared->rest;
}

void
ks_counter_add(KsCounter *counter, int status, const instr_time *started)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, *started);
	if (status >= 500)
		pg_atomic_fetch_add_u64(&counter->failed, 1);
	else if (status >= 400)
		pg_atomic_fetch_add_u64(&counter->refused, 1);
	else
		pg_atomic_fetch_add_u64(&counter->answered, 1);
	pg_atomic_fetch_add_u64(&counter->time_us, INSTR_TIME_GET_MICROSEC(now));
}

PG_FUNCTION_INFO_V1(ks_dispatch_counters);

/* keelson._dispatch_counters() */
Datum
ks_dispatch_counters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	ks_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	put_counter(result, &shared->rest);
	for (int i = 0; i < COUNTERS; i++)
		put_counter(result, &shared->slots[i]);
	return (Datum) 0;
}

/* Put the counter into the result, unless it counts nothing. */
static void
put_counter(ReturnSetInfo *result, KsCounter *counter)
{
	Datum values[5];
	bool nulls[5] = {false};
	int64 answered = pg_atomic_read_u64(&counter->answered);
	int64 refused = pg_atomic_read_u64(&counter->refused);
	int64 failed = pg_atomic_read_u64(&counter->failed);

	if (answered + refused + failed == 0)
		return;
	values[0] = Int32GetDatum((int32) pg_atomic_read_u32(&counter->route_id));
	values[1] = Int64GetDatum(answered);
	values[2] = Int64GetDatum(refused);
	values[3] = Int64GetDatum(failed);
	values[4] = Float8GetDatum(pg_atomic_read_u64(&counter->time_us) / 1e6);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}
