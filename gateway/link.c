/*
 * link.c
 *	  One connection to the database, never blocking, in pipeline mode.
 *
 * One Sync stands behind every request, so that each is a transaction of its
 * own, and a request has ended only when its Sync is answered: that is when its
 * transaction is known to be committed, and an error at commit comes before it.
 * A request whose connection dies earlier has an unknown fate, except when an
 * error had come for it.
 *
 * Telling the pool that a link is free or down may hand the link to another
 * loop: it is the last thing that a function here does with a link.
 */
#include "link.h"

#include "canceller.h"
#include "gateway.h"
#include "pool.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* A younger request may be followed by others in the same pipeline. */
#define YOUNG_US GW_MS(5)

#define CONNECT_TIMEOUT GW_SECONDS(5)

/* How long a cancelled request may go on before its connection is given up. */
#define CANCEL_TIMEOUT GW_SECONDS(5)

/* libpq's buffers do not shrink: a link that carried more is opened anew. */
#define LARGE_BODY (1024 * 1024)

static void link_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events);
static void go_on_connecting(struct GwLink *link);
static void begin_preparing(struct GwLink *link);
static void go_on_preparing(struct GwLink *link);
static void take_input(struct GwLink *link);
static bool take_results(struct GwLink *link);
static void take_result(struct GwLink *link, PGresult *result);
static void finish_first(struct GwLink *link);
static bool is_ours_to_repeat(struct GwLink *link, const struct GwSlot *slot, const char *sqlstate);
static void finish_call(struct GwLink *link, struct GwSlot *slot);
static void lose(struct GwLink *link, const char *why);
static void lose_slot(struct GwPool *pool, struct GwSlot *slot, bool is_first);
static void drop_connection(struct GwLink *link);
static void watch_socket(struct GwLink *link, uint32_t events);
static bool flush(struct GwLink *link);
static void cancel_first(struct GwLink *link);
static void cancel_was_sent(struct GwLoop *loop, struct GwMail *mail);
static void link_is_late(struct GwTimer *timer);
static void say_nothing(void *argument, const PGresult *result);

void
gw_link_open(struct GwLink *link, enum GwLane lane)
{
	*link = (struct GwLink){.lane = lane, .watch = {.fd = -1, .ready = link_is_ready}, .cancelled = {.deliver = cancel_was_sent}};
}

/* Makes the link the loop's; false when there is no memory. */
bool
gw_link_attach(struct GwLink *link, struct GwLoop *loop, struct GwPool *pool)
{
	if (!gw_timer_open(&loop->timers, &link->timer, link_is_late))
		return false;
	link->loop = loop;
	link->pool = pool;
	if (link->connection != NULL)
		watch_socket(link, EPOLLIN);
	return true;
}

/* Takes an idle link off its loop, connected or not. */
void
gw_link_detach(struct GwLink *link)
{
	gw_loop_unwatch(link->loop, &link->watch);
	gw_timer_close(&link->loop->timers, &link->timer);
	link->loop = NULL;
	link->pool = NULL;
}

/* Ends the connection; what is in the pipeline gets no answer. */
void
gw_link_close(struct GwLink *link)
{
	while (link->used > 0)
	{
		PQclear(link->slots[link->first].result);
		link->first = (link->first + 1) % GW_LINK_DEPTH;
		link->used--;
	}
	link->nslow = 0;
	if (link->loop != NULL)
		gw_timer_close(&link->loop->timers, &link->timer);
	drop_connection(link);
	link->loop = NULL;
}

/* Begins to connect. */
void
gw_link_connect(struct GwLink *link)
{
	const struct GwConfig *config = &link->loop->gateway->config;
	const char *const names[] = {"dbname", "application_name", "client_encoding", NULL};
	const char *const values[] = {config->database_url, "keelson_gateway", "UTF8", NULL};

	link->state = GW_LINK_CONNECTING;
	link->connection = PQconnectStartParams(names, values, 1);
	if (link->connection == NULL)
	{
		lose(link, "there is no memory");
		return;
	}
	if (PQstatus(link->connection) == CONNECTION_BAD)
	{
		lose(link, PQerrorMessage(link->connection));
		return;
	}
	gw_timer_set(&link->loop->timers, &link->timer, link->loop->now + CONNECT_TIMEOUT);
	watch_socket(link, EPOLLOUT);
}

/*
 * Looks whether an idle link still lives; if not, the pool has been told.  A
 * server that crashes says so before it closes: the first reading takes that,
 * the second finds the end.
 */
