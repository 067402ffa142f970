/*
 * reply: the only place where a reply's body is made.
 *
 * A body is assembled once, in the memory that it is sent from. Errors are
 * assembled as members ("error", "code", …) first, from whatever source, and
 * then closed in one of two forms: our envelope, or RFC 9457.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gzip.h"
#include "headers.h"
#include "reply.h"

#define ENVELOPE_SIZE 256 /* more than the envelope adds to a body */

/* Of this thread, for all replies whose body the library does not make: by what becomes of the connection. NULL until needed. */
static _Thread_local struct MHD_Response *keeping, *closing;

static void write_meta(struct GwText *body, const struct GwAsk *ask, struct GwSlice pagination);
static void write_error(struct GwText *members, const char *message, const char *code);
static void close_error(struct GwText *body, const struct GwAsk *ask, int status, const char *members, size_t len);
static void close_problem(struct GwText *body, const struct GwAsk *ask, int status, const char *members, size_t len);
static struct MHD_Response *reply_error_members(const struct GwAsk *ask, struct GwHeaderSet *set,
												struct GwText *members, struct GwNote *note);
static void write_client_error(struct GwText *members, const struct GwSqlError *error, int status);
static struct GwSqlError error_of(const PGresult *result);
static struct GwText *begin(const struct GwAsk *ask, size_t len);
static struct MHD_Response *finish(const struct GwAsk *ask, struct GwHeaderSet *set, struct GwNote *note);
static void compress(struct GwText *body, struct GwHeaderSet *set);
static struct MHD_Response *bodiless(const struct GwAsk *ask);
static bool says_close(struct MHD_Response *response, const struct GwAsk *ask);
static struct MHD_Response *reply_raw(const struct GwAsk *ask, struct GwHeaderSet *set,
									  const char *body, size_t len, struct GwNote *note);
static bool is_accepted(const char *list, const char *name, bool with_any);

bool
gw_accepts_gzip(const char *accept_encoding)
{
	return accept_encoding != NULL && is_accepted(accept_encoding, "gzip", true);
}

bool
gw_accepts_problem(const char *accept)
{
	return accept != NULL && is_accepted(accept, "application/problem+json", false);
}

/* Whether the list names it with a weight above 0; "*" counts if with_any and it is not named itself. */
static bool
is_accepted(const char *list, const char *name, bool with_any)
{
	size_t name_len = strlen(name);
	bool any = false;

	while (*list != '\0')
	{
		size_t len;
		const char *q;
		bool is_zero = false;

		list += strspn(list, ", \t");
		len = strcspn(list, ",");
		q = memchr(list, ';', len);
		while (q != NULL)
		{
			q++;
			q += strspn(q, " \t");
			if ((q[0] == 'q' || q[0] == 'Q') && q[1] == '=')
				is_zero = q[2] == '0' && strcspn(q + 2, "123456789") >= strcspn(q + 2, ",; \t");
			q = memchr(q, ';', (size_t) (list + len - q));
		}
		if (strncasecmp(list, name, name_len) == 0 && strchr(",; \t", list[name_len]) != NULL)
			return !is_zero;
		any |= list[0] == '*' && !is_zero;
		list += len;
	}
	return any && with_any;
}

struct MHD_Response *
gw_reply_row(const struct GwAsk *ask, int status, const char *headers, size_t headers_len,
			 const char *body, size_t body_len, struct GwNote *note)
{
	struct GwHeaders given;
	struct GwHeaderSet set = {.given = &given};
	struct GwText *text;

	memset(note, 0, sizeof(*note));
	gw_headers_read(&given, headers, headers_len, note);
	note->status = set.status = status >= 200 && status <= 599 ? status : 500;
	if (given.is_raw || status == 204 || status == 304 || (status >= 300 && status < 400 && body_len == 0))
		return reply_raw(ask, &set, body, body_len, note);
	if (set.status >= 400)
	{
		const char *open = body_len > 0 ? memchr(body, '{', body_len) : NULL;
		const char *close = body_len > 0 ? memrchr(body, '}', body_len) : NULL;
		struct GwText members = {0};

		if (open != NULL && close != NULL && set.status == status)
			gw_text_add(&members, open + 1, (size_t) (close - open) - 1);
		else
			write_error(&members, gw_fault(GW_INTERNAL)->message, gw_status_code(set.status));
		return reply_error_members(ask, &set, &members, note);
	}
	text = begin(ask, body_len + given.pagination.len + ENVELOPE_SIZE);
	gw_text_lit(text, "{\"success\":true,\"data\":");
	if (body_len > 0)
		gw_text_add(text, body, body_len);
	else
		gw_text_lit(text, "null");
	write_meta(text, ask, given.pagination);
	set.content_type = GW_JSON_TYPE;
	return finish(ask, &set, note);
}

