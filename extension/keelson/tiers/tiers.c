/*
 * tiers.c
 *	  The tiers, a copy of the tables in each backend's memory, and a user's own.
 *
 * The copy goes stale when a trigger invalidates the relcache entry of one of
 * the tables, and is made anew when it is next asked for. A user's row is read
 * each time, with the statement's snapshot: a change of tier holds for the next
 * statement, and a trial that ends, ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/error.h"
#include "core/identity.h"
#include "core/invalidation.h"
#include "core/probe.h"
#include "core/roles.h"
#include "core/spi.h"
#include "tiers/tiers.h"

enum
{
	TIER_ID,
	NEXT_TIER_ID,
	NEXT_TIER_AT
};

/* The places in it are written by core/probe.c. */
static KsProbeTable subscriptions = {
	.name = "subscriptions",
	.key_count = 1,
	.keys = {"user_id"},
	.columns = {[TIER_ID] = "tier_id", [NEXT_TIER_ID] = "next_tier_id", [NEXT_TIER_AT] = "next_tier_at"}};

static const char *const kind_names[] = {
	[KS_LIMIT_UNIT] = "unit",
	[KS_LIMIT_FEATURE] = "feature",
	[KS_LIMIT_CAP] = "cap",
};

static const char *const table_names[] = {"tiers", "tier_limits"};

/* Made and reset by load() alone, with all that stands in it. */
static MemoryContext tiers_cxt;
static KsTier *tiers;
static int tier_count;
static const KsTier *default_tier;

/* Whose invalidation makes the copy stale, looked up with each load. */
static Oid tables[lengthof(table_names)];

/* Counts invalidations; the copy was made at loaded_at. */
static uint64 invalidations;
static uint64 loaded_at;

static void forget(Datum arg, Oid relation);
static void need_tiers(void);
static void load(void);
static void load_tiers(void);
static void load_limits(void);
static void read_tier(const KsProbeRow *row, void *arg);
static Datum column(int row, int number, bool *is_null);
static char *column_text(int row, int number);
static const KsTier *acting_tier(void);
static const KsTier *named_tier(const char *id);
static bool has_feature(const KsTier *tier, const char *feature);
static const char *argument(FunctionCallInfo fcinfo);

static void
forget(Datum arg, Oid relation)
{
	for (int i = 0; i < lengthof(tables); i++)
		if (!OidIsValid(relation) || relation == tables[i])
		{
			invalidations++;
			return;
		}
}

static void
need_tiers(void)
{
	if (unlikely(tiers == NULL || loaded_at != invalidations))
		load();
}

/* Make the copy. An error on the way leaves none, and who asks next tries again. */
static void
load(void)
{
	Oid namespace = get_namespace_oid("keelson", false);
	KsRoleSwitch save;
	uint64 before;

	if (tiers_cxt == NULL)
	{
		tiers_cxt = AllocSetContextCreate(TopMemoryContext, "keelson tiers", ALLOCSET_DEFAULT_SIZES);
		ks_on_relation_change(forget, (Datum) 0);
	}
	tiers = NULL;
	default_tier = NULL;
	MemoryContextReset(tiers_cxt);
	for (int i = 0; i < lengthof(tables); i++)
		tables[i] = get_relname_relid(table_names[i], namespace);
	before = invalidations;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	load_tiers();
	load_limits();
	ks_role_leave(&save);
	ks_spi_finish();
	loaded_at = before;
}

