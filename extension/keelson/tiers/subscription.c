/*
 * subscription.c
 *	  keelson._subscription_of(): a user's tier and period, as they are now.
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

typedef struct State
{
	bool has_row;
	Datum values[STATE_COLUMNS];
	bool nulls[STATE_COLUMNS];
} State;

static void read_state(const KsProbeRow *row, void *arg);
static void add_text(const KsProbeRow *row, int place, State *state, int column);
static void compute_period(const pg_uuid_t *user_id, State *state);

PG_FUNCTION_INFO_V1(ks_subscription_of);

/* keelson._subscription_of(user_id uuid) */
Datum
ks_subscription_of(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = PG_GETARG_UUID_P(0);
	const KsTier *tier = ks_tier_of(user_id);
	const KsTierLimit *minutes = ks_tier_limit(tier, KS_LIMIT_UNIT, "minutes");
	TimestampTz now = GetCurrentStatementStartTimestamp();
	State state;
	TupleDesc desc;

	memset(&state, 0, sizeof(state));
	(void) ks_probe(&subscriptions, &user_id, read_state, &state);
	state.values[STATE_TIER_ID] = CStringGetTextDatum(tier->id);
	state.nulls[STATE_MINUTES_LIMIT] = minutes == NULL;
	if (minutes != NULL)
		state.values[STATE_MINUTES_LIMIT] = datumCopy(minutes->amount, false, -1);
	state.values[STATE_IS_HARD] = BoolGetDatum(minutes != NULL && minutes->is_hard);
	if (!state.has_row || now >= DatumGetTimestampTz(state.values[STATE_PERIOD_END]) ||
		now < DatumGetTimestampTz(state.values[STATE_PERIOD_START]))
		compute_period(user_id, &state);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson._subscription_of() returns a row");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, state.values, state.nulls)));
}

static void
read_state(const KsProbeRow *row, void *arg)
{
	State *state = arg;
	bool is_null;

	state->has_row = true;
	add_text(row, STATUS, state, STATE_STATUS);
	add_text(row, TIME_ZONE, state, STATE_TIME_ZONE);
	state->values[STATE_PERIOD_START] = ks_probe_column(row, PERIOD_START, &is_null);
	state->values[STATE_PERIOD_END] = ks_probe_column(row, PERIOD_END, &is_null);
	state->values[STATE_TRIAL_ENDS_AT] = ks_probe_column(row, TRIAL_ENDS_AT, &state->nulls[STATE_TRIAL_ENDS_AT]);
	/* A trial that is over, though nobody has written it down. */
	if (!state->nulls[STATE_TRIAL_ENDS_AT] &&
		DatumGetTimestampTz(state->values[STATE_TRIAL_ENDS_AT]) <= GetCurrentStatementStartTimestamp() &&
		strcmp(TextDatumGetCString(state->values[STATE_STATUS]), "trialing") == 0)
		state->values[STATE_STATUS] = CStringGetTextDatum("active");
}

static void
add_text(const KsProbeRow *row, int place, State *state, int column)
{
	bool is_null;

	state->values[column] = datumCopy(ks_probe_column(row, place, &is_null), false, -1);
}

/* Have SQL say which period it is. */
static void
compute_period(const pg_uuid_t *user_id, State *state)
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
	state->values[STATE_PERIOD_START] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
	state->values[STATE_PERIOD_END] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null);
	ks_spi_finish();
	if (state->has_row)
		return;
	state->values[STATE_STATUS] = CStringGetTextDatum("active");
	state->values[STATE_TIME_ZONE] = CStringGetTextDatum("UTC");
	state->nulls[STATE_TRIAL_ENDS_AT] = true;
}
