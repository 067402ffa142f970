/*
 * analytics.c
 *	  What users see of their usage: the current period, features, thirty days,
 *	  all time. A user's dashboards ask often, so this is C; nothing of it costs
 *	  more with more events.
 *
 * Days are those of the user's time zone. Rollups of days are of UTC; in
 * another zone each is taken for the day that its noon lies in, and the quarters
 * of an hour for which that is wrong, those between the midnights of both, are
 * moved. Every zone's days begin on a quarter of an hour.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "core/error.h"
#include "core/identity.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "tiers/tiers.h"
#include "usage/account.h"

#define TIMELINE_DAYS 30
#define NOON (12 * USECS_PER_HOUR)

/* Where clocks are put back at midnight there are two of them, so far apart at most. */
#define MIDNIGHTS_APART (2 * USECS_PER_HOUR)

typedef struct Timeline
{
	DateADT first;     /* day, in the user's time zone */
	TimestampTz since; /* and when it begins */
	text *zone;        /* NULL for UTC */
	KsUsageSum days[TIMELINE_DAYS];
} Timeline;

/* All that is shown. */
typedef struct Usage
{
	KsSubscription period;
	KsUsageParts tail;
	KsFeatureSums features; /* of the period */
	KsFeatureSums totals;
	Timeline timeline;
} Usage;

static Datum answer(FunctionCallInfo fcinfo, bool with_timeline);
static const pg_uuid_t *require_user(void);
static void read_usage(const pg_uuid_t *user_id, Usage *usage, bool with_timeline, MemoryContext cxt);
static void begin_timeline(Timeline *timeline, const char *zone, TimestampTz now);
static void read_timeline(const pg_uuid_t *user_id, const KsUsageParts *tail, const KsUsageParts *days, Timeline *timeline);
static void read_zone(const pg_uuid_t *user_id, const KsUsageParts *days, Timeline *timeline);
static int find_midnights(const Timeline *timeline, TimestampTz *since, TimestampTz *until);
static TimestampTz begin_of(const Timeline *timeline, DateADT day);
static KsUsageSum *day_of(Timeline *timeline, TimestampTz at);
static void move_quarter(void *taker, const KsUsagePart *part);
static void take_feature(void *taker, const KsUsagePart *part);
static void take_day(void *taker, const KsUsagePart *part);
static int compare_features(const void *a, const void *b);
static Datum make_period(Oid type, const Usage *usage);
static Datum make_features(Oid array_type, KsFeatureSums *sums);
static Datum make_timeline(Oid array_type, const Timeline *timeline);
static Datum make_all_time(Oid type, const KsFeatureSums *totals);
static Datum minutes_of(const KsUsageSum *sum);
static Datum divide(Datum a, Datum b, int scale);
static Datum form_row(TupleDesc desc, Datum *values, bool *nulls);
static TupleDesc known_row(Oid type);
static Oid column_type(TupleDesc desc, int number);

PG_FUNCTION_INFO_V1(ks_user_analytics);

/* keelson.user_analytics() */
Datum
ks_user_analytics(PG_FUNCTION_ARGS)
{
	return answer(fcinfo, true);
}

PG_FUNCTION_INFO_V1(ks_user_usage);

/* keelson.user_usage() */
Datum
ks_user_usage(PG_FUNCTION_ARGS)
{
	return answer(fcinfo, false);
}

/* The acting user's usage as a row of the function's type, which has a timeline or not. */
static Datum
answer(FunctionCallInfo fcinfo, bool with_timeline)
{
	TupleDesc desc = known_row(get_func_rettype(fcinfo->flinfo->fn_oid));
	Datum values[4];
	bool nulls[4] = {false};
	int n = 0;
	Usage usage;
	MemoryContext cxt = CurrentMemoryContext;
	MemoryContext spi_cxt;
	Datum row;

	ks_spi_connect();
	spi_cxt = CurrentMemoryContext;
	read_usage(require_user(), &usage, with_timeline, spi_cxt);
	MemoryContextSwitchTo(cxt);
	values[n] = make_period(column_type(desc, n), &usage);
	n++;
	values[n] = make_features(column_type(desc, n), &usage.features);
	n++;
	if (with_timeline)
	{
		values[n] = make_timeline(column_type(desc, n), &usage.timeline);
		n++;
	}
	values[n] = make_all_time(column_type(desc, n), &usage.totals);
	row = form_row(desc, values, nulls);
	MemoryContextSwitchTo(spi_cxt);
	ks_spi_finish();
	PG_RETURN_DATUM(row);
}

PG_FUNCTION_INFO_V1(ks_usage_minutes);

