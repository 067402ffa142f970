/*
 * route_cache.c
 *	  Load routes and all that is looked up for them, and keep them.
 *
 * An entry goes stale when the routes change (a trigger invalidates the
 * table's relcache entry), when its function changes, or when database roles
 * or memberships do. A stale entry is freed when the next one is asked for,
 * never under a call that uses it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "core/compat.h"
#include "core/invalidation.h"
#include "core/roles.h"
#include "core/spi.h"
#include "dispatch/route_cache.h"

typedef struct Entry
{
	int32 id;
	KsRoute *route;
} Entry;

/* By id; made on first use, never freed. Entries are written by find and load alone, marked by the callbacks. */
static HTAB *cache;

/* Whose invalidation means that routes have changed; looked up at first, and with each load. */
static Oid routes_relation;
static Oid overrides_relation;
static Oid scopes_relation;

/* Counts invalidations, so that one that comes during a load is not missed. */
static uint64 invalidations;

static void make_cache(void);
static void lock_routes(void);
static void look_up_relations(void);
static void forget_relation(Datum arg, Oid relation);
static void forget_function(Datum arg, int cacheid, uint32 hash);
static void forget_roles(Datum arg, int cacheid, uint32 hash);
static void forget_all(void);
static void drop_route(Entry *entry);
static KsRoute *load(int32 id);
static bool load_row(KsRoute *route, char **function, char **role);
static KsRouteKind kind_named(const char *name);
static void load_limits(KsRoute *route);
static bool is_security(const KsRoute *route);
static char *column_text(KsRoute *route, int column);
static int32 column_int(int column);
static bool column_bool(int column);
static void check_role(KsRoute *route);
static void load_function(KsRoute *route, const char *name);
static Oid find_function(const char *name);
static void load_result(KsRoute *route, Form_pg_proc function);
static TupleDesc describe_rows(KsRoute *route);

KsRoute *
ks_route_find(int32 id)
{
	Entry *entry;
	KsRoute *route;
	bool found;

	if (cache == NULL)
		make_cache();
	lock_routes();
	entry = hash_search(cache, &id, HASH_FIND, NULL);
	if (entry != NULL)
	{
		if (likely(!entry->route->is_stale))
			return entry->route;
		drop_route(entry);
	}
	route = load(id);
	if (route == NULL)
		return NULL;
	entry = hash_search(cache, &id, HASH_ENTER, &found);
	entry->route = route;
	return route;
}

static void
make_cache(void)
{
	HASHCTL control = {.keysize = sizeof(int32), .entrysize = sizeof(Entry)};

	ks_on_relation_change(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_function, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_roles, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, forget_roles, (Datum) 0);
	cache = hash_create("keelson routes", 64, &control, HASH_ELEM | HASH_BLOBS);
}

/*
 * Lock the table of routes until the transaction ends, before any other lock
 * is taken: keelson.migrate() takes this one first, and so meets requests that
 * hold nothing, or lets them end.
 */
static void
lock_routes(void)
{
	if (!OidIsValid(routes_relation))
		look_up_relations();
	LockRelationOid(routes_relation, AccessShareLock);
}

static void
look_up_relations(void)
{
	Oid namespace = get_namespace_oid("keelson", false);

	routes_relation = get_relname_relid("routes", namespace);
	overrides_relation = get_relname_relid("route_overrides", namespace);
	scopes_relation = get_relname_relid("scopes", namespace);
}

static void
forget_relation(Datum arg, Oid relation)
{
	if (!OidIsValid(relation) || relation == routes_relation || relation == overrides_relation || relation == scopes_relation)
		forget_all();
}

static void
forget_function(Datum arg, int cacheid, uint32 hash)
{
	HASH_SEQ_STATUS scan;
	Entry *entry;

	invalidations++;
	hash_seq_init(&scan, cache);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (hash == 0 || entry->route->function_hash == hash)
			entry->route->is_stale = true;
}

static void
forget_roles(Datum arg, int cacheid, uint32 hash)
{
	forget_all();
}

static void
forget_all(void)
{
	forget_function((Datum) 0, 0, 0);
}

static void
drop_route(Entry *entry)
{
	MemoryContext cxt = entry->route->cxt;

	hash_search(cache, &entry->id, HASH_REMOVE, NULL);
	MemoryContextDelete(cxt);
}

