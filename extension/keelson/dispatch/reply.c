/*
 * reply.c
 *	  Headers, refusals, and the row that a reply becomes.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "dispatch/json_in.h"
#include "dispatch/json_out.h"
#include "dispatch/page.h"
#include "dispatch/reply.h"

static void add_header(KsReply *reply, const char *name, const JsonbValue *value);
static JsonbValue string_value(const char *string);
static bool is_flat(const KsReply *reply);
static Jsonb *flat_jsonb(const KsReply *reply);
static int compare_keys(const JsonbValue *a, const JsonbValue *b);
static void push_page(JsonbParseState **state, const KsReply *reply);
static void take_headers(KsReply *reply, Jsonb *headers);
static bool is_for_gateway(const KsHeader *header, bool is_unknown);
static void check_header(const KsHeader *header);
static void check_header_values(const char *name, const JsonbValue *array);
static bool is_clean(const JsonbValue *value);

void
ks_reply_header(KsReply *reply, const char *name, const char *value)
{
	JsonbValue string = string_value(value);

	add_header(reply, name, &string);
}

void
ks_reply_flag(KsReply *reply, const char *name)
{
	JsonbValue flag = {.type = jbvBool, .val.boolean = true};

	add_header(reply, name, &flag);
}

void
ks_reply_headers(KsReply *reply, Jsonb *headers)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	char *name = NULL;

	if (headers == NULL || !JB_ROOT_IS_OBJECT(headers))
		return;
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type != jbvNull)
			add_header(reply, name, &value);
	}
}

Jsonb *
ks_reply_headers_jsonb(const KsReply *reply)
{
	JsonbParseState *state = NULL;

	if (reply->header_count == 0 && reply->page == NULL)
		return NULL;
	if (is_flat(reply))
		return flat_jsonb(reply);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < reply->header_count; i++)
	{
		JsonbValue name = string_value(reply->headers[i].name);

		pushJsonbValue(&state, WJB_KEY, &name);
		pushJsonbValue(&state, WJB_VALUE, &reply->headers[i].value);
	}
	if (reply->page != NULL)
		push_page(&state, reply);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static bool
is_flat(const KsReply *reply)
{
	for (int i = 0; i < reply->header_count; i++)
		if (!IsAJsonbScalar(&reply->headers[i].value))
			return false;
	return reply->page == NULL;
}

/* The headers as an object, put in order here: few as they are, that takes a third of what a parse state does. */
static Jsonb *
flat_jsonb(const KsReply *reply)
{
	JsonbPair *pairs = palloc(reply->header_count * sizeof(JsonbPair));
	JsonbValue object = {.type = jbvObject, .val.object.pairs = pairs};

	for (int i = 0; i < reply->header_count; i++)
	{
		JsonbPair pair = {.key = string_value(reply->headers[i].name), .value = reply->headers[i].value};
		int at = object.val.object.nPairs;

		while (at > 0 && compare_keys(&pairs[at - 1].key, &pair.key) > 0)
			at--;
		/* The latest word holds. */
		if (at > 0 && compare_keys(&pairs[at - 1].key, &pair.key) == 0)
		{
			pairs[at - 1] = pair;
			continue;
		}
		memmove(&pairs[at + 1], &pairs[at], (object.val.object.nPairs - at) * sizeof(JsonbPair));
		pairs[at] = pair;
		object.val.object.nPairs++;
	}
	return JsonbValueToJsonb(&object);
}

/* The order of an object's keys: by length, then by bytes. */
static int
compare_keys(const JsonbValue *a, const JsonbValue *b)
{
	if (a->val.string.len != b->val.string.len)
		return a->val.string.len < b->val.string.len ? -1 : 1;
	return memcmp(a->val.string.val, b->val.string.val, a->val.string.len);
}

