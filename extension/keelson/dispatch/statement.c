/*
 * statement.c
 *	  Refuse the statements that would leave something of a request behind in
 *	  the session, whose next request is another user's.
 *
 * A prepared statement of the gateway's, made anew by an endpoint's function,
 * would be handed the next caller's credential; a cursor with hold runs its
 * query, and a constraint deferred again its trigger, at the commit, when the
 * role has been laid down. What else a function can change, dispatch.c undoes.
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "tcop/cmdtag.h"
#include "tcop/utility.h"

#include "dispatch/call.h"
#include "dispatch/statement.h"

/* Whoever had the hook before us. */
static ProcessUtility_hook_type next_hook;

static void process(PlannedStmt *planned, const char *query, bool read_only, ProcessUtilityContext context,
					ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion);
static bool stays_behind(const Node *statement, const KsCall *call);

void
ks_statement_init(void)
{
	next_hook = ProcessUtility_hook != NULL ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = process;
}

static void
process(PlannedStmt *planned, const char *query, bool read_only, ProcessUtilityContext context,
		ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	if (ks_call() != NULL && stays_behind(planned->utilityStmt, ks_call()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s is not allowed inside a request", CreateCommandName(planned->utilityStmt)),
				 errdetail("It would outlive the request in a session that others use.")));
	next_hook(planned, query, read_only, context, params, environment, dest, completion);
}

static bool
stays_behind(const Node *statement, const KsCall *call)
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
			return call->is_settling && ((const ConstraintsSetStmt *) statement)->deferred;
		default:
			return false;
	}
}
