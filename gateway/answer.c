/*
 * answer.c
 *	  What a request asks of the database, and what becomes of the answer.
 *
 * The database's answer is final, with two exceptions: a transaction that lost
 * a race (serialisation failure, deadlock) was undone and is tried again after
 * a pause, and a read whose connection died is sent again by the pool.
 */
#include "answer.h"

#include "gateway.h"
#include "hold.h"
#include "pool.h"
#include "rows.h"
#include "watch.h"

#include <stdlib.h>

#define RETRIES_MAX 3

/* Beyond the route's own time, which the database watches; then the gateway cancels. */
#define GRACE_MS 1000

/* Requests of a loop that wait for room under a rate limit. */
#define WAITING_MAX 256

static void prepare_call(struct GwRequest *request);
static void submit(struct GwRequest *request);
static void try_again(struct GwTimer *timer);
static void dispatch_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result);
static void settle(struct GwRequest *request, struct MHD_Response *response);
static struct MHD_Response *row_reply(struct GwRequest *request, const PGresult *result);

void
gw_answer_begin(struct GwRequest *request)
{
	request->attempts = request->retries = 0;
	request->database_us = 0;
	if (request->builtin != GW_BUILTIN_NONE)
	{
		gw_question_ask(request);
		return;
	}
	prepare_call(request);
	if (request->route->kind == GW_KIND_ROWS)
		gw_rows_prepare(request);
	submit(request);
}

int64_t
gw_answer_deadline(const struct GwRequest *request)
{
	return request->called_at + GW_MS(request->call.timeout_ms + GRACE_MS);
}

bool
gw_answer_is_retried(struct GwRequest *request, enum GwCallEnd end, const PGresult *result)
{
	const char *sqlstate = gw_call_sqlstate(result);
	int longest;

	if (end != GW_CALL_ANSWERED || sqlstate == NULL || gw_sql_class(sqlstate) != GW_SQL_RETRY || request->retries >= RETRIES_MAX)
		return false;
	gw_metrics_add(&request->loop->metrics, GW_COUNT_RETRIES, 1);
	/* 20 to 50, 40 to 100, 80 to 200 ms; two that collided must not meet again. */
	longest = 50 << request->retries++;
	request->state = GW_REQUEST_WAITING;
	gw_timer_set(&request->loop->timers, &request->retry,
				 request->loop->now + GW_MS(longest * 2 / 5) + random() % GW_MS(longest * 3 / 5));
	return true;
}

struct MHD_Response *
gw_answer_reply(struct GwRequest *request, enum GwCallEnd end, const PGresult *result)
{
	switch (end)
	{
		case GW_CALL_ANSWERED:
			if (PQresultStatus(result) == PGRES_TUPLES_OK)
				return row_reply(request, result);
			gw_answer_note_error(request->loop, request->error, result);
			return gw_reply_error(&request->ask, result, &request->note);
		case GW_CALL_BUSY:
			gw_metrics_add(&request->loop->metrics, GW_COUNT_QUEUE_FULL, 1);
			return gw_reply_refusal(&request->ask, GW_OVERLOADED, NULL, NULL, &request->note);
		case GW_CALL_AWAY:
			snprintf(request->error, sizeof(request->error), "no connection to the database");
			return gw_reply_refusal(&request->ask, GW_UNAVAILABLE, NULL, NULL, &request->note);
		case GW_CALL_LOST:
			snprintf(request->error, sizeof(request->error), "the connection was lost after the call was sent");
			return gw_reply_refusal(&request->ask, GW_UNAVAILABLE, NULL, NULL, &request->note);
	}
	return NULL;
}

/* Keeps what the server said, unless it is the client's own fault. */
void
gw_answer_note_error(struct GwLoop *loop, char error[GW_ERROR_SIZE], const PGresult *result)
{
	const char *sqlstate = gw_call_sqlstate(result);
	const char *message = result != NULL ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;

	if (sqlstate != NULL && gw_sql_class(sqlstate) == GW_SQL_CLIENT && gw_sql_status(sqlstate) < 500)
		return;
	snprintf(error, GW_ERROR_SIZE, "%s: %s", sqlstate != NULL ? sqlstate : "-",
			 message != NULL ? message : "the connection was lost");
	gw_metrics_add(&loop->metrics, GW_COUNT_DATABASE_ERRORS, 1);
}

