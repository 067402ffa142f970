/*
 * headers: what every reply carries, and the headers that the database adds.
 *
 * They are written as lines to one text, see splice.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#include "headers.h"

#define VALUE_MAX 8192   /* of a value in JSON; a cookie has at most 4096 and its attributes */
#define ETAG_SIZE 256    /* of a tag and its NUL */
#define FIELDS_SIZE 1024 /* of most replies */
#define EXPOSED                                                                                          \
	"X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, " \
	"X-RateLimit-Reset, Idempotency-Replayed, Deprecation, Sunset, Link"

static void note_item(struct GwHeaders *headers, const struct GwJsonMember *item, struct GwNote *note);
static void note_wait(struct GwSlice value, struct GwNote *note);
static void write_ours(struct GwText *fields, const char *name, const char *value);
static void write_etag(const struct GwAsk *ask, struct GwSlice etag);
static void write_vary(const struct GwAsk *ask, const struct GwHeaderSet *set);
static void write_cors(const struct GwAsk *ask);
static void write_route(const struct GwAsk *ask);
static void write_item(struct GwText *fields, const struct GwJsonMember *item);
static void write_value(struct GwText *fields, struct GwSlice name, const struct GwJsonMember *item);
static bool is_name(struct GwSlice name);
static bool is_clean(const char *text, size_t len);
static bool name_is(struct GwSlice name, const char *other);
static bool is_ours(struct GwSlice name);

void
gw_headers_read(struct GwHeaders *headers, const char *json, size_t len, struct GwNote *note)
{
	struct GwJsonCursor cursor;
	struct GwJsonMember item;
	enum GwJsonType type;

	headers->n = 0;
	headers->is_raw = false;
	headers->pagination = headers->vary = headers->etag = (struct GwSlice){"", 0};
	headers->has_content_type = headers->has_cache_control = headers->has_csp = false;
	headers->has_retry_after = headers->has_authenticate = false;
	if (len == 0 || !gw_json_open(&cursor, json, len) || !cursor.is_object)
		return;
	while ((type = gw_json_next(&cursor, &item)) != GW_JSON_END && type != GW_JSON_BROKEN)
		note_item(headers, &item, note);
}

/* Keeps an item as a header, or acts on it if it is for the gateway. */
static void
note_item(struct GwHeaders *headers, const struct GwJsonMember *item, struct GwNote *note)
{
	struct GwSlice name = item->name;

	if (name.len > 0 && name.data[0] == ':')
	{
		if (gw_slice_is(name, ":raw"))
			headers->is_raw = item->type == GW_JSON_TRUE;
		else if (gw_slice_is(name, ":pagination") && item->type == GW_JSON_OBJECT)
			headers->pagination = item->raw;
		else if (gw_slice_is(name, ":hold") || gw_slice_is(name, ":holdAddress"))
		{
			note->hold_ms = atoi(item->raw.data);
			note->holds_address = gw_slice_is(name, ":holdAddress");
		}
		else if (gw_slice_is(name, ":wait"))
			note_wait(item->raw, note);
		else if (gw_slice_is(name, ":user") && item->type == GW_JSON_STRING && item->raw.len == GW_UUID_SIZE - 1)
		{
			memcpy(note->user_id, item->raw.data, item->raw.len);
			note->user_id[item->raw.len] = '\0';
		}
		return;
	}
	if (item->type == GW_JSON_NULL || is_ours(name) || headers->n == GW_HEADERS_MAX)
		return;
	if (name_is(name, "Vary"))
	{
		headers->vary = item->type == GW_JSON_STRING ? item->raw : headers->vary;
		return;
	}
	if (name_is(name, "ETag"))
	{
		headers->etag = item->type == GW_JSON_STRING ? item->raw : headers->etag;
		return;
	}
	headers->has_content_type |= name_is(name, "Content-Type");
	headers->has_cache_control |= name_is(name, "Cache-Control");
	headers->has_csp |= name_is(name, "Content-Security-Policy");
	headers->has_retry_after |= name_is(name, "Retry-After");
	headers->has_authenticate |= name_is(name, "WWW-Authenticate");
	headers->items[headers->n++] = *item;
}

/* "1500/20000": milliseconds until there may be room, and how many it may take altogether. */
static void
note_wait(struct GwSlice value, struct GwNote *note)
{
	const char *most = memchr(value.data, '/', value.len);

	if (most == NULL)
		return;
	note->wait_ms = atoi(value.data);
	note->wait_most_ms = atoi(most + 1);
}

