/*
 * endpoint.c
 *	  What endpoint functions call: keelson.given(), reply_with(), to_json()
 *	  and refuse(). Pages and cursors are in page.c.
 *
 * They know the running call. Outside of one, from psql, they do what makes
 * the same function work there.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "dispatch/call.h"
#include "dispatch/json_out.h"

static KsWriter *result_writer(FunctionCallInfo fcinfo);
static char *text_argument(FunctionCallInfo fcinfo, int argno);
static void write_detail(StringInfo body, const char *field, const char *code, const char *message);
static void write_extra(StringInfo body, Jsonb *extra);
static Datum form(FunctionCallInfo fcinfo, const KsReply *reply);

PG_FUNCTION_INFO_V1(ks_given);

/* keelson.given(name text) */
Datum
ks_given(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	KsCall *call = ks_call();

	if (call == NULL)
		PG_RETURN_BOOL(true);
	for (int i = 0; i < call->route->argument_count; i++)
		if (strcmp(call->route->arguments[i].sql_name, name) == 0)
			PG_RETURN_BOOL(call->given[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the function of endpoint \"%s\" has no argument \"%s\"", call->route->name, name)));
}

PG_FUNCTION_INFO_V1(ks_reply_with);

/* keelson.reply_with(value anyelement, status int, headers jsonb) */
Datum
ks_reply_with(PG_FUNCTION_ARGS)
{
	KsReply reply = {.status = 200};
	StringInfoData text;

	if (!PG_ARGISNULL(1))
		reply.status = PG_GETARG_INT32(1);
	if (!PG_ARGISNULL(2))
		ks_reply_headers(&reply, PG_GETARG_JSONB_P(2));
	if (!PG_ARGISNULL(0))
	{
		initStringInfo(&text);
		ks_writer_write(result_writer(fcinfo), &text, PG_GETARG_DATUM(0), false);
		reply.body = cstring_to_text_with_len(text.data, text.len);
	}
	return form(fcinfo, &reply);
}

PG_FUNCTION_INFO_V1(ks_to_json);

/* keelson.to_json(value anyelement) */
Datum
ks_to_json(PG_FUNCTION_ARGS)
{
	StringInfoData text;

	initStringInfo(&text);
	ks_writer_write(result_writer(fcinfo), &text, PG_GETARG_DATUM(0), false);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

/* The writer for the value's type, kept as long as the caller's plan. */
static KsWriter *
result_writer(FunctionCallInfo fcinfo)
{
	if (fcinfo->flinfo->fn_extra == NULL)
	{
		Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);

		if (!OidIsValid(type))
			elog(ERROR, "could not determine the type of the value");
		fcinfo->flinfo->fn_extra = ks_writer_create(fcinfo->flinfo->fn_mcxt, type);
	}
	return fcinfo->flinfo->fn_extra;
}

PG_FUNCTION_INFO_V1(ks_refuse);

/* keelson.refuse(status int, code text, message text, field text, extra jsonb, headers jsonb) */
Datum
ks_refuse(PG_FUNCTION_ARGS)
{
	KsReply reply = {0};
	StringInfoData body;
	char *code, *message;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a refusal needs a status, a code and a message")));
	reply.status = PG_GETARG_INT32(0);
	if (reply.status < 400 || reply.status > 599)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the status of a refusal is 400 to 599, not %d", reply.status)));
	code = text_argument(fcinfo, 1);
	message = text_argument(fcinfo, 2);
	initStringInfo(&body);
	ks_refusal_begin(&body, code, message);
	if (!PG_ARGISNULL(3))
		write_detail(&body, text_argument(fcinfo, 3), code, message);
	if (!PG_ARGISNULL(4))
		write_extra(&body, PG_GETARG_JSONB_P(4));
	appendStringInfoChar(&body, '}');
	reply.body = cstring_to_text_with_len(body.data, body.len);
	if (!PG_ARGISNULL(5))
		ks_reply_headers(&reply, PG_GETARG_JSONB_P(5));
	return form(fcinfo, &reply);
}

static char *
text_argument(FunctionCallInfo fcinfo, int argno)
{
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/* Write "details" for the field at fault. */
static void
write_detail(StringInfo body, const char *field, const char *code, const char *message)
{
	char *name = ks_camel_case(field);

	appendStringInfoString(body, ",\"details\":[{\"field\":");
	ks_json_write_string(body, name, strlen(name));
	appendStringInfoString(body, ",\"code\":");
	ks_json_write_string(body, code, strlen(code));
	appendStringInfoString(body, ",\"message\":");
	ks_json_write_string(body, message, strlen(message));
	appendStringInfoString(body, "}]");
}

/* Write the members of the object beside those of the refusal. */
static void
write_extra(StringInfo body, Jsonb *extra)
{
	char *object = JsonbToCString(NULL, &extra->root, VARSIZE(extra));
	int len = strlen(object);

	if (!JB_ROOT_IS_OBJECT(extra))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the extra members of a refusal are a JSON object")));
	if (JB_ROOT_COUNT(extra) == 0)
		return;
	appendStringInfoChar(body, ',');
	appendBinaryStringInfo(body, object + 1, len - 2);
}

static Datum
form(FunctionCallInfo fcinfo, const KsReply *reply)
{
	TupleDesc desc = lookup_rowtype_tupdesc(get_func_rettype(fcinfo->flinfo->fn_oid), -1);
	Datum row = ks_reply_datum(reply, desc);

	ReleaseTupleDesc(desc);
	return row;
}
