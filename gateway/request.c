/*
 * request.c
 *	  A request, from its first byte to the last of its reply.
 *
 * What can be refused is refused on the library's first call, when the head is
 * there and nothing of the body was asked for.  The connection of a request
 * that has a body is then closed, since the body will not be read.
 *
 * Requests are kept for the next ones together with their small buffers, so
 * that an ordinary request allocates little.
 */
#include "request.h"

#include "answer.h"
#include "gateway.h"
#include "json.h"
#include "pool.h"
#include "screen.h"
#include "stream.h"
#include "watch.h"

#include <stdlib.h>
#include <sys/socket.h>

#define SPARE_REQUESTS 256

/* A body has to come at least at this rate, after the first ten seconds; a reply has to be taken so. */
#define BODY_TIMEOUT GW_SECONDS(10)
#define SEND_TIMEOUT GW_SECONDS(10)
#define RATE 16384

/* Bodies that the requests of a loop may hold together; small ones are taken all the same, so that a few large ones refuse nobody else. */
#define BODY_BYTES_MAX ((size_t) 128 * 1024 * 1024)

/* Replies that the clients of a loop have not taken altogether; beyond it reads of large ones are refused. */
#define REPLY_BYTES_MAX ((size_t) 256 * 1024 * 1024)

static enum MHD_Result begin(struct GwRequest *request, const char *method);
static enum MHD_Result take_body(struct GwRequest *request, const char *data, size_t len);
static bool make_room(struct GwRequest *request, size_t len);
static enum MHD_Result refuse_in_body(struct GwRequest *request, enum GwCode code);
static enum MHD_Result start(struct GwRequest *request);
static void suspend(struct GwRequest *request);
static enum MHD_Result reply_or_rest(struct GwRequest *request);
static void check_and_call(struct GwRequest *request);
static enum MHD_Result send_reply(struct GwRequest *request);
static bool has_room_for_reply(const struct GwRequest *request);
static bool is_refused_in_body(const struct GwRequest *request);
static void tell(struct GwRequest *request, enum MHD_RequestTerminationCode code);
static void release(struct GwRequest *request);
static void spare_text(struct GwText *text);
static void give_up(struct GwRequest *request, enum GwCode code);

/* The library has read a request line: makes the request, or keeps NULL when there is no memory. */
void *
gw_request_born(void *cls, const char *target, struct MHD_Connection *connection)
{
	struct GwLoop *loop = cls;
	struct GwHttp *http = gw_http_of(connection);
	struct GwRequest *request = loop->spare_requests;

	(void) target;
	if (http == NULL)
		return NULL;
	if (request != NULL)
	{
		loop->spare_requests = request->next_spare;
		loop->nspare_requests--;
	}
	else if ((request = calloc(1, sizeof(*request))) == NULL)
		return NULL;
	request->loop = loop;
	request->http = http;
	request->connection = connection;
	http->request = request;
	return request;
}

enum MHD_Result
gw_request_handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
				  const char *version, const char *data, size_t *data_len, void **context)
{
	struct GwRequest *request = *context;

	(void) cls;
	(void) connection;
	(void) url;
	(void) version;
	if (request == NULL)
		return MHD_NO;
	switch (request->state)
	{
		case GW_REQUEST_NEW:
			return begin(request, method);
		case GW_REQUEST_RECEIVING:
			if (*data_len > 0)
			{
				size_t len = *data_len;

				*data_len = 0;
				return take_body(request, data, len);
			}
			return start(request);
		case GW_REQUEST_CALLING:
		case GW_REQUEST_WAITING:
			suspend(request);
			return MHD_YES;
		case GW_REQUEST_ANSWERED:
			return reply_or_rest(request);
		case GW_REQUEST_REPLYING:
		case GW_REQUEST_STREAMING:
			break;
	}
	return MHD_NO;
}

/* The library is done with a request, one way or another. */
void
gw_request_completed(void *cls, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode code)
{
	struct GwRequest *request = *context;
	struct GwHttp *http = gw_http_of(connection);

	(void) cls;
	*context = NULL;
	if (request != NULL)
	{
		tell(request, code);
		release(request);
	}
	if (http != NULL)
	{
		gw_guard_reply_done(&http->guard);
		gw_http_expect(http, http->loop->now + GW_SECONDS(10));
	}
}

bool
gw_request_is_active(const struct GwRequest *request)
{
	return request->is_active;
}

int64_t
gw_request_deadline(const struct GwRequest *request)
{
	int64_t deadline = request->deadline;

	if (request->state != GW_REQUEST_STREAMING)
		return deadline;
	deadline = request->stream->send_deadline;
	if (request->call.state != GW_CALL_IDLE && gw_answer_deadline(request) < deadline)
		deadline = gw_answer_deadline(request);
	return deadline;
}