/* keelson._usage_minutes(user_id uuid, feature text, since timestamptz, until timestamptz) */
Datum
ks_usage_minutes(PG_FUNCTION_ARGS)
{
	KsFeatureSums sums = {0};
	KsUsageParts tail, days;
	KsAccount account;
	Datum minutes;
	TimestampTz since;
	MemoryContext cxt = CurrentMemoryContext;
	MemoryContext spi_cxt;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	/* Nothing was used before 2000. */
	since = Max(PG_GETARG_TIMESTAMPTZ(2), 0);
	ks_require_shmem();
	ks_spi_connect();
	spi_cxt = CurrentMemoryContext;
	ks_account_begin(&account);
	ks_usage_tail(PG_GETARG_UUID_P(0), &tail);
	ks_usage_days(PG_GETARG_UUID_P(0), ks_day_floor(since), ks_usage_latest(), &days);
	ks_usage_between(PG_GETARG_UUID_P(0), since, PG_GETARG_TIMESTAMPTZ(3), &tail, &days, take_feature, &sums);
	ks_account_end(&account);
	MemoryContextSwitchTo(cxt);
	if (PG_ARGISNULL(1))
		minutes = minutes_of(&sums.all);
	else
	{
		minutes = NumericGetDatum(int64_to_numeric(0));
		for (int i = 0; i < sums.count; i++)
			if (DatumGetBool(DirectFunctionCall2Coll(texteq, PG_GET_COLLATION(), sums.sums[i].feature, PG_GETARG_DATUM(1))))
				minutes = minutes_of(&sums.sums[i].sum);
	}
	/* The sums go with SPI. */
	minutes = datumCopy(minutes, false, -1);
	MemoryContextSwitchTo(spi_cxt);
	ks_spi_finish();
	PG_RETURN_DATUM(minutes);
}

PG_FUNCTION_INFO_V1(ks_usage_timeline);

/* keelson._usage_timeline(user_id uuid, time_zone text, moment timestamptz) */
Datum
ks_usage_timeline(PG_FUNCTION_ARGS)
{
	Timeline timeline = {0};
	KsUsageParts tail, days;
	KsAccount account;
	Datum shown;
	MemoryContext cxt = CurrentMemoryContext;
	MemoryContext spi_cxt;

	ks_require_shmem();
	ks_spi_connect();
	spi_cxt = CurrentMemoryContext;
	ks_account_begin(&account);
	ks_usage_tail(PG_GETARG_UUID_P(0), &tail);
	begin_timeline(&timeline, text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_TIMESTAMPTZ(2));
	ks_usage_days(PG_GETARG_UUID_P(0), ks_day_floor(timeline.since), ks_day_floor(timeline.since) + (TIMELINE_DAYS + 2) * USECS_PER_DAY, &days);
	read_timeline(PG_GETARG_UUID_P(0), &tail, &days, &timeline);
	ks_account_end(&account);
	MemoryContextSwitchTo(cxt);
	shown = make_timeline(get_func_rettype(fcinfo->flinfo->fn_oid), &timeline);
	MemoryContextSwitchTo(spi_cxt);
	ks_spi_finish();
	PG_RETURN_DATUM(shown);
}

static const pg_uuid_t *
require_user(void)
{
	ks_require_shmem();
	return ks_acting_user();
}

static void
read_usage(const pg_uuid_t *user_id, Usage *usage, bool with_timeline, MemoryContext cxt)
{
	KsAccount account;
	KsUsageParts days;
	TimestampTz since;
	MemoryContext old;

	memset(usage, 0, sizeof(*usage));
	ks_account_begin(&account);
	old = MemoryContextSwitchTo(cxt);
	ks_subscription_read(user_id, &usage->period);
	MemoryContextSwitchTo(old);
	ks_usage_tail(user_id, &usage->tail);
	since = ks_day_floor(usage->period.period_start);
	if (with_timeline)
	{
		begin_timeline(&usage->timeline, usage->period.time_zone, GetCurrentTimestamp());
		/* Both are read at once. */
		since = Min(since, usage->timeline.since);
	}
	ks_usage_days(user_id, ks_day_floor(since), ks_usage_latest(), &days);
	ks_usage_between(user_id, usage->period.period_start, usage->period.period_end, &usage->tail, &days, take_feature, &usage->features);
	ks_usage_totals(user_id, take_feature, &usage->totals);
	ks_usage_take(&usage->tail, DT_NOBEGIN, DT_NOEND, take_feature, &usage->totals);
	if (with_timeline)
		read_timeline(user_id, &usage->tail, &days, &usage->timeline);
	ks_account_end(&account);
}

