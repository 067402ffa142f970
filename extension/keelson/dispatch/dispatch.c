/*
 * dispatch.c
 *	  keelson.dispatch(): one request, from credential to reply.
 *
 * The steps stand in one table, in order; each may refuse, which ends the call
 * with a reply. Then the function runs as the route's role. Identity, role,
 * settings and the time limit are laid down again on every way out; an error
 * is thrown again after that.
 *
 * The next request over this connection is another user's, so the function
 * leaves nothing behind in the session: SET ROLE and SET SESSION AUTHORIZATION
 * are denied to it, and what guest.c lists (PREPARE, LISTEN, cursors with
 * hold); the settings it makes are undone, in the gateway's sessions its
 * temporary tables and advisory locks end with the call.
 * (SECURITY_RESTRICTED_OPERATION would deny more, deferred constraints among
 * them.)
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "audit/audit.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/guest.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "dispatch/call.h"
#include "dispatch/counters.h"
#include "dispatch/credential.h"
#include "dispatch/csrf.h"
#include "dispatch/dispatch.h"
#include "dispatch/failure.h"
#include "dispatch/idempotency.h"
#include "dispatch/invoke.h"
#include "dispatch/limit.h"
#include "dispatch/permission.h"
#include "dispatch/request.h"
#include "dispatch/timeout.h"
#include "limits/limits.h"
#include "secrets/keyring.h"

/* What has to be laid down again when the call ends. */
typedef struct Before
{
	KsIdentity identity;
	KsCaller caller;
	KsRoleSwitch role;
	KsGuest guest;
	int guc_level;
	bool is_gateway; /* the session's: requests follow each other over it */
} Before;

/* The running call; written by begin() and end() alone. */
static KsCall *current;

static KsCall *make_call(FunctionCallInfo fcinfo);
static void begin(KsCall *call, Before *before);
static bool end(const Before *before);
static bool take_steps(KsCall *call);
static void audit_refusal(const KsCall *call, int status, const char *code, bool is_committed);
static bool authenticate(KsCall *call);
static bool within_body_limit(KsCall *call);
static bool become_role(KsCall *call);
static bool bind(KsCall *call);
static void run(KsCall *call, MemoryContext cxt, KsRows **rows);
static void finish_call(void);
static void name_request(void *arg);
static Datum next_chunk(FunctionCallInfo fcinfo, KsCall *call, KsRows *rows);
static Datum form_reply(FunctionCallInfo fcinfo, const KsReply *reply);

/* The steps before the call, in order; one that returns false has made the reply. */
static bool (*const steps[])(KsCall *call) = {
	ks_limit_address_step, /* is the address blocked, or over its limits */
	authenticate,          /* credential, and the session's row: who is calling */
	ks_limit_caller_step,  /* all limits, decided and charged together */
	ks_csrf_step,          /* did a page of ours send it */
	ks_authorise,          /* role, permission, scope */
	within_body_limit,     /* for callers other than the gateway */
	ks_idempotency_begin,  /* was it done before */
	become_role,           /* from here on it is the endpoint's own code that runs */
	bind,                  /* the arguments: domains' checks, defaults */
};

void
ks_dispatch_init(void)
{
	ks_counters_init();
	ks_idempotency_init();
}

KsCall *
ks_call(void)
{
	return current != NULL && current->route != NULL ? current : NULL;
}

PG_FUNCTION_INFO_V1(ks_dispatch);