/* A body as the database made it, or none. */
static struct MHD_Response *
reply_raw(const struct GwAsk *ask, struct GwHeaderSet *set, const char *body, size_t len, struct GwNote *note)
{
	struct GwJsonMember code;

	if (set->status == 204 || set->status == 304)
		len = 0;
	gw_text_add(begin(ask, len), body, len);
	if (len > 0)
		set->content_type = "application/octet-stream";
	if (set->status >= 400 && len > 0 && gw_json_find(body, len, "code", &code) && code.type == GW_JSON_STRING)
		gw_json_decode(code.raw, note->code, sizeof(note->code));
	return finish(ask, set, note);
}

/* Closes a body that is open behind its data: `,"meta":{…}}`. */
static void
write_meta(struct GwText *body, const struct GwAsk *ask, struct GwSlice pagination)
{
	gw_text_lit(body, ",\"meta\":{\"requestId\":\"");
	gw_text_add(body, ask->request_id, GW_UUID_SIZE - 1);
	gw_text_lit(body, "\",\"timestamp\":\"");
	gw_text_time(body, gw_unix_us());
	gw_text_lit(body, "\"");
	if (pagination.len > 0)
	{
		gw_text_lit(body, ",\"pagination\":");
		gw_text_add(body, pagination.data, pagination.len);
	}
	gw_text_lit(body, "}}");
}

static void
write_error(struct GwText *members, const char *message, const char *code)
{
	gw_text_lit(members, "\"error\":");
	gw_text_json(members, message, strlen(message));
	gw_text_lit(members, ",\"code\":");
	gw_text_json(members, code, strlen(code));
}

/* Makes the error reply from its members; frees them. Sets what follows from status and code. */
static struct MHD_Response *
reply_error_members(const struct GwAsk *ask, struct GwHeaderSet *set, struct GwText *members, struct GwNote *note)
{
	struct GwText whole = {0};
	struct GwText *body;
	struct GwJsonMember code;

	gw_text_reserve(&whole, members->len + 2);
	gw_text_lit(&whole, "{");
	gw_text_add(&whole, members->data, members->len);
	gw_text_lit(&whole, "}");
	if (members->failed || whole.failed)
	{
		gw_text_free(members);
		gw_text_free(&whole);
		return NULL;
	}
	if (gw_json_find(whole.data, whole.len, "code", &code) && code.type == GW_JSON_STRING)
		gw_json_decode(code.raw, note->code, sizeof(note->code));
	if (note->code[0] == '\0')
		snprintf(note->code, sizeof(note->code), "%s", gw_status_code(set->status));
	if ((set->status == 503 || set->status == 429) && set->retry_after == 0)
		set->retry_after = 1;
	body = begin(ask, whole.len + 2 * ENVELOPE_SIZE);
	if (ask->accepts_problem)
	{
		set->content_type = GW_PROBLEM_TYPE;
		close_problem(body, ask, set->status, whole.data, whole.len);
	}
	else
	{
		set->content_type = GW_JSON_TYPE;
		close_error(body, ask, set->status, members->data, members->len);
	}
	gw_text_free(members);
	gw_text_free(&whole);
	return finish(ask, set, note);
}

static void
close_error(struct GwText *body, const struct GwAsk *ask, int status, const char *members, size_t len)
{
	gw_text_lit(body, "{\"success\":false,");
	if (len > 0)
		gw_text_add(body, members, len);
	else
		write_error(body, gw_status_title(status), gw_status_code(status));
	write_meta(body, ask, (struct GwSlice){"", 0});
}