static void
prepare_call(struct GwRequest *request)
{
	const struct GwRoute *route = request->route;

	request->call = (struct GwCall){
		.kind = GW_CALL_DISPATCH,
		.is_read = request->is_head || strcmp(request->method, "GET") == 0,
		.route_id = route->id,
		.timeout_ms = route->timeout_ms,
		.pace = route->pace,
		.credential = request->credential_at < 0 ? NULL : request->params.data + request->credential_at,
		.path_and_query = request->query_at < 0 ? NULL : request->params.data + request->query_at,
		.caller = request->params.data + request->caller_at,
		.body = request->has_body ? (request->body_len > 0 ? request->body : "") : NULL,
		.body_len = request->body_len,
		.done = dispatch_ended,
		.pool = request->loop->pools[route->lane],
	};
}

static void
submit(struct GwRequest *request)
{
	request->state = GW_REQUEST_CALLING;
	request->attempts++;
	request->called_at = request->loop->now;
	gw_metrics_add(&request->loop->metrics, GW_COUNT_CALLS, 1);
	gw_request_expect(request, gw_answer_deadline(request));
	gw_pool_submit(request->call.pool, &request->call);
}

static void
try_again(struct GwTimer *timer)
{
	struct GwRequest *request = gw_container_of(timer, struct GwRequest, retry);

	gw_answer_end_wait(request);
	submit(request);
}

/* For the request's timer. */
bool
gw_answer_open_timer(struct GwRequest *request)
{
	return gw_timer_open(&request->loop->timers, &request->retry, try_again);
}

static void
dispatch_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result)
{
	struct GwRequest *request = gw_container_of(call, struct GwRequest, call);

	request->database_us += request->loop->now - request->called_at;
	if (!gw_answer_is_retried(request, end, result))
		settle(request, gw_answer_reply(request, end, result));
}

/* Answers, or waits for room under a rate limit and asks again. */
static void
settle(struct GwRequest *request, struct MHD_Response *response)
{
	struct GwLoop *loop = request->loop;
	int64_t wait = GW_MS(request->note.wait_ms);

	if (response == NULL || wait == 0 || loop->state != GW_LOOP_RUNNING || loop->nwaiting >= WAITING_MAX ||
		request->waited_us + wait > GW_MS(request->note.wait_most_ms))
	{
		gw_request_answer(request, response);
		return;
	}
	gw_reply_drop(response);
	request->note = (struct GwNote){0};
	request->waited_us += wait;
	request->is_waiting = true;
	loop->nwaiting++;
	gw_metrics_add(&loop->metrics, GW_COUNT_WAITING, 1);
	gw_metrics_add(&loop->metrics, GW_COUNT_WAITED, 1);
	request->state = GW_REQUEST_WAITING;
	gw_request_expect(request, loop->now + wait + GW_MS(GRACE_MS));
	gw_timer_set(&loop->timers, &request->retry, loop->now + wait);
}

void
gw_answer_end_wait(struct GwRequest *request)
{
	if (!request->is_waiting)
		return;
	request->is_waiting = false;
	request->loop->nwaiting--;
	gw_metrics_add(&request->loop->metrics, GW_COUNT_WAITING, -1);
}

void
gw_answer_mark_repeat(struct GwRequest *request)
{
	struct GwText *params = &request->params;

	if (params->failed || !gw_text_reserve(params, 64))
		return;
	/* The caller stands last: its closing brace and the NUL are written anew. */
	params->len -= 2;
	gw_text_lit(params, ",\"repeat\":\"1\"}");
	gw_text_add(params, "", 1);
	request->call.credential = request->credential_at < 0 ? NULL : params->data + request->credential_at;
	request->call.path_and_query = request->query_at < 0 ? NULL : params->data + request->query_at;
	request->call.caller = params->data + request->caller_at;
}

/* The reply of an ordinary call, or the beginning of a watch. */
static struct MHD_Response *
row_reply(struct GwRequest *request, const PGresult *result)
{
	struct MHD_Response *response;
	struct GwRow row;

	if (PQntuples(result) == 0 || !gw_call_row(result, 0, &row) || row.status == 0)
	{
		snprintf(request->error, sizeof(request->error), "keelson.dispatch returned another shape");
		return gw_reply_refusal(&request->ask, GW_INTERNAL, NULL, NULL, &request->note);
	}
	if (request->route->kind == GW_KIND_WATCH && row.status == 200 && !request->is_head)
	{
		/* Others may have been let in while this one asked. */
		if (!gw_watch_has_room(request->loop))
			return gw_reply_refusal(&request->ask, GW_OVERLOADED, NULL, NULL, &request->note);
		if (!gw_watch_begin(request, &row))
			return NULL;
		response = request->response;
		request->response = NULL;
		return response;
	}
	response = gw_reply_row(&request->ask, row.status, row.headers.data, row.headers.len, row.body.data, row.body.len, &request->note);
	if (response != NULL && request->note.hold_ms > 0)
		gw_hold_remember(request, &row);
	return response;
}
