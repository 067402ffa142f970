/*
 * question.c
 *	  What the database is asked for /ready, /health and /metrics, once for all who wait.
 */
#include "question.h"

#include "answer.h"
#include "gateway.h"
#include "pool.h"

#include <stdlib.h>

/* The database's part of the time; then the gateway gives it a moment more, and cancels. */
#define TIMEOUT_MS 2000
#define GRACE_MS 1000

/* Between an answer and the next question: so a flood of requests has ten a second asked. */
#define REST GW_MS(100)

/* Replies with all metrics that are made at once: one may have a megabyte to be compressed, and other requests wait. */
#define METRICS_TOGETHER 8

#define SAMPLES_MAX 4096

static enum GwCallKind kind_of(const struct GwRequest *request);
static void timer_fired(struct GwTimer *timer);
static void begin(struct GwQuestion *question);
static void submit(struct GwQuestion *question, enum GwLane lane);
static void call_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result);
static bool asks_next_lane(struct GwQuestion *question);
static void tell(struct GwQuestion *question, const struct GwBuiltinFacts *facts, const char *error);
static void rest(struct GwQuestion *question);
static enum GwLane unproven_lane(const struct GwGateway *gateway);
static bool is_proven(const struct GwGateway *gateway, int lane);
static void read_facts(struct GwBuiltinFacts *facts, const PGresult *result, enum GwCallKind kind, char *reason);
static void write_metrics(struct GwText *out, const struct GwBuiltinFacts *facts, const PGresult *result);
static void append(struct GwAskers *askers, struct GwRequest *request);
static void take_out(struct GwRequest *request);

bool
gw_questions_open(struct GwLoop *loop)
{
	for (int kind = 0; kind < GW_CALL_KINDS; kind++)
	{
		struct GwQuestion *question = &loop->questions[kind];

		question->loop = loop;
		question->call = (struct GwCall){.kind = (enum GwCallKind) kind, .is_read = true, .timeout_ms = TIMEOUT_MS, .done = call_ended};
		if (!gw_timer_open(&loop->timers, &question->timer, timer_fired))
			return false;
	}
	return true;
}

void
gw_question_ask(struct GwRequest *request)
{
	struct GwQuestion *question = &request->loop->questions[kind_of(request)];

	request->question = question;
	request->state = GW_REQUEST_WAITING;
	request->called_at = request->loop->now;
	/* What it waits for has a deadline itself, and so has its own question when that begins. */
	gw_request_expect(request, GW_NEVER);
	append(&question->later, request);
	if (question->asking.first == NULL && question->timer.slot == 0)
		begin(question);
}

void
gw_question_leave(struct GwRequest *request)
{
	struct GwQuestion *question = request->question;

	if (question == NULL)
		return;
	take_out(request);
	if (question->asking.first != NULL || request->state != GW_REQUEST_CALLING)
		return;
	gw_pool_abandon(&question->call);
	rest(question);
}

bool
gw_question_is_sent(const struct GwRequest *request)
{
	return request->question != NULL && request->state == GW_REQUEST_CALLING && request->question->call.state == GW_CALL_SENT;
}

static enum GwCallKind
kind_of(const struct GwRequest *request)
{
	switch (request->builtin)
	{
		case GW_BUILTIN_HEALTH:
		case GW_BUILTIN_HEALTH_DETAILED:
			return GW_CALL_HEALTH;
		case GW_BUILTIN_METRICS:
			return GW_CALL_METRICS;
		default:
			return GW_CALL_READY;
	}
}

static void
timer_fired(struct GwTimer *timer)
{
	struct GwQuestion *question = gw_container_of(timer, struct GwQuestion, timer);

	if (question->asking.first != NULL)
		submit(question, unproven_lane(question->loop->gateway));
	else if (question->later.first != NULL)
		begin(question);
}

/* Asks for those who have come. */
static void
begin(struct GwQuestion *question)
{
	enum GwCallKind kind = question->call.kind;
	size_t most = kind == GW_CALL_METRICS ? METRICS_TOGETHER : SIZE_MAX;
	struct GwRequest *request;

	for (size_t i = 0; i < most && (request = question->later.first) != NULL; i++)
	{
		take_out(request);
		request->question = question;
		request->state = GW_REQUEST_CALLING;
		append(&question->asking, request);
	}
	submit(question, kind == GW_CALL_METRICS ? GW_LANE_FAST : unproven_lane(question->loop->gateway));
}

static void
submit(struct GwQuestion *question, enum GwLane lane)
{
	struct GwLoop *loop = question->loop;

	question->called_at = loop->now;
	gw_metrics_add(&loop->metrics, GW_COUNT_CALLS, 1);
	for (struct GwRequest *request = question->asking.first; request != NULL; request = request->next_asker)
		gw_request_expect(request, loop->now + GW_MS(TIMEOUT_MS + GRACE_MS));
	question->call.pool = loop->pools[lane];
	gw_pool_submit(question->call.pool, &question->call);
}

