/*
 * sweep.c
 *	  The poll behind the couriers' wake-ups, done by the keeper.
 *
 * It goes from lane to lane through the index, one probe each, and hints at the
 * first delivery of each lane that waits: after a restart of the server or of a
 * courier, when hints found no room, after a prepared transaction. It is the
 * keeper's so that no transfer waits while it walks over index entries that an
 * old snapshot keeps alive; a look that took long is not repeated soon.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/keeper.h"
#include "core/spi.h"
#include "courier/sweep.h"
#include "courier/wake.h"

#define INTERVAL_MS 5000
#define LANES_AT_ONCE 1000
#define REST_FACTOR 50

/* One step: the first waiting delivery of the first lane after the given one. */
#define FIRST_OF_NEXT(after)                                                                 \
	"select d.lane, d.user_id, d.due_at from keelson.deliveries as d"                        \
	" where d.lane > " after " and d.due_at < 'infinity'"                                    \
	" and (d.claim_id is null or d.claim_id < $2 or d.claim_id > $5 or d.lease_until <= $3)" \
	" order by d.lane, d.due_at, d.id limit 1"

static KsPlan sweep_plan = {
	"with recursive found as ((" FIRST_OF_NEXT("$1") ")"
													 " union all select n.* from found as f cross join lateral (" FIRST_OF_NEXT("f.lane") ") as n)"
																																		  " select lane, user_id, due_at from found limit $4",
	5,
	{UUIDOID, INT8OID, TIMESTAMPTZOID, INT4OID, INT8OID}};

/* The keeper's number for it. */
static int duty;

/* In the keeper: where the next look begins, and not before when. */
static pg_uuid_t after;
static TimestampTz not_before;

static void sweep(void);
static int look(bool *is_full);

void
ks_sweep_init(void)
{
	duty = ks_keeper_register("courier: look for deliveries", INTERVAL_MS, true, sweep);
}

void
ks_sweep_soon(void)
{
	ks_keeper_wake_duty(duty);
}

static void
sweep(void)
{
	TimestampTz began = GetCurrentTimestamp();
	bool is_full = false;
	int found;
	int total = 0;

	if (began < not_before && not_before - began < 3600 * USECS_PER_SEC)
		return;
	do
	{
		found = look(&is_full);
		total += found;
	} while (found == LANES_AT_ONCE && !is_full && GetCurrentTimestamp() - began < USECS_PER_SEC);
	if (total > 0)
		ks_courier_wake_all();
	if (found < LANES_AT_ONCE && !is_full)
	{
		memset(&after, 0, sizeof(after));
		not_before = GetCurrentTimestamp() + REST_FACTOR * (GetCurrentTimestamp() - began);
	}
	else if (total > 0)
		ks_sweep_soon();
}

/* Hint at the next lanes; returns how many, and whether there was no room for more. */
static int
look(bool *is_full)
{
	TimestampTz now = GetCurrentTimestamp();
	/* A claim is a time, so one that is yet to come is none of those who live. */
	Datum values[5] = {UUIDPGetDatum(&after), Int64GetDatum(ks_courier_oldest_life()), TimestampTzGetDatum(now), Int32GetDatum(LANES_AT_ONCE), Int64GetDatum(now)};
	int found = 0;

	ks_spi_connect();
	(void) ks_spi_execute(&sweep_plan, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed && !*is_full; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		KsHint hint = {0};
		bool is_null;

		hint.lane = *DatumGetUUIDP(SPI_getbinval(row, desc, 1, &is_null));
		hint.user_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 2, &is_null));
		hint.due_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 3, &is_null));
		*is_full = !ks_hint_put(&hint);
		if (*is_full)
			break;
		after = hint.lane;
		found++;
	}
	ks_spi_finish();
	return found;
}
