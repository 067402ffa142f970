/*
 * headers: what every reply carries, and the headers that the database adds.
 */
#ifndef GW_HEADERS_H
#define GW_HEADERS_H

#include "json.h"
#include "reply.h"

#define GW_HEADERS_MAX 32

/* The reply headers of the database, taken apart once. Slices of the text given to gw_headers_read. */
struct GwHeaders
{
	struct GwJsonMember items[GW_HEADERS_MAX];
	size_t n;
	bool is_raw;               /* ":raw" */
	struct GwSlice pagination; /* ":pagination", JSON text, or empty */
	bool has_content_type, has_cache_control, has_csp, has_retry_after, has_authenticate;
	struct GwSlice vary, etag; /* raw JSON strings */
};

#define GW_CSP_JSON "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
#define GW_JSON_TYPE "application/json; charset=utf-8"
#define GW_PROBLEM_TYPE "application/problem+json; charset=utf-8"

/* Takes the JSON text (len 0: none) apart; user ids go to note. What is not an object counts as none. */
void gw_headers_read(struct GwHeaders *headers, const char *json, size_t len, struct GwNote *note);

/* How a reply's headers differ from one to the next. Strings may be NULL: the default, or none. */
struct GwHeaderSet
{
	int status;
	const char *content_type; /* NULL: there is no body */
	const char *cache_control;
	const char *csp;
	const char *allow;
	const char *encoding;
	bool is_compressible;          /* says Vary: Accept-Encoding */
	int retry_after;               /* seconds, 0 = none */
	const struct GwHeaders *given; /* by the database; they win over ours */
};

/* Writes all fields of a new reply to ask->fields, but those that the library writes. */
void gw_headers_write(const struct GwAsk *ask, const struct GwHeaderSet *set);

/* Writes one more. A value that could break the head is left out. */
void gw_headers_write_one(const struct GwAsk *ask, const char *name, const char *value);

/* Writes the CORS fields of an answer to OPTIONS where the origin is allowed. */
void gw_headers_write_preflight(const struct GwAsk *ask, const char *allow);

#endif
