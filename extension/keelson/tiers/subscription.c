/*
 * subscription.c
 *	  A user's tier and period, as they are now.
 *
 * Asked with every look at usage, so the row is probed like a session's. What
 * the row cannot tell is left to SQL: no row, or a period that is over and has
 * not been written anew.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/timestamp.h"

#include "core/probe.h"
#include "core/roles.h"
#include "core/spi.h"
#include "tiers/tiers.h"

enum
{
	STATUS,
	TRIAL_ENDS_AT,
	TIME_ZONE,
	PERIOD_START,
	PERIOD_END
};

/* The places in it are written by core/probe.c. */
static KsProbeTable subscriptions = {
	.name = "subscriptions",
	.key_count = 1,
	.keys = {"user_id"},
	.columns = {
		[STATUS] = "status",
		[TRIAL_ENDS_AT] = "trial_ends_at",
		[TIME_ZONE] = "time_zone",
		[PERIOD_START] = "period_start",
		[PERIOD_END] = "period_end"}};

/* The columns of keelson._subscription_state. */
enum
{
	STATE_TIER_ID,
	STATE_STATUS,
	STATE_PERIOD_START,
	STATE_PERIOD_END,
	STATE_MINUTES_LIMIT,
	STATE_IS_HARD,
	STATE_TRIAL_ENDS_AT,
	STATE_TIME_ZONE,
	STATE_COLUMNS
};

/* The row's own, where there is one. */
typedef struct Row
{
	bool is_there;
	KsSubscription *subscription;
} Row;

static void read_row(const KsProbeRow *row, void *arg);
static char *column_text(const KsProbeRow *row, int place);
static void compute_period(const pg_uuid_t *user_id, KsSubscription *subscription);

PG_FUNCTION_INFO_V1(ks_subscription_of);

/* keelson._subscription_of(user_id uuid) */
Datum
ks_subscription_of(PG_FUNCTION_ARGS)
{
	KsSubscription subscription;
	Datum values[STATE_COLUMNS] = {0};
	bool nulls[STATE_COLUMNS] = {false};
	TupleDesc desc;

	ks_subscription_read(PG_GETARG_UUID_P(0), &subscription);
	values[STATE_TIER_ID] = CStringGetTextDatum(subscription.tier);
	values[STATE_STATUS] = CStringGetTextDatum(subscription.status);
	values[STATE_PERIOD_START] = TimestampTzGetDatum(subscription.period_start);
	values[STATE_PERIOD_END] = TimestampTzGetDatum(subscription.period_end);
	values[STATE_MINUTES_LIMIT] = subscription.minutes_limit;
	nulls[STATE_MINUTES_LIMIT] = !subscription.is_limited;
	values[STATE_IS_HARD] = BoolGetDatum(subscription.is_hard);
	values[STATE_TRIAL_ENDS_AT] = TimestampTzGetDatum(subscription.trial_ends_at);
	nulls[STATE_TRIAL_ENDS_AT] = !subscription.had_trial;
	values[STATE_TIME_ZONE] = CStringGetTextDatum(subscription.time_zone);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson._subscription_of() returns a row");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

void
ks_subscription_read(const pg_uuid_t *user_id, KsSubscription *subscription)
{
	const KsTier *tier = ks_tier_of(user_id);
	const KsTierLimit *minutes = ks_tier_limit(tier, KS_LIMIT_UNIT, "minutes");
	TimestampTz now = GetCurrentStatementStartTimestamp();
	Row row = {false, subscription};

	memset(subscription, 0, sizeof(*subscription));
	subscription->tier = pstrdup(tier->id);
	subscription->is_limited = minutes != NULL;
	if (minutes != NULL)
		subscription->minutes_limit = datumCopy(minutes->amount, false, -1);
	subscription->is_hard = minutes != NULL && minutes->is_hard;
	(void) ks_probe(&subscriptions, &user_id, read_row, &row);
	if (!row.is_there)
	{
		subscription->status = "active";
		subscription->time_zone = "UTC";
	}
	if (!row.is_there || now >= subscription->period_end || now < subscription->period_start)
		compute_period(user_id, subscription);
}

static void
read_row(const KsProbeRow *row, void *arg)
{
	KsSubscription *subscription = ((Row *) arg)->subscription;
	bool is_null;

	((Row *) arg)->is_there = true;
	subscription->status = column_text(row, STATUS);
	subscription->time_zone = column_text(row, TIME_ZONE);
	subscription->period_start = DatumGetTimestampTz(ks_probe_column(row, PERIOD_START, &is_null));
	subscription->period_end = DatumGetTimestampTz(ks_probe_column(row, PERIOD_END, &is_null));
	subscription->trial_ends_at = DatumGetTimestampTz(ks_probe_column(row, TRIAL_ENDS_AT, &is_null));
	subscription->had_trial = !is_null;
	/* A trial that is over, though nobody has written it down. */
	if (subscription->had_trial && subscription->trial_ends_at <= GetCurrentStatementStartTimestamp() &&
		strcmp(subscription->status, "trialing") == 0)
		subscription->status = "active";
}

static char *
column_text(const KsProbeRow *row, int place)
{
	bool is_null;

	return TextDatumGetCString(ks_probe_column(row, place, &is_null));
}

/* Have SQL say which period it is. */
static void
compute_period(const pg_uuid_t *user_id, KsSubscription *subscription)
{
	static KsPlan plan = {
		.sql = "select period_start, period_end from keelson._period_of($1)",
		.nargs = 1,
		.argtypes = {UUIDOID}};
	Datum values[] = {UUIDPGetDatum(user_id)};
	KsRoleSwitch save;
	bool is_null;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&plan, values, NULL, true, 1);
	ks_role_leave(&save);
	subscription->period_start = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	subscription->period_end = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));
	ks_spi_finish();
}