bool
gw_link_check(struct GwLink *link)
{
	PGconn *connection = link->connection;
	char byte;

	if (recvfrom(PQsocket(connection), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT, NULL, NULL) < 0 && errno == EAGAIN)
		return true;
	if (PQconsumeInput(connection) && PQconsumeInput(connection) && PQstatus(connection) == CONNECTION_OK)
		return true;
	lose(link, PQerrorMessage(link->connection));
	return false;
}

/* Closes the connection of an idle link, telling nobody. */
void
gw_link_drop(struct GwLink *link)
{
	drop_connection(link);
}

/* Says whether one more call may go into the pipeline. */
bool
gw_link_has_room(const struct GwLink *link, unsigned depth, int64_t now)
{
	if (link->state != GW_LINK_READY || link->is_cancelling || link->is_stale || link->used >= depth)
		return false;
	return link->used == 0 || now - link->slots[link->first].sent_at <= YOUNG_US;
}

/* Says whether all that is under way are quick reads. */
bool
gw_link_is_quick(const struct GwLink *link)
{
	return link->nslow == 0;
}

/* Sends the call.  Should the connection fail at it, the call is told so like any lost one. */
void
gw_link_send(struct GwLink *link, struct GwCall *call)
{
	struct GwSlot *slot = &link->slots[(link->first + link->used) % GW_LINK_DEPTH];

	*slot = (struct GwSlot){.call = call, .sent_at = link->loop->now, .is_quick = gw_call_is_quick(call)};
	link->used++;
	link->nslow += !slot->is_quick;
	call->link = link;
	call->state = GW_CALL_SENT;
	if (call->body_len > LARGE_BODY)
		link->is_stale = true;
	gw_metrics_add(&link->loop->metrics, GW_COUNT_FAST_BUSY + (enum GwCount) link->lane, 1);
	if (!gw_call_write(call, link->connection))
		lose(link, PQerrorMessage(link->connection));
	else
		(void) flush(link);
}

/*
 * Forgets a call that was sent.  What the server does for it is cancelled as
 * soon as it is the first in the pipeline; a cancel would hit another before.
 */
void
gw_link_abandon(struct GwLink *link, struct GwCall *call)
{
	for (unsigned i = 0; i < link->used; i++)
	{
		struct GwSlot *slot = &link->slots[(link->first + i) % GW_LINK_DEPTH];

		if (slot->call != call)
			continue;
		slot->call = NULL;
		if (i == 0)
			cancel_first(link);
		/* All of the answer may be here already: it was the link's last word, but for the cancel. */
		if (link->is_paused)
			gw_link_pause(link, false);
		return;
	}
}

/* Stops reading, so that the server stops sending; or goes on. */
void
gw_link_pause(struct GwLink *link, bool is_paused)
{
	if (link->is_paused == is_paused || link->connection == NULL)
		return;
	link->is_paused = is_paused;
	watch_socket(link, is_paused ? 0 : EPOLLIN);
	if (!is_paused && !link->is_reading && take_results(link) && link->state == GW_LINK_READY)
		gw_pool_link_free(link);
}

static void
link_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events)
{
	struct GwLink *link = gw_container_of(watch, struct GwLink, watch);

	if (link->loop != loop)
		return;
	switch (link->state)
	{
		case GW_LINK_DOWN:
			break;
		case GW_LINK_CONNECTING:
			go_on_connecting(link);
			break;
		case GW_LINK_PREPARING:
		case GW_LINK_READY:
			if ((events & EPOLLOUT) != 0 && !flush(link))
				break;
			if ((events & ~(uint32_t) EPOLLOUT) != 0)
				take_input(link);
			break;
	}
}

static void
go_on_connecting(struct GwLink *link)
{
	switch (PQconnectPoll(link->connection))
	{
		case PGRES_POLLING_READING:
			watch_socket(link, EPOLLIN);
			break;
		case PGRES_POLLING_WRITING:
			watch_socket(link, EPOLLOUT);
			break;
		case PGRES_POLLING_OK:
			begin_preparing(link);
			break;
		default:
			lose(link, PQerrorMessage(link->connection));
			break;
	}
}

static void
begin_preparing(struct GwLink *link)
{
	PGconn *connection = link->connection;

	(void) PQsetNoticeReceiver(connection, say_nothing, NULL);
	link->state = GW_LINK_PREPARING;
	watch_socket(link, EPOLLIN);
	if (PQsetnonblocking(connection, 1) != 0 ||
		PQenterPipelineMode(connection) != 1 ||
		PQsendPrepare(connection, gw_call_dispatch_name, gw_call_dispatch_sql, GW_CALL_DISPATCH_PARAMS, gw_call_dispatch_types) != 1 ||
		PQpipelineSync(connection) != 1)
		lose(link, PQerrorMessage(connection));
	else
		(void) flush(link);
}

