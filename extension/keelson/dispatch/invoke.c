/*
 * invoke.c
 *	  Call the endpoint's function through fmgr, and write what it returns.
 *
 * A set is taken into a tuplestore where the function does not bring one of
 * its own, so that a function that fails in the middle fails before anything
 * has been sent; what does not fit into work_mem goes to disk. A route of kind
 * rows is then written from it chunk by chunk, after role and identity have
 * been laid down again, since none of the function's code runs any more.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "dispatch/invoke.h"
#include "dispatch/page.h"

#define CHUNK_BYTES (32 * 1024)

static FunctionCallInfo make_call(KsCall *call, FmgrInfo *function, ReturnSetInfo *set);
static bool is_null_call(const KsCall *call);
static void reply_with_value(KsCall *call, Datum value, bool is_null);
static void reply_with_nothing(KsCall *call);
static void reply_with_text(KsCall *call, StringInfo text);
static KsRows *collect_rows(KsCall *call, MemoryContext cxt);
static void collect(KsCall *call, FmgrInfo *function, ReturnSetInfo *set);
static void store_value(KsCall *call, ReturnSetInfo *set, Datum value, bool is_null);
static void send_as_it_is(KsCall *call);
static void write_rows(KsCall *call, KsRows *rows, StringInfo out, int enough);

void
ks_invoke(KsCall *call, MemoryContext cxt, KsRows **rows)
{
	KsRoute *route = call->route;
	KsRows *collected;
	StringInfoData text;
	FmgrInfo anew;
	FunctionCallInfo fcinfo;
	Datum value = (Datum) 0;
	bool is_null = true;

	call->reply.status = route->status;
	if (route->result == KS_RESULT_SET)
	{
		collected = collect_rows(call, route->kind == KS_ROUTE_ROWS ? cxt : CurrentMemoryContext);
		if (route->kind == KS_ROUTE_ROWS)
		{
			send_as_it_is(call);
			*rows = collected;
			return;
		}
		initStringInfo(&text);
		write_rows(call, collected, &text, MaxAllocSize);
		reply_with_text(call, &text);
		return;
	}
	if (!is_null_call(call))
	{
		/* What a function of SQL's keeps there of a call that failed in its middle is good for nothing. */
		if (route->is_sql)
			fmgr_info_copy(&anew, &route->call, CurrentMemoryContext);
		fcinfo = make_call(call, route->is_sql ? &anew : &route->call, NULL);
		value = FunctionCallInvoke(fcinfo);
		is_null = fcinfo->isnull;
	}
	reply_with_value(call, value, is_null);
}

static FunctionCallInfo
make_call(KsCall *call, FmgrInfo *function, ReturnSetInfo *set)
{
	int count = call->route->argument_count;
	FunctionCallInfo fcinfo = palloc(SizeForFunctionCallInfo(count));

	InitFunctionCallInfoData(*fcinfo, function, count, DEFAULT_COLLATION_OID, NULL, (Node *) set);
	for (int i = 0; i < count; i++)
	{
		fcinfo->args[i].value = call->values[i];
		fcinfo->args[i].isnull = call->nulls[i];
	}
	return fcinfo;
}

/* A strict function is not called with a null. */
static bool
is_null_call(const KsCall *call)
{
	for (int i = 0; call->route->is_strict && i < call->route->argument_count; i++)
		if (call->nulls[i])
			return true;
	return false;
}

static void
reply_with_value(KsCall *call, Datum value, bool is_null)
{
	KsRoute *route = call->route;
	StringInfoData text;

	if (route->result == KS_RESULT_VOID || (is_null && route->result == KS_RESULT_REPLY))
		reply_with_nothing(call);
	else if (route->result == KS_RESULT_REPLY)
		ks_reply_take(&call->reply, value);
	else if (route->is_raw && route->is_bytes && !route->is_unsafe && !is_null)
	{
		send_as_it_is(call);
		call->reply.body = DatumGetByteaPP(value);
	}
	else
	{
		initStringInfo(&text);
		ks_writer_write(route->writer, &text, value, is_null);
		reply_with_text(call, &text);
	}
}

/* No content, unless the route has a status of its own. */
static void
reply_with_nothing(KsCall *call)
{
	if (call->route->status == 200)
		call->reply.status = 204;
}

static void
reply_with_text(KsCall *call, StringInfo text)
{
	send_as_it_is(call);
	call->reply.body = cstring_to_text_with_len(text->data, text->len);
}

/* What a raw route answers to GET goes out without the envelope. */
static void
send_as_it_is(KsCall *call)
{
	KsRoute *route = call->route;
	const char *content_type = "application/json";

	if (!route->is_raw || route->is_unsafe)
		return;
	if (route->content_type != NULL)
		content_type = route->content_type;
	else if (route->is_bytes)
		content_type = route->is_binary ? "application/octet-stream" : "text/plain; charset=utf-8";
	ks_reply_header(&call->reply, "Content-Type", content_type);
	ks_reply_flag(&call->reply, ":raw");
}