/* The deadline of the request's present state has passed. */
void
gw_request_overdue(struct GwRequest *request)
{
	switch (request->state)
	{
		case GW_REQUEST_NEW:
		case GW_REQUEST_RECEIVING:
			gw_metrics_add(&request->loop->metrics, GW_COUNT_TIMED_OUT, 1);
			gw_guard_timeout(&request->http->guard);
			break;
		case GW_REQUEST_CALLING:
		case GW_REQUEST_WAITING:
			give_up(request, GW_TIMEOUT);
			break;
		case GW_REQUEST_STREAMING:
			if (request->stream->is_suspended)
			{
				give_up(request, GW_TIMEOUT);
				break;
			}
			gw_http_break_off(request->http);
			/* fall through */
		case GW_REQUEST_ANSWERED:
		case GW_REQUEST_REPLYING:
			gw_metrics_add(&request->loop->metrics, GW_COUNT_TIMED_OUT, 1);
			gw_http_cut(request->http);
			break;
	}
}

void
gw_request_drain(struct GwLoop *loop, bool is_last)
{
	for (struct GwHttp *http = loop->connections; http != NULL; http = http->next)
	{
		struct GwRequest *request = http->request;

		if (request == NULL || !request->is_active)
			continue;
		if (is_last)
			give_up(request, GW_UNAVAILABLE);
		else if (request->state == GW_REQUEST_STREAMING && request->watcher != NULL)
			gw_watch_end(request);
	}
}

void
gw_request_free_spare(struct GwLoop *loop)
{
	while (loop->spare_requests != NULL)
	{
		struct GwRequest *request = loop->spare_requests;

		loop->spare_requests = request->next_spare;
		gw_text_free(&request->params);
		gw_text_free(&request->fields);
		gw_text_free(&request->reply_body);
		free(request->body);
		free(request);
	}
	loop->nspare_requests = 0;
}

/* The reply is there (NULL: no memory for it); lets the connection go on. */
void
gw_request_answer(struct GwRequest *request, struct MHD_Response *response)
{
	request->response = response;
	request->state = GW_REQUEST_ANSWERED;
	gw_request_expect(request, request->loop->now + SEND_TIMEOUT);
	if (!request->is_suspended)
		return;
	request->is_suspended = false;
	gw_loop_resume(request->loop, request->connection);
}

void
gw_request_refuse(struct GwRequest *request, enum GwCode code, const char *message)
{
	gw_request_answer(request, gw_reply_refusal(&request->ask, code, message, NULL, &request->note));
}

/* Sets the deadline of the present state. */
void
gw_request_expect(struct GwRequest *request, int64_t deadline)
{
	request->deadline = deadline;
	gw_http_expect(request->http, deadline);
}

/* The head is complete: reads it, and either refuses the request or waits for its body. */
static enum MHD_Result
begin(struct GwRequest *request, const char *method)
{
	struct GwLoop *loop = request->loop;

	request->method = method;
	request->is_head = strcmp(method, "HEAD") == 0;
	request->started_at = loop->now;
	request->database_us = -1;
	request->note = (struct GwNote){0};
	request->error[0] = '\0';
	if (!gw_answer_open_timer(request))
		return MHD_NO;
	request->is_active = true;
	loop->nactive++;
	gw_metrics_add(&loop->metrics, GW_COUNT_IN_FLIGHT, 1);
	request->state = GW_REQUEST_RECEIVING;
	gw_request_expect(request, loop->now + BODY_TIMEOUT);
	gw_screen(request);
	if (request->state != GW_REQUEST_ANSWERED || !request->has_body)
		return MHD_YES;
	request->http->lingers = true;
	return send_reply(request);
}

/* A piece of the body has come. */
static enum MHD_Result
take_body(struct GwRequest *request, const char *data, size_t len)
{
	size_t limit = request->route != NULL ? request->route->body_limit : 0;

	if (request->body_len + len > limit)
		return refuse_in_body(request, GW_PAYLOAD_TOO_LARGE);
	if (!make_room(request, len))
		return refuse_in_body(request, GW_OVERLOADED);
	memcpy(request->body + request->body_len, data, len);
	request->body_len += len;
	request->deadline = request->started_at + BODY_TIMEOUT + GW_SECONDS(request->body_len) / RATE;
	return MHD_YES;
}

/* Grows the body's buffer by doubling, not at once to a declared length that may never come. */
static bool
make_room(struct GwRequest *request, size_t len)
{
	size_t need = request->body_len + len;
	size_t size = request->body_size > 0 ? request->body_size : 1024;
	char *body;

	if (need <= request->body_size)
		return true;
	while (size < need)
		size *= 2;
	if (size > GW_REQUEST_SPARE && request->loop->body_bytes + size - request->body_size > BODY_BYTES_MAX)
		return false;
	body = realloc(request->body, size);
	if (body == NULL)
		return false;
	request->loop->body_bytes += size - request->body_size;
	request->body = body;
	request->body_size = size;
	return true;
}