static void
go_on_preparing(struct GwLink *link)
{
	while (!PQisBusy(link->connection))
	{
		PGresult *result = PQgetResult(link->connection);
		ExecStatusType status = PQresultStatus(result);

		if (result != NULL && status != PGRES_COMMAND_OK && status != PGRES_PIPELINE_SYNC)
		{
			char fault[sizeof(link->fault)];

			snprintf(fault, sizeof(fault), "%s", PQresultErrorMessage(result));
			PQclear(result);
			lose(link, fault);
			return;
		}
		PQclear(result);
		if (status == PGRES_PIPELINE_SYNC)
		{
			gw_timer_clear(&link->loop->timers, &link->timer);
			link->state = GW_LINK_READY;
			link->fault[0] = '\0';
			gw_pool_link_ready(link);
			return;
		}
	}
}

/* Reads what has come.  A connection that has ended may still hold whole results. */
static void
take_input(struct GwLink *link)
{
	bool is_alive = PQconsumeInput(link->connection);
	bool has_finished = false;

	if (link->state == GW_LINK_READY)
		has_finished = take_results(link);
	if (link->state == GW_LINK_DOWN)
		return;
	if (!is_alive || PQstatus(link->connection) == CONNECTION_BAD)
		lose(link, PQerrorMessage(link->connection));
	else if (link->state == GW_LINK_PREPARING)
		go_on_preparing(link);
	else if (has_finished)
		gw_pool_link_free(link);
}

/*
 * Hands out every result that has arrived; says whether a request has ended.
 * Calls that end may submit others, to this very link too, so its state is
 * looked at anew each time round.
 */
static bool
take_results(struct GwLink *link)
{
	bool has_finished = false;

	if (link->is_reading)
		return false;
	link->is_reading = true;
	while (link->state == GW_LINK_READY && link->used > 0 && !link->is_paused && !PQisBusy(link->connection))
	{
		PGresult *result = PQgetResult(link->connection);

		if (result == NULL)
		{
			if (PQstatus(link->connection) == CONNECTION_BAD)
				break;
			continue;
		}
		if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
			has_finished = true;
		take_result(link, result);
	}
	link->is_reading = false;
	return has_finished;
}

/* Takes over one result of the first request in the pipeline. */
static void
take_result(struct GwLink *link, PGresult *result)
{
	struct GwSlot *slot = &link->slots[link->first];

	switch (PQresultStatus(result))
	{
		case PGRES_PIPELINE_SYNC:
			PQclear(result);
			finish_first(link);
			return;
		case PGRES_SINGLE_TUPLE:
			if (slot->call != NULL)
				slot->call->row(slot->call, result);
			PQclear(result);
			return;
		default:
			/* An error at commit replaces the result that it undoes. */
			PQclear(slot->result);
			slot->result = result;
			return;
	}
}

/* The Sync of the first request is answered: it has ended. */
static void
finish_first(struct GwLink *link)
{
	struct GwSlot slot = link->slots[link->first];

	link->first = (link->first + 1) % GW_LINK_DEPTH;
	link->used--;
	link->nslow -= !slot.is_quick;
	gw_timer_clear(&link->loop->timers, &link->timer);
	gw_metrics_add(&link->loop->metrics, GW_COUNT_FAST_BUSY + (enum GwCount) link->lane, -1);
	if (slot.call != NULL)
		gw_call_took(slot.call, link->loop->now - (slot.sent_at > link->answered_at ? slot.sent_at : link->answered_at));
	link->answered_at = link->loop->now;
	if (PQresultMemorySize(slot.result) > LARGE_BODY)
		link->is_stale = true;
	if (link->used > 0 && link->slots[link->first].call == NULL)
		cancel_first(link);
	if (slot.call != NULL)
		finish_call(link, &slot);
	PQclear(slot.result);
}

static void
finish_call(struct GwLink *link, struct GwSlot *slot)
{
	struct GwCall *call = slot->call;
	const char *sqlstate = gw_call_sqlstate(slot->result);

	call->link = NULL;
	call->state = GW_CALL_IDLE;
	if (sqlstate != NULL && !call->was_resent && is_ours_to_repeat(link, slot, sqlstate))
	{
		call->was_resent = true;
		gw_pool_call_again(link->pool, call);
	}
	else
		call->done(call, GW_CALL_ANSWERED, slot->result);
}

/*
 * Says whether an error is our own doing, so that the call, which was rolled
 * back, deserves another try: a cancel meant for the request before it, or a
 * prepared statement that no longer fits the function (it was replaced).
 */
