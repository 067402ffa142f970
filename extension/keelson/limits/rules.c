/*
 * rules.c
 *	  What the limits say: a copy of the tables in each backend's memory.
 *
 * The copy goes stale when the relcache entry of one of the tables is
 * invalidated, by a trigger or by the functions that write them, and is made anew with the next request. What holds for single users
 * is looked up when they come, by index, and remembered for some of them; where
 * nobody has terms of his own nothing is looked up at all.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/invalidation.h"
#include "core/roles.h"
#include "core/spi.h"
#include "limits/principal.h"
#include "limits/rules.h"

/* Users and access keys whose own terms are remembered at once. */
#define USERS_KEPT 1024

const char *const ks_block_signals[KS_BLOCK_SIGNAL_COUNT] = {
	[KS_BLOCK_REFUSALS] = "refusals",
	[KS_BLOCK_ACCOUNTS] = "accounts",
};

static const char *const class_names[] = {
	[KS_RATE_GENERAL] = "general",
	[KS_RATE_API] = "api",
	[KS_RATE_AUTH] = "auth",
	[KS_RATE_RESET] = "reset",
	[KS_RATE_CLASS_COUNT] = "custom",
};

static const char *const counted_names[] = {
	[KS_BY_CALLER] = "caller",
	[KS_BY_IP] = "ip",
	[KS_BY_EMAIL] = "email",
	[KS_BY_KEY] = "key",
};

static const char *const table_names[] = {
	"rate_limits",
	"tier_rate_limits",
	"user_rate_limits",
	"block_rules",
	"tier_ranks",
};

/* One rule's own terms for a user or key. */
typedef struct OwnTerms
{
	bool is_given;
	TimestampTz expires_at;
	KsLimitTerms terms;
} OwnTerms;

typedef struct OwnKey
{
	pg_uuid_t user_id;
	pg_uuid_t access_key_id;
} OwnKey;

typedef struct OwnEntry
{
	OwnKey key;
	OwnTerms *terms; /* by the rules' numbers; NULL: none at all */
} OwnEntry;

/* Made and reset by load() alone, with all that stands in it. */
static MemoryContext rules_cxt;
static KsLimitRules *rules;

/* Whom we remember, with their terms; deleted when they get too many. */
static MemoryContext own_cxt;
static HTAB *own;

/* Whose invalidation makes the copy stale, looked up with each load. */
static Oid tables[lengthof(table_names)];

/* Counts invalidations; the copy was made at loaded_at. */
static uint64 invalidations;
static uint64 loaded_at;

static void forget(Datum arg, Oid relation);
static void load(void);
static void make_own(void);
static void load_rules(KsLimitRules *into);
static void load_tiers(KsLimitRules *into);
static void load_blocks(KsLimitRules *into);
static void load_ranks(KsLimitRules *into);
static bool load_has_own(void);
static Datum column(int row, int number, bool *is_null);
static char *column_text(int row, int number);
static int64 column_int(int row, int number);
static int find_name(const char *const *names, int count, const char *name);
static KsLimitRule *find_rule(KsLimitRules *in, const char *name);
static KsLimitTerms make_terms(const char *name, int32 most, int64 window_us);
static const OwnTerms *own_terms(const KsLimitRules *in, const KsLimitRule *rule, const pg_uuid_t *user_id, const pg_uuid_t *access_key_id);
static OwnTerms *load_own(const KsLimitRules *in, const OwnKey *key);

bool
ks_rate_class_find(const char *name, KsRateClass *out)
{
	int found = find_name(class_names, KS_RATE_CLASS_COUNT, name);

	if (found < 0)
		return false;
	*out = (KsRateClass) found;
	return true;
}

const KsLimitRules *
ks_limit_rules(void)
{
	if (unlikely(rules == NULL || loaded_at != invalidations))
		load();
	return rules;
}

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

/* Make the copy. An error on the way leaves none, and the next request tries again. */
static void
load(void)
{
	Oid namespace = get_namespace_oid("keelson", false);
	KsLimitRules *made;
	KsRoleSwitch save;
	uint64 before;

	if (rules_cxt == NULL)
	{
		rules_cxt = AllocSetContextCreate(TopMemoryContext, "keelson limits rules", ALLOCSET_DEFAULT_SIZES);
		ks_on_relation_change(forget, (Datum) 0);
	}
	rules = NULL;
	own = NULL;
	own_cxt = NULL;
	MemoryContextReset(rules_cxt);
	for (int i = 0; i < lengthof(tables); i++)
		tables[i] = get_relname_relid(table_names[i], namespace);
	before = invalidations;
	made = MemoryContextAllocZero(rules_cxt, sizeof(KsLimitRules));
	make_own();

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	load_rules(made);
	load_tiers(made);
	load_blocks(made);
	load_ranks(made);
	made->has_user_terms = load_has_own();
	ks_role_leave(&save);
	ks_spi_finish();
	rules = made;
	loaded_at = before;
}

