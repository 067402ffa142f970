/*
 * load.c
 *	  How hard the server is pressed, and what that leaves of a limit.
 *
 * The keeper measures the signals of keelson.load_signals every second; the
 * pressure that follows stands in shared memory, where decisions read it. As it
 * rises, the lowest rank of tiers loses first, down to a tenth; then the next.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "port/atomics.h"

#include "core/keeper.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "limits/load.h"
#include "limits/store.h"

#define MEASURE_MS 1000

/* Pressure is kept as an integer of so many parts. */
#define PARTS 1000

/* An adaptive limit never shrinks below a tenth. */
#define LEAST_PARTS (PARTS / 10)

/* How much of a new measurement counts: a peak of a second is not yet pressure. */
#define SMOOTHING 0.3

typedef struct Shared
{
	pg_atomic_uint32 pressure;

	/* The dispatcher's counters at the latest measurement; who measures writes them. */
	pg_atomic_uint64 calls;
	pg_atomic_uint64 microseconds;

	/* The longest queue that a gateway has told of since then. */
	pg_atomic_uint32 queue;
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

static void init_shared(void *area, bool found);
static void measure(void);
static void take_measure(void);
static bool is_busy(void);
static Datum column(int number, bool *is_null);

void
ks_load_init(void)
{
	ks_shmem_register("keelson limits load", sizeof(Shared), init_shared, (void **) &shared);
	ks_keeper_register("limits: measure the load", MEASURE_MS, false, measure);
}

static void
init_shared(void *area, bool found)
{
	Shared *load = area;

	if (found)
		return;
	pg_atomic_init_u32(&load->pressure, 0);
	pg_atomic_init_u64(&load->calls, 0);
	pg_atomic_init_u64(&load->microseconds, 0);
	pg_atomic_init_u32(&load->queue, 0);
}

int32
ks_load_limit(int32 most, int rank, int top_rank)
{
	int32 pressure = (int32) pg_atomic_read_u32(&shared->pressure);
	int32 lost;

	if (likely(pressure == 0))
		return most;
	/* Each rank has its share of the scale: below it nothing is lost, above it all that may be. */
	lost = pressure * (top_rank + 1) - rank * PARTS;
	lost = Min(Max(lost, 0), PARTS);
	lost = (int32) ((int64) lost * (PARTS - LEAST_PARTS) / PARTS);
	return Max(1, (int32) ((int64) most * (PARTS - lost) / PARTS));
}

void
ks_load_queue(int32 length)
{
	if (length > (int32) pg_atomic_read_u32(&shared->queue))
		pg_atomic_write_u32(&shared->queue, length);
}

double
ks_load_pressure(void)
{
	return (double) pg_atomic_read_u32(&shared->pressure) / PARTS;
}

/* The keeper's duty. Where nothing is asked of the server, it is not measured. */
static void
measure(void)
{
	if (pg_atomic_read_u32(&shared->pressure) == 0 && !is_busy())
		return;
	if (!ks_worker_transaction_begin("limits: measure the load"))
		return;
	take_measure();
	ks_worker_transaction_end();
}

static void
take_measure(void)
{
	static KsPlan plan = {
		.sql = "select pressure, calls, microseconds from keelson._load_measure($1, $2, $3)",
		.nargs = 3,
		.argtypes = {INT8OID, INT8OID, INT4OID}};
	Datum values[] = {
		UInt64GetDatum(pg_atomic_read_u64(&shared->calls)),
		UInt64GetDatum(pg_atomic_read_u64(&shared->microseconds)),
		Int32GetDatum(pg_atomic_exchange_u32(&shared->queue, 0)),
	};
	double pressure = ks_load_pressure();
	bool is_null;

	ks_spi_connect();
	(void) ks_spi_execute(&plan, values, NULL, false, 1);
	pressure += SMOOTHING * (DatumGetFloat8(column(1, &is_null)) - pressure);
	pg_atomic_write_u64(&shared->calls, DatumGetInt64(column(2, &is_null)));
	pg_atomic_write_u64(&shared->microseconds, DatumGetInt64(column(3, &is_null)));
	ks_spi_finish();
	pg_atomic_write_u32(&shared->pressure, (uint32) (pressure * PARTS));
}

/* Have there been decisions since the last look? */
static bool
is_busy(void)
{
	/* Written by this function alone. */
	static int64 before;
	KsLimitStats stats;
	int64 now;

	ks_store_stats(&stats);
	now = stats.admitted + stats.refused;
	if (now == before)
		return false;
	before = now;
	return true;
}

static Datum
column(int number, bool *is_null)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, is_null);
}

PG_FUNCTION_INFO_V1(ks_limits_measure);

/* keelson._limits_measure() */
Datum
ks_limits_measure(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	take_measure();
	PG_RETURN_FLOAT8(ks_load_pressure());
}
