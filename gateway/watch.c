/*
 * watch.c
 *	  Kind "watch": server-sent events, by asking again and again.
 *
 * The call is repeated two seconds after its last answer, with the credential
 * of the request, so that a revocation ends the stream.  An event is sent when
 * the body has changed, a comment when nothing was for a while, which keeps
 * proxies from closing the connection.  What a client may not see any more ends
 * the stream with an "error" event; what is wrong with the database does not.
 */
#include "watch.h"

#include "answer.h"
#include "gateway.h"
#include "pool.h"
#include "reply.h"
#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#define WATCHERS_MAX 256 /* of one loop */

/* Of one address, of all loops: no more than a quarter of the smallest gateway's; loopback and trusted proxies are free. */
#define PER_IP_MAX 64

#define INTERVAL GW_SECONDS(2)
#define HEARTBEAT GW_SECONDS(15)

struct GwWatcher
{
	struct GwRequest *request;
	struct GwTimer timer; /* the next call */
	char *body;           /* last sent */
	size_t body_len;
	int64_t spoken_at;
	uint64_t events;
};

static void call_again(struct GwTimer *timer);
static bool is_client_gone(const struct GwRequest *request);
static void call_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result);
static bool take_answer(struct GwWatcher *watcher, const PGresult *result);
static bool is_news(struct GwWatcher *watcher, struct GwSlice body);
static void write_event(struct GwWatcher *watcher, const char *event, struct GwSlice body);
static size_t line_len(struct GwSlice body, size_t *end_len);
static void write_error(struct GwWatcher *watcher, const PGresult *result);
static void be_heard(struct GwWatcher *watcher);

bool
gw_watch_has_room(const struct GwLoop *loop)
{
	return loop->nwatchers < WATCHERS_MAX;
}

bool
gw_watch_admit(struct GwRequest *request)
{
	const struct GwClient *client = &request->client;

	if (!gw_watch_has_room(request->loop))
	{
		gw_request_refuse(request, GW_OVERLOADED, NULL);
		return false;
	}
	if (client->is_proxy || !gw_perip_key_of_text(&request->stream_key, client->ip))
		return true;
	request->is_stream_counted = gw_perip_add(&request->loop->gateway->streams_per_ip, &request->stream_key, PER_IP_MAX);
	if (!request->is_stream_counted)
		gw_request_refuse(request, GW_TOO_MANY_STREAMS, NULL);
	return request->is_stream_counted;
}

bool
gw_watch_begin(struct GwRequest *request, const struct GwRow *row)
{
	struct GwWatcher *watcher = calloc(1, sizeof(*watcher));
	struct GwLoop *loop = request->loop;

	if (watcher == NULL || !gw_timer_open(&loop->timers, &watcher->timer, call_again))
	{
		free(watcher);
		return false;
	}
	watcher->request = request;
	request->watcher = watcher;
	loop->nwatchers++;
	if (gw_stream_begin(request, 200, "text/event-stream; charset=utf-8", row->headers) == NULL || !is_news(watcher, row->body))
		return false;
	request->call.done = call_ended;
	gw_answer_mark_repeat(request);
	write_event(watcher, NULL, row->body);
	gw_timer_set(&loop->timers, &watcher->timer, loop->now + INTERVAL);
	return true;
}

void
gw_watch_end(struct GwRequest *request)
{
	gw_timer_clear(&request->loop->timers, &request->watcher->timer);
	gw_pool_abandon(&request->call);
	gw_stream_end(request->stream);
}

void
gw_watch_free(struct GwRequest *request)
{
	struct GwWatcher *watcher = request->watcher;

	if (request->is_stream_counted)
		gw_perip_remove(&request->loop->gateway->streams_per_ip, &request->stream_key);
	request->is_stream_counted = false;
	if (watcher == NULL)
		return;
	request->watcher = NULL;
	request->loop->nwatchers--;
	gw_timer_close(&request->loop->timers, &watcher->timer);
	free(watcher->body);
	free(watcher);
}

static void
call_again(struct GwTimer *timer)
{
	struct GwWatcher *watcher = gw_container_of(timer, struct GwWatcher, timer);
	struct GwRequest *request = watcher->request;

	if (is_client_gone(request))
	{
		gw_stream_fail(request->stream);
		return;
	}
	request->called_at = request->loop->now;
	gw_http_expect(request->http, gw_answer_deadline(request));
	gw_metrics_add(&request->loop->metrics, GW_COUNT_CALLS, 1);
	gw_pool_submit(request->loop->pools[request->route->lane], &request->call);
}