/* keelson.dispatch(route_id int, credential text, path_and_query json, body bytea, caller json) */
Datum
ks_dispatch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext cxt = CurrentMemoryContext;
	instr_time started;
	Before before;
	KsCall *call;
	KsRows *rows = fcinfo->flinfo->fn_extra;

	if (result == NULL || !IsA(result, ReturnSetInfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("keelson.dispatch() is called where a set may stand")));
	if (rows != NULL)
		return next_chunk(fcinfo, NULL, rows);
	INSTR_TIME_SET_CURRENT(started);
	ks_require_shmem();
	if (current != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("keelson.dispatch() cannot be called inside a request")));
	call = make_call(fcinfo);
	begin(call, &before);
	PG_TRY();
	{
		run(call, fcinfo->flinfo->fn_mcxt, &rows);
	}
	PG_CATCH();
	{
		bool timed_out = end(&before);
		ErrorData *error;
		int status;

		if (call->route == NULL)
			PG_RE_THROW();
		MemoryContextSwitchTo(cxt);
		error = ks_failure_take(call, timed_out, &status);
		ks_counter_add(call->route->counter, status, &started);
		/* What is to be tried again has not failed yet. */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_TRANSACTION_ROLLBACK)
			audit_refusal(call, status, ks_is_error(error->sqlerrcode) ? error->constraint_name : NULL, false);
		ReThrowError(error);
	}
	PG_END_TRY();
	(void) end(&before);
	/* An error leaves it to the end of the transaction or subtransaction. */
	if (call->has_snapshot)
		PopActiveSnapshot();
	ks_limit_headers(call);
	ks_counter_add(call->route != NULL ? call->route->counter : ks_counter(0), call->reply.status, &started);
	if (call->reply.status >= 400 && call->route != NULL)
		audit_refusal(call, call->reply.status, ks_reply_code(&call->reply), true);
	if (rows != NULL)
		return next_chunk(fcinfo, call, rows);
	result->isDone = ExprSingleResult;
	return form_reply(fcinfo, &call->reply);
}

/* Take over the function's arguments. */
static KsCall *
make_call(FunctionCallInfo fcinfo)
{
	KsCall *call = palloc0(sizeof(KsCall));
	struct varlena *argument;

	if (!PG_ARGISNULL(0))
		call->route_id = PG_GETARG_INT32(0);
	if (!PG_ARGISNULL(1))
	{
		argument = PG_GETARG_TEXT_PP(1);
		call->token = VARDATA_ANY(argument);
		call->token_len = VARSIZE_ANY_EXHDR(argument);
	}
	if (!PG_ARGISNULL(2))
	{
		argument = PG_GETARG_TEXT_PP(2);
		call->path_and_query = VARDATA_ANY(argument);
		call->path_and_query_len = VARSIZE_ANY_EXHDR(argument);
	}
	if (!PG_ARGISNULL(3))
	{
		argument = PG_GETARG_BYTEA_PP(3);
		call->body = VARDATA_ANY(argument);
		call->body_len = VARSIZE_ANY_EXHDR(argument);
	}
	if (!PG_ARGISNULL(4))
	{
		argument = PG_GETARG_TEXT_PP(4);
		ks_request_read(&call->caller, VARDATA_ANY(argument), VARSIZE_ANY_EXHDR(argument));
	}
	return call;
}

static void
begin(KsCall *call, Before *before)
{
	before->identity = *ks_identity();
	before->caller = *ks_caller();
	GetUserIdAndSecContext(&before->role.user, &before->role.sec_context);
	before->guc_level = NewGUCNestLevel();
	before->is_gateway = GetSessionUserId() == ks_role_oid(KS_ROLE_GATEWAY);
	ks_identity_clear();
	ks_caller_set(&call->caller);
	ks_audit_request_begin();
	ks_guest_begin(&before->guest);
	current = call;
}

/* Lay everything down; returns whether the route's time had passed. */
static bool
end(const Before *before)
{
	bool timed_out = ks_timeout_end();

	current = NULL;
	ks_guest_end(&before->guest);
	ks_role_leave(&before->role);
	/* As if all settings that were made had been made in what is rolled back. */
	AtEOXact_GUC(false, before->guc_level);
	/* The session's advisory locks, where it can have none but what a request left. */
	if (before->is_gateway)
		LockReleaseSession(USER_LOCKMETHOD);
	ks_identity_clear();
	if (before->identity.actor != KS_ACTOR_NONE)
		ks_identity_set(&before->identity);
	ks_caller_set(&before->caller);
	return timed_out;
}

/* What was refused, or has failed, goes into the audit trail though it may roll back. */
static void
audit_refusal(const KsCall *call, int status, const char *code, bool is_committed)
{
	KsAuditRefusal refusal = {
		.status = status,
		.code = code,
		.endpoint = call->route->name,
		.is_security = call->route->is_security,
		.is_committed = is_committed,
		.identity = &call->credential.identity,
		.caller = &call->caller};

	if (!ks_limits_is_repetition())
		ks_audit_request_refused(&refusal);
}