static bool
is_ours_to_repeat(struct GwLink *link, const struct GwSlot *slot, const char *sqlstate)
{
	if (strcmp(sqlstate, "57014") == 0)
		return slot->may_be_cancelled && link->loop->now - slot->sent_at < GW_MS(slot->call->timeout_ms);
	if (strcmp(sqlstate, "26000") == 0 || strcmp(sqlstate, "0A000") == 0)
	{
		if (PQresultErrorField(slot->result, PG_DIAG_CONTEXT) != NULL)
			return false;
		gw_pool_links_are_stale(link);
		return true;
	}
	return false;
}

/* The connection is gone, or never came: settles what was in the pipeline, tells the pool. */
static void
lose(struct GwLink *link, const char *why)
{
	struct GwSlot slots[GW_LINK_DEPTH];
	unsigned used = link->used;
	struct GwPool *pool = link->pool;
	bool was_ready = link->state == GW_LINK_READY;

	snprintf(link->fault, sizeof(link->fault), "%.*s", (int) strcspn(why, "\n"), why);
	for (unsigned i = 0; i < used; i++)
		slots[i] = link->slots[(link->first + i) % GW_LINK_DEPTH];
	link->used = link->nslow = 0;
	gw_timer_clear(&link->loop->timers, &link->timer);
	drop_connection(link);
	link->state = GW_LINK_DOWN;
	gw_metrics_add(&link->loop->metrics, GW_COUNT_FAST_BUSY + (enum GwCount) link->lane, -(int64_t) used);
	for (unsigned i = 0; i < used; i++)
		lose_slot(pool, &slots[i], i == 0);
	gw_pool_link_down(link, was_ready);
}

static void
lose_slot(struct GwPool *pool, struct GwSlot *slot, bool is_first)
{
	struct GwCall *call = slot->call;
	const char *sqlstate = is_first ? gw_call_sqlstate(slot->result) : NULL;

	if (call != NULL)
	{
		call->link = NULL;
		call->state = GW_CALL_IDLE;
		if (sqlstate != NULL && strncmp(sqlstate, "57P", 3) != 0)
			call->done(call, GW_CALL_ANSWERED, slot->result);
		else
			gw_pool_call_lost(pool, call, slot->result);
	}
	PQclear(slot->result);
}

static void
drop_connection(struct GwLink *link)
{
	if (link->loop != NULL)
		gw_loop_unwatch(link->loop, &link->watch);
	PQfinish(link->connection);
	link->connection = NULL;
	link->state = GW_LINK_DOWN;
	link->is_paused = false;
	link->is_stale = false;
}

static void
watch_socket(struct GwLink *link, uint32_t events)
{
	/* A failure shows as a connection that is never ready, which its timer ends. */
	(void) !gw_loop_watch(link->loop, &link->watch, PQsocket(link->connection), events);
}

/* Writes what waits to be written, the rest when the socket takes it; false if the link was lost by it. */
static bool
flush(struct GwLink *link)
{
	uint32_t reading = link->is_paused ? 0 : EPOLLIN;
	int left = PQflush(link->connection);

	if (left < 0)
	{
		lose(link, PQerrorMessage(link->connection));
		return false;
	}
	watch_socket(link, left > 0 ? reading | EPOLLOUT : reading);
	return true;
}

/* Cancels what the server does for the first request in the pipeline. */
static void
cancel_first(struct GwLink *link)
{
	gw_timer_set(&link->loop->timers, &link->timer, link->loop->now + CANCEL_TIMEOUT);
	if (link->is_cancelling)
		return;
	for (unsigned i = 1; i < link->used; i++)
		link->slots[(link->first + i) % GW_LINK_DEPTH].may_be_cancelled = true;
	link->slots[link->first].is_cancelled = true;
	link->is_cancelling = true;
	gw_canceller_send(link->loop->gateway->canceller, link);
}

/* The cancel has reached the server (or never will). */
static void
cancel_was_sent(struct GwLoop *loop, struct GwMail *mail)
{
	struct GwLink *link = gw_container_of(mail, struct GwLink, cancelled);
	struct GwSlot *first = &link->slots[link->first];

	(void) loop;
	link->is_cancelling = false;
	if (link->used > 0 && first->call == NULL && !first->is_cancelled)
		cancel_first(link);
	else if (link->state == GW_LINK_DOWN || link->state == GW_LINK_READY)
		gw_pool_link_free(link);
}

static void
link_is_late(struct GwTimer *timer)
{
	struct GwLink *link = gw_container_of(timer, struct GwLink, timer);

	lose(link, link->state == GW_LINK_READY ? "the server does not react to a cancel" : "no answer from the server");
}

/* Notices of the server are nothing that this process has to tell. */
static void
say_nothing(void *argument, const PGresult *result)
{
	(void) argument;
	(void) result;
}
