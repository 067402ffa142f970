/*
 * errors: every refusal that the gateway itself can give, and what an SQLSTATE
 * means to a client. The only place where a SQLSTATE becomes a status.
 */
#ifndef GW_ERRORS_H
#define GW_ERRORS_H

#include <stdbool.h>

enum GwCode
{
	GW_BAD_REQUEST,
	GW_MALFORMED_JSON,
	GW_VALIDATION_FAILED,
	GW_UNAUTHENTICATED,
	GW_FORBIDDEN,
	GW_HTTPS_REQUIRED,
	GW_NOT_FOUND,
	GW_METHOD_NOT_ALLOWED,
	GW_REQUEST_TIMEOUT,
	GW_CONFLICT,
	GW_PAYLOAD_TOO_LARGE,
	GW_URI_TOO_LONG,
	GW_UNSUPPORTED_MEDIA_TYPE,
	GW_TOO_MANY_STREAMS, /* of one address; Retry-After */
	GW_HEADERS_TOO_LARGE,
	GW_INTERNAL,
	GW_UNAVAILABLE, /* the database is away or not ready; Retry-After */
	GW_OVERLOADED,  /* UNAVAILABLE because a queue is full; Retry-After */
	GW_TIMEOUT,
	GW_CODES
};

struct GwFault
{
	int status;
	const char *code;    /* as the client sees it */
	const char *message; /* for a person */
	int retry_after;     /* seconds, 0 = no header */
};

const struct GwFault *gw_fault(enum GwCode code);

/* What became of a call that ended with an SQLSTATE. */
enum GwSqlClass
{
	GW_SQL_CLIENT,      /* KSnnn: status, code and message come from the error's fields */
	GW_SQL_RETRY,       /* 40001, 40P01: again, up to 3 times, then UNAVAILABLE */
	GW_SQL_UNAVAILABLE, /* 25006, 53xxx, 57P0x, 08xxx */
	GW_SQL_TIMEOUT,     /* 57014 */
	GW_SQL_INTERNAL
};

/* sqlstate: five characters, or NULL (the connection died): unavailable. */
enum GwSqlClass gw_sql_class(const char *sqlstate);

/* The gateway's own refusal for a class (INTERNAL, UNAVAILABLE, TIMEOUT; INTERNAL for GW_SQL_CLIENT). */
enum GwCode gw_sql_code(enum GwSqlClass sql_class);

/* The status of "KSnnn": 400 to 599, else 500. */
int gw_sql_status(const char *sqlstate);

/* The general code for a status, where a KS error names none ("NOT_FOUND"). */
const char *gw_status_code(int status);

/* The reason phrase, for problem+json titles and raw replies ("Not Found"). */
const char *gw_status_title(int status);

#endif
