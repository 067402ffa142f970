/*
 * claim.c
 *	  The statements by which a courier takes deliveries.
 *
 * A claim reads, for each lane, the index from the lane's mark: what is due,
 * not claimed, or claimed by a courier that is no more (its lease is over, or
 * it began before this process did, and lanes belong to one process; or its
 * claim is later than any of ours, since the clock was set back). What this
 * process holds it does not claim again, though the lease is over, as when the
 * clock leaps ahead. Rows that somebody else has locked are skipped. What was locked stays where it is,
 * so the update finds it there; it changes no indexed column, so it writes no
 * index entry.
 *
 * Of one ordering key and lane the one with the lowest id goes first; those
 * behind it are parked (due at infinity) when a claim meets them, once each,
 * and the settling of the first wakes the next.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/spi.h"
#include "courier/claim.h"
#include "courier/columns.h"
#include "courier/flight.h"
#include "courier/kinds.h"

static KsPlan lanes_plan = {
	"select l.lane, l.is_paused, l.max_in_flight, l.rate, l.schedule, l.breaker, l.breaker_until, l.breaker_trips, l.failing_since"
	" from unnest($1, $2) as w (user_id, lane)"
	" join keelson.courier_lanes as l on l.user_id = w.user_id and l.lane = w.lane",
	2,
	{UUIDARRAYOID, UUIDARRAYOID}};

static KsPlan claim_plan = {
	"with picked as materialized ("
	" select p.place_of_row, w.place"
	" from unnest($1, $2, $3, $4) as w (place, lane, mark, most)"
	" cross join lateral ("
	"  select d.ctid as place_of_row from keelson.deliveries as d"
	"  where d.lane = w.lane and d.due_at >= w.mark and d.due_at <= $5"
	"  and (d.claim_id is null or d.claim_id < $6 or d.claim_id > $7 or (d.lease_until <= $5 and d.claim_id <> all ($9)))"
	"  order by d.due_at, d.id limit w.most for update skip locked"
	" ) as p"
	")"
	" update keelson.deliveries as d set claim_id = $7, lease_until = $8"
	" from picked as p where d.ctid = p.place_of_row"
	" returning p.place, d.user_id, d.id, d.kind, d.ref, d.due_at, d.attempts - d.attempts_before, d.ordering_key is not null",
	9,
	{INT4ARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TIMESTAMPTZOID, INT8OID, INT8OID, TIMESTAMPTZOID, INT8ARRAYOID}};

static KsPlan park_plan = {
	"update keelson.deliveries as d set due_at = 'infinity', claim_id = null, lease_until = null"
	" from unnest($1, $2) as w (user_id, id)"
	" where d.user_id = w.user_id and d.id = w.id"
	" and exists (select from keelson.deliveries as e"
	"  where e.lane = d.lane and e.ordering_key = d.ordering_key and e.id < d.id)"
	" returning d.id",
	2,
	{UUIDARRAYOID, UUIDARRAYOID}};

static KsPlan later_plan = {
	"select w.place, n.due_at from unnest($1, $2) as w (place, lane)"
	" cross join lateral (select d.due_at from keelson.deliveries as d"
	"  where d.lane = w.lane and d.due_at > $3 and d.due_at < 'infinity' order by d.due_at limit 1) as n",
	3,
	{INT4ARRAYOID, UUIDARRAYOID, TIMESTAMPTZOID}};

static void take_lane(HeapTuple row, TupleDesc desc);
static Datum column(int number, HeapTuple row, TupleDesc desc, bool *is_null);
static Datum held_claims(void);
static int park(KsDelivery **claimed, int count);
static void look_ahead(const KsWanted *wanted, const int *got, int lanes, TimestampTz now);

void
ks_claim_load_lanes(KsLane **lanes, int count)
{
	static const Oid types[] = {UUIDOID, UUIDOID};
	KsColumns *columns;
	Datum values[2];

	if (count == 0)
		return;
	columns = ks_columns_create(count, 2, types);
	for (int i = 0; i < count; i++)
	{
		values[0] = UUIDPGetDatum(&lanes[i]->user_id);
		values[1] = UUIDPGetDatum(&lanes[i]->id);
		ks_columns_add(columns, values, NULL);
		/* What no row says otherwise. */
		lanes[i]->is_loaded = true;
		lanes[i]->is_paused = false;
		lanes[i]->max_in_flight = 0;
		lanes[i]->rate = 0;
		lanes[i]->schedule_length = 0;
	}
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&lanes_plan, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
		take_lane(SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
}