/*
 * Says whether the client has closed the connection, which the library does not
 * see while it is suspended.  A reader of events has nothing to send, so that
 * the end of what it sends is the end of it.
 */
static bool
is_client_gone(const struct GwRequest *request)
{
	char byte;
	ssize_t n = recvfrom(request->http->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static void
call_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result)
{
	struct GwRequest *request = gw_container_of(call, struct GwRequest, call);
	struct GwWatcher *watcher = request->watcher;

	request->database_us += request->loop->now - request->called_at;
	if (end == GW_CALL_ANSWERED && !take_answer(watcher, result))
	{
		gw_stream_end(request->stream);
		return;
	}
	if (request->loop->now - watcher->spoken_at >= HEARTBEAT)
		be_heard(watcher);
	gw_timer_set(&request->loop->timers, &watcher->timer, request->loop->now + INTERVAL);
}

/* Sends what is new; false when the stream has to end. */
static bool
take_answer(struct GwWatcher *watcher, const PGresult *result)
{
	const char *sqlstate = gw_call_sqlstate(result);
	struct GwRow row;

	if (sqlstate != NULL)
	{
		if (gw_sql_class(sqlstate) != GW_SQL_CLIENT || gw_sql_status(sqlstate) >= 500)
			return true;
		write_error(watcher, result);
		return false;
	}
	if (PQntuples(result) == 0 || !gw_call_row(result, 0, &row))
		return true;
	if (row.status >= 500)
		return true;
	if (row.status < 200 || row.status > 299)
	{
		write_event(watcher, "error", row.body);
		return false;
	}
	if (gw_stream_waiting(watcher->request->stream) < GW_STREAM_HIGH && is_news(watcher, row.body))
		write_event(watcher, NULL, row.body);
	return true;
}

/* Says whether the body differs from the last one, and keeps it. */
static bool
is_news(struct GwWatcher *watcher, struct GwSlice body)
{
	char *copy;

	if (watcher->body != NULL && watcher->body_len == body.len && memcmp(watcher->body, body.data, body.len) == 0)
		return false;
	copy = malloc(body.len + 1);
	if (copy == NULL)
		return false;
	if (body.len > 0)
		memcpy(copy, body.data, body.len);
	free(watcher->body);
	watcher->body = copy;
	watcher->body_len = body.len;
	return true;
}

/* Writes an event; each line of the body becomes a data line. */
static void
write_event(struct GwWatcher *watcher, const char *event, struct GwSlice body)
{
	struct GwStream *stream = watcher->request->stream;
	struct GwText *out = &stream->buffer;

	if (event != NULL)
		gw_text_printf(out, "event: %s\n", event);
	else
		gw_text_printf(out, "id: %llu\n", (unsigned long long) ++watcher->events);
	do
	{
		size_t end_len;
		size_t len = line_len(body, &end_len);

		gw_text_lit(out, "data: ");
		if (body.len == 0)
			gw_text_lit(out, "null");
		gw_text_add(out, body.data, len);
		gw_text_lit(out, "\n");
		body.data += len + end_len;
		body.len -= len + end_len;
	} while (body.len > 0);
	gw_text_lit(out, "\n");
	watcher->spoken_at = watcher->request->loop->now;
	gw_stream_push(stream);
}

/* How long the first line is, and its end: readers of events take a CR alone for one, too, and what stands behind it for another field. */
static size_t
line_len(struct GwSlice body, size_t *end_len)
{
	const char *lf = body.len > 0 ? memchr(body.data, '\n', body.len) : NULL;
	size_t len = lf != NULL ? (size_t) (lf - body.data) : body.len;
	const char *cr = len > 0 ? memchr(body.data, '\r', len) : NULL;

	*end_len = lf != NULL;
	if (cr == NULL)
		return len;
	*end_len = cr + 1 == lf ? 2 : 1;
	return (size_t) (cr - body.data);
}

/* Writes the event of an error of ours. */
static void
write_error(struct GwWatcher *watcher, const PGresult *result)
{
	struct GwText error = {0};

	gw_reply_write_error(&error, result);
	if (!error.failed)
		write_event(watcher, "error", (struct GwSlice){error.data, error.len});
	gw_text_free(&error);
}

static void
be_heard(struct GwWatcher *watcher)
{
	gw_text_lit(&watcher->request->stream->buffer, ":\n\n");
	watcher->spoken_at = watcher->request->loop->now;
	gw_stream_push(watcher->request->stream);
}