static void
run(KsCall *call, MemoryContext cxt, KsRows **rows)
{
	ErrorContextCallback context = {.previous = error_context_stack, .callback = name_request, .arg = call};

	call->route = ks_route_find(call->route_id);
	if (call->route == NULL)
	{
		ks_reply_refuse(&call->reply, 404, "NOT_FOUND", "there is no such endpoint");
		return;
	}
	/* A wrong keyring serves nobody, rather than failing row by row. */
	ks_keyring_require();
	error_context_stack = &context;
	if (take_steps(call))
	{
		ks_invoke(call, cxt, rows);
		finish_call();
		if (call->is_keyed)
			ks_idempotency_keep(call);
	}
	error_context_stack = context.previous;
}

static bool
take_steps(KsCall *call)
{
	for (int i = 0; i < lengthof(steps); i++)
		if (!steps[i](call))
			return false;
	return true;
}

static bool
authenticate(KsCall *call)
{
	KsIdentity *identity = &call->credential.identity;

	ks_credential_check(call);
	if (call->credential.proof != KS_PROOF_VALID)
		return true;
	/* What is open to all tells a credential with scopes no more than anybody: its scopes do not name it. */
	if (call->credential.is_scoped && call->route->is_public)
		return true;
	/* So that the endpoint sees who has just been made. */
	if (call->credential.is_first_sight)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		call->has_snapshot = true;
	}
	ks_identity_set(identity);
	if (identity->has_user)
		ks_reply_header(&call->reply, ":user", ks_uuid_string(&identity->user_id));
	return true;
}

static bool
within_body_limit(KsCall *call)
{
	if (call->body_len <= call->route->body_limit)
		return true;
	return ks_reply_refuse(&call->reply, 413, "PAYLOAD_TOO_LARGE", "the body is too large");
}

/* Act as the route's role, within the route's time, until the call ends. */
static bool
become_role(KsCall *call)
{
	KsRoleSwitch unused;

	ks_search_path_pin();
	ks_timeout_begin(call->route->timeout_ms);
	ks_role_enter(&unused, call->route->role, 0);
	return true;
}

/* A domain's check and a default are a product's code as well, and what they leave would be committed with a refusal. */
static bool
bind(KsCall *call)
{
	bool is_bound;

	call->is_binding = true;
	is_bound = ks_arguments_bind(call);
	call->is_binding = false;
	if (!is_bound)
		ks_guest_settle();
	return is_bound;
}

/* A violation of what was deferred can still become the request's own error. */
static void
finish_call(void)
{
	ks_guest_settle();
	if (ks_timeout_end())
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("the call took longer than it may")));
}

/* Name the request in the log of what goes wrong in it. */
static void
name_request(void *arg)
{
	KsCall *call = arg;

	errcontext("request %s, endpoint \"%s\"", call->caller.request_id ? call->caller.request_id : "without id", call->route->name);
}

/* Return the next chunk of rows; the first comes with status and headers. */
static Datum
next_chunk(FunctionCallInfo fcinfo, KsCall *call, KsRows *rows)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	KsReply chunk = {0};
	KsReply *reply = call != NULL ? &call->reply : &chunk;

	if (rows->is_done)
	{
		fcinfo->flinfo->fn_extra = NULL;
		result->isDone = ExprEndResult;
		PG_RETURN_NULL();
	}
	fcinfo->flinfo->fn_extra = rows;
	reply->body = ks_rows_chunk(rows);
	result->isDone = ExprMultipleResult;
	return form_reply(fcinfo, reply);
}

static Datum
form_reply(FunctionCallInfo fcinfo, const KsReply *reply)
{
	/* The type that keelson.dispatch() returns, once looked up; it can return no other. */
	static Oid function, type;
	TupleDesc desc;
	Datum row;

	if (function != fcinfo->flinfo->fn_oid)
	{
		type = get_func_rettype(fcinfo->flinfo->fn_oid);
		function = fcinfo->flinfo->fn_oid;
	}
	desc = lookup_rowtype_tupdesc(type, -1);
	row = ks_reply_datum(reply, desc);

	ReleaseTupleDesc(desc);
	return row;
}