/* Bring a row of keelson.courier_lanes into the lane. */
static void
take_lane(HeapTuple row, TupleDesc desc)
{
	bool is_null;
	Datum value = column(1, row, desc, &is_null);
	KsLane *lane = ks_lane_find(DatumGetUUIDP(value));
	KsBreakerState state;

	if (lane == NULL)
		return;
	lane->is_paused = DatumGetBool(column(2, row, desc, &is_null));
	value = column(3, row, desc, &is_null);
	lane->max_in_flight = is_null ? 0 : DatumGetInt32(value);
	value = column(4, row, desc, &is_null);
	lane->rate = is_null ? 0 : DatumGetFloat8(value);
	value = column(5, row, desc, &is_null);
	if (!is_null)
	{
		ArrayType *schedule = DatumGetArrayTypeP(value);

		lane->schedule_length = Min(ArrayGetNItems(ARR_NDIM(schedule), ARR_DIMS(schedule)), KS_MAX_SCHEDULE);
		memcpy(lane->schedule, ARR_DATA_PTR(schedule), lane->schedule_length * sizeof(int32));
	}
	state = ks_breaker_parse(TextDatumGetCString(column(6, row, desc, &is_null)));
	if (state != lane->breaker.state)
	{
		memset(&lane->breaker, 0, sizeof(lane->breaker));
		lane->breaker.state = state;
		lane->breaker.probes = 1;
		value = column(7, row, desc, &is_null);
		lane->breaker.open_until = is_null ? 0 : DatumGetTimestampTz(value);
		lane->breaker.trips = DatumGetInt32(column(8, row, desc, &is_null));
	}
	else if (state == KS_BREAKER_OPEN)
	{
		value = column(7, row, desc, &is_null);
		lane->breaker.open_until = is_null ? 0 : DatumGetTimestampTz(value);
	}
	value = column(9, row, desc, &is_null);
	lane->failing_since = is_null ? 0 : DatumGetTimestampTz(value);
}

static Datum
column(int number, HeapTuple row, TupleDesc desc, bool *is_null)
{
	return SPI_getbinval(row, desc, number, is_null);
}

int
ks_claim(const KsWanted *wanted, int lanes, int64 claim_id, int64 life, TimestampTz now, KsDelivery *(*give)(void), KsDelivery **out)
{
	static const Oid types[] = {INT4OID, UUIDOID, TIMESTAMPTZOID, INT4OID};
	KsColumns *columns;
	Datum values[9];
	int *got;
	TimestampTz *last;
	int count = 0;

	if (lanes == 0)
		return 0;
	columns = ks_columns_create(lanes, 4, types);
	got = palloc0(lanes * sizeof(int));
	last = palloc0(lanes * sizeof(TimestampTz));
	for (int i = 0; i < lanes; i++)
	{
		values[0] = Int32GetDatum(i);
		values[1] = UUIDPGetDatum(&wanted[i].lane->id);
		/* Without a mark nothing was hinted at: what is there may be as old as it likes. */
		values[2] = TimestampTzGetDatum(wanted[i].lane->mark == DT_NOEND ? DT_NOBEGIN : wanted[i].lane->mark);
		values[3] = Int32GetDatum(wanted[i].count);
		ks_columns_add(columns, values, NULL);
	}
	ks_columns_arrays(columns, values);
	values[4] = TimestampTzGetDatum(now);
	values[5] = Int64GetDatum(life);
	values[6] = Int64GetDatum(claim_id);
	values[7] = TimestampTzGetDatum(now + (TimestampTz) (ks_guc_courier_timeout + 60) * USECS_PER_SEC);
	values[8] = held_claims();
	(void) ks_spi_execute(&claim_plan, values, NULL, false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool is_null;
		int place = DatumGetInt32(column(1, row, desc, &is_null));
		KsDelivery *delivery = give();

		delivery->user_id = *DatumGetUUIDP(column(2, row, desc, &is_null));
		delivery->id = *DatumGetUUIDP(column(3, row, desc, &is_null));
		delivery->lane = wanted[place].lane->id;
		delivery->lane_state = wanted[place].lane;
		delivery->claim_id = claim_id;
		delivery->kind = ks_kind_find(TextDatumGetCString(column(4, row, desc, &is_null)));
		delivery->ref = *DatumGetUUIDP(column(5, row, desc, &is_null));
		delivery->due_at = DatumGetTimestampTz(column(6, row, desc, &is_null));
		delivery->attempts = DatumGetInt32(column(7, row, desc, &is_null));
		delivery->is_ordered = DatumGetBool(column(8, row, desc, &is_null));
		got[place]++;
		last[place] = Max(last[place], delivery->due_at);
		out[count++] = delivery;
	}
	SPI_freetuptable(SPI_tuptable);
	for (int i = 0; i < lanes; i++)
		ks_lane_claimed(wanted[i].lane, wanted[i].count, got[i], last[i]);
	look_ahead(wanted, got, lanes, now);
	return park(out, count);
}

