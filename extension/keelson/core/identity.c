/*
 * identity.c
 *	  The identity and the caller of the running request, and their reading in
 *	  SQL.
 *
 * Both are cleared by a transaction callback, so no path, error or not, carries
 * them into another transaction. A parallel worker does not have them: the
 * functions that read them are parallel restricted.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/uuid.h"

#include "core/error.h"
#include "core/identity.h"

/* Written by ks_identity_set(), ks_caller_set() and the end of transaction. */
static KsIdentity identity;
static KsCaller caller;

/* The nesting level at which the identity was set; 0 when there is none. */
static int set_at_level;

static void clear_at_end(XactEvent event, void *arg);
static void clear_at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg);
static Datum caller_text(FunctionCallInfo fcinfo, const char *value);

void
ks_identity_init(void)
{
	RegisterXactCallback(clear_at_end, NULL);
	RegisterSubXactCallback(clear_at_subtransaction_end, NULL);
}

const KsIdentity *
ks_identity(void)
{
	return &identity;
}

const KsCaller *
ks_caller(void)
{
	return &caller;
}

void
ks_identity_set(const KsIdentity *new_identity)
{
	identity = *new_identity;
	set_at_level = GetCurrentTransactionNestLevel();
}

void
ks_caller_set(const KsCaller *new_caller)
{
	caller = *new_caller;
}

void
ks_identity_clear(void)
{
	memset(&identity, 0, sizeof(identity));
	memset(&caller, 0, sizeof(caller));
	set_at_level = 0;
}

static void
clear_at_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			ks_identity_clear();
			break;
		default:
			break;
	}
}

/* An identity set inside a subtransaction ends when that is rolled back. */
static void
clear_at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB && set_at_level >= level)
		ks_identity_clear();
	else if (event == SUBXACT_EVENT_COMMIT_SUB && set_at_level >= level)
		set_at_level = level - 1;
}

PG_FUNCTION_INFO_V1(ks_current_user_id);

/* keelson.current_user_id() */
Datum
ks_current_user_id(PG_FUNCTION_ARGS)
{
	if (!identity.has_user)
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(&identity.user_id);
}

const pg_uuid_t *
ks_acting_user(void)
{
	if (!identity.has_user)
		ks_raise(401, "UNAUTHENTICATED", "In psql, say who is acting: select keelson.act_as(...).", "nobody is signed in");
	return &identity.user_id;
}

PG_FUNCTION_INFO_V1(ks_acting_user_id);

/* keelson.acting_user_id() */
Datum
ks_acting_user_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_UUID_P(ks_acting_user());
}

PG_FUNCTION_INFO_V1(ks_current_session_id);

/* keelson.current_session_id() */
Datum
ks_current_session_id(PG_FUNCTION_ARGS)
{
	if (!identity.has_session)
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(&identity.session_id);
}

PG_FUNCTION_INFO_V1(ks_current_aal);

/* keelson.current_aal() */
Datum
ks_current_aal(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(identity.aal);
}

PG_FUNCTION_INFO_V1(ks_current_actor);

/* keelson.current_actor() */
Datum
ks_current_actor(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {
		[KS_ACTOR_USER] = "user",
		[KS_ACTOR_ACCESS_KEY] = "access_key",
		[KS_ACTOR_ADMIN] = "admin",
		[KS_ACTOR_SYSTEM] = "system",
	};

	return caller_text(fcinfo, names[identity.actor]);
}

PG_FUNCTION_INFO_V1(ks_current_ip);

/* keelson.current_ip() */
Datum
ks_current_ip(PG_FUNCTION_ARGS)
{
	if (caller.ip == NULL)
		PG_RETURN_NULL();
	return DirectFunctionCall1(inet_in, CStringGetDatum(caller.ip));
}

PG_FUNCTION_INFO_V1(ks_current_user_agent);

/* keelson.current_user_agent() */
Datum
ks_current_user_agent(PG_FUNCTION_ARGS)
{
	return caller_text(fcinfo, caller.user_agent);
}

PG_FUNCTION_INFO_V1(ks_current_request_id);

/* keelson.current_request_id() */
Datum
ks_current_request_id(PG_FUNCTION_ARGS)
{
	if (caller.request_id == NULL)
		PG_RETURN_NULL();
	return DirectFunctionCall1(uuid_in, CStringGetDatum(caller.request_id));
}

/* Return the string as text, NULL as null. */
static Datum
caller_text(FunctionCallInfo fcinfo, const char *value)
{
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}
