/*
 * reply: the only place where a reply's body and headers are made.
 *
 * Every function returns the MHD_Response that the caller queues with note->status
 * and then drops (gw_reply_drop), or NULL when memory is short: the caller then
 * closes the connection. The header fields go to ask->fields and the body to
 * ask->body, in place of what was there: the library gets a response without
 * either, and gw_guard_put_reply() sends them. Everything passed in is copied.
 * Thread-safe: what is kept (those responses, a compressor) is kept by each thread.
 */
#ifndef GW_REPLY_H
#define GW_REPLY_H

#include <libpq-fe.h>
#include <microhttpd.h>

#include "client.h"
#include "config.h"
#include "errors.h"
#include "router.h"

/* What a reply must know of its request. Lives in the request. */
struct GwAsk
{
	const struct GwConfig *config;
	const char *request_id;      /* 36 characters */
	const char *origin;          /* Origin header or NULL */
	const struct GwRoute *route; /* or NULL */
	struct GwText *fields;       /* where the reply's header fields are written, */
	struct GwText *body;         /* and its body, for gw_guard_put_reply */
	bool accepts_gzip;           /* see gw_accepts_gzip */
	bool accepts_problem;        /* see gw_accepts_problem */
	bool is_https;               /* client's scheme */
	bool has_credential;         /* any credential came with it, valid or not */
	bool closes;                 /* add "Connection: close" (draining, unread body) */
};

/* What was made, for MHD_queue_response, log and metrics. */
struct GwNote
{
	int status;
	size_t bytes;               /* of the body */
	char code[48];              /* error code, empty for none */
	char user_id[GW_UUID_SIZE]; /* ":user" of the reply's headers, else empty */
	int hold_ms;                /* ":hold": so long the same caller would be refused the same, 0 = unknown */
	bool holds_address;         /* ":holdAddress": whatever is asked, from this address */
	int wait_ms, wait_most_ms;  /* ":wait": there may be room then; so long it may take altogether */
};

/* Lets go of a response that was returned. */
void gw_reply_drop(struct MHD_Response *response);

/* Frees what the calling thread keeps; a loop calls it before its thread ends. */
void gw_reply_end(void);

/* Reads Accept-Encoding (NULL allowed): gzip with a q above 0. */
bool gw_accepts_gzip(const char *accept_encoding);

/* Reads Accept: application/problem+json named with a q above 0. */
bool gw_accepts_problem(const char *accept);

/* From a row of keelson.dispatch: status, headers (JSON text, len 0 = null), body (len 0 and NULL = null). */
struct MHD_Response *gw_reply_row(const struct GwAsk *ask, int status,
								  const char *headers, size_t headers_len,
								  const char *body, size_t body_len, struct GwNote *note);

/* An error of the database, as far as a reply depends on it. Strings may be NULL. */
struct GwSqlError
{
	const char *sqlstate; /* NULL: the connection died */
	const char *code;     /* CONSTRAINT NAME */
	const char *message;
	const char *hint;
	const char *field;   /* COLUMN NAME, snake_case */
	const char *headers; /* DATATYPE NAME: JSON, as in gw_reply_row */
};

/* From an error's fields. */
struct MHD_Response *gw_reply_sql_error(const struct GwAsk *ask, const struct GwSqlError *error, struct GwNote *note);

/* From a failed PGresult; NULL result: the connection died. The caller has done the retries and logs the detail. */
struct MHD_Response *gw_reply_error(const struct GwAsk *ask, const PGresult *result, struct GwNote *note);

/* Appends an error of ours (GW_SQL_CLIENT) as an object without the envelope, for a reply that goes on. */
void gw_reply_write_error(struct GwText *text, const PGresult *result);

/*
 * The gateway's own refusal. message NULL: the code's usual one. allow: value of
 * an Allow header or NULL.
 */
struct MHD_Response *gw_reply_refusal(const struct GwAsk *ask, enum GwCode code, const char *message,
									  const char *allow, struct GwNote *note);

/* 200 (or status) with the envelope around data, JSON text, for built-in endpoints. */
struct MHD_Response *gw_reply_data(const struct GwAsk *ask, int status, const char *data, size_t len,
								   struct GwNote *note);

/* A body without envelope. content_type with charset; cache_control NULL: no-store; csp NULL: the one for JSON. */
struct MHD_Response *gw_reply_plain(const struct GwAsk *ask, int status, const char *content_type,
									const char *cache_control, const char *csp,
									const char *body, size_t len, struct GwNote *note);

/* The answer to OPTIONS: 204 with Allow, and CORS if the origin is allowed. */
struct MHD_Response *gw_reply_options(const struct GwAsk *ask, const char *allow, struct GwNote *note);

/* 308 to the https form of the target (KEELSON_TLS=proxy and a plain GET). target is the raw one. */
struct MHD_Response *gw_reply_upgrade(const struct GwAsk *ask, const char *target, struct GwNote *note);

/*
 * A streamed body: callback, cls, free_cls as for MHD_create_response_from_callback
 * (of unknown size); cls is freed by free_cls in every case, NULL returned or not. headers as in gw_reply_row; the Content-Type in it counts, else content_type.
 */
struct MHD_Response *gw_reply_stream(const struct GwAsk *ask, int status, const char *content_type,
									 const char *headers, size_t headers_len,
									 MHD_ContentReaderCallback callback, void *cls,
									 MHD_ContentReaderFreeCallback free_cls, struct GwNote *note);

/*
 * A whole raw HTTP reply (head and JSON error body) for the guard, written
 * without the library; ends with "Connection: close". Returns its length, 0 if it does not fit.
 */
size_t gw_reply_raw_refusal(char *out, size_t size, const struct GwConfig *config, int status,
							const char *code, const char *message, const char *request_id);

#endif
