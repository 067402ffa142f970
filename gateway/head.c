/*
 * head.c
 *	  The header fields of a request that the gateway reads, and what they say.
 *
 * The guard has seen to it that names and values are well formed.  A field that
 * decides something and stands twice is refused rather than guessed at.
 */
#define _GNU_SOURCE
#include "head.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What of a field is only passed on for the record is cut at this. */
#define RECORD_MAX 512

struct Field
{
	const char *name;
	size_t len;
	size_t offset;   /* in GwHead */
	bool may_repeat; /* the first counts */
};

/* Never handed on in clear beside the caller. */
static const char *const credentials[] = {"Authorization", "Cookie", "Proxy-Authorization", "X-API-Key", "X-CSRF-Token"};

/* The fields of a request. */
struct FieldList
{
	size_t count;
	struct GwSlice names[GW_FIELDS_MAX];
	struct GwSlice values[GW_FIELDS_MAX];
};

#define FIELD(name, member, may_repeat)                                     \
	{                                                                       \
		name, sizeof(name) - 1, offsetof(struct GwHead, member), may_repeat \
	}

static const struct Field fields[] = {
	FIELD("Accept", accept, true),
	FIELD("Accept-Encoding", accept_encoding, true),
	FIELD("Authorization", authorization, false),
	FIELD("Content-Length", content_length, false),
	FIELD("Content-Type", content_type, false),
	FIELD("Cookie", cookie, false),
	FIELD("Idempotency-Key", idempotency_key, false),
	FIELD("If-None-Match", if_none_match, true),
	FIELD("Origin", origin, false),
	FIELD("Referer", referer, false),
	FIELD("Sec-Fetch-Site", fetch_site, false),
	FIELD("traceparent", traceparent, true),
	FIELD("Transfer-Encoding", transfer_encoding, false),
	FIELD("User-Agent", user_agent, true),
	FIELD("X-API-Key", api_key, false),
	FIELD("X-CSRF-Token", csrf, false),
	FIELD("X-Forwarded-For", forwarded_for, true),
	FIELD("X-Forwarded-Proto", forwarded_proto, true),
	FIELD("X-Request-ID", request_id, true),
};

static char *read_target(struct GwHead *head, char *at);
static bool next_field(char **at, struct GwSlice *name, struct GwSlice *value);
static void take_field(struct GwHead *head, struct GwSlice name, const char *value);
static void repeat_field(struct GwHead *head, const struct Field *field, const char **place, const char *value);
static const char *join(struct GwText *text, const char *first, const char *more);
static void find_credential(struct GwHead *head);
static const char *skip_bearer(const char *authorization);
static void read_cookies(struct GwHead *head);
static struct GwSlice media_type(const char *content_type);
static bool is_utf8_or_silent(const char *content_type);
static void list_fields(struct FieldList *list, const struct GwHead *head);
static bool is_credential(struct GwSlice name);
static bool same_name(struct GwSlice a, struct GwSlice b);
static void write_name(struct GwText *out, struct GwSlice name);
static void write_value(struct GwText *out, const struct FieldList *list, size_t first);
static void member(struct GwText *out, const char *name, const char *value);
static void cut_member(struct GwText *out, const char *name, const char *value);
static void slice_member(struct GwText *out, const char *name, struct GwSlice value);

void
gw_head_read(struct GwHead *head, struct GwText *text)
{
	struct GwSlice name, value;
	char *at;

	memset(head, 0, sizeof(*head));
	head->lines = at = read_target(head, text->data);
	while (next_field(&at, &name, &value))
		take_field(head, name, value.data);
	head->is_cut_short = head->joined_for.failed || head->joined_proto.failed;
	find_credential(head);
}

void
gw_head_free(struct GwHead *head)
{
	gw_text_free(&head->joined_for);
	gw_text_free(&head->joined_proto);
}

bool
gw_head_has_body(const struct GwHead *head, uint64_t *declared)
{
	*declared = 0;
	if (head->transfer_encoding != NULL)
		return true;
	if (head->content_length != NULL)
		*declared = strtoull(head->content_length, NULL, 10);
	return *declared > 0;
}

bool
gw_head_is_json(const struct GwHead *head)
{
	struct GwSlice type = media_type(head->content_type);

	if (!is_utf8_or_silent(head->content_type))
		return false;
	if (type.len == 16 && strncasecmp(type.data, "application/json", 16) == 0)
		return true;
	return type.len > 17 && strncasecmp(type.data, "application/", 12) == 0 &&
		   strncasecmp(type.data + type.len - 5, "+json", 5) == 0;
}

bool
gw_head_is_one_of(const struct GwHead *head, char *const *types)
{
	struct GwSlice type = media_type(head->content_type);

	for (; *types != NULL; types++)
		if (strlen(*types) == type.len && strncasecmp(*types, type.data, type.len) == 0)
			return true;
	return false;
}