/* Call a function that returns a set, and collect its rows in memory of the context. */
static KsRows *
collect_rows(KsCall *call, MemoryContext cxt)
{
	KsRoute *route = call->route;
	MemoryContext old = MemoryContextSwitchTo(cxt);
	KsRows *rows = palloc0(sizeof(KsRows));
	ExprContext *econtext = CreateStandaloneExprContext();
	ReturnSetInfo set = {
		.type = T_ReturnSetInfo,
		.econtext = econtext,
		.allowedModes = SFRM_ValuePerCall | SFRM_Materialize,
		.returnMode = SFRM_ValuePerCall};
	FmgrInfo function;

	set.expectedDesc = route->result_desc != NULL ? CreateTupleDescCopy(route->result_desc)
												  : lookup_rowtype_tupdesc_copy(route->result_type, -1);
	MemoryContextSwitchTo(old);
	/* A set-returning function keeps its place in the FmgrInfo: a fresh one for each call. */
	fmgr_info_copy(&function, &route->call, CurrentMemoryContext);
	if (!is_null_call(call))
		collect(call, &function, &set);
	MemoryContextSwitchTo(cxt);
	rows->store = set.setResult;
	rows->slot = MakeSingleTupleTableSlot(set.setDesc != NULL ? set.setDesc : set.expectedDesc, &TTSOpsMinimalTuple);
	rows->is_row = route->is_row;
	rows->is_raw = route->is_raw && route->is_bytes && route->kind == KS_ROUTE_ROWS;
	rows->writer = ks_writer_create(cxt, route->result_type);
	MemoryContextSwitchTo(old);
	return rows;
}

/* Run the function to its end. */
static void
collect(KsCall *call, FmgrInfo *function, ReturnSetInfo *set)
{
	FunctionCallInfo fcinfo = make_call(call, function, set);

	for (;;)
	{
		Datum value;

		fcinfo->isnull = false;
		set->isDone = ExprSingleResult;
		value = FunctionCallInvoke(fcinfo);
		if (set->returnMode == SFRM_Materialize || set->isDone == ExprEndResult)
			return;
		store_value(call, set, value, fcinfo->isnull);
		if (set->isDone != ExprMultipleResult)
			return;
		ResetExprContext(set->econtext);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Store one row that a function returned by itself. */
static void
store_value(KsCall *call, ReturnSetInfo *set, Datum value, bool is_null)
{
	MemoryContext old = MemoryContextSwitchTo(set->econtext->ecxt_per_query_memory);

	if (set->setResult == NULL)
		set->setResult = tuplestore_begin_heap(false, false, work_mem);
	if (call->route->is_row && !is_null)
	{
		HeapTupleHeader header = DatumGetHeapTupleHeader(value);
		HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};

		tuplestore_puttuple(set->setResult, &tuple);
	}
	else if (!call->route->is_row)
		tuplestore_putvalues(set->setResult, set->expectedDesc, &value, &is_null);
	MemoryContextSwitchTo(old);
}

bytea *
ks_rows_chunk(KsRows *rows)
{
	StringInfoData text;

	initStringInfo(&text);
	write_rows(NULL, rows, &text, CHUNK_BYTES);
	return cstring_to_text_with_len(text.data, text.len);
}

/*
 * Write rows until there are no more or `enough` bytes are written: an array,
 * or raw values one after the other. Those of a call that still runs are the
 * page that its function has asked for.
 */
static void
write_rows(KsCall *call, KsRows *rows, StringInfo out, int enough)
{
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext, "keelson row", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(row_cxt);

	while (out->len < enough)
	{
		if (rows->store == NULL || !tuplestore_gettupleslot(rows->store, true, false, rows->slot) ||
			(call != NULL && !ks_page_row(call, rows->slot)))
		{
			ExecClearTuple(rows->slot);
			rows->is_done = true;
			break;
		}
		slot_getallattrs(rows->slot);
		if (!rows->is_raw)
			appendStringInfoChar(out, rows->is_begun ? ',' : '[');
		rows->is_begun = true;
		if (rows->is_row)
			ks_writer_write_row(rows->writer, out, rows->slot->tts_tupleDescriptor, rows->slot->tts_values, rows->slot->tts_isnull);
		else if (!rows->is_raw)
			ks_writer_write(rows->writer, out, rows->slot->tts_values[0], rows->slot->tts_isnull[0]);
		else if (!rows->slot->tts_isnull[0])
		{
			bytea *bytes = DatumGetByteaPP(rows->slot->tts_values[0]);

			appendBinaryStringInfo(out, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		}
		/* Before its memory goes: the slot frees what it holds. */
		ExecClearTuple(rows->slot);
		MemoryContextReset(row_cxt);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(row_cxt);
	if (rows->is_done && rows->store != NULL)
		tuplestore_end(rows->store);
	if (rows->is_done && !rows->is_raw)
		appendStringInfoString(out, rows->is_begun ? "]" : "[]");
}
