/*
 * quota.c
 *	  Charging usage to hard quotas: for nearly everybody there are none.
 *
 * Whether there is anything to do is known from the tier alone, which costs
 * less than a microsecond; the work is SQL (quota_functions.sql).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "core/roles.h"
#include "core/spi.h"
#include "tiers/quota.h"
#include "tiers/tiers.h"

static bool is_metered(const KsTier *tier, const char *feature);
static void run(KsPlan *plan, Datum *values);

bool
ks_quota_is_hard(const pg_uuid_t *user_id)
{
	return ks_tier_of(user_id)->has_hard_minutes;
}

void
ks_quota_charge_minutes(const pg_uuid_t *user_id, Datum feature, Datum minutes)
{
	static KsPlan plan = {
		.sql = "select keelson._quota_charge_minutes($1, $2, $3)",
		.nargs = 3,
		.argtypes = {UUIDOID, TEXTOID, NUMERICOID}};
	const KsTier *tier = ks_tier_of(user_id);
	Datum values[] = {UUIDPGetDatum(user_id), feature, minutes};

	if (tier->has_hard_minutes && is_metered(tier, TextDatumGetCString(feature)))
		run(&plan, values);
}

PG_FUNCTION_INFO_V1(ks_quota_charge_one);

/* keelson._quota_charge(user_id uuid, feature text, minutes numeric) */
Datum
ks_quota_charge_one(PG_FUNCTION_ARGS)
{
	ks_quota_charge_minutes(PG_GETARG_UUID_P(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks_quota_charge_many);

/* keelson._quota_charge(user_ids uuid[], features text[], minutes numeric[], occurred_at timestamptz[]) */
Datum
ks_quota_charge_many(PG_FUNCTION_ARGS)
{
	static KsPlan plan = {
		.sql = "select keelson._quota_charge_batch($1, $2, $3, $4)",
		.nargs = 4,
		.argtypes = {UUIDARRAYOID, TEXTARRAYOID, NUMERICARRAYOID, TIMESTAMPTZARRAYOID}};
	Datum values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), PG_GETARG_DATUM(3)};
	const pg_uuid_t *before = NULL;
	Datum *user_ids;
	int count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &user_ids, NULL, &count);
	for (int i = 0; i < count; i++)
	{
		const pg_uuid_t *user_id = DatumGetUUIDP(user_ids[i]);

		if (before != NULL && memcmp(before, user_id, UUID_LEN) == 0)
			continue;
		before = user_id;
		if (ks_quota_is_hard(user_id))
		{
			run(&plan, values);
			break;
		}
	}
	PG_RETURN_VOID();
}

/* Does a hard limit count the feature's minutes? */
static bool
is_metered(const KsTier *tier, const char *feature)
{
	const KsTierLimit *whole = ks_tier_limit(tier, KS_LIMIT_UNIT, "minutes");
	const KsTierLimit *own = ks_tier_limit(tier, KS_LIMIT_FEATURE, feature);

	return (whole != NULL && whole->is_hard) || (own != NULL && own->is_hard);
}

static void
run(KsPlan *plan, Datum *values)
{
	KsRoleSwitch save;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(plan, values, NULL, false, 1);
	ks_role_leave(&save);
	ks_spi_finish();
}