/*
 * Refuses in the middle of a body, where the library takes no reply: writes one
 * to the socket by hand, which has nothing else outstanding, and ends the connection.
 */
static enum MHD_Result
refuse_in_body(struct GwRequest *request, enum GwCode code)
{
	const struct GwFault *fault = gw_fault(code);
	char reply[2048];
	size_t len = gw_reply_raw_refusal(reply, sizeof(reply), &request->loop->gateway->config, fault->status,
									  fault->code, fault->message, request->request_id);

	request->note.status = fault->status;
	request->note.bytes = len;
	snprintf(request->note.code, sizeof(request->note.code), "%s", fault->code);
	(void) !send(request->http->fd, reply, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	request->http->lingers = true;
	return MHD_NO;
}

/* All of the request is there. */
static enum MHD_Result
start(struct GwRequest *request)
{
	check_and_call(request);
	if (request->state == GW_REQUEST_ANSWERED)
		return reply_or_rest(request);
	suspend(request);
	gw_guard_suspended(&request->http->guard);
	return MHD_YES;
}

static void
suspend(struct GwRequest *request)
{
	request->is_suspended = request->was_suspended = true;
	MHD_suspend_connection(request->connection);
}

/* Replies, having made sure that the library will read what the client may have sent behind the request. */
static enum MHD_Result
reply_or_rest(struct GwRequest *request)
{
	if (request->was_suspended || !gw_guard_holds_more(&request->http->guard))
		return send_reply(request);
	suspend(request);
	request->is_suspended = false;
	gw_loop_resume(request->loop, request->connection);
	return MHD_YES;
}

static void
check_and_call(struct GwRequest *request)
{
	const char *reason;
	size_t offset;

	if (request->builtin == GW_BUILTIN_NONE && request->body_len > 0 && !request->route->is_raw &&
		!gw_json_check(request->body, request->body_len, &reason, &offset))
	{
		gw_request_refuse(request, GW_MALFORMED_JSON, reason);
		return;
	}
	gw_answer_begin(request);
}

/* Hands the reply to the library. */
static enum MHD_Result
send_reply(struct GwRequest *request)
{
	struct MHD_Response *response = request->response;
	enum MHD_Result result;
	unsigned status;

	if (response == NULL)
		return MHD_NO;
	request->response = NULL;
	if (!has_room_for_reply(request))
	{
		gw_reply_drop(response);
		gw_text_free(&request->reply_body);
		response = gw_reply_refusal(&request->ask, GW_OVERLOADED, NULL, NULL, &request->note);
		if (response == NULL)
			return MHD_NO;
	}
	request->reply_held = request->reply_body.size;
	request->loop->reply_bytes += request->reply_held;
	request->state = request->stream != NULL ? GW_REQUEST_STREAMING : GW_REQUEST_REPLYING;
	gw_request_expect(request, request->loop->now + SEND_TIMEOUT + GW_SECONDS(request->note.bytes) / RATE);
	status = gw_guard_put_reply(&request->http->guard, request->note.status, &request->fields,
								request->stream != NULL ? NULL : &request->reply_body, request->is_head);
	result = MHD_queue_response(request->connection, status, response);
	gw_reply_drop(response);
	return result;
}

/* A client that takes its time has the reply held for it. What a write has done is told all the same. */
static bool
has_room_for_reply(const struct GwRequest *request)
{
	size_t size = request->reply_body.size;

	return size <= GW_REQUEST_SPARE || request->loop->reply_bytes + size <= REPLY_BYTES_MAX ||
		   !(request->is_head || strcmp(request->method, "GET") == 0);
}

/* Says whether it was ended by us, with a reply that the library knows nothing of. */
static bool
is_refused_in_body(const struct GwRequest *request)
{
	return request->state == GW_REQUEST_RECEIVING && request->note.status != 0;
}

/* Logs and counts a request that has ended. */
static void
tell(struct GwRequest *request, enum MHD_RequestTerminationCode code)
{
	struct GwLoop *loop = request->loop;
	struct GwMetrics *metrics = &loop->metrics;
	const char *name = "-";
	unsigned slot = GW_METRICS_NO_ROUTE;
	int64_t duration;

	if (!request->is_active || request->http->guard.is_refused)
		return;
	if (request->route != NULL)
	{
		name = request->route->template;
		slot = request->route->metric;
	}
	else if (request->builtin != GW_BUILTIN_NONE)
	{
		name = gw_builtin_name(request->builtin);
		slot = GW_METRICS_BUILTIN;
	}
	if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK && !is_refused_in_body(request))
	{
		gw_metrics_add(metrics, GW_COUNT_ABORTED, 1);
		if (request->error[0] == '\0')
			snprintf(request->error, sizeof(request->error), "the connection ended early");
		if (request->note.status == 0)
			request->note.status = 499;
	}
	if (request->call.state != GW_CALL_IDLE)
		request->database_us += loop->now - request->called_at;
	duration = gw_monotonic_us() - request->started_at;
	gw_metrics_request(metrics, slot, request->note.status, duration);
	gw_metrics_add(metrics, GW_COUNT_BYTES_IN, (int64_t) request->body_len);
	gw_metrics_add(metrics, GW_COUNT_BYTES_OUT, (int64_t) request->note.bytes);
	/* A question is counted itself, however many have its answer. */
	if (request->database_us > 0 && request->builtin == GW_BUILTIN_NONE)
		gw_metrics_add(metrics, GW_COUNT_DATABASE_US, request->database_us);
	gw_log_request(&loop->log, &(struct GwLogRequest){
								   .request_id = request->request_id,
								   .traceparent = request->traceparent,
								   .method = request->method,
								   .route = name,
								   .status = request->note.status,
								   .code = request->note.code[0] != '\0' ? request->note.code : NULL,
								   .duration_us = duration,
								   .database_us = request->database_us,
								   .bytes = request->note.bytes,
								   .bytes_in = request->body_len,
								   .ip = request->client.ip,
								   .user_agent = request->head.user_agent,
								   .user_id = request->note.user_id[0] != '\0' ? request->note.user_id : NULL,
								   .error = request->error[0] != '\0' ? request->error : NULL,
								   .attempts = request->attempts,
							   });
}

