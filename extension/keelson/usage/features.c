/*
 * features.c
 *	  The declared features, kept per backend.
 *
 * The copy goes stale when the table's trigger invalidates its relcache entry,
 * which reaches all backends when the change commits.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "core/invalidation.h"
#include "core/roles.h"
#include "core/spi.h"
#include "usage/features.h"

#define OTHERS "*"

typedef struct Feature
{
	char name[KS_FEATURE_LENGTH + 1];
	bool is_open;
} Feature;

/* The copy and the invalidations it has seen; made by load(). */
static HTAB *features;
static uint64 loaded_at;
static bool are_others_open;

/* Counts invalidations of the table with this OID, which load() looks up. */
static uint64 invalidations;
static Oid features_relid = InvalidOid;
static bool is_listening;

static KsPlan load_plan = {"select name, is_open from keelson.usage_features", 0, {0}};

static void note_invalidation(Datum arg, Oid relid);
static void load(void);

bool
ks_feature_name_is_good(const char *name, int len)
{
	if (len < 1 || len > KS_FEATURE_LENGTH || name[0] < 'a' || name[0] > 'z')
		return false;
	for (int i = 1; i < len; i++)
		if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') || name[i] == '_' || name[i] == '.' || name[i] == '-'))
			return false;
	return true;
}

KsFeatureState
ks_feature_state(const char *name, int len)
{
	char key[KS_FEATURE_LENGTH + 1] = {0};
	Feature *feature;

	if (unlikely(features == NULL || loaded_at != invalidations))
		load();
	/* Where nothing is declared, nothing needs looking for. */
	if (hash_get_num_entries(features) == 0)
		return are_others_open ? KS_FEATURE_OPEN : KS_FEATURE_UNDECLARED;
	memcpy(key, name, Min(len, KS_FEATURE_LENGTH));
	feature = hash_search(features, key, HASH_FIND, NULL);
	if (feature == NULL)
		return are_others_open ? KS_FEATURE_OPEN : KS_FEATURE_UNDECLARED;
	return feature->is_open ? KS_FEATURE_OPEN : KS_FEATURE_CLOSED;
}

/* Read the table. One that is not there counts as all closed. */
static void
load(void)
{
	HASHCTL control = {.keysize = KS_FEATURE_LENGTH + 1, .entrysize = sizeof(Feature), .hcxt = TopMemoryContext};
	KsRoleSwitch save;
	HTAB *loaded;
	uint64 before;
	bool is_null;

	if (!is_listening)
		ks_on_relation_change(note_invalidation, (Datum) 0);
	is_listening = true;
	features_relid = get_relname_relid("usage_features", get_namespace_oid("keelson", false));
	before = invalidations;
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_read_latest(&load_plan, NULL, 0);
	ks_role_leave(&save);
	loaded = hash_create("keelson usage features", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	are_others_open = false;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		char *name = TextDatumGetCString(SPI_getbinval(row, desc, 1, &is_null));
		bool is_open = DatumGetBool(SPI_getbinval(row, desc, 2, &is_null));

		if (strcmp(name, OTHERS) == 0)
			are_others_open = is_open;
		else
			((Feature *) hash_search(loaded, name, HASH_ENTER, NULL))->is_open = is_open;
	}
	if (features != NULL)
		hash_destroy(features);
	features = loaded;
	loaded_at = before;
	ks_spi_finish();
}

static void
note_invalidation(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == features_relid)
		invalidations++;
}

PG_FUNCTION_INFO_V1(ks_usage_features_changed);

/* keelson._usage_features_changed() : trigger */
Datum
ks_usage_features_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "keelson._usage_features_changed() is a trigger's function");
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}