/* RFC 9457: "error" becomes the detail, other members stay extensions. members is a whole object. */
static void
close_problem(struct GwText *body, const struct GwAsk *ask, int status, const char *members, size_t len)
{
	struct GwJsonCursor cursor;
	struct GwJsonMember member;
	enum GwJsonType type;
	char code[48];

	/* A code is capitals, digits and underscores: only that may stand in a URI. */
	if (!gw_json_find(members, len, "code", &member) || gw_json_decode(member.raw, code, sizeof(code)) <= 0 ||
		code[strspn(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] != '\0')
		snprintf(code, sizeof(code), "%s", gw_status_code(status));
	gw_text_lit(body, "{\"type\":\"");
	if (status == 429)
		gw_text_lit(body, "https://iana.org/assignments/http-problem-types#quota-exceeded");
	else if (status == 503 && gw_json_find(members, len, "violated-policies", &member))
		gw_text_lit(body, "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity");
	else
	{
		gw_text_puts(body, ask->config->public_url);
		gw_text_lit(body, "/problems/");
		gw_text_puts(body, code);
	}
	gw_text_lit(body, "\",\"title\":");
	gw_text_json(body, gw_status_title(status), strlen(gw_status_title(status)));
	gw_text_lit(body, ",\"status\":");
	gw_text_int(body, status);
	gw_text_lit(body, ",\"instance\":\"");
	gw_text_puts(body, ask->request_id);
	gw_text_lit(body, "\"");
	gw_json_open(&cursor, members, len);
	while ((type = gw_json_next(&cursor, &member)) != GW_JSON_END && type != GW_JSON_BROKEN)
	{
		if (gw_slice_is(member.name, "error"))
			gw_text_lit(body, ",\"detail\":");
		else
		{
			gw_text_lit(body, ",\"");
			gw_text_add(body, member.name.data, member.name.len);
			gw_text_lit(body, "\":");
		}
		if (type == GW_JSON_STRING)
			gw_text_add(body, member.raw.data - 1, member.raw.len + 2);
		else
			gw_text_add(body, member.raw.data, member.raw.len);
	}
	gw_text_lit(body, "}");
}

/* Begins the body in place of an older one, with room for so much. */
static struct GwText *
begin(const struct GwAsk *ask, size_t len)
{
	ask->body->len = 0;
	ask->body->failed = false;
	gw_text_reserve(ask->body, len);
	return ask->body;
}

/* The response for a finished body, which is compressed where that is wanted; with its header fields. */
static struct MHD_Response *
finish(const struct GwAsk *ask, struct GwHeaderSet *set, struct GwNote *note)
{
	struct GwText *body = ask->body;

	if (body->failed)
		return NULL;
	/* 304 says of the stored reply what that one said. */
	set->is_compressible = body->len > GW_GZIP_MIN || set->status == 304;
	if (set->is_compressible && ask->accepts_gzip)
		compress(body, set);
	note->bytes = body->len;
	gw_headers_write(ask, set);
	return bodiless(ask);
}

static void
compress(struct GwText *body, struct GwHeaderSet *set)
{
	size_t size = body->len;
	size_t len;
	char *packed = gw_gzip(body->data, size, &len);

	if (packed == NULL)
		return;
	gw_text_free(body);
	*body = (struct GwText){.data = packed, .len = len, .size = size};
	set->encoding = "gzip";
}

/* The thread's response of no body, made when it is needed first; NULL if there is no memory for it, or was none for the fields. */
static struct MHD_Response *
bodiless(const struct GwAsk *ask)
{
	struct MHD_Response **place = ask->closes ? &closing : &keeping;

	if (ask->fields->failed)
		return NULL;
	if (*place == NULL)
		*place = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	if (*place == NULL || says_close(*place, ask))
		return *place;
	MHD_destroy_response(*place);
	*place = NULL;
	return NULL;
}

/* Has the library close the connection, if that is wanted; false if there is no memory for it. */
static bool
says_close(struct MHD_Response *response, const struct GwAsk *ask)
{
	return !ask->closes || MHD_get_response_header(response, "Connection") != NULL ||
		   MHD_add_response_header(response, "Connection", "close") == MHD_YES;
}

void
gw_reply_drop(struct MHD_Response *response)
{
	if (response != NULL && response != keeping && response != closing)
		MHD_destroy_response(response);
}

void
gw_reply_end(void)
{
	if (keeping != NULL)
		MHD_destroy_response(keeping);
	if (closing != NULL)
		MHD_destroy_response(closing);
	keeping = closing = NULL;
}

struct MHD_Response *
gw_reply_error(const struct GwAsk *ask, const PGresult *result, struct GwNote *note)
{
	struct GwSqlError error = error_of(result);

	return gw_reply_sql_error(ask, &error, note);
}

void
gw_reply_write_error(struct GwText *text, const PGresult *result)
{
	struct GwSqlError error = error_of(result);

	gw_text_lit(text, "{");
	write_client_error(text, &error, gw_sql_status(error.sqlstate));
	gw_text_lit(text, "}");
}

static struct GwSqlError
error_of(const PGresult *result)
{
	if (result == NULL)
		return (struct GwSqlError){0};
	return (struct GwSqlError){
		.sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE),
		.code = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME),
		.message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY),
		.hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT),
		.field = PQresultErrorField(result, PG_DIAG_COLUMN_NAME),
		.headers = PQresultErrorField(result, PG_DIAG_DATATYPE_NAME),
	};
}

