/*
 * account.c
 *	  Read rollups and tail.
 *
 * All statements run read-only with the snapshot of the statement that called:
 * so rollups, watermark and tail fit together, however often the keeper folds
 * meanwhile, and the caller sees what its transaction has recorded itself.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "core/spi.h"
#include "usage/account.h"
#include "usage/leaf.h"

#define USECS_PER_QUARTER (15 * USECS_PER_MINUTE)

static KsPlan watermark_plan = {"select era, xid, event_id, tail_from from keelson.usage_watermark", 0, {0}, CURSOR_OPT_GENERIC_PLAN};
/* By rows, so that the primary key alone will do, whatever statistics say: by its day one user's is everybody's. */
static KsPlan days_plan = {
	"select feature, day, minutes, requests from keelson.usage_days"
	" where (user_id, day) >= ($1, $2) and (user_id, day) < ($1, $3)",
	3,
	{UUIDOID, DATEOID, DATEOID},
	CURSOR_OPT_GENERIC_PLAN};
static KsPlan quarters_plan = {
	"select feature, quarter_at, minutes, requests from keelson.usage_quarters"
	" where (user_id, quarter_at) >= ($1, $2) and (user_id, quarter_at) < ($1, $3)",
	3,
	{UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
	CURSOR_OPT_GENERIC_PLAN};
/* For each of the times a look into the index, however few rows the table has. */
static KsPlan quarters_in_plan = {
	"select q.feature, q.quarter_at, q.minutes, q.requests"
	" from rows from (pg_catalog.unnest($2), pg_catalog.unnest($3)) as t (since, until)"
	" cross join lateral ("
	"select u.feature, u.quarter_at, u.minutes, u.requests from keelson.usage_quarters as u"
	" where (u.user_id, u.quarter_at) >= ($1, t.since) and (u.user_id, u.quarter_at) < ($1, t.until) offset 0) as q",
	3,
	{UUIDOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID},
	CURSOR_OPT_GENERIC_PLAN};
static KsPlan totals_plan = {
	"select feature, null::timestamptz, minutes, requests from keelson.usage_totals where user_id = $1", 1, {UUIDOID}, CURSOR_OPT_GENERIC_PLAN};

static void read_pages(KsLeaf *leaf, const Datum *values, KsUsageParts *tail);
static void add_rows(KsUsageParts *parts, bool are_days);
static void take_rows(KsTakePart take, void *taker);
static KsUsagePart read_part(HeapTuple row, TupleDesc desc, bool is_day);
static TimestampTz quarter_floor(TimestampTz moment);
static void take_quarters(const pg_uuid_t *user_id, TimestampTz since, TimestampTz until, KsTakePart take, void *taker);
static void make_room(KsFeatureSums *sums);
static int *place_of(const KsFeatureSums *sums, Datum feature);
static bool is_same_text(Datum a, Datum b);

void
ks_account_begin(KsAccount *account)
{
	ks_role_enter(&account->save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	/* An error takes the settings back with its transaction or subtransaction. */
	account->settings = NewGUCNestLevel();
	ks_search_path_pin();
	/* Plans are kept: one made while a table is small has to be good when it has grown. */
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_bitmapscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
ks_account_end(KsAccount *account)
{
	AtEOXact_GUC(true, account->settings);
	ks_role_leave(&account->save);
}

TimestampTz
ks_day_floor(TimestampTz moment)
{
	TimestampTz past = moment % USECS_PER_DAY;

	return moment - (past < 0 ? past + USECS_PER_DAY : past);
}

TimestampTz
ks_usage_latest(void)
{
	return ks_day_floor(GetCurrentTimestamp()) + 2 * USECS_PER_DAY;
}

void
ks_usage_tail(const pg_uuid_t *user_id, KsUsageParts *tail)
{
	Datum values[4] = {UUIDPGetDatum(user_id)};
	HeapTuple row;
	TupleDesc desc;
	int32 day, last;
	bool is_null;

	*tail = (KsUsageParts){0};
	(void) ks_spi_execute(&watermark_plan, NULL, NULL, true, 1);
	if (SPI_processed != 1)
		elog(ERROR, "there is no watermark of usage");
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	values[1] = SPI_getbinval(row, desc, 1, &is_null);
	values[2] = SPI_getbinval(row, desc, 2, &is_null);
	values[3] = SPI_getbinval(row, desc, 3, &is_null);
	day = DatumGetDateADT(SPI_getbinval(row, desc, 4, &is_null)) + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE);
	last = ks_leaf_ceiling();
	for (; day <= last; day++)
	{
		if (!OidIsValid(ks_leaf_oid(day)))
			continue;
		(void) ks_spi_execute(&ks_leaf(day)->read_tail, values, NULL, true, 0);
		if (SPI_processed < KS_TAIL_SHORT)
			add_rows(tail, false);
		else
			read_pages(ks_leaf(day), values, tail);
	}
}

/* Read a long tail, from the place on that stands in values[1..3]. */
static void
read_pages(KsLeaf *leaf, const Datum *values, KsUsageParts *tail)
{
	Datum place[4];
	bool is_null;

	memcpy(place, values, sizeof(place));
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		(void) ks_spi_execute(&leaf->sum_tail, place, NULL, true, 0);
		add_rows(tail, false);
		(void) ks_spi_execute(&leaf->page_tail, place, NULL, true, 1);
		if (SPI_processed == 0)
			return;
		for (int i = 1; i <= 3; i++)
			place[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i, &is_null);
	}
}

void
ks_usage_days(const pg_uuid_t *user_id, TimestampTz since, TimestampTz until, KsUsageParts *days)
{
	Datum values[3];

	Assert(since % USECS_PER_DAY == 0 && until % USECS_PER_DAY == 0);
	*days = (KsUsageParts){0};
	if (since >= until)
		return;
	values[0] = UUIDPGetDatum(user_id);
	values[1] = DateADTGetDatum(since / USECS_PER_DAY);
	values[2] = DateADTGetDatum(until / USECS_PER_DAY);
	(void) ks_spi_execute(&days_plan, values, NULL, true, 0);
	add_rows(days, true);
}

/* Add the rows in SPI_tuptable, which keeps them, to the parts. */
static void
add_rows(KsUsageParts *parts, bool are_days)
{
	SPITupleTable *rows = SPI_tuptable;
	Size size = (parts->count + rows->numvals) * sizeof(KsUsagePart);

	if (rows->numvals == 0)
		return;
	parts->parts = parts->parts == NULL ? palloc(size) : repalloc(parts->parts, size);
	for (uint64 i = 0; i < rows->numvals; i++)
		parts->parts[parts->count++] = read_part(rows->vals[i], rows->tupdesc, are_days);
}

void
ks_usage_quarters_in(const pg_uuid_t *user_id, const TimestampTz *since, const TimestampTz *until, int count, KsTakePart take, void *taker)
{
	Datum *elements = palloc(count * sizeof(Datum));
	Datum values[3];

	values[0] = UUIDPGetDatum(user_id);
	for (int i = 0; i < count; i++)
		elements[i] = TimestampTzGetDatum(since[i]);
	values[1] = PointerGetDatum(construct_array(elements, count, TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	for (int i = 0; i < count; i++)
		elements[i] = TimestampTzGetDatum(until[i]);
	values[2] = PointerGetDatum(construct_array(elements, count, TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) ks_spi_execute(&quarters_in_plan, values, NULL, true, 0);
	take_rows(take, taker);
}

void
ks_usage_totals(const pg_uuid_t *user_id, KsTakePart take, void *taker)
{
	Datum values[1] = {UUIDPGetDatum(user_id)};

	(void) ks_spi_execute(&totals_plan, values, NULL, true, 0);
	take_rows(take, taker);
}

/* Hand over the rows in SPI_tuptable. */
static void
take_rows(KsTakePart take, void *taker)
{
	SPITupleTable *rows = SPI_tuptable;

	for (uint64 i = 0; i < rows->numvals; i++)
	{
		KsUsagePart part = read_part(rows->vals[i], rows->tupdesc, false);

		CHECK_FOR_INTERRUPTS();
		take(taker, &part);
	}
}

static KsUsagePart
read_part(HeapTuple row, TupleDesc desc, bool is_day)
{
	KsUsagePart part;
	bool is_null;
	Datum at;

	part.feature = SPI_getbinval(row, desc, 1, &is_null);
	at = SPI_getbinval(row, desc, 2, &is_null);
	if (is_null)
		part.at = 0;
	else
		part.at = is_day ? DatumGetDateADT(at) * USECS_PER_DAY : DatumGetTimestampTz(at);
	part.minutes = SPI_getbinval(row, desc, 3, &is_null);
	part.requests = DatumGetInt64(SPI_getbinval(row, desc, 4, &is_null));
	return part;
}

void
ks_usage_between(const pg_uuid_t *user_id, TimestampTz since, TimestampTz until, const KsUsageParts *tail, const KsUsageParts *days, KsTakePart take, void *taker)
{
	TimestampTz first_day, last_day;

	since = quarter_floor(since);
	until = Min(quarter_floor(until), ks_usage_latest());
	ks_usage_take(tail, since, until, take, taker);
	first_day = ks_day_floor(since + USECS_PER_DAY - 1);
	last_day = ks_day_floor(until);
	if (first_day >= last_day)
	{
		take_quarters(user_id, since, until, take, taker);
		return;
	}
	take_quarters(user_id, since, first_day, take, taker);
	ks_usage_take(days, first_day, last_day, take, taker);
	take_quarters(user_id, last_day, until, take, taker);
}

/* Taken down to the quarter of an hour. */
static TimestampTz
quarter_floor(TimestampTz moment)
{
	TimestampTz past = moment % USECS_PER_QUARTER;

	return moment - (past < 0 ? past + USECS_PER_QUARTER : past);
}

static void
take_quarters(const pg_uuid_t *user_id, TimestampTz since, TimestampTz until, KsTakePart take, void *taker)
{
	Datum values[3];

	if (since >= until)
		return;
	values[0] = UUIDPGetDatum(user_id);
	values[1] = TimestampTzGetDatum(since);
	values[2] = TimestampTzGetDatum(until);
	(void) ks_spi_execute(&quarters_plan, values, NULL, true, 0);
	take_rows(take, taker);
}

void
ks_usage_take(const KsUsageParts *parts, TimestampTz since, TimestampTz until, KsTakePart take, void *taker)
{
	for (int i = 0; i < parts->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (parts->parts[i].at >= since && parts->parts[i].at < until)
			take(taker, &parts->parts[i]);
	}
}

void
ks_usage_add(KsUsageSum *sum, Datum minutes, int64 requests)
{
	if (sum->requests == 0)
		sum->minutes = datumCopy(minutes, false, -1);
	else
		sum->minutes = DirectFunctionCall2(numeric_add, sum->minutes, minutes);
	sum->requests += requests;
}

void
ks_usage_subtract(KsUsageSum *sum, Datum minutes, int64 requests)
{
	if (sum->requests == 0)
		return;
	sum->minutes = DirectFunctionCall2(numeric_sub, sum->minutes, minutes);
	sum->requests -= requests;
}

void
ks_feature_add(KsFeatureSums *sums, const KsUsagePart *part)
{
	int *place;

	if (sums->count == sums->room)
		make_room(sums);
	place = place_of(sums, part->feature);
	if (*place == 0)
	{
		sums->sums[sums->count++] = (KsFeatureSum){.feature = datumCopy(part->feature, false, -1)};
		*place = sums->count;
	}
	ks_usage_add(&sums->sums[*place - 1].sum, part->minutes, part->requests);
}

/* Make room for twice as many features, which then have other places. */
static void
make_room(KsFeatureSums *sums)
{
	sums->room = sums->room ? sums->room * 2 : 8;
	sums->sums = sums->sums ? repalloc(sums->sums, sums->room * sizeof(KsFeatureSum)) : palloc(sums->room * sizeof(KsFeatureSum));
	sums->places = palloc0(2 * sums->room * sizeof(int));
	for (int i = 0; i < sums->count; i++)
		*place_of(sums, sums->sums[i].feature) = i + 1;
}

/* The feature's place, or the one that it is to have: users name as many features as they like, and choose the names. */
static int *
place_of(const KsFeatureSums *sums, Datum feature)
{
	/* Drawn by the first call: nobody can aim at a place. */
	static uint64 seed = 0;
	text *name = DatumGetTextPP(feature);
	uint32 mask = 2 * sums->room - 1;
	uint32 at;

	if (seed == 0)
		seed = pg_prng_uint64(&pg_global_prng_state);
	at = hash_bytes_extended((const unsigned char *) VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), seed) & mask;
	while (sums->places[at] != 0 && !is_same_text(sums->sums[sums->places[at] - 1].feature, feature))
		at = (at + 1) & mask;
	return &sums->places[at];
}

static bool
is_same_text(Datum a, Datum b)
{
	text *left = DatumGetTextPP(a);
	text *right = DatumGetTextPP(b);

	return VARSIZE_ANY_EXHDR(left) == VARSIZE_ANY_EXHDR(right) &&
		   memcmp(VARDATA_ANY(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(left)) == 0;
}
