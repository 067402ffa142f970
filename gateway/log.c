/*
 * log: JSON lines on standard error.
 *
 * A line is written straight into the loop's buffer; it is kept only if it
 * fits whole. A member's value is cut at a bound so that no client can make
 * lines long. The reader of our stderr being slow does not stop a loop for more
 * than a moment: what cannot be written then is dropped and counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "log.h"

#define VALUE_MAX 256 /* bytes of a value that a client chose */
#define ERROR_MAX 1024
#define LINE_MAX_SIZE 20480 /* more than any line can have, every byte escaped */
#define STUCK_MS 100

static void drop(struct GwLog *log, const char *at, const char *end);
static void open_line(struct GwLog *log, enum GwLogLevel level);
static void close_line(struct GwLog *log);
static void put(struct GwLog *log, const char *data, size_t len);
static void put_number(struct GwLog *log, int64_t value);
static void put_string(struct GwLog *log, const char *name, size_t name_len, const char *value, size_t max);
static void put_escaped(struct GwLog *log, const char *value, size_t len);
static void put_control(struct GwLog *log, unsigned char code);

#define PUT(log, literal) put((log), "" literal, sizeof(literal) - 1)
#define MEMBER(log, name, value, max) put_string((log), ",\"" name "\":", sizeof(",\"" name "\":") - 1, (value), (max))

/* A terminal goes on to wait: it is the shell's, too. */
void
gw_log_open(void)
{
	int flags = fcntl(STDERR_FILENO, F_GETFL);
	struct stat about;

	if (flags >= 0 && fstat(STDERR_FILENO, &about) == 0 && (S_ISFIFO(about.st_mode) || S_ISSOCK(about.st_mode)))
		(void) fcntl(STDERR_FILENO, F_SETFL, flags | O_NONBLOCK);
}

bool
gw_log_init(struct GwLog *log, enum GwLogLevel level)
{
	memset(log, 0, sizeof(*log));
	log->level = level;
	log->fd = STDERR_FILENO;
	log->buffer = malloc(GW_LOG_BUFFER);
	return log->buffer != NULL;
}

void
gw_log_free(struct GwLog *log)
{
	if (log->buffer != NULL)
		gw_log_flush(log);
	free(log->buffer);
	log->buffer = NULL;
}

void
gw_log_request(struct GwLog *log, const struct GwLogRequest *request)
{
	enum GwLogLevel level = request->status == 503 ? GW_LOG_WARN : request->status >= 500 ? GW_LOG_ERROR
																						  : GW_LOG_INFO;

	if (level < log->level)
		return;
	open_line(log, level);
	PUT(log, ",\"event\":\"request\"");
	MEMBER(log, "requestId", request->request_id, VALUE_MAX);
	if (request->traceparent != NULL && strlen(request->traceparent) > 35)
	{
		PUT(log, ",\"traceId\":\"");
		put(log, request->traceparent + 3, 32);
		PUT(log, "\"");
	}
	MEMBER(log, "method", request->method, 16);
	MEMBER(log, "route", request->route, VALUE_MAX);
	PUT(log, ",\"status\":");
	put_number(log, request->status);
	if (request->code != NULL && request->code[0] != '\0')
		MEMBER(log, "code", request->code, VALUE_MAX);
	PUT(log, ",\"durationUs\":");
	put_number(log, request->duration_us);
	if (request->database_us >= 0)
	{
		PUT(log, ",\"databaseUs\":");
		put_number(log, request->database_us);
	}
	if (request->attempts > 1)
	{
		PUT(log, ",\"attempts\":");
		put_number(log, request->attempts);
	}
	PUT(log, ",\"bytes\":");
	put_number(log, (int64_t) request->bytes);
	PUT(log, ",\"bytesIn\":");
	put_number(log, (int64_t) request->bytes_in);
	MEMBER(log, "ip", request->ip, VALUE_MAX);
	MEMBER(log, "userAgent", request->user_agent, VALUE_MAX);
	if (request->user_id != NULL && request->user_id[0] != '\0')
		MEMBER(log, "userId", request->user_id, VALUE_MAX);
	MEMBER(log, "error", request->error, ERROR_MAX);
	close_line(log);
}