static bool
name_is(struct GwSlice name, const char *other)
{
	return name.len == strlen(other) && strncasecmp(name.data, other, name.len) == 0;
}

/* Headers that the gateway or the library sets, whatever the database says. */
static bool
is_ours(struct GwSlice name)
{
	switch (name.len)
	{
		case 4:
			return name_is(name, "Date");
		case 7:
			return name_is(name, "Trailer") || name_is(name, "Upgrade");
		case 10:
			return name_is(name, "Connection") || name_is(name, "Keep-Alive");
		case 12:
			return name_is(name, "X-Request-ID");
		case 14:
			return name_is(name, "Content-Length");
		case 16:
			return name_is(name, "Content-Encoding");
		case 17:
			return name_is(name, "Transfer-Encoding");
	}
	return false;
}

/* A field of which both parts are literals. */
#define write_literal(fields, name, value) gw_text_lit(fields, name ": " value "\r\n")

void
gw_headers_write(const struct GwAsk *ask, const struct GwHeaderSet *set)
{
	static const struct GwHeaders none;
	const struct GwHeaders *given = set->given != NULL ? set->given : &none;
	struct GwText *fields = ask->fields;
	char date[GW_DATE_SIZE];

	fields->len = 0;
	fields->failed = false;
	gw_text_reserve(fields, FIELDS_SIZE);
	gw_date_write(date, time(NULL));
	gw_text_lit(fields, "Date: ");
	gw_text_add(fields, date, GW_DATE_SIZE - 1);
	gw_text_lit(fields, "\r\nX-Request-ID: ");
	gw_text_add(fields, ask->request_id, GW_UUID_SIZE - 1);
	gw_text_lit(fields, "\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
						"Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n");
	if (!given->has_csp)
		write_ours(fields, "Content-Security-Policy: ", set->csp != NULL ? set->csp : GW_CSP_JSON);
	if (!given->has_cache_control)
		write_ours(fields, "Cache-Control: ", set->cache_control != NULL ? set->cache_control : "no-store");
	if (!given->has_content_type && set->content_type != NULL)
		write_ours(fields, "Content-Type: ", set->content_type);
	if (ask->config->sends_hsts || ask->is_https)
		write_literal(fields, "Strict-Transport-Security", "max-age=31536000; includeSubDomains");
	if (set->retry_after > 0 && !given->has_retry_after)
		gw_text_printf(fields, "Retry-After: %d\r\n", set->retry_after);
	if (set->status == 401 && !given->has_authenticate)
		write_literal(fields, "WWW-Authenticate", "Bearer");
	if (set->allow != NULL)
		write_ours(fields, "Allow: ", set->allow);
	if (set->encoding != NULL)
		write_ours(fields, "Content-Encoding: ", set->encoding);
	write_etag(ask, given->etag);
	write_vary(ask, set);
	write_cors(ask);
	write_route(ask);
	for (size_t i = 0; i < given->n; i++)
		write_item(fields, &given->items[i]);
}

/* A field whose value is the gateway's own, and so known to be clean. */
static void
write_ours(struct GwText *fields, const char *name, const char *value)
{
	gw_text_puts(fields, name);
	gw_text_puts(fields, value);
	gw_text_lit(fields, "\r\n");
}

void
gw_headers_write_one(const struct GwAsk *ask, const char *name, const char *value)
{
	size_t len = strlen(value);

	if (!is_clean(value, len))
		return;
	gw_text_puts(ask->fields, name);
	gw_text_lit(ask->fields, ": ");
	gw_text_add(ask->fields, value, len);
	gw_text_lit(ask->fields, "\r\n");
}

void
gw_headers_write_preflight(const struct GwAsk *ask, const char *allow)
{
	if (ask->origin == NULL || !gw_config_allows_origin(ask->config, ask->origin))
		return;
	gw_headers_write_one(ask, "Access-Control-Allow-Methods", allow);
	write_literal(ask->fields, "Access-Control-Allow-Headers",
				  "Authorization, Content-Type, Accept, Idempotency-Key, X-API-Key, X-CSRF-Token, X-Request-ID, traceparent");
	write_literal(ask->fields, "Access-Control-Max-Age", "600");
}

/*
 * A strong tag would stand for the very bytes: of a reply that may be sent
 * compressed, or that has the envelope with its time, it can only be weak.
 */
