/*
 * errors: every refusal that the gateway itself can give, and what an SQLSTATE
 * means to a client. The only place where a SQLSTATE becomes a status.
 */
#include <stddef.h>
#include <string.h>

#include "errors.h"

static const struct GwFault faults[GW_CODES] = {
	[GW_BAD_REQUEST] = {400, "BAD_REQUEST", "The request is not in order", 0},
	[GW_MALFORMED_JSON] = {400, "MALFORMED_JSON", "The body is not valid JSON", 0},
	[GW_VALIDATION_FAILED] = {400, "VALIDATION_FAILED", "Some fields are not valid", 0},
	[GW_UNAUTHENTICATED] = {401, "UNAUTHENTICATED", "Sign in first", 0},
	[GW_FORBIDDEN] = {403, "FORBIDDEN", "You may not do this", 0},
	[GW_HTTPS_REQUIRED] = {403, "HTTPS_REQUIRED", "This needs https", 0},
	[GW_NOT_FOUND] = {404, "NOT_FOUND", "There is no such endpoint: /api/docs shows those that there are", 0},
	[GW_METHOD_NOT_ALLOWED] = {405, "METHOD_NOT_ALLOWED", "This method is not allowed here", 0},
	[GW_REQUEST_TIMEOUT] = {408, "REQUEST_TIMEOUT", "The request did not arrive in time", 0},
	[GW_CONFLICT] = {409, "CONFLICT", "This clashes with what is there", 0},
	[GW_PAYLOAD_TOO_LARGE] = {413, "PAYLOAD_TOO_LARGE", "The body is too large", 0},
	[GW_URI_TOO_LONG] = {414, "URI_TOO_LONG", "The request target is too long", 0},
	[GW_UNSUPPORTED_MEDIA_TYPE] = {415, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/json", 0},
	[GW_TOO_MANY_STREAMS] = {429, "RATE_LIMITED", "Too many event streams are open from this address", 10},
	[GW_HEADERS_TOO_LARGE] = {431, "HEADERS_TOO_LARGE", "The header section is too large", 0},
	[GW_INTERNAL] = {500, "INTERNAL", "Something went wrong on our side", 0},
	[GW_UNAVAILABLE] = {503, "UNAVAILABLE", "The service is not available at the moment, try again soon", 1},
	[GW_OVERLOADED] = {503, "UNAVAILABLE", "The service is busy, try again soon", 1},
	[GW_TIMEOUT] = {504, "TIMEOUT", "The request took too long and was undone", 0},
};

/* General code and reason phrase of a status, in order. */
static const struct
{
	int status;
	const char *code;
	const char *title;
} statuses[] = {
	{200, "OK", "OK"},
	{201, "CREATED", "Created"},
	{202, "ACCEPTED", "Accepted"},
	{204, "NO_CONTENT", "No Content"},
	{308, "PERMANENT_REDIRECT", "Permanent Redirect"},
	{400, "BAD_REQUEST", "Bad Request"},
	{401, "UNAUTHENTICATED", "Unauthorized"},
	{403, "FORBIDDEN", "Forbidden"},
	{404, "NOT_FOUND", "Not Found"},
	{405, "METHOD_NOT_ALLOWED", "Method Not Allowed"},
	{408, "REQUEST_TIMEOUT", "Request Timeout"},
	{409, "CONFLICT", "Conflict"},
	{410, "GONE", "Gone"},
	{413, "PAYLOAD_TOO_LARGE", "Content Too Large"},
	{414, "URI_TOO_LONG", "URI Too Long"},
	{415, "UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type"},
	{423, "ACCOUNT_LOCKED", "Locked"},
	{429, "RATE_LIMITED", "Too Many Requests"},
	{431, "HEADERS_TOO_LARGE", "Request Header Fields Too Large"},
	{500, "INTERNAL", "Internal Server Error"},
	{502, "UPSTREAM_FAILED", "Bad Gateway"},
	{503, "UNAVAILABLE", "Service Unavailable"},
	{504, "TIMEOUT", "Gateway Timeout"},
};

const struct GwFault *
gw_fault(enum GwCode code)
{
	return &faults[code];
}

enum GwSqlClass
gw_sql_class(const char *sqlstate)
{
	if (sqlstate == NULL)
		return GW_SQL_UNAVAILABLE;
	if (strncmp(sqlstate, "KS", 2) == 0)
	{
		int status = gw_sql_status(sqlstate);

		/* A KS500 is one of ours, but its text is not for a client. */
		return status == 500 ? GW_SQL_INTERNAL : GW_SQL_CLIENT;
	}
	if (strcmp(sqlstate, "40001") == 0 || strcmp(sqlstate, "40P01") == 0)
		return GW_SQL_RETRY;
	if (strcmp(sqlstate, "57014") == 0)
		return GW_SQL_TIMEOUT;
	if (strcmp(sqlstate, "25006") == 0 || strncmp(sqlstate, "53", 2) == 0 || strncmp(sqlstate, "57P0", 4) == 0 ||
		strncmp(sqlstate, "08", 2) == 0)
		return GW_SQL_UNAVAILABLE;
	return GW_SQL_INTERNAL;
}

enum GwCode
gw_sql_code(enum GwSqlClass sql_class)
{
	switch (sql_class)
	{
		case GW_SQL_RETRY:
		case GW_SQL_UNAVAILABLE:
			return GW_UNAVAILABLE;
		case GW_SQL_TIMEOUT:
			return GW_TIMEOUT;
		case GW_SQL_CLIENT:
		case GW_SQL_INTERNAL:
			break;
	}
	return GW_INTERNAL;
}

int
gw_sql_status(const char *sqlstate)
{
	int status = 0;
	int i;

	if (strncmp(sqlstate, "KS", 2) != 0)
		return 500;
	for (i = 2; i < 5; i++)
	{
		if (sqlstate[i] < '0' || sqlstate[i] > '9')
			return 500;
		status = status * 10 + (sqlstate[i] - '0');
	}
	return status >= 400 && status <= 599 ? status : 500;
}

const char *
gw_status_code(int status)
{
	size_t i;

	for (i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].status == status)
			return statuses[i].code;
	return status >= 500 ? "INTERNAL" : "BAD_REQUEST";
}

const char *
gw_status_title(int status)
{
	size_t i;

	for (i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].status == status)
			return statuses[i].title;
	return status >= 500 ? "Internal Server Error" : "Error";
}