void
gw_log_event(struct GwLog *log, enum GwLogLevel level, const char *event, const char *fmt, ...)
{
	char message[ERROR_MAX];
	va_list args;

	if (level < log->level)
		return;
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	open_line(log, level);
	MEMBER(log, "event", event, VALUE_MAX);
	MEMBER(log, "message", message, ERROR_MAX);
	close_line(log);
}

void
gw_log_flush(struct GwLog *log)
{
	const char *at = log->buffer;
	const char *end = at + log->len;

	while (at < end)
	{
		ssize_t n = write(log->fd, at, (size_t) (end - at));

		if (n > 0)
		{
			log->is_torn = at[n - 1] != '\n';
			log->is_stuck = false;
			at += n;
		}
		else if (n < 0 && errno == EAGAIN && !log->is_stuck)
		{
			struct pollfd wait = {.fd = log->fd, .events = POLLOUT};

			log->is_stuck = poll(&wait, 1, STUCK_MS) <= 0;
		}
		else if (n == 0 || errno != EINTR)
			break;
	}
	drop(log, at, end);
}

/* Empties the buffer of what could not be written, but for the rest of a line that is begun. */
static void
drop(struct GwLog *log, const char *at, const char *end)
{
	size_t rest = 0;

	if (log->is_torn && at < end)
		rest = (size_t) ((const char *) memchr(at, '\n', (size_t) (end - at)) - at) + 1;
	for (const char *line = at + rest; line < end; line++)
		log->dropped += *line == '\n';
	memmove(log->buffer, at, rest);
	log->len = rest;
}

/* Begins a line, with room for the longest: time and level. */
static void
open_line(struct GwLog *log, enum GwLogLevel level)
{
	static const char *const levels[] = {"debug", "info", "warn", "error"};

	if (GW_LOG_BUFFER - log->len < LINE_MAX_SIZE)
		gw_log_flush(log);
	PUT(log, "{\"time\":\"");
	gw_time_write(log->buffer + log->len, gw_unix_us());
	log->len += GW_TIME_LEN;
	PUT(log, "\",\"level\":\"");
	put(log, levels[level], strlen(levels[level]));
	PUT(log, "\"");
}

static void
close_line(struct GwLog *log)
{
	PUT(log, "}\n");
}

static void
put(struct GwLog *log, const char *data, size_t len)
{
	memcpy(log->buffer + log->len, data, len);
	log->len += len;
}

static void
put_number(struct GwLog *log, int64_t value)
{
	log->len += gw_digits(log->buffer + log->len, value);
}

/*
 * A member with a string; nothing for NULL. At most max bytes of it, none cut
 * in the middle of a character.
 */
static void
put_string(struct GwLog *log, const char *name, size_t name_len, const char *value, size_t max)
{
	size_t len, safe;

	if (value == NULL)
		return;
	len = strnlen(value, max);
	if (len == max)
		while (len > 0 && ((unsigned char) value[len] & 0xC0) == 0x80)
			len--;
	put(log, name, name_len);
	PUT(log, "\"");
	safe = gw_text_safe(value, len);
	put(log, value, safe);
	put_escaped(log, value + safe, len - safe);
	PUT(log, "\"");
}

/* What is not printable is escaped, so that a value can never end the line or look like another member. */
static void
put_escaped(struct GwLog *log, const char *value, size_t len)
{
	bool is_utf8 = gw_utf8_is_valid(value, len);

	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) value[i];

		if (c == '"' || c == '\\')
		{
			char escape[2] = {'\\', (char) c};

			put(log, escape, 2);
		}
		else if (c < 0x20 || c == 0x7F)
			put_control(log, c);
		/* U+0080 to U+009F command terminals as well. */
		else if (c == 0xC2 && is_utf8 && (unsigned char) value[i + 1] < 0xA0)
			put_control(log, (unsigned char) value[++i]);
		else if (c >= 0x80 && !is_utf8)
			PUT(log, "?");
		else
			log->buffer[log->len++] = (char) c;
	}
}

static void
put_control(struct GwLog *log, unsigned char code)
{
	static const char hex[] = "0123456789abcdef";
	char escape[6] = {'\\', 'u', '0', '0', hex[code >> 4], hex[code & 15]};

	put(log, escape, sizeof(escape));
}
