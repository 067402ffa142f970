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

/* For the built-in endpoints. */
#define BUILTIN_TIMEOUT_MS 2000

#define SAMPLES_MAX 4096

/* Requests of a loop that wait for room under a rate limit. */
#define WAITING_MAX 256

static void prepare_call(struct GwRequest *request);
static enum GwLane unproven_lane(const struct GwGateway *gateway);
static bool is_proven(const struct GwGateway *gateway, int lane);
static void submit(struct GwRequest *request);
static void try_again(struct GwTimer *timer);
static void dispatch_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result);
static void settle(struct GwRequest *request, struct MHD_Response *response);
static void builtin_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result);
static bool asks_next_lane(struct GwRequest *request);
static void read_facts(struct GwBuiltinFacts *facts, const PGresult *result, enum GwCallKind kind, char *reason);
static struct GwSample *read_samples(const PGresult *result, size_t *count);
static struct MHD_Response *row_reply(struct GwRequest *request, const PGresult *result);

void
gw_answer_begin(struct GwRequest *request)
{
	request->attempts = 0;
	request->database_us = 0;
	prepare_call(request);
	if (request->builtin == GW_BUILTIN_NONE && request->route->kind == GW_KIND_ROWS)
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

	if (end != GW_CALL_ANSWERED || sqlstate == NULL || gw_sql_class(sqlstate) != GW_SQL_RETRY || request->attempts > RETRIES_MAX)
		return false;
	gw_metrics_add(&request->loop->metrics, GW_COUNT_RETRIES, 1);
	/* 20 to 50, 40 to 100, 80 to 200 ms; two that collided must not meet again. */
	longest = 50 << (request->attempts - 1);
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
			gw_answer_note_error(request, result);
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
gw_answer_note_error(struct GwRequest *request, const PGresult *result)
{
	const char *sqlstate = gw_call_sqlstate(result);
	const char *message = result != NULL ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;

	if (sqlstate != NULL && gw_sql_class(sqlstate) == GW_SQL_CLIENT && gw_sql_status(sqlstate) < 500)
		return;
	snprintf(request->error, sizeof(request->error), "%s: %s", sqlstate != NULL ? sqlstate : "-",
			 message != NULL ? message : "the connection was lost");
	gw_metrics_add(&request->loop->metrics, GW_COUNT_DATABASE_ERRORS, 1);
}

static void
prepare_call(struct GwRequest *request)
{
	static const enum GwCallKind kinds[] = {
		[GW_BUILTIN_READY] = GW_CALL_READY,
		[GW_BUILTIN_HEALTH] = GW_CALL_HEALTH,
		[GW_BUILTIN_HEALTH_DETAILED] = GW_CALL_HEALTH,
		[GW_BUILTIN_METRICS] = GW_CALL_METRICS,
	};
	struct GwCall *call = &request->call;
	enum GwLane lane = GW_LANE_FAST;

	*call = (struct GwCall){0};
	if (request->builtin != GW_BUILTIN_NONE)
	{
		call->kind = kinds[request->builtin];
		call->is_read = true;
		call->timeout_ms = BUILTIN_TIMEOUT_MS;
		call->done = builtin_ended;
		if (call->kind != GW_CALL_METRICS)
			lane = unproven_lane(request->loop->gateway);
	}
	else
	{
		call->kind = GW_CALL_DISPATCH;
		call->is_read = request->is_head || strcmp(request->method, "GET") == 0;
		call->route_id = request->route->id;
		call->timeout_ms = request->route->timeout_ms;
		call->pace = request->route->pace;
		call->credential = request->credential_at < 0 ? NULL : request->params.data + request->credential_at;
		call->path_and_query = request->query_at < 0 ? NULL : request->params.data + request->query_at;
		call->caller = request->params.data + request->caller_at;
		call->body = request->has_body ? (request->body_len > 0 ? request->body : "") : NULL;
		call->body_len = request->body_len;
		call->done = dispatch_ended;
		lane = request->route->lane;
	}
	call->pool = request->loop->pools[lane];
}

/* A lane of which nobody knows that it has connections: whether requests can be served is asked there. */
static enum GwLane
unproven_lane(const struct GwGateway *gateway)
{
	for (int lane = GW_LANE_FAST + 1; lane < GW_LANES; lane++)
		if (!is_proven(gateway, lane))
			return (enum GwLane) lane;
	return GW_LANE_FAST;
}

/*
 * A link at work has its connection, and a check would have to wait for it. One that hangs is given up soon after
 * the time of its route, which leaves its lane unproven.
 */
static bool
is_proven(const struct GwGateway *gateway, int lane)
{
	return atomic_load(&gateway->shared[lane].is_proven) ||
		   gw_metrics_sum(gateway->metrics, (size_t) gateway->nloops, GW_COUNT_FAST_BUSY + (enum GwCount) lane) > 0;
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

static void
builtin_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result)
{
	struct GwRequest *request = gw_container_of(call, struct GwRequest, call);
	struct GwGateway *gateway = request->loop->gateway;
	struct GwSample *samples = NULL;
	char reason[GW_REASON_SIZE];
	struct GwBuiltinFacts facts = {
		.metrics = gateway->metrics,
		.nmetrics = (size_t) gateway->nloops,
		.started_us = gateway->started_us,
		.is_draining = request->loop->state != GW_LOOP_RUNNING,
	};

	request->database_us += request->loop->now - request->called_at;
	gw_gateway_reason(gateway, reason);
	if (end != GW_CALL_ANSWERED)
		snprintf(reason, sizeof(reason), call->pool->shared == NULL ? "the database does not answer" : "the database takes too few connections");
	else if (gw_call_sqlstate(result) != NULL)
		gw_answer_note_error(request, result);
	else if (call->kind == GW_CALL_METRICS)
	{
		facts.is_ready = true;
		facts.samples = samples = read_samples(result, &facts.nsamples);
	}
	else
		read_facts(&facts, result, call->kind, reason);
	if (facts.is_ready && call->kind != GW_CALL_METRICS && asks_next_lane(request))
		return;
	if (!atomic_load(&gateway->is_ready))
		facts.is_ready = false;
	if (!facts.is_ready)
		facts.reason = reason[0] != '\0' ? reason : "the database refuses the readiness check";
	gw_request_answer(request, gw_builtin_reply(request->builtin, &request->ask, NULL, &facts, &request->note));
	free(samples);
}

/* This lane is well: asks the next one, if there is one to be asked. */
static bool
asks_next_lane(struct GwRequest *request)
{
	enum GwLane lane = unproven_lane(request->loop->gateway);

	if (lane == GW_LANE_FAST)
		return false;
	request->call.pool = request->loop->pools[lane];
	request->state = GW_REQUEST_WAITING;
	gw_timer_set(&request->loop->timers, &request->retry, request->loop->now);
	return true;
}

static void
read_facts(struct GwBuiltinFacts *facts, const PGresult *result, enum GwCallKind kind, char *reason)
{
	if (PQntuples(result) != 1)
		return;
	facts->is_ready = PQgetvalue(result, 0, 0)[0] == 't';
	if (!facts->is_ready && !PQgetisnull(result, 0, 1))
		snprintf(reason, GW_REASON_SIZE, "%s", PQgetvalue(result, 0, 1));
	if (kind == GW_CALL_HEALTH && !PQgetisnull(result, 0, 2))
	{
		facts->health = PQgetvalue(result, 0, 2);
		facts->health_len = (size_t) PQgetlength(result, 0, 2);
	}
}

static struct GwSample *
read_samples(const PGresult *result, size_t *count)
{
	int n = PQntuples(result) < SAMPLES_MAX ? PQntuples(result) : SAMPLES_MAX;
	struct GwSample *samples = calloc((size_t) n + 1, sizeof(*samples));

	for (int i = 0; samples != NULL && i < n; i++)
		samples[i] = (struct GwSample){
			.name = PQgetvalue(result, i, 0),
			.labels = PQgetisnull(result, i, 1) ? NULL : PQgetvalue(result, i, 1),
			.value = PQgetvalue(result, i, 2),
			.type = PQgetvalue(result, i, 3),
			.help = PQgetvalue(result, i, 4),
		};
	*count = samples != NULL ? (size_t) n : 0;
	return samples;
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