/* Start to remember users' terms, or start anew. */
static void
make_own(void)
{
	HASHCTL control = {.keysize = sizeof(OwnKey), .entrysize = sizeof(OwnEntry)};

	if (own_cxt != NULL)
		MemoryContextDelete(own_cxt);
	own_cxt = AllocSetContextCreate(rules_cxt, "keelson limits of users", ALLOCSET_DEFAULT_SIZES);
	control.hcxt = own_cxt;
	own = hash_create("keelson limits of users", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
load_rules(KsLimitRules *into)
{
	static KsPlan plan = {
		.sql = "select name, rate_class, counted_by, max_requests, (extract(epoch from time_window) * 1000000)::bigint, is_shadow, is_adaptive "
			   "from keelson.rate_limits where is_enabled order by max_requests / extract(epoch from time_window), name"};
	bool is_null;

	(void) ks_spi_read_latest(&plan, NULL, 0);
	into->rules = MemoryContextAllocZero(rules_cxt, Max(SPI_processed, 1) * sizeof(KsLimitRule));
	for (int row = 0; row < SPI_processed; row++)
	{
		KsLimitRule *rule = &into->rules[row];

		strlcpy(rule->name, column_text(row, 1), sizeof(rule->name));
		rule->number = row;
		rule->rate_class = find_name(class_names, lengthof(class_names), column_text(row, 2));
		rule->counted_by = find_name(counted_names, lengthof(counted_names), column_text(row, 3));
		rule->terms = make_terms(rule->name, column_int(row, 4), column_int(row, 5));
		rule->is_shadow = DatumGetBool(column(row, 6, &is_null));
		rule->is_adaptive = DatumGetBool(column(row, 7, &is_null));
	}
	into->count = SPI_processed;
}

static void
load_tiers(KsLimitRules *into)
{
	static KsPlan plan = {
		.sql = "select name, tier, coalesce(t.max_requests, 0), (extract(epoch from coalesce(t.time_window, l.time_window)) * 1000000)::bigint, "
			   "count(*) over (partition by name) "
			   "from keelson.tier_rate_limits as t join keelson.rate_limits as l using (name) where l.is_enabled"};

	(void) ks_spi_read_latest(&plan, NULL, 0);
	for (int row = 0; row < SPI_processed; row++)
	{
		KsLimitRule *rule = find_rule(into, column_text(row, 1));

		if (rule == NULL)
			continue;
		if (rule->tiers == NULL)
			rule->tiers = MemoryContextAllocZero(rules_cxt, column_int(row, 5) * sizeof(KsTierTerms));
		rule->tiers[rule->tier_count].tier = MemoryContextStrdup(rules_cxt, column_text(row, 2));
		into->has_tier_terms = true;
		rule->tiers[rule->tier_count++].terms = make_terms(rule->name, column_int(row, 3), column_int(row, 4));
	}
}

static void
load_blocks(KsLimitRules *into)
{
	static KsPlan plan = {
		.sql = "select signal, max_count, (extract(epoch from time_window) * 1000000)::bigint from keelson.block_rules where is_enabled"};

	(void) ks_spi_read_latest(&plan, NULL, 0);
	for (int row = 0; row < SPI_processed; row++)
	{
		char *signal = column_text(row, 1);
		int number = find_name(ks_block_signals, KS_BLOCK_SIGNAL_COUNT, signal);

		if (number < 0)
			continue;
		into->blocks[number].is_enabled = true;
		into->blocks[number].terms = make_terms(psprintf("block by %s", signal), column_int(row, 2), column_int(row, 3));
	}
}

static void
load_ranks(KsLimitRules *into)
{
	static KsPlan plan = {.sql = "select tier, rank from keelson.tier_ranks"};

	(void) ks_spi_read_latest(&plan, NULL, 0);
	into->ranks = MemoryContextAllocZero(rules_cxt, Max(SPI_processed, 1) * sizeof(KsTierRank));
	for (int row = 0; row < SPI_processed; row++)
	{
		into->ranks[row].tier = MemoryContextStrdup(rules_cxt, column_text(row, 1));
		into->ranks[row].rank = column_int(row, 2);
		into->top_rank = Max(into->top_rank, into->ranks[row].rank);
	}
	into->rank_count = SPI_processed;
}

static bool
load_has_own(void)
{
	static KsPlan plan = {.sql = "select from keelson.user_rate_limits limit 1"};

	(void) ks_spi_read_latest(&plan, NULL, 1);
	return SPI_processed > 0;
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

/* An integer of any size. */
static int64
column_int(int row, int number)
{
	bool is_null;
	Datum value = column(row, number, &is_null);

	return SPI_gettypeid(SPI_tuptable->tupdesc, number) == INT8OID ? DatumGetInt64(value) : DatumGetInt32(value);
}

/* The number of the name, or -1. */
static int
find_name(const char *const *names, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

static KsLimitRule *
find_rule(KsLimitRules *in, const char *name)
{
	for (int i = 0; i < in->count; i++)
		if (strcmp(in->rules[i].name, name) == 0)
			return &in->rules[i];
	return NULL;
}

static KsLimitTerms
make_terms(const char *name, int32 most, int64 window_us)
{
	return (KsLimitTerms){
		.most = most,
		.window_us = window_us,
		.key = ks_terms_key(name, window_us, most),
	};
}

KsLimitKey
ks_terms_key(const char *name, int64 window_us, int32 most)
{
	char id[128];
	KsPrincipal limit;

	snprintf(id, sizeof(id), "%s:" INT64_FORMAT ":%d", name, window_us, most > KS_LIMITS_EXACT);
	ks_principal(KS_PRINCIPAL_LIMIT, id, strlen(id), &limit);
	return limit.key;
}

int
ks_tier_rank(const KsLimitRules *in, const char *tier)
{
	for (int i = 0; tier != NULL && i < in->rank_count; i++)
		if (strcmp(in->ranks[i].tier, tier) == 0)
			return in->ranks[i].rank;
	return 0;
}

KsLimitTerms
ks_limit_terms(const KsLimitRules *in, const KsLimitRule *rule, const KsLimitsSubject *who, bool *is_own)
{
	const OwnTerms *terms = NULL;

	*is_own = false;
	if (who == NULL || who->user_id == NULL)
		return rule->terms;
	if (in->has_user_terms && who->access_key_id != NULL)
	{
		terms = own_terms(in, rule, who->user_id, who->access_key_id);
		*is_own = terms != NULL;
	}
	if (in->has_user_terms && terms == NULL)
		terms = own_terms(in, rule, who->user_id, NULL);
	if (terms != NULL)
		return terms->terms;
	for (int i = 0; who->tier != NULL && i < rule->tier_count; i++)
		if (strcmp(rule->tiers[i].tier, who->tier) == 0)
			return rule->tiers[i].terms;
	return rule->terms;
}

/* The rule's terms for this user or key alone, or NULL. */
static const OwnTerms *
own_terms(const KsLimitRules *in, const KsLimitRule *rule, const pg_uuid_t *user_id, const pg_uuid_t *access_key_id)
{
	OwnKey key;
	OwnEntry *entry;
	OwnTerms *terms;

	memset(&key, 0, sizeof(key));
	key.user_id = *user_id;
	if (access_key_id != NULL)
		key.access_key_id = *access_key_id;
	entry = hash_search(own, &key, HASH_FIND, NULL);
	if (entry == NULL)
	{
		OwnTerms *loaded = load_own(in, &key);

		entry = hash_search(own, &key, HASH_ENTER, NULL);
		entry->terms = loaded;
	}
	if (entry->terms == NULL)
		return NULL;
	terms = &entry->terms[rule->number];
	if (!terms->is_given || terms->expires_at <= GetCurrentTimestamp())
		return NULL;
	return terms;
}

/* Look up what holds for the user or key alone; NULL: nothing. */
static OwnTerms *
load_own(const KsLimitRules *in, const OwnKey *key)
{
	static KsPlan plan = {
		.sql = "select name, coalesce(u.max_requests, 0), (extract(epoch from coalesce(u.time_window, l.time_window)) * 1000000)::bigint, "
			   "coalesce(u.expires_at, 'infinity') "
			   "from keelson.user_rate_limits as u join keelson.rate_limits as l using (name) "
			   "where u.user_id = $1 and u.access_key_id = $2 and l.is_enabled",
		.nargs = 2,
		.argtypes = {UUIDOID, UUIDOID}};
	Datum values[] = {UUIDPGetDatum(&key->user_id), UUIDPGetDatum(&key->access_key_id)};
	OwnTerms *terms = NULL;
	KsRoleSwitch save;

	/* Rather than let the memory grow, forget whom we know. */
	if (hash_get_num_entries(own) >= USERS_KEPT)
		make_own();
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_read_latest(&plan, values, 0);
	ks_role_leave(&save);
	if (SPI_processed > 0)
		terms = MemoryContextAllocZero(own_cxt, in->count * sizeof(OwnTerms));
	for (int row = 0; row < SPI_processed; row++)
	{
		KsLimitRule *rule = find_rule(unconstify(KsLimitRules *, in), column_text(row, 1));
		bool is_null;

		if (rule == NULL)
			continue;
		terms[rule->number] = (OwnTerms){
			.is_given = true,
			.terms = make_terms(rule->name, column_int(row, 2), column_int(row, 3)),
			.expires_at = DatumGetTimestampTz(column(row, 4, &is_null)),
		};
	}
	ks_spi_finish();
	return terms;
}

PG_FUNCTION_INFO_V1(ks_limits_changed);

/* keelson._limits_changed(), a trigger */
Datum
ks_limits_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "keelson._limits_changed() is a trigger");
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	/* The value of a trigger: no row, and not a null of SQL. */
	return PointerGetDatum(NULL);
}

PG_FUNCTION_INFO_V1(ks_user_rate_limits_changed);

/* keelson._user_rate_limits_changed() */
Datum
ks_user_rate_limits_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcacheByRelid(get_relname_relid("user_rate_limits", get_namespace_oid("keelson", false)));
	PG_RETURN_VOID();
}
