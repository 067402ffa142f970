/*
 * page.c
 *	  Pages of a list: keelson.page(), page_by(), and cursors.
 *
 * A function that pages by page_by() reads one row more than the page holds.
 * That row is not written: it tells that there is another page, whose cursor
 * is made of the last row before it. Outside of a call there is no page, and
 * the same function returns as many rows as it was asked for.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "port/pg_bswap.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "core/error.h"
#include "core/identity.h"
#include "dispatch/json_out.h"
#include "dispatch/page.h"
#include "secrets/keyring.h"

/* A cursor: key id, truncated MAC, the place as JSON. */
#define CURSOR_MAC_LENGTH 16
#define CURSOR_HEAD (4 + CURSOR_MAC_LENGTH)
#define CURSOR_LENGTH_MAX 4096

#define PAGE_LIMIT_MAX 100

static KsPage *new_page(KsCall *call, int limit);
static void name_columns(KsPage *page, const KsRoute *route, ArrayType *names);
static AttrNumber find_column(TupleDesc desc, const char *name);
static char *row_place(const KsPage *page, TupleTableSlot *slot);
static text *make_cursor(const char *json);
static void cursor_mac(uint32 key_id, const char *place, int len, uint8 *mac);
static bool open_cursor(const text *cursor, char **place);

PG_FUNCTION_INFO_V1(ks_page);

/* keelson.page(row_limit int, next_cursor text) */
Datum
ks_page(PG_FUNCTION_ARGS)
{
	KsCall *call = ks_call();

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a page needs its limit")));
	if (call == NULL)
		PG_RETURN_VOID();
	new_page(call, PG_GETARG_INT32(0));
	if (!PG_ARGISNULL(1))
	{
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(call));

		call->reply.page->next_cursor = text_to_cstring(PG_GETARG_TEXT_PP(1));
		MemoryContextSwitchTo(old);
	}
	PG_RETURN_VOID();
}

/* Begin the reply's page; it lives as long as the call. */
static KsPage *
new_page(KsCall *call, int limit)
{
	call->reply.page = MemoryContextAllocZero(GetMemoryChunkContext(call), sizeof(KsPage));
	call->reply.page->limit = limit;
	return call->reply.page;
}

PG_FUNCTION_INFO_V1(ks_page_by);

/* keelson.page_by(row_limit int, variadic columns text[]) */
Datum
ks_page_by(PG_FUNCTION_ARGS)
{
	KsCall *call = ks_call();
	int limit = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);

	if (limit < 1 || limit > PAGE_LIMIT_MAX)
		ks_raise_field(400, "VALIDATION_FAILED", "limit", NULL, "limit is 1 to %d", PAGE_LIMIT_MAX);
	if (PG_ARGISNULL(1) || array_contains_nulls(PG_GETARG_ARRAYTYPE_P(1)) || ARR_NDIM(PG_GETARG_ARRAYTYPE_P(1)) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a page needs the columns that its rows are in the order of")));
	if (call == NULL)
		PG_RETURN_INT32(limit);
	if (call->route->result != KS_RESULT_SET || call->route->kind == KS_ROUTE_ROWS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the reply of endpoint \"%s\" has no pages", call->route->name),
				 errhint("A page is of a function that returns a set, at an endpoint that is not of kind rows.")));
	name_columns(new_page(call, limit), call->route, PG_GETARG_ARRAYTYPE_P(1));
	PG_RETURN_INT32(limit + 1);
}

/* Note the columns of the endpoint's rows that are a row's place. */
static void
name_columns(KsPage *page, const KsRoute *route, ArrayType *names)
{
	TupleDesc desc = route->result_desc != NULL ? route->result_desc : lookup_rowtype_tupdesc_copy(route->result_type, -1);
	Datum *values;
	int count;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &count);
	page->columns = MemoryContextAlloc(GetMemoryChunkContext(page), count * sizeof(KsPageColumn));
	for (int i = 0; i < count; i++)
	{
		KsPageColumn *column = &page->columns[i];

		column->name = MemoryContextStrdup(GetMemoryChunkContext(page), TextDatumGetCString(values[i]));
		column->number = find_column(desc, column->name);
		if (column->number == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("the rows of endpoint \"%s\" have no column \"%s\"", route->name, column->name)));
	}
	page->column_count = count;
}

static AttrNumber
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && namestrcmp(&TupleDescAttr(desc, i)->attname, name) == 0)
			return i + 1;
	return InvalidAttrNumber;
}

