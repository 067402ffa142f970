/*
 * charge.c
 *	  The questions to the capability of tiers: may this be used up, and which
 *	  period is it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "core/roles.h"
#include "core/spi.h"
#include "tiers/quota.h"
#include "usage/charge.h"

static KsPlan charge_many_plan = {
	"select keelson._quota_charge_batch($1, $2, $3, $4)", 4, {UUIDARRAYOID, TEXTARRAYOID, NUMERICARRAYOID, TIMESTAMPTZARRAYOID}};
static KsPlan period_plan = {
	"select s.tier_id, s.period_start, s.period_end, s.minutes_limit, s.time_zone from keelson._subscription_of($1) as s", 1, {UUIDOID}};

static int compare_charges(const void *a, const void *b);
static bool is_same_charge(const KsUsageEvent *a, const KsUsageEvent *b);
static bool is_any_hard(const KsUsageEvent **events, int count);
static void charge_many(const KsUsageEvent **events, int count);

void
ks_quota_charge(const KsUsageBatch *batch)
{
	const KsUsageEvent **events = palloc(batch->count * sizeof(KsUsageEvent *));
	int count = 0;

	for (int i = 0; i < batch->count; i++)
		if (!batch->events[i].is_duplicate)
			events[count++] = &batch->events[i];
	if (count == 1 && !events[0]->is_dated)
		ks_quota_charge_minutes(&events[0]->user_id, events[0]->feature, events[0]->minutes);
	else if (count > 0)
	{
		qsort(events, count, sizeof(KsUsageEvent *), compare_charges);
		if (is_any_hard(events, count))
			charge_many(events, count);
	}
}

/* By user and feature, what has no time of its own first. */
static int
compare_charges(const void *a, const void *b)
{
	const KsUsageEvent *left = *(const KsUsageEvent *const *) a;
	const KsUsageEvent *right = *(const KsUsageEvent *const *) b;
	text *left_feature = DatumGetTextPP(left->feature);
	text *right_feature = DatumGetTextPP(right->feature);
	int order = memcmp(&left->user_id, &right->user_id, UUID_LEN);

	if (order == 0)
		order = memcmp(VARDATA_ANY(left_feature), VARDATA_ANY(right_feature), Min(VARSIZE_ANY_EXHDR(left_feature), VARSIZE_ANY_EXHDR(right_feature)));
	if (order == 0)
		order = (int) VARSIZE_ANY_EXHDR(left_feature) - (int) VARSIZE_ANY_EXHDR(right_feature);
	return order != 0 ? order : (int) left->is_dated - (int) right->is_dated;
}

/* Are they charged together? */
static bool
is_same_charge(const KsUsageEvent *a, const KsUsageEvent *b)
{
	return !a->is_dated && !b->is_dated && compare_charges(&a, &b) == 0;
}

/* Has any of the users a hard limit? The events are sorted. */
static bool
is_any_hard(const KsUsageEvent **events, int count)
{
	for (int i = 0; i < count; i++)
		if ((i == 0 || memcmp(&events[i - 1]->user_id, &events[i]->user_id, UUID_LEN) != 0) && ks_quota_is_hard(&events[i]->user_id))
			return true;
	return false;
}

/* Charge the events of a batch, sorted: those that occur now added up by user and feature, the others with their time. */
static void
charge_many(const KsUsageEvent **events, int count)
{
	Datum *columns[4];
	Datum values[4];
	int charges = 0;

	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc(count * sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		if (i > 0 && is_same_charge(events[i - 1], events[i]))
		{
			columns[2][charges - 1] = DirectFunctionCall2(numeric_add, columns[2][charges - 1], events[i]->minutes);
			continue;
		}
		columns[0][charges] = UUIDPGetDatum(&events[i]->user_id);
		columns[1][charges] = events[i]->feature;
		columns[2][charges] = events[i]->minutes;
		columns[3][charges++] = TimestampTzGetDatum(events[i]->occurred_at);
	}
	values[0] = PointerGetDatum(construct_array(columns[0], charges, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[1] = PointerGetDatum(construct_array(columns[1], charges, TEXTOID, -1, false, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(columns[2], charges, NUMERICOID, -1, false, TYPALIGN_INT));
	values[3] = PointerGetDatum(construct_array(columns[3], charges, TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) ks_spi_execute(&charge_many_plan, values, NULL, false, 0);
}

void
ks_usage_period(const pg_uuid_t *user_id, KsUsagePeriod *period, MemoryContext cxt)
{
	Datum values[1] = {UUIDPGetDatum(user_id)};
	HeapTuple row;
	TupleDesc desc;
	MemoryContext old;
	Datum tier, limit, zone;
	bool no_tier, no_limit, no_zone, is_null;

	memset(period, 0, sizeof(*period));
	period->time_zone = "UTC";
	(void) ks_spi_execute(&period_plan, values, NULL, true, 1);
	if (SPI_processed != 1)
		elog(ERROR, "keelson._subscription_of() returned no row");
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	tier = SPI_getbinval(row, desc, 1, &no_tier);
	period->start = DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &is_null));
	period->end = DatumGetTimestampTz(SPI_getbinval(row, desc, 3, &is_null));
	limit = SPI_getbinval(row, desc, 4, &no_limit);
	zone = SPI_getbinval(row, desc, 5, &no_zone);
	old = MemoryContextSwitchTo(cxt);
	period->tier = no_tier ? NULL : TextDatumGetCString(tier);
	period->is_limited = !no_limit;
	period->minutes_limit = no_limit ? (Datum) 0 : datumCopy(limit, false, -1);
	period->time_zone = no_zone ? "UTC" : TextDatumGetCString(zone);
	MemoryContextSwitchTo(old);
}

PG_FUNCTION_INFO_V1(ks_usage_period_sql);

/* keelson._usage_period(user_id uuid) */
Datum
ks_usage_period_sql(PG_FUNCTION_ARGS)
{
	KsUsagePeriod period;
	KsRoleSwitch save;
	MemoryContext cxt = CurrentMemoryContext;
	TupleDesc desc;
	Datum values[5] = {0};
	bool nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson._usage_period() returns a row");
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	ks_usage_period(PG_GETARG_UUID_P(0), &period, cxt);
	ks_role_leave(&save);
	ks_spi_finish();
	nulls[0] = period.tier == NULL;
	values[0] = nulls[0] ? (Datum) 0 : CStringGetTextDatum(period.tier);
	values[1] = TimestampTzGetDatum(period.start);
	values[2] = TimestampTzGetDatum(period.end);
	nulls[3] = !period.is_limited;
	values[3] = period.minutes_limit;
	values[4] = CStringGetTextDatum(period.time_zone);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
