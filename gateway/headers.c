/*
 * headers: what every reply carries, and the headers that the database adds.
 *
 * The library copies each header, which is the larger part of a reply's cost:
 * only those that say something are added.
 */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "headers.h"

#define VALUE_SIZE 8192 /* of a decoded header value; a cookie has at most 4096 and its attributes */
#define EXPOSED                                                                                          \
	"X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, " \
	"X-RateLimit-Reset, Idempotency-Replayed, Deprecation, Sunset, Link"

static void note_item(struct GwHeaders *headers, const struct GwJsonMember *item, struct GwNote *note);
static void note_wait(struct GwSlice value, struct GwNote *note);
static bool add_given(struct MHD_Response *response, const struct GwHeaders *given);
static bool add_item(struct MHD_Response *response, const struct GwJsonMember *item);
static bool add_value(struct MHD_Response *response, const char *name, const struct GwJsonMember *item);
static bool add_vary(struct MHD_Response *response, const struct GwAsk *ask, const struct GwHeaderSet *set);
static bool add_cors(struct MHD_Response *response, const struct GwAsk *ask);
static bool add_route(struct MHD_Response *response, const struct GwRoute *route);
static bool name_is(struct GwSlice name, const char *other);
static bool is_ours(struct GwSlice name);

static bool
add(struct MHD_Response *response, const char *name, const char *value)
{
	return MHD_add_response_header(response, name, value) == MHD_YES;
}