/* Load the route; NULL when there is none. What is wrong with it is an error. */
static KsRoute *
load(int32 id)
{
	uint64 before = invalidations;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "keelson route", ALLOCSET_SMALL_SIZES);
	KsRoute *route = MemoryContextAllocZero(cxt, sizeof(KsRoute));
	char *function;
	char *role;

	look_up_relations();
	route->id = id;
	route->cxt = cxt;
	if (!load_row(route, &function, &role))
	{
		MemoryContextDelete(cxt);
		return NULL;
	}
	route->role = get_role_oid(role, false);
	load_function(route, function);
	route->counter = ks_counter(id);
	route->is_stale = invalidations != before;
	/* From now on it outlives the call. */
	MemoryContextSetParent(cxt, TopMemoryContext);
	return route;
}

/* Read the route's row; function and role are told by name. */
static bool
load_row(KsRoute *route, char **function, char **role)
{
	static KsPlan plan = {
		.sql = "select method, template, version, function, role, permission, scope, is_public, rate_class, "
			   "timeout_ms, body_limit, kind, is_raw, status, content_types[1], rate_cost, rate_wait_ms, "
			   "exists (select from keelson.scopes as open where open.name = scope), tier, "
			   "needs_verified_email, coalesce(factor_within_s, 0), pool = 'fast', pool = 'upstream' "
			   "from keelson.effective_routes where id = $1",
		.nargs = 1,
		.argtypes = {INT4OID}};
	Datum values[] = {Int32GetDatum(route->id)};
	KsRoleSwitch save;
	bool found;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_read_latest(&plan, values, 1);
	ks_role_leave(&save);
	found = SPI_processed == 1;
	if (found)
	{
		const char *kind = column_text(route, 12);

		route->method = column_text(route, 1);
		route->template = column_text(route, 2);
		route->name = MemoryContextStrdup(route->cxt, psprintf("%s %s %s", route->method, route->template, column_text(route, 3)));
		*function = column_text(route, 4);
		*role = column_text(route, 5);
		route->permission = column_text(route, 6);
		route->scope = column_text(route, 7);
		route->is_public = column_bool(8);
		route->is_unsafe = strcmp(route->method, "GET") != 0;
		load_limits(route);
		route->is_security = is_security(route);
		route->timeout_ms = column_int(10);
		route->body_limit = column_int(11);
		route->kind = kind_named(kind);
		route->is_raw = column_bool(13);
		route->status = column_int(14);
		route->content_type = column_text(route, 15);
		route->is_scope_open = column_bool(18);
		route->tier = column_text(route, 19);
		route->needs_verified_email = column_bool(20);
		route->factor_within_s = column_int(21);
		route->is_fast = column_bool(22);
		route->is_upstream = column_bool(23);
	}
	ks_spi_finish();
	return found;
}

static KsRouteKind
kind_named(const char *name)
{
	if (strcmp(name, "rows") == 0)
		return KS_ROUTE_ROWS;
	return strcmp(name, "watch") == 0 ? KS_ROUTE_WATCH : KS_ROUTE_ONCE;
}

/* The class is one of those that the table's constraint names. */
static void
load_limits(KsRoute *route)
{
	(void) ks_rate_class_find(column_text(route, 9), &route->limits.rate_class);
	route->limits.id = route->id;
	route->limits.cost = column_int(16);
	route->limits.wait_ms = column_int(17);
}

/* Does the endpoint deal with accounts, or with others' affairs? */
static bool
is_security(const KsRoute *route)
{
	return route->permission != NULL || strncmp(route->template, "auth/", 5) == 0 ||
		   strncmp(route->template, "admin/", 6) == 0 || (route->is_unsafe && strncmp(route->template, "user", 4) == 0);
}

/* A column's text, in the route's context; NULL for null. */
static char *
column_text(KsRoute *route, int column)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value != NULL ? MemoryContextStrdup(route->cxt, value) : NULL;
}

static int32
column_int(int column)
{
	bool is_null;

	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &is_null));
}

static bool
column_bool(int column)
{
	bool is_null;

	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &is_null));
}

