/*
 * failure.c
 *	  Turn an error into what the client may know of it, and throw it again.
 *
 * A constraint with a comment speaks to the client; that comment is looked up
 * here, after the error was caught and before the transaction is rolled back.
 * That is sound for these errors alone: the executor raises them after it has
 * let go of its locks on buffers, and the look-up reads the catalogue through
 * its caches.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "core/error.h"
#include "dispatch/failure.h"
#include "dispatch/limit.h"
#include "limits/limits.h"

static bool is_replaced(const KsCall *call, const ErrorData *error);
static void soften(KsCall *call, ErrorData *error);
static const char *constraint_comment(const ErrorData *error);
static const char *domain_comment(const ErrorData *error, Oid namespace);
static void replace(ErrorData *error, int status, const char *code, const char *message);

ErrorData *
ks_failure_take(KsCall *call, bool timed_out, int *status)
{
	ErrorData *error = CopyErrorData();
	Jsonb *headers;

	FlushErrorState();
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && timed_out)
		error->message = psprintf("canceling the call: endpoint \"%s\" may take %d ms", call->route->name, call->route->timeout_ms);
	if (is_replaced(call, error))
	{
		error->message = psprintf("endpoint \"%s\" was replaced while it ran: %s", call->route->name, error->message);
		error->sqlerrcode = ERRCODE_T_R_SERIALIZATION_FAILURE;
	}
	soften(call, error);
	/* The gateway tries again, and one request counts once. */
	if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
		ks_limits_undo();
	ks_limit_headers(call);
	/* What failed has no page. */
	call->reply.page = NULL;
	headers = ks_reply_headers_jsonb(&call->reply);
	error->datatype_name = headers != NULL ? JsonbToCString(NULL, &headers->root, VARSIZE(headers)) : NULL;
	*status = ks_is_error(error->sqlerrcode) ? ks_error_status(error->sqlerrcode) : 500;
	/* A client's fault is the gateway's to log, not the server's. */
	if (*status < 500)
		error->output_to_server = false;
	return error;
}

/*
 * Whether the call missed something because a transaction that replaced the
 * function, and what belongs to it, has committed meanwhile. Tried again it
 * finds the new. To have missed it the backend has heard of that commit, so
 * the route is stale by now.
 */
static bool
is_replaced(const KsCall *call, const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_FEATURE_NOT_SUPPORTED: /* a cached plan has another result */
		case ERRCODE_INVALID_SCHEMA_NAME:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION: /* something does not exist */
		case ERRCODE_INTERNAL_ERROR:                        /* nor what stood in a cache */
			return call->route != NULL && call->route->is_stale;
		default:
			return false;
	}
}

/* Make what is the client's fault say so. */
static void
soften(KsCall *call, ErrorData *error)
{
	int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	bool is_conflict = error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION || error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION;
	const char *comment;

	/* Input functions that read a language of their own (jsonpath, tsquery) raise the last two. */
	if (call->is_binding && (category == ERRCODE_DATA_EXCEPTION || error->sqlerrcode == ERRCODE_SYNTAX_ERROR ||
							 error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED))
	{
		replace(error, 400, "VALIDATION_FAILED", "an argument is not valid");
		return;
	}
	if (category != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		return;
	comment = constraint_comment(error);
	if (is_conflict)
		replace(error, 409, "CONFLICT", comment ? comment : "this conflicts with what is there already");
	else if (comment != NULL)
		replace(error, 400, "VALIDATION_FAILED", comment);
}

/* The comment of the violated constraint, or NULL. */
static const char *
constraint_comment(const ErrorData *error)
{
	Oid namespace, relation, constraint;

	if (error->schema_name == NULL || error->constraint_name == NULL)
		return NULL;
	namespace = get_namespace_oid(error->schema_name, true);
	if (!OidIsValid(namespace))
		return NULL;
	if (error->table_name == NULL)
		return domain_comment(error, namespace);
	relation = get_relname_relid(error->table_name, namespace);
	if (!OidIsValid(relation))
		return NULL;
	constraint = get_relation_constraint_oid(relation, error->constraint_name, true);
	return OidIsValid(constraint) ? GetComment(constraint, ConstraintRelationId, 0) : NULL;
}

/* The comment of a domain's constraint, or of the domain. */
static const char *
domain_comment(const ErrorData *error, Oid namespace)
{
	Oid domain, constraint;
	const char *comment = NULL;

	if (error->datatype_name == NULL)
		return NULL;
	domain = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(error->datatype_name), ObjectIdGetDatum(namespace));
	if (!OidIsValid(domain))
		return NULL;
	constraint = get_domain_constraint_oid(domain, error->constraint_name, true);
	if (OidIsValid(constraint))
		comment = GetComment(constraint, ConstraintRelationId, 0);
	return comment != NULL ? comment : GetComment(domain, TypeRelationId, 0);
}

/* The error's own words, which may show a row, are for the log alone. */
static void
replace(ErrorData *error, int status, const char *code, const char *message)
{
	error->detail_log = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	error->sqlerrcode = KS_SQLSTATE(status);
	error->message = pstrdup(message);
	error->detail = NULL;
	error->hint = NULL;
	error->schema_name = NULL;
	error->table_name = NULL;
	error->column_name = NULL;
	error->constraint_name = pstrdup(code);
}
