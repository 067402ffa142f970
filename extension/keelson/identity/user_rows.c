/*
 * user_rows.c
 *	  A user's rows in whatever table: read for the export, deleted at erasure.
 *
 * A query of a table has its owner's code run: triggers, rules, casts of its
 * types, index predicates and checks that the planner computes beforehand. As
 * keelson_system, who may open every secret, it would be anybody's way to them
 * who can make a table. So a table whose owner is no superuser is queried as
 * its owner, with the user acting, since its policies may bind the owner too.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "core/guest.h"
#include "core/identity.h"
#include "core/roles.h"
#include "core/spi.h"
#include "dispatch/json_out.h"

#define ROWS_AT_ONCE 100

/* A query of a table for a user. */
typedef struct UserQuery
{
	Oid owner; /* as whom; InvalidOid: as we are */
	const char *text;
	pg_uuid_t *user_id;  /* $1 */
	int64 limit;         /* $2 */
	ReturnSetInfo *rows; /* where its rows go; NULL: it returns none */
	int64 done;
} UserQuery;

static Oid guest_owner(Oid relation);
static void run(UserQuery *query);
static void run_as_owner(UserQuery *query);
static bool act_as_user(const pg_uuid_t *user_id);
static void execute_as_owner(void *arg);
static void execute(UserQuery *query);
static void read_rows(UserQuery *query, SPIPlanPtr plan, Datum *values);
static void store_row(ReturnSetInfo *rows, KsWriter *writer, HeapTuple tuple, TupleDesc desc);

PG_FUNCTION_INFO_V1(ks__user_rows_read);

/* keelson._user_rows_read(relation regclass, query text, user_id uuid) */
Datum
ks__user_rows_read(PG_FUNCTION_ARGS)
{
	UserQuery query = {
		.owner = guest_owner(PG_GETARG_OID(0)),
		.text = text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.user_id = PG_GETARG_UUID_P(2),
		.rows = (ReturnSetInfo *) fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	run(&query);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ks__user_rows_delete);

/* keelson._user_rows_delete(relation regclass, query text, user_id uuid, row_limit bigint) */
Datum
ks__user_rows_delete(PG_FUNCTION_ARGS)
{
	UserQuery query = {
		.owner = guest_owner(PG_GETARG_OID(0)),
		.text = text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.user_id = PG_GETARG_UUID_P(2),
		.limit = PG_GETARG_INT64(3)};

	run(&query);
	PG_RETURN_INT64(query.done);
}

/* The table's owner, unless that is us or a superuser, who need none of our rights. */
static Oid
guest_owner(Oid relation)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relation);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return superuser_arg(owner) || owner == ks_role_oid(KS_ROLE_OWNER) ? InvalidOid : owner;
}

static void
run(UserQuery *query)
{
	ks_spi_connect();
	if (OidIsValid(query->owner))
		run_as_owner(query);
	else
		execute(query);
	ks_spi_finish();
}

static void
run_as_owner(UserQuery *query)
{
	KsIdentity before = *ks_identity();
	bool is_other = act_as_user(query->user_id);

	ks_guest_run(query->owner, execute_as_owner, query);
	if (is_other)
		ks_identity_set(&before);
}

static void
execute_as_owner(void *arg)
{
	UserQuery *query = arg;

	execute(query);
	/* A reader may be called by a guest, whose deferred triggers are not the owner's to run. */
	if (query->rows == NULL)
		ks_guest_settle();
}

/* Have the user act, for the policies; false when they do so already. */
static bool
act_as_user(const pg_uuid_t *user_id)
{
	KsIdentity identity = {.actor = KS_ACTOR_SYSTEM, .has_user = true, .user_id = *user_id};

	if (ks_identity()->has_user && memcmp(&ks_identity()->user_id, user_id, UUID_LEN) == 0)
		return false;
	ks_identity_set(&identity);
	return true;
}

static void
execute(UserQuery *query)
{
	Oid types[] = {UUIDOID, INT8OID};
	Datum values[] = {UUIDPGetDatum(query->user_id), Int64GetDatum(query->limit)};
	SPIPlanPtr plan = SPI_prepare(query->text, lengthof(types), types);
	int code;

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (query->rows != NULL)
	{
		read_rows(query, plan, values);
		return;
	}
	code = SPI_execute_plan(plan, values, NULL, false, 0);
	if (code < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
	query->done = (int64) SPI_processed;
}

static void
read_rows(UserQuery *query, SPIPlanPtr plan, Datum *values)
{
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "keelson user's row", ALLOCSET_DEFAULT_SIZES);
	MemoryContext cxt = CurrentMemoryContext;
	KsWriter *writer = ks_writer_create(cxt, RECORDOID);
	Portal portal = SPI_cursor_open(NULL, plan, values, NULL, true);

	for (;;)
	{
		SPI_cursor_fetch(portal, true, ROWS_AT_ONCE);
		if (SPI_processed == 0)
			break;
		MemoryContextSwitchTo(row);
		for (uint64 i = 0; i < SPI_processed; i++)
			store_row(query->rows, writer, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		MemoryContextSwitchTo(cxt);
		MemoryContextReset(row);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
}

/* The row as replies write it. */
static void
store_row(ReturnSetInfo *rows, KsWriter *writer, HeapTuple tuple, TupleDesc desc)
{
	Datum *values = palloc(desc->natts * sizeof(Datum));
	bool *nulls = palloc(desc->natts * sizeof(bool));
	bool is_null = false;
	StringInfoData text;
	Datum json;

	heap_deform_tuple(tuple, desc, values, nulls);
	initStringInfo(&text);
	ks_writer_write_row(writer, &text, desc, values, nulls);
	json = DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
	tuplestore_putvalues(rows->setResult, rows->setDesc, &json, &is_null);
}
