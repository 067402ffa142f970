/*
 * request.c
 *	  Read the description of the caller, and show it to the core's own
 *	  functions.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "dispatch/call.h"
#include "dispatch/json_in.h"
#include "dispatch/request.h"

typedef struct Member
{
	const char *name;
	size_t offset;
} Member;

/* In the order in which the gateway writes them, which makes looking quick. */
static const Member members[] = {
	{"ip", offsetof(KsCaller, ip)},
	{"userAgent", offsetof(KsCaller, user_agent)},
	{"requestId", offsetof(KsCaller, request_id)},
	{"traceparent", offsetof(KsCaller, traceparent)},
	{"scheme", offsetof(KsCaller, scheme)},
	{"via", offsetof(KsCaller, via)},
	{"origin", offsetof(KsCaller, origin)},
	{"referer", offsetof(KsCaller, referer)},
	{"fetchSite", offsetof(KsCaller, fetch_site)},
	{"csrf", offsetof(KsCaller, csrf)},
	{"csrfCookie", offsetof(KsCaller, csrf_cookie)},
	{"refreshCookie", offsetof(KsCaller, refresh_cookie)},
	{"deviceCookie", offsetof(KsCaller, device_cookie)},
	{"idempotencyKey", offsetof(KsCaller, idempotency_key)},
	{"contentType", offsetof(KsCaller, content_type)},
	{"accept", offsetof(KsCaller, accept)},
	{"ifNoneMatch", offsetof(KsCaller, if_none_match)},
	{"repeat", offsetof(KsCaller, repeat)},
	{"held", offsetof(KsCaller, held)},
	{"queue", offsetof(KsCaller, queue)},
};

static const char headers_name[] = "headers";

static const char *end_string(char *copy, const KsJson *string);
static Datum text_or_null(const char *string, bool *is_null);

void
ks_request_read(KsCaller *caller, const char *json, int len)
{
	char *copy = palloc(len + 1);
	KsJson whole;
	KsJsonCursor cursor;
	KsJson name, value;
	int place = 0;

	memcpy(copy, json, len);
	whole = ks_json_value(copy, len);
	if (whole.kind != KS_JSON_OBJECT)
		return;
	cursor = ks_json_open(&whole);
	while (ks_json_next_member(&cursor, &name, &value))
	{
		if (value.kind == KS_JSON_OBJECT && ks_json_equals(&name, headers_name, strlen(headers_name)))
			caller->headers = pnstrdup(value.start, value.len);
		for (int i = 0; i < lengthof(members) && value.kind == KS_JSON_STRING; i++)
		{
			const Member *member = &members[(place + i) % lengthof(members)];

			if (!ks_json_equals(&name, member->name, strlen(member->name)))
				continue;
			*(const char **) ((char *) caller + member->offset) = end_string(copy, &value);
			place += i + 1;
			break;
		}
	}
}

/* The string, terminated: inside the copy, where its closing quote was, if that will do. */
static const char *
end_string(char *copy, const KsJson *string)
{
	if (string->is_escaped)
		return ks_json_unescape(string);
	copy[string->start + string->len - copy] = '\0';
	return string->start;
}

PG_FUNCTION_INFO_V1(ks_current_request);

/* keelson.current_request() */
Datum
ks_current_request(PG_FUNCTION_ARGS)
{
	KsCall *call = ks_call();
	const KsCaller *caller;
	TupleDesc desc;
	HeapTuple tuple;
	Datum values[17];
	bool nulls[17];

	if (call == NULL)
		PG_RETURN_NULL();
	caller = &call->caller;
	values[0] = text_or_null(call->route->method, &nulls[0]);
	values[1] = text_or_null(call->route->template, &nulls[1]);
	values[2] = text_or_null(caller->via, &nulls[2]);
	values[3] = UUIDPGetDatum(&call->credential.token_user_id);
	values[4] = UUIDPGetDatum(&call->credential.token_session_id);
	nulls[3] = nulls[4] = !call->credential.names_session;
	nulls[5] = call->credential.token_expires_at == 0;
	values[5] = TimestampTzGetDatum(time_t_to_timestamptz(call->credential.token_expires_at));
	values[6] = text_or_null(caller->refresh_cookie, &nulls[6]);
	values[7] = text_or_null(caller->device_cookie, &nulls[7]);
	values[8] = text_or_null(caller->csrf, &nulls[8]);
	values[9] = text_or_null(caller->csrf_cookie, &nulls[9]);
	values[10] = text_or_null(caller->origin, &nulls[10]);
	values[11] = text_or_null(caller->referer, &nulls[11]);
	values[12] = text_or_null(caller->fetch_site, &nulls[12]);
	values[13] = text_or_null(caller->idempotency_key, &nulls[13]);
	values[14] = text_or_null(caller->content_type, &nulls[14]);
	values[15] = text_or_null(caller->accept, &nulls[15]);
	values[16] = text_or_null(caller->if_none_match, &nulls[16]);
	desc = lookup_rowtype_tupdesc(get_func_rettype(fcinfo->flinfo->fn_oid), -1);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	PG_RETURN_DATUM(HeapTupleGetDatum(tuple));
}

static Datum
text_or_null(const char *string, bool *is_null)
{
	*is_null = string == NULL;
	return string != NULL ? CStringGetTextDatum(string) : (Datum) 0;
}