static void
write_etag(const struct GwAsk *ask, struct GwSlice etag)
{
	char tag[ETAG_SIZE];
	long len = etag.len > 0 ? gw_json_decode(etag, tag, sizeof(tag)) : 0;

	if (len <= 0 || !is_clean(tag, (size_t) len))
		return;
	gw_text_puts(ask->fields, tag[0] == '"' ? "ETag: W/" : "ETag: ");
	gw_text_add(ask->fields, tag, (size_t) len);
	gw_text_lit(ask->fields, "\r\n");
}

static void
write_vary(const struct GwAsk *ask, const struct GwHeaderSet *set)
{
	struct GwText *fields = ask->fields;
	bool is_unsafe = ask->route != NULL && strcmp(ask->route->method, "GET") != 0;
	const char *before = "Vary: ";

#define NAME(name) (gw_text_puts(fields, before), gw_text_puts(fields, name), before = ", ")
	if (set->given != NULL && set->given->vary.len > 0)
	{
		char given[256];
		long len = gw_json_decode(set->given->vary, given, sizeof(given));

		if (len > 0 && is_clean(given, (size_t) len))
			NAME(given);
	}
	if (set->is_compressible)
		NAME("Accept-Encoding");
	if (is_unsafe)
		NAME("Sec-Fetch-Site");
	if (is_unsafe || ask->config->norigins > 0)
		NAME("Origin");
	if (set->status >= 400)
		NAME("Accept");
#undef NAME
	if (before[0] == ',')
		gw_text_lit(fields, "\r\n");
}

static void
write_cors(const struct GwAsk *ask)
{
	if (ask->origin == NULL || ask->config->norigins == 0 || !gw_config_allows_origin(ask->config, ask->origin))
		return;
	gw_headers_write_one(ask, "Access-Control-Allow-Origin", ask->origin);
	write_literal(ask->fields, "Access-Control-Allow-Credentials", "true");
	write_literal(ask->fields, "Access-Control-Expose-Headers", EXPOSED);
}

static void
write_route(const struct GwAsk *ask)
{
	const struct GwRoute *route = ask->route;

	if (route == NULL)
		return;
	if (route->deprecation_header != NULL)
		gw_headers_write_one(ask, "Deprecation", route->deprecation_header);
	if (route->sunset_header != NULL)
		gw_headers_write_one(ask, "Sunset", route->sunset_header);
	if (route->link_header != NULL)
		gw_headers_write_one(ask, "Link", route->link_header);
}

/* One field, or one for each element of an array. */
static void
write_item(struct GwText *fields, const struct GwJsonMember *item)
{
	struct GwJsonCursor cursor;
	struct GwJsonMember element;
	enum GwJsonType type;

	if (!is_name(item->name))
		return;
	if (item->type != GW_JSON_ARRAY)
	{
		write_value(fields, item->name, item);
		return;
	}
	if (!gw_json_open(&cursor, item->raw.data, item->raw.len))
		return;
	while ((type = gw_json_next(&cursor, &element)) != GW_JSON_END && type != GW_JSON_BROKEN)
		write_value(fields, item->name, &element);
}

/* Decodes the value in its place. One that is empty or could break the head is left out. */
static void
write_value(struct GwText *fields, struct GwSlice name, const struct GwJsonMember *item)
{
	size_t begin = fields->len;
	size_t start;
	long len;

	if (item->raw.len > VALUE_MAX)
		return;
	gw_text_add(fields, name.data, name.len);
	gw_text_lit(fields, ": ");
	start = fields->len;
	if (item->type != GW_JSON_STRING)
		gw_text_add(fields, item->raw.data, item->raw.len);
	else if (gw_text_reserve(fields, item->raw.len + 1))
	{
		len = gw_json_decode(item->raw, fields->data + start, item->raw.len + 1);
		fields->len += len > 0 ? (size_t) len : 0;
	}
	if (fields->failed)
		return;
	if (fields->len == start || !is_clean(fields->data + start, fields->len - start))
		fields->len = begin;
	else
		gw_text_lit(fields, "\r\n");
}

/* Says whether it can be a field's name as it is, undecoded. */
static bool
is_name(struct GwSlice name)
{
	return name.len > 0 && gw_text_solid(name.data, name.len) == name.len && memchr(name.data, ':', name.len) == NULL &&
		   memchr(name.data, '"', name.len) == NULL && memchr(name.data, '\\', name.len) == NULL;
}

static bool
is_clean(const char *text, size_t len)
{
	return gw_text_plain(text, len) == len;
}