/*
 * Refuse a role that gets past the rules once more, and one that may not call
 * the function: its rights may have changed since the route was registered.
 */
static void
check_role(KsRoute *route)
{
	static KsPlan plan = {
		.sql = "select keelson._route_role_check($1, $2, $3)",
		.nargs = 3,
		.argtypes = {TEXTOID, NAMEOID, OIDOID}};
	Datum values[3];
	KsRoleSwitch save;

	values[0] = CStringGetTextDatum(route->name);
	values[1] = CStringGetDatum(GetUserNameFromId(route->role, false));
	values[2] = ObjectIdGetDatum(route->function);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&plan, values, NULL, true, 1);
	ks_role_leave(&save);
	ks_spi_finish();
}

static void
load_function(KsRoute *route, const char *name)
{
	Oid oid = find_function(name);
	HeapTuple tuple;
	Form_pg_proc function;
	KsRoleSwitch save;

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function \"%s\" of endpoint \"%s\" does not exist, or more than once", name, route->name)));
	route->function = oid;
	check_role(route);
	/* Constant defaults and checks of domains are computed now, by whatever they call. */
	ks_role_enter(&save, route->role, SECURITY_RESTRICTED_OPERATION);
	route->function_hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(oid));
	fmgr_info_cxt(oid, &route->call, route->cxt);
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", oid);
	function = (Form_pg_proc) GETSTRUCT(tuple);
	route->is_sql = function->prolang == SQLlanguageId;
	route->is_strict = function->proisstrict;
	route->arguments = ks_arguments_load(route->cxt, tuple, route->is_raw, &route->argument_count);
	load_result(route, function);
	ReleaseSysCache(tuple);
	ks_role_leave(&save);
}

/* The one function of this qualified name, or InvalidOid. */
static Oid
find_function(const char *name)
{
	List *names = ks_name_list(name);
	char *schema, *plain;
	Oid namespace, found = InvalidOid;
	CatCList *list;

	DeconstructQualifiedName(names, &schema, &plain);
	namespace = get_namespace_oid(schema, true);
	if (!OidIsValid(namespace))
		return InvalidOid;
	list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(plain));
	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc function = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (function->pronamespace != namespace)
			continue;
		if (OidIsValid(found))
		{
			found = InvalidOid;
			break;
		}
		found = function->oid;
	}
	ReleaseSysCacheList(list);
	return found;
}

/* What the function returns, and how it is written. */
static void
load_result(KsRoute *route, Form_pg_proc function)
{
	Oid type = function->prorettype;
	Oid reply = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("reply"), ObjectIdGetDatum(get_namespace_oid("keelson", false)));

	route->result_type = type;
	if (type == VOIDOID)
		route->result = KS_RESULT_VOID;
	else if (type == reply)
		route->result = KS_RESULT_REPLY;
	else
		route->result = function->proretset ? KS_RESULT_SET : KS_RESULT_VALUE;
	route->is_row = type_is_rowtype(type);
	route->is_binary = getBaseType(type) == BYTEAOID;
	route->is_bytes = route->is_binary || getBaseType(type) == TEXTOID || getBaseType(type) == VARCHAROID;
	if (route->result == KS_RESULT_SET && (!route->is_row || type == RECORDOID))
		route->result_desc = describe_rows(route);
	if (route->result == KS_RESULT_VALUE || route->result == KS_RESULT_SET)
		route->writer = ks_writer_create(route->cxt, type);
}

/* The rows of a set that has no type to look up: plain values, or columns of the function's own. */
static TupleDesc
describe_rows(KsRoute *route)
{
	MemoryContext old = MemoryContextSwitchTo(route->cxt);
	TupleDesc desc;
	Oid type;

	if (get_func_result_type(route->function, &type, &desc) == TYPEFUNC_SCALAR)
	{
		desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(desc, 1, "value", type, -1, 0);
	}
	desc = BlessTupleDesc(desc);
	MemoryContextSwitchTo(old);
	return desc;
}

PG_FUNCTION_INFO_V1(ks_routes_changed);

/* keelson._routes_changed() */
Datum
ks_routes_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("keelson._routes_changed() is a trigger's function")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	Async_Notify("keelson_routes", "");
	return PointerGetDatum(NULL);
}