struct MHD_Response *
gw_reply_sql_error(const struct GwAsk *ask, const struct GwSqlError *error, struct GwNote *note)
{
	enum GwSqlClass sql_class = gw_sql_class(error->sqlstate);
	const struct GwFault *fault = gw_fault(gw_sql_code(sql_class));
	struct GwHeaders given;
	struct GwHeaderSet set = {.given = &given};
	struct GwText members = {0};

	memset(note, 0, sizeof(*note));
	gw_headers_read(&given, error->headers, error->headers != NULL ? strlen(error->headers) : 0, note);
	note->status = set.status = sql_class == GW_SQL_CLIENT ? gw_sql_status(error->sqlstate) : fault->status;
	if (sql_class == GW_SQL_CLIENT)
		write_client_error(&members, error, set.status);
	else
	{
		set.retry_after = fault->retry_after;
		write_error(&members, fault->message, fault->code);
	}
	return reply_error_members(ask, &set, &members, note);
}

/* Appends a field's name as clients know it: camelCase. */
static void
write_field(struct GwText *text, const char *name)
{
	char camel[64];
	size_t len = 0;

	for (; *name != '\0' && len < sizeof(camel); name++)
		if (name[0] == '_' && islower((unsigned char) name[1]) && len > 0)
			camel[len++] = (char) toupper((unsigned char) *++name);
		else
			camel[len++] = *name;
	gw_text_json(text, camel, len);
}

static bool
is_given(const char *string)
{
	return string != NULL && string[0] != '\0';
}

/* Appends the members of an error of ours: its fields, written for the client. */
static void
write_client_error(struct GwText *members, const struct GwSqlError *error, int status)
{
	const char *code = is_given(error->code) ? error->code : gw_status_code(status);
	char *sentence = strdup(is_given(error->message) ? error->message : gw_status_title(status));

	if (sentence == NULL)
	{
		members->failed = true;
		return;
	}
	sentence[0] = (char) toupper((unsigned char) sentence[0]);
	write_error(members, sentence, code);
	if (is_given(error->field))
	{
		gw_text_lit(members, ",\"details\":[{\"field\":");
		write_field(members, error->field);
		gw_text_lit(members, ",\"code\":");
		gw_text_json(members, code, strlen(code));
		gw_text_lit(members, ",\"message\":");
		gw_text_json(members, sentence, strlen(sentence));
		gw_text_lit(members, "}]");
	}
	if (is_given(error->hint))
	{
		gw_text_lit(members, ",\"hint\":");
		gw_text_json(members, error->hint, strlen(error->hint));
	}
	free(sentence);
}

struct MHD_Response *
gw_reply_refusal(const struct GwAsk *ask, enum GwCode code, const char *message, const char *allow, struct GwNote *note)
{
	const struct GwFault *fault = gw_fault(code);
	struct GwHeaderSet set = {.status = fault->status, .allow = allow, .retry_after = fault->retry_after};
	struct GwText members = {0};

	memset(note, 0, sizeof(*note));
	note->status = fault->status;
	write_error(&members, message != NULL ? message : fault->message, fault->code);
	return reply_error_members(ask, &set, &members, note);
}