static void
load_tiers(void)
{
	static KsPlan plan = {.sql = "select id, name, rank, features, is_default from keelson.tiers order by rank"};
	KsTier *made;
	bool is_null;

	(void) ks_spi_read_latest(&plan, NULL, 0);
	made = MemoryContextAllocZero(tiers_cxt, Max(SPI_processed, 1) * sizeof(KsTier));
	for (int row = 0; row < SPI_processed; row++)
	{
		KsTier *tier = &made[row];
		Datum *features;

		tier->id = MemoryContextStrdup(tiers_cxt, column_text(row, 1));
		tier->name = MemoryContextStrdup(tiers_cxt, column_text(row, 2));
		tier->rank = DatumGetInt32(column(row, 3, &is_null));
		deconstruct_array(DatumGetArrayTypeP(column(row, 4, &is_null)), TEXTOID, -1, false, TYPALIGN_INT, &features, NULL, &tier->feature_count);
		tier->features = MemoryContextAlloc(tiers_cxt, Max(tier->feature_count, 1) * sizeof(char *));
		for (int i = 0; i < tier->feature_count; i++)
			tier->features[i] = MemoryContextStrdup(tiers_cxt, TextDatumGetCString(features[i]));
		if (DatumGetBool(column(row, 5, &is_null)))
			default_tier = tier;
	}
	tiers = made;
	tier_count = SPI_processed;
	if (default_tier == NULL)
	{
		tiers = NULL;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no tier is the default"),
				 errhint("Make one so: select keelson.tier_set(..., is_default => true).")));
	}
}

static void
load_limits(void)
{
	static KsPlan plan = {.sql = "select tier_id, kind, name, amount, is_hard from keelson.tier_limits order by tier_id, kind, name"};
	KsTierLimit *made;
	bool is_null;

	(void) ks_spi_read_latest(&plan, NULL, 0);
	made = MemoryContextAllocZero(tiers_cxt, Max(SPI_processed, 1) * sizeof(KsTierLimit));
	for (int row = 0; row < SPI_processed; row++)
	{
		const char *id = column_text(row, 1);
		const char *kind = column_text(row, 2);
		KsTierLimit *limit = &made[row];

		for (int i = 0; i < lengthof(kind_names); i++)
			if (strcmp(kind, kind_names[i]) == 0)
				limit->kind = i;
		limit->name = MemoryContextStrdup(tiers_cxt, column_text(row, 3));
		limit->is_hard = DatumGetBool(column(row, 5, &is_null));
		{
			MemoryContext before = MemoryContextSwitchTo(tiers_cxt);

			limit->amount = datumCopy(column(row, 4, &is_null), false, -1);
			MemoryContextSwitchTo(before);
		}
		for (int i = 0; i < tier_count; i++)
			if (strcmp(tiers[i].id, id) == 0)
			{
				/* Rows of one tier stand together. */
				if (tiers[i].limit_count++ == 0)
					tiers[i].limits = limit;
				if (limit->is_hard && (limit->kind == KS_LIMIT_FEATURE || strcmp(limit->name, "minutes") == 0))
					tiers[i].has_hard_minutes = true;
			}
	}
}

static Datum
column(int row, int number, bool *is_null)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, is_null);
}

static char *
column_text(int row, int number)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number);
}

const KsTier *
ks_tier_find(const char *id, int len)
{
	need_tiers();
	for (int i = 0; i < tier_count; i++)
		if (strncmp(tiers[i].id, id, len) == 0 && tiers[i].id[len] == '\0')
			return &tiers[i];
	return NULL;
}

const KsTier *
ks_tier_of(const pg_uuid_t *user_id)
{
	const KsTier *found = NULL;

	need_tiers();
	(void) ks_probe(&subscriptions, &user_id, read_tier, &found);
	/* A tier that another transaction has just made is not in the copy yet. */
	return found != NULL ? found : default_tier;
}

/* The tier of a subscription: the next one, once its time has come. */
static void
read_tier(const KsProbeRow *row, void *arg)
{
	int place = TIER_ID;
	TimestampTz next_at;
	bool is_null;
	text *id;

	next_at = DatumGetTimestampTz(ks_probe_column(row, NEXT_TIER_AT, &is_null));
	if (!is_null && next_at <= GetCurrentStatementStartTimestamp())
		place = NEXT_TIER_ID;
	id = DatumGetTextPP(ks_probe_column(row, place, &is_null));
	for (int i = 0; i < tier_count; i++)
		if (strncmp(tiers[i].id, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)) == 0 && tiers[i].id[VARSIZE_ANY_EXHDR(id)] == '\0')
			*(const KsTier **) arg = &tiers[i];
}

