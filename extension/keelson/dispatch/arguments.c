/*
 * arguments.c
 *	  Bind a request's path, query and body to the arguments of a function.
 *
 * The three are one set of names: a name may come once. What is at fault is
 * collected, so that the client learns all of it from one reply.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "dispatch/arguments.h"
#include "dispatch/call.h"

static void load_defaults(HeapTuple function, KsArgument *arguments, int count);
static void load_default(KsArgument *argument, Node *expression);
static void bind_paths(KsCall *call, KsFaults *faults);
static bool bind_body(KsCall *call, KsFaults *faults);
static void bind_members(KsCall *call, const KsJson *object, bool is_text, KsFaults *faults);
static void bind_member(KsCall *call, const KsJson *name, const KsJson *value, bool is_text, KsFaults *faults);
static int find_argument(const KsRoute *route, const KsJson *name);
static void bind_rest(KsCall *call, KsFaults *faults);
static void bind_raw(KsCall *call, int i);
static void bind_default(KsCall *call, int i);

KsArgument *
ks_arguments_load(MemoryContext cxt, HeapTuple function, bool is_raw, int *count)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Oid *types;
	char **names;
	char *modes;
	int total = get_func_arg_info(function, &types, &names, &modes);
	KsArgument *arguments = palloc0(sizeof(KsArgument) * Max(total, 1));

	*count = 0;
	for (int i = 0; i < total; i++)
	{
		KsArgument *argument = &arguments[*count];

		if (modes != NULL && (modes[i] == PROARGMODE_OUT || modes[i] == PROARGMODE_TABLE))
			continue;
		argument->sql_name = names != NULL ? names[i] : "";
		argument->name = ks_camel_case(argument->sql_name);
		argument->name_len = strlen(argument->name);
		argument->type = ks_input_type(cxt, types[i]);
		if (is_raw && types[i] == BYTEAOID && strcmp(argument->sql_name, "body") == 0)
			argument->source = KS_SOURCE_BODY;
		else if (is_raw && types[i] == TEXTOID && strcmp(argument->sql_name, "content_type") == 0)
			argument->source = KS_SOURCE_CONTENT_TYPE;
		else if (is_raw && types[i] == JSONBOID && strcmp(argument->sql_name, "headers") == 0)
			argument->source = KS_SOURCE_HEADERS;
		(*count)++;
	}
	load_defaults(function, arguments, *count);
	MemoryContextSwitchTo(old);
	return arguments;
}

/* The defaults belong to the last of the arguments. */
static void
load_defaults(HeapTuple function, KsArgument *arguments, int count)
{
	bool is_null;
	Datum defaults_text = SysCacheGetAttr(PROCOID, function, Anum_pg_proc_proargdefaults, &is_null);
	List *defaults;
	ListCell *cell;
	int i;

	if (is_null)
		return;
	defaults = castNode(List, stringToNode(TextDatumGetCString(defaults_text)));
	i = count - list_length(defaults);
	foreach (cell, defaults)
		load_default(&arguments[i++], lfirst(cell));
}

/* Keep the default as a value, where it is constant. */
static void
load_default(KsArgument *argument, Node *expression)
{
	Expr *planned = expression_planner((Expr *) expression);
	Const *constant = (Const *) planned;

	argument->has_default = true;
	if (!IsA(planned, Const))
	{
		argument->default_expr = planned;
		return;
	}
	argument->default_is_null = constant->constisnull;
	if (!constant->constisnull)
		argument->default_value = datumCopy(constant->constvalue, constant->constbyval, constant->constlen);
}

bool
ks_arguments_bind(KsCall *call)
{
	int count = call->route->argument_count;
	KsFaults faults;

	if (count == 0 && call->path_and_query == NULL && call->body_len == 0)
		return true;
	ks_faults_begin(&faults);
	call->values = palloc0(sizeof(Datum) * Max(count, 1));
	call->nulls = palloc0(sizeof(bool) * Max(count, 1));
	call->given = palloc0(sizeof(bool) * Max(count, 1));
	bind_paths(call, &faults);
	if (!call->route->is_raw && !bind_body(call, &faults))
		return false;
	bind_rest(call, &faults);
	if (faults.count == 0)
		return true;
	return ks_reply_refuse_details(&call->reply, 400, "VALIDATION_FAILED", "the request is not valid: see details", faults.details.data);
}

/* Bind {"path": {...}, "query": {...}}. */
static void
bind_paths(KsCall *call, KsFaults *faults)
{
	KsJson whole, name, part;
	KsJsonCursor cursor;

	if (call->path_and_query == NULL)
		return;
	whole = ks_json_value(call->path_and_query, call->path_and_query_len);
	if (whole.kind != KS_JSON_OBJECT)
		return;
	cursor = ks_json_open(&whole);
	while (ks_json_next_member(&cursor, &name, &part))
		if (part.kind == KS_JSON_OBJECT && (ks_json_equals(&name, "path", 4) || ks_json_equals(&name, "query", 5)))
			bind_members(call, &part, true, faults);
}

