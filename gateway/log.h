/*
 * log: JSON lines on standard error.
 *
 * Each loop has its own GwLog and writes its lines together, within a few
 * milliseconds; a line is never torn. Others (main thread, signal-driven parts) use a GwLog of their
 * own. No secret may be passed in; query strings and bodies are never logged.
 */
#ifndef GW_LOG_H
#define GW_LOG_H

#include "config.h"
#include "text.h"

#define GW_LOG_BUFFER 65536

struct GwLog
{
	enum GwLogLevel level; /* less is dropped */
	int fd;                /* where lines go: 2 */
	size_t len;
	uint64_t dropped; /* lines lost because the reader of our stderr was gone or stuck */
	bool is_stuck;    /* it was, the last time: it is not waited for again */
	bool is_torn;     /* the buffer begins in the midst of a line, of which the rest is out */
	char *buffer;     /* GW_LOG_BUFFER bytes */
};

/* One request, as it ended. Strings may be NULL: their member is left out. */
struct GwLogRequest
{
	const char *request_id;
	const char *traceparent; /* the trace id is cut out of it */
	const char *method;
	const char *route; /* template, "-" when none matched */
	int status;
	const char *code; /* of an error */
	int64_t duration_us;
	int64_t database_us; /* -1: not asked */
	uint64_t bytes;      /* of the reply's body */
	uint64_t bytes_in;   /* of the request's body */
	const char *ip;
	const char *user_agent;
	const char *user_id;
	const char *error; /* inner detail: SQLSTATE and message of the server; for the log only */
	int attempts;      /* database tries; shown when over 1 */
};

/* Has writing to our stderr never wait for its reader. Once, before any log. */
void gw_log_open(void);

bool gw_log_init(struct GwLog *log, enum GwLogLevel level) __attribute__((warn_unused_result));
void gw_log_free(struct GwLog *log); /* flushes */

/* One line per request; level error for 5xx but 503, warn for 503, else info. */
void gw_log_request(struct GwLog *log, const struct GwLogRequest *request);

/* A line about anything else; event is a short fixed name ("database_connected"). */
void gw_log_event(struct GwLog *log, enum GwLogLevel level, const char *event, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Writes out what is buffered. */
void gw_log_flush(struct GwLog *log);

#endif
