/*
 * settle.c
 *	  The statements by which a courier settles, and the retry schedule.
 *
 * Each is fenced by the claim: a row whose claim_id is not ours any more was
 * claimed again after our lease, and is that claim's to settle. What is
 * recorded and what is removed is one transaction, so a delivery is in exactly
 * one place at any time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "courier/columns.h"
#include "courier/log.h"
#include "courier/settle.h"

#define STATUS_GONE 410

/* The columns of an outcome, as both statements take them. */
#define OUTCOME_COLUMNS "started_at, status, code, error, address, http_version, name_us, connect_us, tls_us, first_byte_us, total_us, response, response_size"
#define OUTCOME_OF(alias) \
	alias ".started_at, " alias ".status, " alias ".code, " alias ".error, " alias ".address, " alias ".http_version, " alias ".name_us, " alias ".connect_us, " alias ".tls_us, " alias ".first_byte_us, " alias ".total_us, " alias ".response, " alias ".response_size"

static KsPlan finish_plan = {
	"with gone as (delete from keelson.deliveries as d"
	"  using unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
	"   as w (user_id, id, claim_id, state, " OUTCOME_COLUMNS ")"
	"  where d.user_id = w.user_id and d.id = w.id and d.claim_id = w.claim_id"
	"  returning d.user_id, d.id, d.lane, d.kind, d.ref, w.state, d.attempts, d.ordering_key, " OUTCOME_OF("w") ")"
																												" insert into keelson.deliveries_log (user_id, id, lane, kind, ref, state, attempts, ordering_key, finished_at, " OUTCOME_COLUMNS ")"
																												" select g.user_id, g.id, g.lane, g.kind, g.ref, g.state, g.attempts + case when g.started_at is null then 0 else 1 end,"
																												" g.ordering_key, $18, " OUTCOME_OF("g") " from gone as g",
	18,
	{UUIDARRAYOID, UUIDARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	 INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZOID}};

static KsPlan retry_plan = {
	"with back as (update keelson.deliveries as d"
	"  set claim_id = null, lease_until = null, due_at = w.retry_at, attempts = d.attempts + 1"
	"  from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
	"   as w (user_id, id, claim_id, retry_at, " OUTCOME_COLUMNS ")"
	"  where d.user_id = w.user_id and d.id = w.id and d.claim_id = w.claim_id"
	"  returning d.user_id, d.id, d.attempts, " OUTCOME_OF("w") ")"
																" insert into keelson.delivery_attempts (user_id, delivery_id, number, " OUTCOME_COLUMNS ")"
																" select b.user_id, b.id, b.attempts, " OUTCOME_OF("b") " from back as b",
	17,
	{UUIDARRAYOID, UUIDARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	 INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID}};

static KsPlan release_plan = {
	"update keelson.deliveries as d set claim_id = null, lease_until = null"
	" from unnest($1, $2, $3) as w (user_id, id, claim_id)"
	" where d.user_id = w.user_id and d.id = w.id and d.claim_id = w.claim_id",
	3,
	{UUIDARRAYOID, UUIDARRAYOID, INT8ARRAYOID}};

static KsPlan unpark_plan = {
	"select keelson._deliveries_unpark($1, $2)", 2, {UUIDARRAYOID, UUIDARRAYOID}};

/*
 * Waits for nobody: who has a lane's row locked would hold up all others'
 * deliveries. Of a user's lane there is a row as long as what it belongs to:
 * none is made here, which would outlive an endpoint that was just removed.
 */
static KsPlan lanes_plan = {
	"with w as materialized ("
	"  select * from unnest($1, $2, $3, $4, $5, $6, $7) as w (user_id, lane, breaker, breaker_until, breaker_trips, failing_since, is_users)"
	" ),"
	" made as ("
	"  insert into keelson.courier_lanes as l (user_id, lane, breaker, breaker_until, breaker_trips, failing_since)"
	"  select user_id, lane, breaker, breaker_until, breaker_trips, failing_since from w where not is_users on conflict on constraint courier_lanes_pkey do nothing returning l.lane"
	" ),"
	" free as materialized ("
	"  select l.user_id, l.lane from w join keelson.courier_lanes as l on l.user_id = w.user_id and l.lane = w.lane"
	"  for no key update of l skip locked"
	" ),"
	" changed as ("
	"  update keelson.courier_lanes as l"
	"  set breaker = case when l.breaker in ('forced_open', 'forced_closed') then l.breaker else w.breaker end,"
	"  breaker_until = w.breaker_until, breaker_trips = w.breaker_trips, failing_since = w.failing_since, changed_at = now()"
	"  from w join free as f on f.user_id = w.user_id and f.lane = w.lane"
	"  where l.user_id = w.user_id and l.lane = w.lane returning l.lane"
	" )"
	" select w.lane from w where w.lane not in (select m.lane from made as m union all select c.lane from changed as c)"
	" and (not w.is_users or exists (select from keelson.courier_lanes as l where l.user_id = w.user_id and l.lane = w.lane))",
	7,
	{UUIDARRAYOID, UUIDARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, BOOLARRAYOID}};