/* Push meta.pagination, for the gateway. */
static void
push_page(JsonbParseState **state, const KsReply *reply)
{
	JsonbValue name = string_value(":pagination");
	JsonbValue limit_name = string_value("limit");
	JsonbValue limit = {.type = jbvNumeric};
	JsonbValue cursor_name = string_value("nextCursor");
	JsonbValue cursor = {.type = jbvNull};

	limit.val.numeric = int64_to_numeric(reply->page->limit);
	if (reply->page->next_cursor != NULL)
		cursor = string_value(reply->page->next_cursor);
	pushJsonbValue(state, WJB_KEY, &name);
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(state, WJB_KEY, &limit_name);
	pushJsonbValue(state, WJB_VALUE, &limit);
	pushJsonbValue(state, WJB_KEY, &cursor_name);
	pushJsonbValue(state, WJB_VALUE, &cursor);
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

static void
add_header(KsReply *reply, const char *name, const JsonbValue *value)
{
	if (reply->header_count == reply->header_room)
	{
		reply->header_room = reply->header_room ? reply->header_room * 2 : 8;
		if (reply->headers == NULL)
			reply->headers = palloc(reply->header_room * sizeof(KsHeader));
		else
			reply->headers = repalloc(reply->headers, reply->header_room * sizeof(KsHeader));
	}
	reply->headers[reply->header_count].name = name;
	reply->headers[reply->header_count++].value = *value;
}

static JsonbValue
string_value(const char *string)
{
	JsonbValue value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	return value;
}

bool
ks_reply_refuse(KsReply *reply, int status, const char *code, const char *message)
{
	return ks_reply_refuse_details(reply, status, code, message, NULL);
}

bool
ks_reply_refuse_details(KsReply *reply, int status, const char *code, const char *message, const char *details)
{
	StringInfoData body;

	initStringInfo(&body);
	ks_refusal_begin(&body, code, message);
	if (details != NULL)
		appendStringInfo(&body, ",\"details\":[%s]", details);
	appendStringInfoChar(&body, '}');
	reply->status = status;
	reply->body = cstring_to_text_with_len(body.data, body.len);
	return false;
}

void
ks_refusal_begin(StringInfo out, const char *code, const char *message)
{
	char *shown = pstrdup(message);

	shown[0] = pg_ascii_toupper((unsigned char) shown[0]);
	appendStringInfoString(out, "{\"error\":");
	ks_json_write_string(out, shown, strlen(shown));
	appendStringInfoString(out, ",\"code\":");
	ks_json_write_string(out, code, strlen(code));
}

const char *
ks_reply_code(const KsReply *reply)
{
	KsJson whole, name, value;
	KsJsonCursor cursor;

	if (reply->body == NULL || ks_json_check(VARDATA_ANY(reply->body), VARSIZE_ANY_EXHDR(reply->body)) != NULL)
		return NULL;
	whole = ks_json_value(VARDATA_ANY(reply->body), VARSIZE_ANY_EXHDR(reply->body));
	if (whole.kind != KS_JSON_OBJECT)
		return NULL;
	cursor = ks_json_open(&whole);
	while (ks_json_next_member(&cursor, &name, &value))
		if (value.kind == KS_JSON_STRING && ks_json_equals(&name, "code", strlen("code")))
			return ks_json_unescape(&value);
	return NULL;
}

Datum
ks_reply_datum(const KsReply *reply, TupleDesc desc)
{
	Jsonb *headers = ks_reply_headers_jsonb(reply);
	Datum values[] = {Int32GetDatum(reply->status), PointerGetDatum(headers), PointerGetDatum(reply->body)};
	bool nulls[] = {reply->status == 0, headers == NULL, reply->body == NULL};

	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

void
ks_reply_take(KsReply *reply, Datum row)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	bool is_null;
	Datum value;

	value = GetAttributeByNum(header, 1, &is_null);
	if (!is_null)
		reply->status = DatumGetInt32(value);
	if (reply->status < 200 || reply->status > 599)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the status of a reply is 200 to 599, not %d", reply->status)));
	value = GetAttributeByNum(header, 2, &is_null);
	if (!is_null)
		take_headers(reply, DatumGetJsonbP(value));
	value = GetAttributeByNum(header, 3, &is_null);
	reply->body = is_null ? NULL : DatumGetByteaPP(value);
}

/*
 * Take over the headers that a function has made: only such as may be sent.
 * With a Content-Type of its own, the body goes out as it is. Names that begin
 * with a colon are between the gateway and us: a function may say ":raw", and
 * where nobody was known before, as at login, whose request it was.
 */
static void
take_headers(KsReply *reply, Jsonb *headers)
{
	int before = reply->header_count;
	int after = before;
	bool is_unknown = true;

	for (int i = 0; i < before; i++)
		is_unknown &= strcmp(reply->headers[i].name, ":user") != 0;
	ks_reply_headers(reply, headers);
	for (int i = before; i < reply->header_count; i++)
	{
		KsHeader *header = &reply->headers[i];

		if (header->name[0] == ':' && !is_for_gateway(header, is_unknown))
			continue;
		if (header->value.type == jbvNumeric)
			header->value = string_value(DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(header->value.val.numeric))));
		if (header->name[0] != ':')
			check_header(header);
		reply->headers[after++] = *header;
	}
	reply->header_count = after;
	for (int i = before; i < after; i++)
		if (pg_strcasecmp(reply->headers[i].name, "Content-Type") == 0)
		{
			ks_reply_flag(reply, ":raw");
			break;
		}
}

static bool
is_for_gateway(const KsHeader *header, bool is_unknown)
{
	if (strcmp(header->name, ":raw") == 0)
		return header->value.type == jbvBool;
	return is_unknown && strcmp(header->name, ":user") == 0 && is_clean(&header->value);
}

/* Raise an error for a header that would break the reply's head. */
static void
check_header(const KsHeader *header)
{
	const JsonbValue *value = &header->value;

	if (header->name[0] == '\0' ||
		strspn(header->name, "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != strlen(header->name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of a header", header->name)));
	if (value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data))
		check_header_values(header->name, value);
	else if (!is_clean(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("header \"%s\" is neither a string without control characters nor an array of such", header->name)));
}

static void
check_header_values(const char *name, const JsonbValue *array)
{
	JsonbIterator *iterator = JsonbIteratorInit(array->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
		if (token == WJB_ELEM && !is_clean(&value))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("header \"%s\" is neither a string without control characters nor an array of such", name)));
}

static bool
is_clean(const JsonbValue *value)
{
	if (value->type != jbvString)
		return false;
	for (int i = 0; i < value->val.string.len; i++)
	{
		unsigned char c = value->val.string.val[i];

		if ((c < ' ' && c != '\t') || c == 0x7F)
			return false;
	}
	return true;
}