/* Find the days that are shown. A zone that the server does not know counts as UTC. */
static void
begin_timeline(Timeline *timeline, const char *zone, TimestampTz now)
{
	Timestamp midnight;

	if (strcmp(zone, "UTC") == 0 || pg_tzset(zone) == NULL)
	{
		timeline->since = ks_day_floor(now) - (TIMELINE_DAYS - 1) * USECS_PER_DAY;
		timeline->first = timeline->since / USECS_PER_DAY;
		return;
	}
	timeline->zone = cstring_to_text(zone);
	midnight = DatumGetTimestamp(DirectFunctionCall2(timestamptz_zone, PointerGetDatum(timeline->zone), TimestampTzGetDatum(now)));
	midnight = ks_day_floor(midnight) - (TIMELINE_DAYS - 1) * USECS_PER_DAY;
	timeline->first = midnight / USECS_PER_DAY;
	timeline->since = begin_of(timeline, timeline->first);
}

static void
read_timeline(const pg_uuid_t *user_id, const KsUsageParts *tail, const KsUsageParts *days, Timeline *timeline)
{
	if (timeline->zone == NULL)
		ks_usage_take(days, timeline->since, DT_NOEND, take_day, timeline);
	else
		read_zone(user_id, days, timeline);
	ks_usage_take(tail, timeline->since, DT_NOEND, take_day, timeline);
}

/* Read the rollups of a zone's days. */
static void
read_zone(const pg_uuid_t *user_id, const KsUsageParts *days, Timeline *timeline)
{
	TimestampTz since[TIMELINE_DAYS + 1];
	TimestampTz until[TIMELINE_DAYS + 1];
	int count;

	for (int i = 0; i < days->count; i++)
	{
		KsUsageSum *day = day_of(timeline, days->parts[i].at + NOON);

		if (day != NULL)
			ks_usage_add(day, days->parts[i].minutes, days->parts[i].requests);
	}
	count = find_midnights(timeline, since, until);
	ks_usage_quarters_in(user_id, since, until, count, move_quarter, timeline);
}

/* Find the times between each of the zone's midnights and the one of UTC that is nearest; returns how many. */
static int
find_midnights(const Timeline *timeline, TimestampTz *since, TimestampTz *until)
{
	for (int i = 0; i <= TIMELINE_DAYS; i++)
	{
		TimestampTz midnight = begin_of(timeline, timeline->first + i);
		TimestampTz nearest = ks_day_floor(midnight + NOON - 1);

		since[i] = Min(midnight, nearest) - MIDNIGHTS_APART;
		until[i] = Max(midnight, nearest) + MIDNIGHTS_APART;
		if (i > 0)
			since[i] = Max(since[i], until[i - 1]);
	}
	return TIMELINE_DAYS + 1;
}

/* When the day begins in the timeline's zone. */
static TimestampTz
begin_of(const Timeline *timeline, DateADT day)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamp_zone, PointerGetDatum(timeline->zone), TimestampGetDatum(day * USECS_PER_DAY)));
}

/* The day shown that the moment lies in; NULL for none. */
static KsUsageSum *
day_of(Timeline *timeline, TimestampTz at)
{
	int64 day;

	if (timeline->zone != NULL)
		at = DatumGetTimestamp(DirectFunctionCall2(timestamptz_zone, PointerGetDatum(timeline->zone), TimestampTzGetDatum(at)));
	day = ks_day_floor(at) / USECS_PER_DAY - timeline->first;
	return day >= 0 && day < TIMELINE_DAYS ? &timeline->days[day] : NULL;
}

/* Move what was counted with its day in UTC to the day that it is of: a KsTakePart of a Timeline. */
static void
move_quarter(void *taker, const KsUsagePart *part)
{
	Timeline *timeline = taker;
	KsUsageSum *counted = day_of(timeline, ks_day_floor(part->at) + NOON);
	KsUsageSum *meant = day_of(timeline, part->at);

	if (counted == meant)
		return;
	if (counted != NULL)
		ks_usage_subtract(counted, part->minutes, part->requests);
	if (meant != NULL)
		ks_usage_add(meant, part->minutes, part->requests);
}

/* A KsTakePart of KsFeatureSums. */
static void
take_feature(void *taker, const KsUsagePart *part)
{
	KsFeatureSums *sums = taker;

	ks_feature_add(sums, part);
	ks_usage_add(&sums->all, part->minutes, part->requests);
}

/* A KsTakePart of a Timeline. */
static void
take_day(void *taker, const KsUsagePart *part)
{
	KsUsageSum *day = day_of(taker, part->at);

	if (day != NULL)
		ks_usage_add(day, part->minutes, part->requests);
}

