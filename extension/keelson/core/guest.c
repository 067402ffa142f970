/*
 * guest.c
 *	  What a product's function may not leave behind.
 *
 * It runs as a role of the product's, in a transaction that somebody else
 * commits and in a session whose next work is another's. What it has put off
 * to the commit would run as who commits, a superuser perhaps: a trigger that
 * is deferred, the query of a cursor with hold. A prepared statement of the
 * gateway's, made anew, would be handed the next caller's credential. So what
 * is deferred runs before the role is laid down, and statements that leave
 * something which cannot be settled so are refused.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "postmaster/bgworker.h"
#include "tcop/cmdtag.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"

#include "core/guest.h"
#include "core/roles.h"
#include "core/spi.h"

/* A query, and what it has returned. */
typedef struct Execution
{
	const KsGuestQuery *query;
	Datum result;
	bool is_null;
} Execution;

/* Whoever had the hook before us. */
static ProcessUtility_hook_type next_hook;

/* The guest whose call runs, NULL outside of one; written by ks_guest_begin() and ks_guest_end(). */
static KsGuest *current;

static void process(PlannedStmt *planned, const char *query, bool read_only, ProcessUtilityContext context,
					ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion);
static bool stays_behind(const Node *statement);
static bool is_shared_session(void);
static void execute(void *arg);
static void execute_and_settle(void *arg);

void
ks_guest_init(void)
{
	next_hook = ProcessUtility_hook != NULL ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process;
}

static void
process(PlannedStmt *planned, const char *query, bool read_only, ProcessUtilityContext context,
		ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	if (current != NULL && stays_behind(planned->utilityStmt))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s is not allowed in a function that Keelson calls", CreateCommandName(planned->utilityStmt)),
				 errdetail("It would outlive the call in a session that others use.")));
	next_hook(planned, query, read_only, context, params, environment, dest, completion);
}

static bool
stays_behind(const Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_PrepareStmt:
		case T_DeallocateStmt:
		case T_DiscardStmt:
		case T_ListenStmt:
		case T_UnlistenStmt:
		case T_LoadStmt:
			return true;
		case T_DeclareCursorStmt:
			return (((const DeclareCursorStmt *) statement)->options & CURSOR_OPT_HOLD) != 0;
		case T_ConstraintsSetStmt:
			return current->is_settling && ((const ConstraintsSetStmt *) statement)->deferred;
		default:
			return false;
	}
}

void
ks_guest_begin(KsGuest *guest)
{
	*guest = (KsGuest){.outer = current};
	current = guest;
}

void
ks_guest_end(const KsGuest *guest)
{
	current = guest->outer;
}

void
ks_guest_settle(void)
{
	current->is_settling = true;
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		AfterTriggerSetState(makeNode(ConstraintsSetStmt));
	if ((MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE) && is_shared_session())
		ResetTempTableNamespace();
}

/* A worker's, the gateway's or the scheduler's: a person's own temporary tables stay. */
static bool
is_shared_session(void)
{
	return MyBgworkerEntry != NULL ||
		   is_member_of_role_nosuper(GetSessionUserId(), ks_role_oid(KS_ROLE_GATEWAY)) ||
		   is_member_of_role_nosuper(GetSessionUserId(), ks_role_oid(KS_ROLE_JOBS));
}

Datum
ks_guest_call(const KsGuestQuery *query, Oid role, bool *is_null)
{
	int settings = NewGUCNestLevel();
	Execution execution = {.query = query};

	ks_spi_connect();
	if (OidIsValid(role))
		ks_guest_run(role, execute_and_settle, &execution);
	else
		execute(&execution);
	ks_spi_finish();
	/* Whatever it has set, the search path for one, ends with it: what goes on is not its own. */
	AtEOXact_GUC(false, settings);
	*is_null = execution.is_null;
	return execution.result;
}

static void
execute(void *arg)
{
	Execution *execution = arg;
	const KsGuestQuery *query = execution->query;

	if (SPI_execute_with_args(query->text, query->nargs, query->types, query->values, query->nulls, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "a function that was called has returned nothing");
	execution->result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &execution->is_null);
}

static void
execute_and_settle(void *arg)
{
	execute(arg);
	ks_guest_settle();
}

void
ks_guest_run(Oid role, void (*code)(void *arg), void *arg)
{
	KsRoleSwitch save;
	KsGuest guest;

	ks_guest_begin(&guest);
	PG_TRY();
	{
		ks_role_enter(&save, role, 0);
		code(arg);
		ks_role_leave(&save);
	}
	PG_FINALLY();
	{
		ks_guest_end(&guest);
	}
	PG_END_TRY();
}

PG_FUNCTION_INFO_V1(ks__is_guest);

/* keelson._is_guest() */
Datum
ks__is_guest(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(current != NULL);
}