void
gw_head_caller(const struct GwHead *head, const struct GwClient *client, const char *request_id,
			   const char *traceparent, struct GwText *out)
{
	bool has_bearer = head->via != NULL && strcmp(head->via, "cookie") != 0;

	gw_text_lit(out, "{\"ip\":");
	gw_text_json(out, client->ip, strlen(client->ip));
	cut_member(out, "userAgent", head->user_agent);
	member(out, "requestId", request_id);
	member(out, "traceparent", traceparent);
	member(out, "scheme", client->is_https ? "https" : "http");
	member(out, "via", head->via);
	cut_member(out, "origin", head->origin);
	cut_member(out, "referer", head->referer);
	cut_member(out, "fetchSite", head->fetch_site);
	member(out, "csrf", head->csrf);
	if (!has_bearer)
	{
		slice_member(out, "csrfCookie", head->csrf_cookie);
		slice_member(out, "refreshCookie", head->refresh_cookie);
	}
	slice_member(out, "deviceCookie", head->device_cookie);
	member(out, "idempotencyKey", head->idempotency_key);
	cut_member(out, "contentType", head->content_type);
	cut_member(out, "accept", head->accept);
	cut_member(out, "ifNoneMatch", head->if_none_match);
	gw_text_lit(out, "}");
}

void
gw_head_fields(const struct GwHead *head, struct GwText *out)
{
	struct FieldList list = {0};

	list_fields(&list, head);
	gw_text_lit(out, "{");
	for (size_t i = 0, written = 0; i < list.count; i++)
	{
		size_t first = 0;

		while (!same_name(list.names[first], list.names[i]))
			first++;
		if (first < i)
			continue;
		if (written++ > 0)
			gw_text_lit(out, ",");
		write_name(out, list.names[i]);
		gw_text_lit(out, ":");
		write_value(out, &list, i);
	}
	gw_text_lit(out, "}");
}

/* Takes the request line apart; returns where the fields begin. */
static char *
read_target(struct GwHead *head, char *at)
{
	/* Empty lines may stand before it. */
	at = strchr(at, ' ') + 1;
	head->target = at;
	head->target_len = strcspn(at, " ");
	at += head->target_len;
	*at = '\0';
	return strchr(at + 1, '\n') + 1;
}

/*
 * Takes a line, and ends its value with a NUL, in place of white space or of
 * the line's end; false at the empty line. May read again what it has read.
 */