const KsTierLimit *
ks_tier_limit(const KsTier *tier, KsTierLimitKind kind, const char *name)
{
	for (int i = 0; i < tier->limit_count; i++)
		if (tier->limits[i].kind == kind && strcmp(tier->limits[i].name, name) == 0)
			return &tier->limits[i];
	return NULL;
}

/* The tier of the acting user, or NULL when nobody is. */
static const KsTier *
acting_tier(void)
{
	const KsIdentity *identity = ks_identity();

	return identity->has_user ? ks_tier_of(&identity->user_id) : NULL;
}

static const KsTier *
named_tier(const char *id)
{
	const KsTier *tier = ks_tier_find(id, strlen(id));

	if (tier == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tier \"%s\" does not exist", id)));
	return tier;
}

static bool
has_feature(const KsTier *tier, const char *feature)
{
	for (int i = 0; i < tier->feature_count; i++)
		if (strcmp(tier->features[i], feature) == 0)
			return true;
	return false;
}

/* The one argument, a name; null is a name that nothing has. */
static const char *
argument(FunctionCallInfo fcinfo)
{
	return PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));
}

PG_FUNCTION_INFO_V1(ks_tiers_changed);

/* keelson._tiers_changed() */
Datum
ks_tiers_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(ks_tier_of_sql);

/* keelson._tier_of(user_id uuid) */
Datum
ks_tier_of_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ks_tier_of(PG_GETARG_UUID_P(0))->id));
}

PG_FUNCTION_INFO_V1(ks_has_tier);

/* keelson.has_tier(tier text) */
Datum
ks_has_tier(PG_FUNCTION_ARGS)
{
	const KsTier *needed = named_tier(argument(fcinfo));
	int rank = needed->rank;
	const KsTier *held = acting_tier();

	PG_RETURN_BOOL(held != NULL && held->rank >= rank);
}

PG_FUNCTION_INFO_V1(ks_has_feature);

/* keelson.has_feature(feature text) */
Datum
ks_has_feature(PG_FUNCTION_ARGS)
{
	const KsTier *held = acting_tier();

	PG_RETURN_BOOL(held != NULL && has_feature(held, argument(fcinfo)));
}

PG_FUNCTION_INFO_V1(ks_require_tier);

/* keelson.require_tier(tier text) */
Datum
ks_require_tier(PG_FUNCTION_ARGS)
{
	const KsTier *needed = named_tier(argument(fcinfo));
	char *name = pstrdup(needed->name);
	int rank = needed->rank;
	const KsTier *held = acting_tier();

	if (held == NULL)
		ks_raise(401, "UNAUTHENTICATED", NULL, "sign in first");
	if (held->rank < rank)
		ks_raise(403, "TIER_REQUIRED", NULL, "this needs the tier %s", name);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks_require_feature);

/* keelson.require_feature(feature text) */
Datum
ks_require_feature(PG_FUNCTION_ARGS)
{
	const char *feature = argument(fcinfo);
	const KsTier *held = acting_tier();

	if (held == NULL)
		ks_raise(401, "UNAUTHENTICATED", NULL, "sign in first");
	if (!has_feature(held, feature))
		ks_raise(403, "TIER_REQUIRED", NULL, "the tier %s does not have this", held->name);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks_tier_limit_sql);

/* keelson._tier_limit(user_id uuid, name text) */
Datum
ks_tier_limit_sql(PG_FUNCTION_ARGS)
{
	const char *name;
	const KsTier *tier;
	const KsTierLimit *limit;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	tier = ks_tier_of(PG_GETARG_UUID_P(0));
	limit = ks_tier_limit(tier, KS_LIMIT_CAP, name);
	if (limit == NULL)
		limit = ks_tier_limit(tier, KS_LIMIT_UNIT, name);
	if (limit == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(datumCopy(limit->amount, false, -1));
}
