/*
 * head.h
 *	  The header fields of a request that the gateway reads, and what they say.
 */
#ifndef GW_HEAD_H
#define GW_HEAD_H

#include "client.h"
#include "text.h"

/* Values point into the text that was read; NULL: absent. */
struct GwHead
{
	const char *target;
	size_t target_len;
	char *lines; /* the first field's, see gw_head_fields() */
	const char *accept;
	const char *accept_encoding;
	const char *api_key;
	const char *authorization;
	const char *content_length;
	const char *content_type;
	const char *cookie;
	const char *csrf;
	const char *fetch_site;
	const char *forwarded_for;
	const char *forwarded_proto;
	const char *idempotency_key;
	const char *if_none_match;
	const char *origin;
	const char *referer;
	const char *request_id;
	const char *traceparent;
	const char *transfer_encoding;
	const char *user_agent;
	/* of the Cookie field: */
	struct GwSlice access_cookie;
	struct GwSlice csrf_cookie;
	struct GwSlice device_cookie;
	struct GwSlice refresh_cookie;
	/* the credential and how it came ("bearer", "api_key", "cookie"); data and via NULL: none */
	struct GwSlice credential;
	const char *via;
	const char *repeated;                   /* name of a field that may stand once and stands twice */
	bool is_cut_short;                      /* no memory */
	struct GwText joined_for, joined_proto; /* X-Forwarded-* that stood several times */
};

/*
 * Reads a head that the guard has found good, and writes NULs into it, which
 * must stay as long as "head" is used.  gw_head_free() is due afterwards.
 */
void gw_head_read(struct GwHead *head, struct GwText *text);
void gw_head_free(struct GwHead *head);

/* Says whether a body follows, and its declared length (0 when it is chunked). */
bool gw_head_has_body(const struct GwHead *head, uint64_t *declared);

/* Says whether the Content-Type is JSON, or one of a NULL-terminated list. */
bool gw_head_is_json(const struct GwHead *head);
bool gw_head_is_one_of(const struct GwHead *head, char *const *types);

/* Appends the caller argument of keelson.dispatch(), a JSON object. */
void gw_head_caller(const struct GwHead *head, const struct GwClient *client, const char *request_id,
					const char *traceparent, struct GwText *out);

/*
 * Appends the request's header fields as a JSON object, names in small letters,
 * a field that stands several times joined with commas. Credentials are left
 * out, and what comes after the first GW_FIELDS_MAX.
 */
#define GW_FIELDS_MAX 64
void gw_head_fields(const struct GwHead *head, struct GwText *out);

#endif