/* The claims of what this process holds, as an array. */
static Datum
held_claims(void)
{
	int count = ks_flight_count();
	int64 *claims = palloc(Max(count, 1) * sizeof(int64));
	Datum *elements = palloc(Max(count, 1) * sizeof(Datum));

	ks_flight_claims(claims);
	for (int i = 0; i < count; i++)
		elements[i] = Int64GetDatum(claims[i]);
	return PointerGetDatum(construct_array(elements, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Lanes that have nothing due, but may later: find out when. */
static void
look_ahead(const KsWanted *wanted, const int *got, int lanes, TimestampTz now)
{
	static const Oid types[] = {INT4OID, UUIDOID};
	KsColumns *columns = NULL;
	Datum values[3];

	for (int i = 0; i < lanes; i++)
	{
		if (got[i] == wanted[i].count || !wanted[i].lane->has_later)
			continue;
		if (columns == NULL)
			columns = ks_columns_create(lanes, 2, types);
		wanted[i].lane->has_later = false;
		values[0] = Int32GetDatum(i);
		values[1] = UUIDPGetDatum(&wanted[i].lane->id);
		ks_columns_add(columns, values, NULL);
	}
	if (columns == NULL)
		return;
	ks_columns_arrays(columns, values);
	values[2] = TimestampTzGetDatum(now);
	(void) ks_spi_execute(&later_plan, values, NULL, false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool is_null;
		KsLane *lane = wanted[DatumGetInt32(column(1, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &is_null))].lane;
		TimestampTz at = DatumGetTimestampTz(column(2, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &is_null));

		lane->has_later = true;
		ks_lane_expect(lane, at);
	}
}

/* Put those back that others of their ordering key go before; returns how many are left in `claimed`. */
static int
park(KsDelivery **claimed, int count)
{
	static const Oid types[] = {UUIDOID, UUIDOID};
	KsColumns *columns = NULL;
	Datum values[2];
	int left = 0;

	for (int i = 0; i < count; i++)
	{
		if (!claimed[i]->is_ordered)
			continue;
		if (columns == NULL)
			columns = ks_columns_create(count, 2, types);
		values[0] = UUIDPGetDatum(&claimed[i]->user_id);
		values[1] = UUIDPGetDatum(&claimed[i]->id);
		ks_columns_add(columns, values, NULL);
	}
	if (columns == NULL)
		return count;
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&park_plan, values, NULL, false, 0);
	for (int i = 0; i < count; i++)
	{
		bool is_parked = false;

		for (uint64 j = 0; claimed[i]->is_ordered && j < SPI_processed && !is_parked; j++)
		{
			bool is_null;
			Datum id = column(1, SPI_tuptable->vals[j], SPI_tuptable->tupdesc, &is_null);

			is_parked = memcmp(DatumGetUUIDP(id), &claimed[i]->id, UUID_LEN) == 0;
		}
		if (is_parked)
			ks_flight_give_back(claimed[i]);
		else
			claimed[left++] = claimed[i];
	}
	return left;
}