static Datum
make_period(Oid type, const Usage *usage)
{
	const KsSubscription *period = &usage->period;
	Datum zero = NumericGetDatum(int64_to_numeric(0));
	Datum used = minutes_of(&usage->features.all);
	Datum values[6];
	bool nulls[6] = {false};

	values[0] = CStringGetTextDatum(period->tier);
	values[1] = used;
	nulls[2] = nulls[3] = nulls[4] = !period->is_limited;
	if (period->is_limited)
	{
		Datum remaining = DirectFunctionCall2(numeric_sub, period->minutes_limit, used);
		bool is_zero = DatumGetBool(DirectFunctionCall2(numeric_le, period->minutes_limit, zero));
		Datum hundred = NumericGetDatum(int64_to_numeric(100));

		values[2] = period->minutes_limit;
		values[3] = DatumGetBool(DirectFunctionCall2(numeric_lt, remaining, zero)) ? zero : remaining;
		values[4] = is_zero ? hundred : divide(DirectFunctionCall2(numeric_mul, used, hundred), period->minutes_limit, 2);
	}
	values[5] = TimestampTzGetDatum(period->period_end);
	return form_row(known_row(type), values, nulls);
}

/* By minutes, the most first; then by name. */
static int
compare_features(const void *a, const void *b)
{
	const KsFeatureSum *left = a;
	const KsFeatureSum *right = b;
	int order = DatumGetInt32(DirectFunctionCall2(numeric_cmp, right->sum.minutes, left->sum.minutes));
	text *left_name = DatumGetTextPP(left->feature);
	text *right_name = DatumGetTextPP(right->feature);

	if (order != 0)
		return order;
	order = memcmp(VARDATA_ANY(left_name), VARDATA_ANY(right_name), Min(VARSIZE_ANY_EXHDR(left_name), VARSIZE_ANY_EXHDR(right_name)));
	return order != 0 ? order : (int) VARSIZE_ANY_EXHDR(left_name) - (int) VARSIZE_ANY_EXHDR(right_name);
}

static Datum
make_features(Oid array_type, KsFeatureSums *sums)
{
	Oid type = get_element_type(array_type);
	TupleDesc desc = known_row(type);
	Datum *rows = palloc(sums->count * sizeof(Datum));
	bool nulls[4] = {false};

	if (sums->count > 1)
		qsort(sums->sums, sums->count, sizeof(KsFeatureSum), compare_features);
	for (int i = 0; i < sums->count; i++)
	{
		Datum values[4];

		CHECK_FOR_INTERRUPTS();
		values[0] = sums->sums[i].feature;
		values[1] = sums->sums[i].sum.minutes;
		values[2] = Int64GetDatum(sums->sums[i].sum.requests);
		values[3] = divide(values[1], NumericGetDatum(int64_to_numeric(sums->sums[i].sum.requests)), 4);
		rows[i] = form_row(desc, values, nulls);
	}
	return PointerGetDatum(construct_array(rows, sums->count, type, -1, false, TYPALIGN_DOUBLE));
}

static Datum
make_timeline(Oid array_type, const Timeline *timeline)
{
	Oid type = get_element_type(array_type);
	TupleDesc desc = known_row(type);
	Datum rows[TIMELINE_DAYS];
	bool nulls[3] = {false};

	for (int i = 0; i < TIMELINE_DAYS; i++)
	{
		Datum values[3];

		values[0] = DateADTGetDatum(timeline->first + i);
		values[1] = minutes_of(&timeline->days[i]);
		values[2] = Int64GetDatum(timeline->days[i].requests);
		rows[i] = form_row(desc, values, nulls);
	}
	return PointerGetDatum(construct_array(rows, TIMELINE_DAYS, type, -1, false, TYPALIGN_DOUBLE));
}

static Datum
make_all_time(Oid type, const KsFeatureSums *totals)
{
	Datum values[2];
	bool nulls[2] = {false};

	values[0] = minutes_of(&totals->all);
	values[1] = Int64GetDatum(totals->all.requests);
	return form_row(known_row(type), values, nulls);
}

/* The sum's minutes, 0 for nothing. */
static Datum
minutes_of(const KsUsageSum *sum)
{
	return sum->requests == 0 ? NumericGetDatum(int64_to_numeric(0)) : sum->minutes;
}

/* a / b, rounded, without zeros at its end. */
static Datum
divide(Datum a, Datum b, int scale)
{
	Datum quotient = DirectFunctionCall2(numeric_div, a, b);

	return DirectFunctionCall1(numeric_trim_scale, DirectFunctionCall2(numeric_round, quotient, Int32GetDatum(scale)));
}

static Datum
form_row(TupleDesc desc, Datum *values, bool *nulls)
{
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* The row's columns. */
static TupleDesc
known_row(Oid type)
{
	return lookup_rowtype_tupdesc_copy(type, -1);
}

static Oid
column_type(TupleDesc desc, int number)
{
	return TupleDescAttr(desc, number)->atttypid;
}
