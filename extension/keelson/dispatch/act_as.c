/*
 * act_as.c
 *	  keelson.act_as(): an administrator in psql acts as a user.
 *
 * The current user becomes keelson_app, in a way that SET ROLE cannot undo, so
 * that row-level security binds a superuser too. Both end with the
 * transaction: an abort restores the user by itself, a commit is told to. A
 * rollback to a savepoint before the call ends both as well. So do settings:
 * those of a product's function, a search path say, would choose what the
 * administrator's next statements find.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "audit/audit.h"
#include "core/identity.h"
#include "core/roles.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "dispatch/call.h"

/* The user to be restored when the transaction ends; written by act_as() and the callback. */
static bool is_acting;
static KsRoleSwitch before;

static void check_occasion(void);
static void find_user(text *who, pg_uuid_t *user_id);
static void record(const pg_uuid_t *user_id);
static void stop_acting(XactEvent event, void *arg);

PG_FUNCTION_INFO_V1(ks_act_as);

/* keelson.act_as(who text) */
Datum
ks_act_as(PG_FUNCTION_ARGS)
{
	static bool registered = false;
	KsIdentity identity = {.actor = KS_ACTOR_ADMIN, .has_user = true};
	pg_uuid_t *user_id = palloc(sizeof(pg_uuid_t));

	check_occasion();
	find_user(PG_GETARG_TEXT_PP(0), user_id);
	if (!registered)
	{
		RegisterXactCallback(stop_acting, NULL);
		registered = true;
	}
	identity.user_id = *user_id;
	ereport(LOG,
			(errmsg("\"%s\" acts as user %s", GetUserNameFromId(GetSessionUserId(), false), ks_uuid_string(user_id))));
	record(user_id);
	ks_role_enter(&before, ks_role_oid(KS_ROLE_APP), 0);
	is_acting = true;
	ks_identity_set(&identity);
	PG_RETURN_UUID_P(user_id);
}

/* Refuse where acting could not last, or could be had by who may not. */
static void
check_occasion(void)
{
	if (!is_member_of_role(GetSessionUserId(), ks_role_oid(KS_ROLE_ADMIN)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only members of keelson_admin may act as a user")));
	if (ks_call() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a request cannot act as somebody else")));
	if (!IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
				 errmsg("acting as a user lasts for a transaction, and there is none"),
				 errhint("Say \"begin\" first.")));
	if (InLocalUserIdChange())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("acting as a user cannot begin inside a function that runs as its owner")));
}

static void
find_user(text *who, pg_uuid_t *user_id)
{
	static KsPlan plan = {
		.sql = "select keelson._user_find($1)",
		.nargs = 1,
		.argtypes = {TEXTOID}};
	Datum values[] = {PointerGetDatum(who)};
	KsRoleSwitch save;
	bool is_null;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&plan, values, NULL, true, 1);
	ks_role_leave(&save);
	*user_id = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	ks_spi_finish();
}

static void
record(const pg_uuid_t *user_id)
{
	KsAuditEvent event = {.type = "admin.act_as", .has_user = true, .user_id = *user_id};
	StringInfoData data;

	initStringInfo(&data);
	appendStringInfoString(&data, "{\"databaseRole\": ");
	escape_json(&data, GetUserNameFromId(GetSessionUserId(), false));
	appendStringInfoChar(&data, '}');
	event.data = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(data.data)));
	(void) ks_audit(&event);
}

static void
stop_acting(XactEvent event, void *arg)
{
	if (!is_acting)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			/* A rollback to a savepoint may have ended it before. */
			if (InLocalUserIdChange())
			{
				ks_role_leave(&before);
				/* Of the whole transaction, as if it were rolled back; the server ends the level once more. */
				AtEOXact_GUC(false, 1);
				(void) NewGUCNestLevel();
			}
			is_acting = false;
			break;
		case XACT_EVENT_ABORT:
			is_acting = false;
			break;
		default:
			break;
	}
}