struct MHD_Response *
gw_reply_data(const struct GwAsk *ask, int status, const char *data, size_t len, struct GwNote *note)
{
	return gw_reply_row(ask, status, NULL, 0, data, len, note);
}

struct MHD_Response *
gw_reply_plain(const struct GwAsk *ask, int status, const char *content_type, const char *cache_control,
			   const char *csp, const char *body, size_t len, struct GwNote *note)
{
	struct GwHeaderSet set = {.status = status, .content_type = content_type, .cache_control = cache_control, .csp = csp};

	memset(note, 0, sizeof(*note));
	note->status = status;
	gw_text_add(begin(ask, len), body, len);
	return finish(ask, &set, note);
}

struct MHD_Response *
gw_reply_options(const struct GwAsk *ask, const char *allow, struct GwNote *note)
{
	struct GwHeaderSet set = {.status = 204, .allow = allow};

	memset(note, 0, sizeof(*note));
	note->status = 204;
	begin(ask, 0);
	gw_headers_write(ask, &set);
	gw_headers_write_preflight(ask, allow);
	return bodiless(ask);
}

struct MHD_Response *
gw_reply_upgrade(const struct GwAsk *ask, const char *target, struct GwNote *note)
{
	struct GwHeaderSet set = {.status = 308};
	struct GwText location = {0};
	const char *url = ask->config->public_url;
	const char *host = strstr(url, "://");
	char *value;

	memset(note, 0, sizeof(*note));
	note->status = 308;
	gw_text_lit(&location, "https://");
	gw_text_puts(&location, host != NULL ? host + 3 : url);
	if (target[0] != '/')
		gw_text_lit(&location, "/");
	else
		gw_text_puts(&location, target);
	value = gw_text_take(&location, NULL);
	if (value == NULL)
		return NULL;
	begin(ask, 0);
	gw_headers_write(ask, &set);
	gw_headers_write_one(ask, "Location", value);
	free(value);
	return bodiless(ask);
}

struct MHD_Response *
gw_reply_stream(const struct GwAsk *ask, int status, const char *content_type, const char *headers, size_t headers_len,
				MHD_ContentReaderCallback callback, void *cls, MHD_ContentReaderFreeCallback free_cls, struct GwNote *note)
{
	struct GwHeaders given;
	struct GwHeaderSet set = {.status = status, .content_type = content_type, .given = &given};
	struct MHD_Response *response;

	memset(note, 0, sizeof(*note));
	note->status = status;
	gw_headers_read(&given, headers, headers_len, note);
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32768, callback, cls, free_cls);
	if (response == NULL && free_cls != NULL)
		free_cls(cls);
	gw_headers_write(ask, &set);
	if (response == NULL || (!ask->fields->failed && says_close(response, ask)))
		return response;
	MHD_destroy_response(response);
	return NULL;
}

size_t
gw_reply_raw_refusal(char *out, size_t size, const struct GwConfig *config, int status,
					 const char *code, const char *message, const char *request_id)
{
	struct GwText body = {0};
	char date[GW_DATE_SIZE];
	int len = -1;

	gw_date_write(date, time(NULL));
	gw_text_lit(&body, "{\"success\":false,");
	write_error(&body, message, code);
	gw_text_lit(&body, ",\"meta\":{\"requestId\":\"");
	gw_text_puts(&body, request_id);
	gw_text_lit(&body, "\",\"timestamp\":\"");
	gw_text_time(&body, gw_unix_us());
	gw_text_lit(&body, "\"}}");
	if (!body.failed)
		len = snprintf(out, size,
					   "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: " GW_JSON_TYPE "\r\nContent-Length: %zu\r\nConnection: close\r\n"
					   "X-Request-ID: %s\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
					   "Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n"
					   "Content-Security-Policy: " GW_CSP_JSON "\r\nCache-Control: no-store\r\n%s%s%s\r\n%.*s",
					   status, gw_status_title(status), date, body.len, request_id,
					   config != NULL && config->sends_hsts ? "Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n" : "",
					   status == 405 ? "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" : "",
					   status == 503 ? "Retry-After: 1\r\n" : "", (int) body.len, body.data);
	gw_text_free(&body);
	return len > 0 && (size_t) len < size ? (size_t) len : 0;
}