/* Bind the body's members; false when it is no JSON object at all. */
static bool
bind_body(KsCall *call, KsFaults *faults)
{
	const char *reason;
	KsJson whole;

	if (call->body == NULL || call->body_len == 0)
		return true;
	reason = ks_json_check(call->body, call->body_len);
	if (reason != NULL)
		return ks_reply_refuse(&call->reply, 400, "MALFORMED_JSON", psprintf("the body could not be read: %s", reason));
	whole = ks_json_value(call->body, call->body_len);
	if (whole.kind != KS_JSON_OBJECT)
		return ks_reply_refuse(&call->reply, 400, "VALIDATION_FAILED", "the body is not a JSON object");
	bind_members(call, &whole, false, faults);
	return true;
}

static void
bind_members(KsCall *call, const KsJson *object, bool is_text, KsFaults *faults)
{
	KsJsonCursor cursor = ks_json_open(object);
	KsJson name, value;

	while (ks_json_next_member(&cursor, &name, &value))
		bind_member(call, &name, &value, is_text && value.kind == KS_JSON_STRING, faults);
}

static void
bind_member(KsCall *call, const KsJson *name, const KsJson *value, bool is_text, KsFaults *faults)
{
	int i = find_argument(call->route, name);
	int length = ks_faults_enter_member(faults, ks_json_shown(name));

	if (i < 0)
		ks_fault(faults, "UNKNOWN", "is not known here");
	else if (call->given[i])
		ks_fault(faults, "DUPLICATE", "is given more than once");
	else
	{
		KsInputType *type = call->route->arguments[i].type;

		call->given[i] = true;
		if (ks_input_read(type, value, is_text, faults, &call->values[i], &call->nulls[i]) &&
			call->nulls[i] && call->route->is_strict)
			ks_fault(faults, "REQUIRED", "must not be null");
	}
	ks_faults_leave(faults, length);
}

/* The argument's number; -1 when a client can name none so. */
static int
find_argument(const KsRoute *route, const KsJson *name)
{
	for (int i = 0; i < route->argument_count; i++)
		if (route->arguments[i].source == KS_SOURCE_CLIENT &&
			ks_json_equals(name, route->arguments[i].name, route->arguments[i].name_len))
			return i;
	return -1;
}

/* Give the arguments that the client did not name their value. */
static void
bind_rest(KsCall *call, KsFaults *faults)
{
	for (int i = 0; i < call->route->argument_count; i++)
	{
		KsArgument *argument = &call->route->arguments[i];
		int length;

		if (call->given[i])
			continue;
		if (argument->source != KS_SOURCE_CLIENT)
			bind_raw(call, i);
		else if (argument->has_default)
			bind_default(call, i);
		else
		{
			length = ks_faults_enter_member(faults, argument->name);
			ks_fault(faults, "REQUIRED", "is required");
			ks_faults_leave(faults, length);
		}
	}
}

/* Bind the body of a raw route, what it is said to be, or the header fields. */
static void
bind_raw(KsCall *call, int i)
{
	if (call->route->arguments[i].source == KS_SOURCE_HEADERS)
	{
		const char *headers = call->caller.headers;

		call->values[i] = DirectFunctionCall1(jsonb_in, CStringGetDatum(headers != NULL ? headers : "{}"));
		return;
	}
	if (call->route->arguments[i].source == KS_SOURCE_CONTENT_TYPE)
	{
		call->nulls[i] = call->caller.content_type == NULL;
		if (!call->nulls[i])
			call->values[i] = CStringGetTextDatum(call->caller.content_type);
		return;
	}
	call->nulls[i] = call->body == NULL;
	if (!call->nulls[i])
		call->values[i] = PointerGetDatum(cstring_to_text_with_len(call->body, call->body_len));
}

static void
bind_default(KsCall *call, int i)
{
	KsArgument *argument = &call->route->arguments[i];
	ExprContext *econtext;
	ExprState *state;
	int16 len;
	bool byval;

	if (argument->default_expr == NULL)
	{
		call->values[i] = argument->default_value;
		call->nulls[i] = argument->default_is_null;
		return;
	}
	econtext = CreateStandaloneExprContext();
	state = ExecInitExpr(argument->default_expr, NULL);
	call->values[i] = ExecEvalExprSwitchContext(state, econtext, &call->nulls[i]);
	get_typlenbyval(exprType((Node *) argument->default_expr), &len, &byval);
	if (!call->nulls[i])
		call->values[i] = datumCopy(call->values[i], byval, len);
	FreeExprContext(econtext, true);
}