static const char *const state_names[] = {
	[KS_DELIVERED] = "delivered",
	[KS_EXHAUSTED] = "exhausted",
	[KS_CANCELLED] = "cancelled",
};

static const Oid outcome_types[] = {
	TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, TEXTOID, INT4OID};

static KsColumns *gather(int capacity, Oid fourth);
static void add_row(KsColumns *columns, const KsDelivery *delivery, Datum fourth);
static void add_outcome(const KsAnswer *outcome, Datum *values, bool *nulls);
static Datum optional_text(const char *string, bool *is_null);
static text *clean_text(const char *bytes, size_t length);
static void release(KsDelivery **deliveries, int count);
static void unpark(KsDelivery **deliveries, int count);

void
ks_settle_judge(KsDelivery *delivery, TimestampTz now)
{
	const KsAnswer *outcome = &delivery->outcome;
	const KsLane *lane = delivery->lane_state;
	bool has_own = lane->schedule_length > 0;
	const int32 *schedule = has_own ? lane->schedule : delivery->kind->schedule;
	int length = has_own ? lane->schedule_length : delivery->kind->schedule_length;

	if (outcome->error == NULL && outcome->status >= 200 && outcome->status < 300)
		delivery->verdict = KS_DELIVERED;
	else if (delivery->attempts >= length)
		delivery->verdict = KS_EXHAUSTED;
	else
	{
		int64 asked = Min(outcome->retry_after, KS_LONGEST_RETRY_AFTER) * USECS_PER_SEC;

		delivery->verdict = KS_RETRY;
		delivery->retry_at = now + Max(ks_jitter(schedule[delivery->attempts] * USECS_PER_SEC), asked);
	}
	if (delivery->kind->judge != NULL)
		delivery->kind->judge(delivery);
}

void
ks_settle(KsDelivery **deliveries, int count, TimestampTz now)
{
	KsColumns *finished = gather(count, TEXTOID);
	KsColumns *retried = gather(count, TIMESTAMPTZOID);
	Datum values[18];

	ks_delivery_log_need(deliveries, count);
	for (int i = 0; i < count; i++)
		if (deliveries[i]->verdict == KS_RETRY)
			add_row(retried, deliveries[i], TimestampTzGetDatum(deliveries[i]->retry_at));
		else if (deliveries[i]->verdict != KS_RELEASED)
			add_row(finished, deliveries[i], CStringGetTextDatum(state_names[deliveries[i]->verdict]));
	if (finished->rows > 0)
	{
		ks_columns_arrays(finished, values);
		values[17] = TimestampTzGetDatum(now);
		(void) ks_spi_execute(&finish_plan, values, NULL, false, 0);
	}
	if (retried->rows > 0)
	{
		ks_columns_arrays(retried, values);
		(void) ks_spi_execute(&retry_plan, values, NULL, false, 0);
	}
	release(deliveries, count);
	unpark(deliveries, count);
}

/* Columns for outcomes, after user, id, claim and one of the type `fourth`. */
static KsColumns *
gather(int capacity, Oid fourth)
{
	Oid types[4 + lengthof(outcome_types)] = {UUIDOID, UUIDOID, INT8OID, fourth};

	memcpy(types + 4, outcome_types, sizeof(outcome_types));
	return ks_columns_create(capacity, lengthof(types), types);
}

static void
add_row(KsColumns *columns, const KsDelivery *delivery, Datum fourth)
{
	Datum values[4 + lengthof(outcome_types)] = {UUIDPGetDatum(&delivery->user_id), UUIDPGetDatum(&delivery->id), Int64GetDatum(delivery->claim_id), fourth};
	bool nulls[lengthof(values)] = {false};

	add_outcome(&delivery->outcome, values + 4, nulls + 4);
	ks_columns_add(columns, values, nulls);
}