static void
call_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result)
{
	struct GwQuestion *question = gw_container_of(call, struct GwQuestion, call);
	struct GwLoop *loop = question->loop;
	struct GwGateway *gateway = loop->gateway;
	char reason[GW_REASON_SIZE];
	char error[GW_ERROR_SIZE] = "";
	struct GwText metrics = {0};
	struct GwBuiltinFacts facts = {
		.metrics_text = &metrics,
		.metrics = gateway->metrics,
		.nmetrics = (size_t) gateway->nloops,
		.started_us = gateway->started_us,
		.is_draining = loop->state != GW_LOOP_RUNNING,
	};

	gw_metrics_add(&loop->metrics, GW_COUNT_DATABASE_US, loop->now - question->called_at);
	gw_gateway_reason(gateway, reason);
	if (end != GW_CALL_ANSWERED)
		snprintf(reason, sizeof(reason), call->pool->shared == NULL ? "the database does not answer" : "the database takes too few connections");
	else if (gw_call_sqlstate(result) != NULL)
		gw_answer_note_error(loop, error, result);
	else if (call->kind == GW_CALL_METRICS)
		facts.is_ready = true;
	else
		read_facts(&facts, result, call->kind, reason);
	if (facts.is_ready && call->kind != GW_CALL_METRICS && asks_next_lane(question))
		return;
	if (!atomic_load(&gateway->is_ready))
		facts.is_ready = false;
	if (!facts.is_ready)
		facts.reason = reason[0] != '\0' ? reason : "the database refuses the readiness check";
	if (call->kind == GW_CALL_METRICS)
		write_metrics(&metrics, &facts, result);
	tell(question, &facts, error);
	gw_text_free(&metrics);
	rest(question);
}

/* This lane is well: the next one is asked, if there is one to be asked. */
static bool
asks_next_lane(struct GwQuestion *question)
{
	struct GwLoop *loop = question->loop;

	if (unproven_lane(loop->gateway) == GW_LANE_FAST)
		return false;
	gw_timer_set(&loop->timers, &question->timer, loop->now);
	return true;
}

/* Answers all who asked. */
static void
tell(struct GwQuestion *question, const struct GwBuiltinFacts *facts, const char *error)
{
	struct GwRequest *request;

	while ((request = question->asking.first) != NULL)
	{
		take_out(request);
		request->database_us = question->loop->now - request->called_at;
		snprintf(request->error, sizeof(request->error), "%s", error);
		gw_request_answer(request, gw_builtin_reply(request->builtin, &request->ask, NULL, facts, &request->note));
	}
}

static void
rest(struct GwQuestion *question)
{
	gw_timer_set(&question->loop->timers, &question->timer, question->loop->now + REST);
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

/* Writes the gateway's metrics, and the database's if it has told them. */
static void
write_metrics(struct GwText *out, const struct GwBuiltinFacts *facts, const PGresult *result)
{
	int told = PQresultStatus(result) == PGRES_TUPLES_OK ? PQntuples(result) : 0;
	int n = told < SAMPLES_MAX ? told : SAMPLES_MAX;
	struct GwSample *samples = calloc((size_t) n + 1, sizeof(*samples));

	for (int i = 0; samples != NULL && i < n; i++)
		samples[i] = (struct GwSample){
			.name = PQgetvalue(result, i, 0),
			.labels = PQgetisnull(result, i, 1) ? NULL : PQgetvalue(result, i, 1),
			.value = PQgetvalue(result, i, 2),
			.type = PQgetvalue(result, i, 3),
			.help = PQgetvalue(result, i, 4),
		};
	gw_builtin_write_metrics(out, facts, samples, samples != NULL ? (size_t) n : 0);
	free(samples);
}

static void
append(struct GwAskers *askers, struct GwRequest *request)
{
	request->previous_asker = askers->last;
	request->next_asker = NULL;
	if (askers->last != NULL)
		askers->last->next_asker = request;
	else
		askers->first = request;
	askers->last = request;
}

/* Takes the request out of its question. */
static void
take_out(struct GwRequest *request)
{
	struct GwQuestion *question = request->question;
	struct GwAskers *askers = request->state == GW_REQUEST_CALLING ? &question->asking : &question->later;

	if (request->previous_asker != NULL)
		request->previous_asker->next_asker = request->next_asker;
	else
		askers->first = request->next_asker;
	if (request->next_asker != NULL)
		request->next_asker->previous_asker = request->previous_asker;
	else
		askers->last = request->previous_asker;
	request->question = NULL;
}