bool
ks_page_row(KsCall *call, TupleTableSlot *slot)
{
	KsPage *page = call->reply.page;
	MemoryContext old;

	if (page == NULL || page->column_count == 0)
		return true;
	if (page->row_count == page->limit)
	{
		old = MemoryContextSwitchTo(GetMemoryChunkContext(page));
		page->next_cursor = text_to_cstring(make_cursor(page->place));
		MemoryContextSwitchTo(old);
		return false;
	}
	if (++page->row_count == page->limit)
	{
		old = MemoryContextSwitchTo(GetMemoryChunkContext(page));
		page->place = row_place(page, slot);
		MemoryContextSwitchTo(old);
	}
	return true;
}

/* A row's place: an object of its columns. */
static char *
row_place(const KsPage *page, TupleTableSlot *slot)
{
	StringInfoData place;

	initStringInfo(&place);
	for (int i = 0; i < page->column_count; i++)
	{
		const KsPageColumn *column = &page->columns[i];
		bool is_null;
		Datum value = slot_getattr(slot, column->number, &is_null);

		appendStringInfoChar(&place, i == 0 ? '{' : ',');
		ks_json_write_string(&place, column->name, strlen(column->name));
		appendStringInfoChar(&place, ':');
		ks_writer_write(ks_writer_create(CurrentMemoryContext, TupleDescAttr(slot->tts_tupleDescriptor, column->number - 1)->atttypid),
						&place, value, is_null);
	}
	appendStringInfoChar(&place, '}');
	return place.data;
}

PG_FUNCTION_INFO_V1(ks_cursor_encode);

/* keelson.cursor_encode(place jsonb) */
Datum
ks_cursor_encode(PG_FUNCTION_ARGS)
{
	Jsonb *place = PG_GETARG_JSONB_P(0);

	PG_RETURN_TEXT_P(make_cursor(JsonbToCString(NULL, &place->root, VARSIZE(place))));
}

static text *
make_cursor(const char *json)
{
	int len = strlen(json);
	uint8 *bytes;
	uint32 key_id;

	if (len > CURSOR_LENGTH_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a cursor's place has at most %d bytes", CURSOR_LENGTH_MAX)));
	ks_keyring_require();
	bytes = palloc(CURSOR_HEAD + len);
	key_id = pg_hton32(ks_keyring_primary());
	memcpy(bytes, &key_id, sizeof(key_id));
	cursor_mac(ks_keyring_primary(), json, len, bytes + 4);
	memcpy(bytes + CURSOR_HEAD, json, len);
	return ks_base64url(bytes, CURSOR_HEAD + len);
}

PG_FUNCTION_INFO_V1(ks_cursor_decode);

/* keelson.cursor_decode(cursor text) */
Datum
ks_cursor_decode(PG_FUNCTION_ARGS)
{
	char *place;

	if (!open_cursor(PG_GETARG_TEXT_PP(0), &place))
		ks_raise_field(400, "VALIDATION_FAILED", "cursor", "Leave it out to begin anew.", "the cursor is not valid");
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(place));
}

/* The MAC of a place in the list of this endpoint, for this user. */
static void
cursor_mac(uint32 key_id, const char *place, int len, uint8 *mac)
{
	StringInfoData message;
	const KsCall *call = ks_call();
	const KsIdentity *identity = ks_identity();
	uint8 whole[KS_SHA256_LENGTH];

	initStringInfo(&message);
	appendBinaryStringInfo(&message, (const char *) identity->user_id.data, UUID_LEN);
	appendStringInfo(&message, "%s\n", call != NULL ? call->route->name : "");
	appendBinaryStringInfo(&message, place, len);
	ks_keyring_mac(key_id, "cursor", message.data, message.len, whole);
	memcpy(mac, whole, CURSOR_MAC_LENGTH);
}

static bool
open_cursor(const text *cursor, char **place)
{
	int len = VARSIZE_ANY_EXHDR(cursor);
	uint8 mac[CURSOR_MAC_LENGTH];
	uint8 *bytes;
	size_t size;
	uint32 key_id;

	ks_keyring_require();
	if (len > KS_BASE64URL_LENGTH(CURSOR_HEAD + CURSOR_LENGTH_MAX))
		return false;
	bytes = palloc(KS_BASE64URL_BYTES(len) + 3);
	if (!ks_base64url_decode(VARDATA_ANY(cursor), len, bytes, &size) || size <= CURSOR_HEAD)
		return false;
	memcpy(&key_id, bytes, sizeof(key_id));
	key_id = pg_ntoh32(key_id);
	if (key_id == 0 || !ks_keyring_has(key_id))
		return false;
	*place = pnstrdup((char *) bytes + CURSOR_HEAD, size - CURSOR_HEAD);
	cursor_mac(key_id, *place, size - CURSOR_HEAD, mac);
	return ks_equal(mac, bytes + 4, CURSOR_MAC_LENGTH);
}