/* Frees what the request has, and keeps the rest of it for another. */
static void
release(struct GwRequest *request)
{
	struct GwLoop *loop = request->loop;

	gw_pool_abandon(&request->call);
	gw_question_leave(request);
	gw_watch_free(request);
	if (request->stream != NULL)
		gw_stream_detach(request->stream);
	gw_reply_drop(request->response);
	gw_timer_close(&loop->timers, &request->retry);
	gw_answer_end_wait(request);
	gw_routes_unref(request->routes);
	gw_head_free(&request->head);
	if (request->is_active)
	{
		loop->nactive--;
		gw_metrics_add(&loop->metrics, GW_COUNT_IN_FLIGHT, -1);
	}
	if (request->body_size > GW_REQUEST_SPARE || loop->nspare_requests >= SPARE_REQUESTS)
	{
		loop->body_bytes -= request->body_size;
		free(request->body);
		request->body = NULL;
		request->body_size = 0;
	}
	loop->reply_bytes -= request->reply_held;
	request->http->request = NULL;
	*request = (struct GwRequest){
		.loop = loop,
		.body = request->body,
		.body_size = request->body_size,
		.params = request->params,
		.fields = request->fields,
		.reply_body = request->reply_body,
	};
	spare_text(&request->params);
	spare_text(&request->fields);
	spare_text(&request->reply_body);
	if (loop->nspare_requests < SPARE_REQUESTS)
	{
		request->next_spare = loop->spare_requests;
		loop->spare_requests = request;
		loop->nspare_requests++;
		return;
	}
	gw_text_free(&request->params);
	gw_text_free(&request->fields);
	gw_text_free(&request->reply_body);
	free(request->body);
	free(request);
}

/* Empties a buffer for the next request, or frees it if it has grown large. */
static void
spare_text(struct GwText *text)
{
	if (text->size > GW_REQUEST_SPARE)
		gw_text_free(text);
	text->len = 0;
	text->failed = false;
}

/* Ends what is waiting for the database without its answer. */
static void
give_up(struct GwRequest *request, enum GwCode code)
{
	bool was_sent = request->call.state == GW_CALL_SENT || gw_question_is_sent(request);

	gw_timer_clear(&request->loop->timers, &request->retry);
	switch (request->state)
	{
		case GW_REQUEST_CALLING:
		case GW_REQUEST_WAITING:
			gw_pool_abandon(&request->call);
			gw_question_leave(request);
			request->database_us += request->loop->now - request->called_at;
			snprintf(request->error, sizeof(request->error), "%s", was_sent ? "no answer from the database in time" : "no connection was free in time");
			if (code == GW_TIMEOUT && was_sent)
				gw_request_refuse(request, code, "The request took too long");
			else
				gw_request_refuse(request, was_sent ? code : GW_OVERLOADED, NULL);
			break;
		case GW_REQUEST_STREAMING:
			gw_pool_abandon(&request->call);
			snprintf(request->error, sizeof(request->error), "no answer from the database in time");
			gw_stream_fail(request->stream);
			break;
		default:
			break;
	}
}