static void
add_outcome(const KsAnswer *outcome, Datum *values, bool *nulls)
{
	const int numbers[] = {outcome->name_us, outcome->connect_us, outcome->tls_us, outcome->first_byte_us, outcome->total_us};

	values[0] = TimestampTzGetDatum(outcome->started_at);
	nulls[0] = outcome->started_at == 0;
	values[1] = Int32GetDatum(outcome->status);
	nulls[1] = outcome->status == 0;
	values[2] = optional_text(outcome->code, &nulls[2]);
	values[3] = optional_text(outcome->error, &nulls[3]);
	values[4] = optional_text(outcome->address, &nulls[4]);
	values[5] = Int32GetDatum(outcome->http_version);
	nulls[5] = outcome->http_version == 0;
	for (int i = 0; i < lengthof(numbers); i++)
	{
		values[6 + i] = Int32GetDatum(numbers[i]);
		nulls[6 + i] = outcome->total_us == 0;
	}
	nulls[11] = outcome->response_length == 0;
	if (!nulls[11])
		values[11] = PointerGetDatum(clean_text(outcome->response, Min(outcome->response_length, KS_RESPONSE_KEPT)));
	values[12] = Int32GetDatum((int32) outcome->response_size);
	nulls[12] = outcome->total_us == 0;
}

static Datum
optional_text(const char *string, bool *is_null)
{
	*is_null = string == NULL || string[0] == '\0';
	return *is_null ? (Datum) 0 : CStringGetTextDatum(string);
}

/* The bytes as text that the database takes: what is no character becomes a question mark. */
static text *
clean_text(const char *bytes, size_t length)
{
	text *result = palloc(VARHDRSZ + length);
	char *out = VARDATA(result);
	size_t at = 0;

	while (at < length)
	{
		int len = bytes[at] == '\0' ? -1 : pg_encoding_verifymbchar(GetDatabaseEncoding(), bytes + at, length - at);

		if (len <= 0)
		{
			*out++ = '?';
			at++;
			continue;
		}
		memcpy(out, bytes + at, len);
		out += len;
		at += len;
	}
	SET_VARSIZE(result, out - (char *) result);
	return result;
}

/* What was not tried is as it was before the claim. */
static void
release(KsDelivery **deliveries, int count)
{
	static const Oid types[] = {UUIDOID, UUIDOID, INT8OID};
	KsColumns *columns = NULL;
	Datum values[3];

	for (int i = 0; i < count; i++)
	{
		if (deliveries[i]->verdict != KS_RELEASED)
			continue;
		if (columns == NULL)
			columns = ks_columns_create(count, 3, types);
		values[0] = UUIDPGetDatum(&deliveries[i]->user_id);
		values[1] = UUIDPGetDatum(&deliveries[i]->id);
		values[2] = Int64GetDatum(deliveries[i]->claim_id);
		ks_columns_add(columns, values, NULL);
	}
	if (columns == NULL)
		return;
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&release_plan, values, NULL, false, 0);
}

/* The next of each ordering key whose first is done. */
static void
unpark(KsDelivery **deliveries, int count)
{
	static const Oid types[] = {UUIDOID, UUIDOID};
	KsColumns *columns = NULL;
	Datum values[2];

	for (int i = 0; i < count; i++)
	{
		if (!deliveries[i]->is_ordered || deliveries[i]->verdict == KS_RETRY || deliveries[i]->verdict == KS_RELEASED)
			continue;
		if (columns == NULL)
			columns = ks_columns_create(count, 2, types);
		values[0] = UUIDPGetDatum(&deliveries[i]->user_id);
		values[1] = UUIDPGetDatum(&deliveries[i]->id);
		ks_columns_add(columns, values, NULL);
	}
	if (columns == NULL)
		return;
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&unpark_plan, values, NULL, false, 0);
}

void
ks_settle_lanes(KsLane **lanes, int count)
{
	static const Oid types[] = {UUIDOID, UUIDOID, TEXTOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID, BOOLOID};
	KsColumns *columns = ks_columns_create(count, lengthof(types), types);
	Datum values[lengthof(types)];

	if (count == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		const KsBreaker *breaker = &lanes[i]->breaker;
		bool nulls[lengthof(types)] = {false, false, false, breaker->open_until == 0, false, lanes[i]->failing_since == 0, false};

		values[0] = UUIDPGetDatum(&lanes[i]->user_id);
		values[1] = UUIDPGetDatum(&lanes[i]->id);
		values[2] = CStringGetTextDatum(ks_breaker_name(breaker->state));
		values[3] = TimestampTzGetDatum(breaker->open_until);
		values[4] = Int32GetDatum(breaker->trips);
		values[5] = TimestampTzGetDatum(lanes[i]->failing_since);
		values[6] = BoolGetDatum(ks_lane_is_users(lanes[i]));
		ks_columns_add(columns, values, nulls);
		lanes[i]->breaker.is_changed = false;
	}
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&lanes_plan, values, NULL, false, 0);
	/* Those that could not be written are with the next that is settled of them. */
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool is_null;
		KsLane *lane = ks_lane_find(DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null)));

		if (lane != NULL)
			lane->breaker.is_changed = true;
	}
}