void
gw_headers_read(struct GwHeaders *headers, const char *json, size_t len, struct GwNote *note)
{
	struct GwJsonCursor cursor;
	struct GwJsonMember item;
	enum GwJsonType type;

	headers->n = 0;
	headers->is_raw = false;
	headers->pagination = headers->vary = (struct GwSlice){"", 0};
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
	static const char *const ours[] = {"Content-Length", "Transfer-Encoding", "Connection", "Content-Encoding",
									   "Date", "X-Request-ID", "Trailer", "Upgrade", "Keep-Alive"};
	size_t i;

	for (i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (name_is(name, ours[i]))
			return true;
	return false;
}

bool
gw_headers_add(struct MHD_Response *response, const struct GwAsk *ask, const struct GwHeaderSet *set)
{
	static const struct GwHeaders none;
	const struct GwHeaders *given = set->given != NULL ? set->given : &none;
	char seconds[16];

	if (!add(response, "X-Request-ID", ask->request_id) || !add(response, "X-Content-Type-Options", "nosniff") ||
		!add(response, "X-Frame-Options", "DENY") || !add(response, "Referrer-Policy", "no-referrer") ||
		!add(response, "Cross-Origin-Resource-Policy", "same-origin"))
		return false;
	if (!given->has_csp && !add(response, "Content-Security-Policy", set->csp != NULL ? set->csp : GW_CSP_JSON))
		return false;
	if (!given->has_cache_control && !add(response, "Cache-Control", set->cache_control != NULL ? set->cache_control : "no-store"))
		return false;
	if (!given->has_content_type && set->content_type != NULL && !add(response, "Content-Type", set->content_type))
		return false;
	if ((ask->config->sends_hsts || ask->is_https) &&
		!add(response, "Strict-Transport-Security", "max-age=31536000; includeSubDomains"))
		return false;
	if (set->retry_after > 0 && !given->has_retry_after)
	{
		snprintf(seconds, sizeof(seconds), "%d", set->retry_after);
		if (!add(response, "Retry-After", seconds))
			return false;
	}
	if (set->status == 401 && !given->has_authenticate && !add(response, "WWW-Authenticate", "Bearer"))
		return false;
	if (set->allow != NULL && !add(response, "Allow", set->allow))
		return false;
	if (set->encoding != NULL && !add(response, "Content-Encoding", set->encoding))
		return false;
	if (ask->closes && !add(response, "Connection", "close"))
		return false;
	return add_vary(response, ask, set) && add_cors(response, ask) && add_route(response, ask->route) &&
		   add_given(response, given);
}

static bool
add_vary(struct MHD_Response *response, const struct GwAsk *ask, const struct GwHeaderSet *set)
{
	char vary[512] = "";
	size_t len = 0;
	bool is_unsafe = ask->route != NULL && strcmp(ask->route->method, "GET") != 0;

	if (set->given != NULL && set->given->vary.len > 0)
	{
		long given = gw_json_decode(set->given->vary, vary, 256);

		len = given > 0 ? (size_t) given : 0;
	}
#define NAME(name) len += (size_t) snprintf(vary + len, sizeof(vary) - len, "%s" name, len > 0 ? ", " : "")
	if (set->is_compressible)
		NAME("Accept-Encoding");
	if (is_unsafe)
		NAME("Sec-Fetch-Site");
	if (is_unsafe || ask->config->norigins > 0)
		NAME("Origin");
	if (set->status >= 400)
		NAME("Accept");
#undef NAME
	return len == 0 || add(response, "Vary", vary);
}

static bool
add_cors(struct MHD_Response *response, const struct GwAsk *ask)
{
	if (ask->origin == NULL || ask->config->norigins == 0 || !gw_config_allows_origin(ask->config, ask->origin))
		return true;
	return add(response, "Access-Control-Allow-Origin", ask->origin) &&
		   add(response, "Access-Control-Allow-Credentials", "true") &&
		   add(response, "Access-Control-Expose-Headers", EXPOSED);
}

bool
gw_headers_add_preflight(struct MHD_Response *response, const struct GwAsk *ask, const char *allow)
{
	if (ask->origin == NULL || !gw_config_allows_origin(ask->config, ask->origin))
		return true;
	return add(response, "Access-Control-Allow-Methods", allow) &&
		   add(response, "Access-Control-Allow-Headers",
			   "Authorization, Content-Type, Accept, Idempotency-Key, X-API-Key, X-CSRF-Token, X-Request-ID, traceparent") &&
		   add(response, "Access-Control-Max-Age", "600");
}

static bool
add_route(struct MHD_Response *response, const struct GwRoute *route)
{
	if (route == NULL)
		return true;
	return (route->deprecation_header == NULL || add(response, "Deprecation", route->deprecation_header)) &&
		   (route->sunset_header == NULL || add(response, "Sunset", route->sunset_header)) &&
		   (route->link_header == NULL || add(response, "Link", route->link_header));
}

static bool
add_given(struct MHD_Response *response, const struct GwHeaders *given)
{
	size_t i;

	for (i = 0; i < given->n; i++)
		if (!add_item(response, &given->items[i]))
			return false;
	return true;
}

/* One header, or one for each element of an array. */
static bool
add_item(struct MHD_Response *response, const struct GwJsonMember *item)
{
	char name[128];
	struct GwJsonCursor cursor;
	struct GwJsonMember element;
	enum GwJsonType type;

	if (gw_json_decode(item->name, name, sizeof(name)) <= 0 || strpbrk(name, " \t\r\n:") != NULL)
		return true;
	if (item->type != GW_JSON_ARRAY)
		return add_value(response, name, item);
	if (!gw_json_open(&cursor, item->raw.data, item->raw.len))
		return true;
	while ((type = gw_json_next(&cursor, &element)) != GW_JSON_END && type != GW_JSON_BROKEN)
		if (!add_value(response, name, &element))
			return false;
	return true;
}

/* A value that could break the reply's framing is left out. */
static bool
add_value(struct MHD_Response *response, const char *name, const struct GwJsonMember *item)
{
	char value[VALUE_SIZE];
	long len, i;

	if (item->type == GW_JSON_STRING)
		len = gw_json_decode(item->raw, value, sizeof(value));
	else if (item->raw.len < sizeof(value))
	{
		len = (long) item->raw.len;
		memcpy(value, item->raw.data, item->raw.len);
		value[len] = '\0';
	}
	else
		len = -1;
	for (i = 0; i < len; i++)
		if ((unsigned char) value[i] < 0x20 || value[i] == 0x7F)
			return true;
	return len <= 0 || add(response, name, value);
}