static bool
next_field(char **at, struct GwSlice *name, struct GwSlice *value)
{
	char *line = *at;
	char *from;
	char *end;

	if (*line == '\r')
		return false;
	end = rawmemchr(line, '\n');
	*at = end + 1;
	from = memchr(line, ':', (size_t) (end - line));
	*name = (struct GwSlice){line, (size_t) (from - line)};
	from++;
	from += strspn(from, " \t");
	while (end > from && (end[-1] == '\r' || end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\0'))
		end--;
	*end = '\0';
	*value = (struct GwSlice){from, (size_t) (end - from)};
	return true;
}

static void
take_field(struct GwHead *head, struct GwSlice name, const char *value)
{
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
	{
		const char **place = (const char **) (void *) ((char *) head + fields[i].offset);

		if (fields[i].len != name.len || strncasecmp(fields[i].name, name.data, name.len) != 0)
			continue;
		if (*place == NULL)
			*place = value;
		else
			repeat_field(head, &fields[i], place, value);
		return;
	}
}

/* A field stands again: lists are joined, of others the first counts, or the request is refused. */
static void
repeat_field(struct GwHead *head, const struct Field *field, const char **place, const char *value)
{
	if (place == &head->forwarded_for)
		*place = join(&head->joined_for, *place, value);
	else if (place == &head->forwarded_proto)
		*place = join(&head->joined_proto, *place, value);
	else if (!field->may_repeat)
		head->repeated = field->name;
}

static const char *
join(struct GwText *text, const char *first, const char *more)
{
	if (text->len == 0)
		gw_text_puts(text, first);
	else
		text->len--;
	gw_text_lit(text, ",");
	gw_text_add(text, more, strlen(more) + 1);
	return text->failed ? first : text->data;
}

/* An Authorization field comes before X-API-Key, and both before the cookie, which is then not looked at. */
static void
find_credential(struct GwHead *head)
{
	const char *bearer = skip_bearer(head->authorization);

	if (head->cookie != NULL)
		read_cookies(head);
	if (bearer != NULL)
	{
		head->credential = (struct GwSlice){bearer, strlen(bearer)};
		head->via = strncmp(bearer, "ks_", 3) == 0 ? "api_key" : "bearer";
	}
	else if (head->api_key != NULL)
	{
		head->credential = (struct GwSlice){head->api_key, strlen(head->api_key)};
		head->via = "api_key";
	}
	else if (head->access_cookie.data != NULL)
	{
		head->credential = head->access_cookie;
		head->via = "cookie";
	}
	/* A token is printable ASCII; anything else is none, and the database shall not choke on it. */
	if (gw_text_solid(head->credential.data, head->credential.len) < head->credential.len)
		head->credential.len = 0;
}

/* The token of "Bearer <token>", or NULL for another scheme. */
static const char *
skip_bearer(const char *authorization)
{
	if (authorization == NULL || strncasecmp(authorization, "Bearer", 6) != 0)
		return NULL;
	authorization += 6;
	if (*authorization != ' ' && *authorization != '\0')
		return NULL;
	return authorization + strspn(authorization, " ");
}

static void
read_cookies(struct GwHead *head)
{
	static const struct
	{
		const char *name;
		size_t offset;
	} names[] = {
		{"__Host-ks_access", offsetof(struct GwHead, access_cookie)},
		{"__Host-ks_csrf", offsetof(struct GwHead, csrf_cookie)},
		{"__Host-ks_device", offsetof(struct GwHead, device_cookie)},
		{"__Host-ks_refresh", offsetof(struct GwHead, refresh_cookie)},
	};

	for (const char *at = head->cookie; *at != '\0';)
	{
		size_t name_len;
		size_t len;

		at += strspn(at, " ;");
		name_len = strcspn(at, "=;");
		len = strcspn(at, ";");
		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && name_len < len; i++)
		{
			struct GwSlice *place = (struct GwSlice *) (void *) ((char *) head + names[i].offset);

			if (place->data == NULL && strlen(names[i].name) == name_len && strncmp(names[i].name, at, name_len) == 0)
				*place = (struct GwSlice){at + name_len + 1, len - name_len - 1};
		}
		at += len;
	}
}

/* The type/subtype of a Content-Type value, without parameters. */
static struct GwSlice
media_type(const char *content_type)
{
	struct GwSlice type = {"", 0};

	if (content_type == NULL)
		return type;
	type.data = content_type;
	type.len = strcspn(content_type, ";");
	while (type.len > 0 && (type.data[type.len - 1] == ' ' || type.data[type.len - 1] == '\t'))
		type.len--;
	return type;
}

/* Whether a content type names no charset, or the only one that JSON has. */
static bool
is_utf8_or_silent(const char *content_type)
{
	const char *at = content_type == NULL ? "" : content_type;

	while (*(at += strcspn(at, ";")) != '\0')
	{
		at += strspn(at, "; \t");
		if (strncasecmp(at, "charset=", 8) != 0)
			continue;
		at += at[8] == '"' ? 9 : 8;
		return strncasecmp(at, "utf-8", 5) == 0 && strchr("\"; \t", at[5]) != NULL;
	}
	return true;
}

static void
list_fields(struct FieldList *list, const struct GwHead *head)
{
	char *at = head->lines;

	while (list->count < GW_FIELDS_MAX && next_field(&at, &list->names[list->count], &list->values[list->count]))
		if (!is_credential(list->names[list->count]))
			list->count++;
}

static bool
is_credential(struct GwSlice name)
{
	for (size_t i = 0; i < sizeof(credentials) / sizeof(credentials[0]); i++)
		if (same_name(name, (struct GwSlice){credentials[i], strlen(credentials[i])}))
			return true;
	return false;
}

static bool
same_name(struct GwSlice a, struct GwSlice b)
{
	return a.len == b.len && strncasecmp(a.data, b.data, a.len) == 0;
}

/* Appends the name of a field, which is a token, in small letters. */
static void
write_name(struct GwText *out, struct GwSlice name)
{
	gw_text_lit(out, "\"");
	for (size_t i = 0; i < name.len; i++)
	{
		char letter = name.data[i];

		if (letter >= 'A' && letter <= 'Z')
			letter += 'a' - 'A';
		gw_text_add(out, &letter, 1);
	}
	gw_text_lit(out, "\"");
}

/* Appends the value of the field, with those of its repetitions. */
static void
write_value(struct GwText *out, const struct FieldList *list, size_t first)
{
	struct GwText joined = {0};

	gw_text_add(&joined, list->values[first].data, list->values[first].len);
	for (size_t i = first + 1; i < list->count; i++)
		if (same_name(list->names[i], list->names[first]))
		{
			gw_text_lit(&joined, ", ");
			gw_text_add(&joined, list->values[i].data, list->values[i].len);
		}
	out->failed = out->failed || joined.failed;
	gw_text_json(out, joined.len > 0 ? joined.data : "", joined.len);
	gw_text_free(&joined);
}

static void
member(struct GwText *out, const char *name, const char *value)
{
	if (value != NULL)
		slice_member(out, name, (struct GwSlice){value, strlen(value)});
}

static void
cut_member(struct GwText *out, const char *name, const char *value)
{
	if (value != NULL)
		slice_member(out, name, (struct GwSlice){value, strnlen(value, RECORD_MAX)});
}

static void
slice_member(struct GwText *out, const char *name, struct GwSlice value)
{
	if (value.data == NULL)
		return;
	gw_text_lit(out, ",\"");
	gw_text_puts(out, name);
	gw_text_lit(out, "\":");
	gw_text_json(out, value.data, value.len);
}
