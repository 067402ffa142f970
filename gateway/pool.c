/*
 * pool.c
 *	  Which connection a call takes, and how it waits for one.
 *
 * Without any connection, one link at a time probes for the database, at short
 * intervals; the first success brings the others.  Calls wait for it a moment,
 * later ones are refused at once.
 *
 * A borrowed link works for the oldest call of this loop, then goes back to the
 * shared lane, unless calls wait here for which no ticket is left there.
 */
#include "pool.h"

#include "gateway.h"

#include <stdlib.h>

/* Calls that may wait in one loop's queue. */
#define QUEUE_MAX 1024

/* How long a call may wait: with no connection, for a fast one, for a borrowed one. */
#define AWAY_WAIT GW_MS(250)
#define FAST_WAIT GW_SECONDS(5)
#define SHARED_WAIT GW_SECONDS(10)

/* Links that quick reads keep awake before they queue behind one another. */
#define QUICK_LINKS 2

/* Longest pause between attempts to connect: while none stands, and while others do. */
#define BACKOFF_AWAY_MS 100
#define BACKOFF_MS 1000

static bool is_away(const struct GwPool *pool);
static struct GwLink *choose(struct GwPool *pool, const struct GwCall *call);
static bool is_fit(struct GwLink *link, const struct GwCall *call);
static void pump(struct GwPool *pool);
static void enqueue(struct GwPool *pool, struct GwCall *call, bool at_front);
static void dequeue(struct GwPool *pool, struct GwCall *call);
static void finish(struct GwCall *call, enum GwCallEnd end, const PGresult *result);
static void watch_expiry(struct GwPool *pool);
static int64_t expires_at(const struct GwPool *pool, const struct GwCall *call);
static void expire(struct GwTimer *timer);
static void connect_links(struct GwTimer *timer);
static void plan_connecting(struct GwPool *pool, bool has_failed);
static void tell_fault(struct GwPool *pool, const struct GwLink *link);
static void borrow(struct GwPool *pool, struct GwCall *call);
static void serve_or_return(struct GwLink *link);
static void give_back(struct GwLink *link);
static void forget_tickets(struct GwPool *pool);
static void doubt_shared(struct GwPool *pool);

/* Opens a pool with links of its own, or with a shared lane; links connect in the loop's first turn. */
struct GwPool *
gw_pool_open(struct GwLoop *loop, enum GwLane lane, int nlinks, struct GwShared *shared)
{
	struct GwPool *pool = calloc(1, sizeof(*pool));

	if (pool == NULL)
		return NULL;
	*pool = (struct GwPool){.loop = loop, .lane = lane, .shared = shared, .down_since = loop->now};
	if (!gw_timer_open(&loop->timers, &pool->expiry, expire) || !gw_timer_open(&loop->timers, &pool->retry, connect_links))
		goto failed;
	if (shared != NULL)
		return pool;
	pool->links = calloc((size_t) nlinks, sizeof(*pool->links));
	if (pool->links == NULL)
		goto failed;
	for (; pool->nlinks < nlinks; pool->nlinks++)
	{
		gw_link_open(&pool->links[pool->nlinks], lane);
		if (!gw_link_attach(&pool->links[pool->nlinks], loop, pool))
			goto failed;
	}
	gw_timer_set(&loop->timers, &pool->retry, loop->now);
	return pool;

failed:
	gw_pool_close(pool);
	return NULL;
}

/* Closes the links, borrowed ones too; calls that still wait are told that the database is away.  All loops have stopped. */
void
gw_pool_close(struct GwPool *pool)
{
	if (pool == NULL)
		return;
	pool->is_closing = true;
	while (pool->first != NULL)
	{
		struct GwCall *call = pool->first;

		dequeue(pool, call);
		finish(call, GW_CALL_AWAY, NULL);
	}
	for (int i = 0; i < pool->nlinks; i++)
		gw_link_close(&pool->links[i]);
	for (int i = 0; pool->shared != NULL && i < pool->shared->nlinks; i++)
		if (pool->shared->links[i].loop == pool->loop)
			gw_link_close(&pool->shared->links[i]);
	gw_timer_close(&pool->loop->timers, &pool->expiry);
	gw_timer_close(&pool->loop->timers, &pool->retry);
	free(pool->links);
	free(pool);
}

void
gw_pool_submit(struct GwPool *pool, struct GwCall *call)
{
	struct GwLink *link;

	call->pool = pool;
	call->was_resent = false;
	if (pool->is_closing || is_away(pool->loop->pools[GW_LANE_FAST]))
	{
		finish(call, GW_CALL_AWAY, NULL);
		return;
	}
	if (pool->shared != NULL)
	{
		borrow(pool, call);
		return;
	}
	do
		link = pool->first == NULL ? choose(pool, call) : NULL;
	while (link != NULL && !is_fit(link, call));
	if (link != NULL)
		gw_link_send(link, call);
	else if (pool->nqueued >= QUEUE_MAX)
		finish(call, GW_CALL_BUSY, NULL);
	else
		enqueue(pool, call, false);
}

void
gw_pool_abandon(struct GwCall *call)
{
	struct GwPool *pool = call->pool;
	enum GwCallState state = call->state;

	call->state = GW_CALL_IDLE;
	switch (state)
	{
		case GW_CALL_IDLE:
			break;
		case GW_CALL_QUEUED:
			dequeue(pool, call);
			forget_tickets(pool);
			break;
		case GW_CALL_SENT:
			gw_link_abandon(call->link, call);
			break;
	}
}

void
gw_pool_pause(struct GwCall *call, bool is_paused)
{
	if (call->state == GW_CALL_SENT)
		gw_link_pause(call->link, is_paused);
}

/* Says that no connection is there, and has not been for longer than a call may wait. */
static bool
is_away(const struct GwPool *pool)
{
	return pool->nready == 0 && pool->loop->now - pool->down_since > AWAY_WAIT;
}

/* A link has connected. */
void
gw_pool_link_ready(struct GwLink *link)
{
	struct GwPool *pool = link->pool;

	pool->nready++;
	gw_metrics_add(&pool->loop->metrics, GW_COUNT_FAST_CONNECTIONS + (enum GwCount) pool->lane, 1);
	gw_metrics_add(&pool->loop->metrics, GW_COUNT_RECONNECTS, 1);
	if (pool->shared == NULL)
	{
		if (pool->nready == 1)
		{
			gw_log_event(&pool->loop->log, GW_LOG_INFO, "database_connected", "the database answers");
			pool->fault[0] = '\0';
			watch_expiry(pool);
		}
		pool->backoff_ms = 0;
		gw_timer_set(&pool->loop->timers, &pool->retry, pool->loop->now);
	}
	gw_pool_link_free(link);
}

/* A link may take a call (more), or be connected again after a cancel that was under way. */
void
gw_pool_link_free(struct GwLink *link)
{
	struct GwPool *pool = link->pool;

	if (pool->shared != NULL)
		serve_or_return(link);
	else if (link->state == GW_LINK_DOWN)
		plan_connecting(pool, false);
	else if (link->is_stale && link->used == 0 && !link->is_cancelling)
	{
		gw_link_drop(link);
		gw_pool_link_down(link, true);
	}
	else
		pump(pool);
}

/* The statements of all links of this pool no longer fit the database. */
void
gw_pool_links_are_stale(struct GwLink *link)
{
	struct GwPool *pool = link->pool;

	link->is_stale = true;
	for (int i = 0; i < pool->nlinks; i++)
		if (pool->links[i].state == GW_LINK_READY)
			pool->links[i].is_stale = true;
}

/* A link has lost its connection, or could not get one. */
void
gw_pool_link_down(struct GwLink *link, bool was_ready)
{
	struct GwPool *pool = link->pool;

	if (was_ready)
	{
		pool->nready--;
		gw_metrics_add(&pool->loop->metrics, GW_COUNT_FAST_CONNECTIONS + (enum GwCount) pool->lane, -1);
	}
	if (pool->is_closing)
		return;
	if (link->fault[0] != '\0')
		tell_fault(pool, link);
	if (pool->shared != NULL)
	{
		atomic_store(&pool->shared->is_proven, false);
		if (!was_ready && pool->nqueued > pool->ntickets)
		{
			struct GwCall *call = pool->first;

			dequeue(pool, call);
			finish(call, GW_CALL_AWAY, NULL);
		}
		serve_or_return(link);
		return;
	}
	if (was_ready && pool->nready == 0)
	{
		pool->down_since = pool->loop->now;
		doubt_shared(pool);
	}
	plan_connecting(pool, !was_ready);
	watch_expiry(pool);
	pump(pool);
}

/* A call was sent and its connection died.  Reads are sent once more; of others nobody knows what became. */
void
gw_pool_call_lost(struct GwPool *pool, struct GwCall *call, const PGresult *result)
{
	if (call->is_read && !call->was_resent && !pool->is_closing)
	{
		call->was_resent = true;
		gw_pool_call_again(pool, call);
	}
	else
		finish(call, GW_CALL_LOST, result);
}

/* Puts a call in front of the queue.  The link that reports this then says that it is free or down. */
void
gw_pool_call_again(struct GwPool *pool, struct GwCall *call)
{
	enqueue(pool, call, true);
}

/* A borrowed link has come for the oldest call here. */
void
gw_pool_granted(struct GwPool *pool, struct GwLink *link)
{
	pool->ntickets--;
	if (pool->first == NULL || !gw_link_attach(link, pool->loop, pool))
	{
		if (gw_lane_return(pool->shared, link, pool->loop))
			gw_pool_granted(pool, link);
		return;
	}
	if (link->state == GW_LINK_READY)
	{
		pool->nready++;
		if (!gw_link_check(link))
			return;
	}
	serve_or_return(link);
}

/*
 * The link for the next call: an idle one, else the least busy whose requests
 * are young.  A quick read goes behind its like, once enough links work at
 * such: a server process that is awake costs less than one to be woken.
 */
static struct GwLink *
choose(struct GwPool *pool, const struct GwCall *call)
{
	bool is_quick = gw_call_is_quick(call);
	struct GwLink *idle = NULL, *busy = NULL, *quick = NULL;
	int nquick = 0;

	for (int i = 0; i < pool->nlinks; i++)
	{
		struct GwLink *link = &pool->links[i];
		bool is_like = is_quick && link->used > 0 && gw_link_is_quick(link);

		nquick += is_like;
		if (!gw_link_has_room(link, GW_LINK_DEPTH, pool->loop->now))
			continue;
		if (link->used == 0)
			idle = idle == NULL ? link : idle;
		else if (busy == NULL || link->used < busy->used)
			busy = link;
		if (is_like && (quick == NULL || link->used < quick->used))
			quick = link;
	}
	if (quick != NULL && nquick >= QUICK_LINKS)
		return quick;
	return idle != NULL ? idle : busy;
}

/*
 * A write is sent to a link that lives: of one that had died unnoticed nobody
 * would know what became.  If not, the pool has been told, and may have served
 * its queue meanwhile.
 */
static bool
is_fit(struct GwLink *link, const struct GwCall *call)
{
	return call->is_read || link->used > 0 || gw_link_check(link);
}

/* Sends what waits, as far as there is room. */
static void
pump(struct GwPool *pool)
{
	struct GwCall *call;
	struct GwLink *link;

	while ((call = pool->first) != NULL && (link = choose(pool, call)) != NULL)
	{
		if (!is_fit(link, call))
			continue;
		dequeue(pool, call);
		gw_link_send(link, call);
	}
}

static void
enqueue(struct GwPool *pool, struct GwCall *call, bool at_front)
{
	call->state = GW_CALL_QUEUED;
	call->queued_at = pool->loop->now;
	call->previous = at_front ? NULL : pool->last;
	call->next = at_front ? pool->first : NULL;
	if (call->previous != NULL)
		call->previous->next = call;
	else
		pool->first = call;
	if (call->next != NULL)
		call->next->previous = call;
	else
		pool->last = call;
	pool->nqueued++;
	gw_metrics_add(&pool->loop->metrics, GW_COUNT_FAST_QUEUED + (enum GwCount) pool->lane, 1);
	if (pool->first == call)
		watch_expiry(pool);
}

static void
dequeue(struct GwPool *pool, struct GwCall *call)
{
	call->state = GW_CALL_IDLE;
	if (call->previous != NULL)
		call->previous->next = call->next;
	else
		pool->first = call->next;
	if (call->next != NULL)
		call->next->previous = call->previous;
	else
		pool->last = call->previous;
	pool->nqueued--;
	gw_metrics_add(&pool->loop->metrics, GW_COUNT_FAST_QUEUED + (enum GwCount) pool->lane, -1);
}

static void
finish(struct GwCall *call, enum GwCallEnd end, const PGresult *result)
{
	call->state = GW_CALL_IDLE;
	call->done(call, end, result);
}

/* Arms the timer for the queue's head; it may fire too early, never too late. */
static void
watch_expiry(struct GwPool *pool)
{
	int64_t at;

	if (pool->first == NULL)
		return;
	at = expires_at(pool, pool->first);
	if (pool->expiry.slot == 0 || at < pool->expiry.at)
		gw_timer_set(&pool->loop->timers, &pool->expiry, at);
}

static int64_t
expires_at(const struct GwPool *pool, const struct GwCall *call)
{
	if (pool->shared != NULL)
		return call->queued_at + SHARED_WAIT;
	return call->queued_at + (pool->nready == 0 ? AWAY_WAIT : FAST_WAIT);
}

/* Refuses the calls that have waited too long. */
static void
expire(struct GwTimer *timer)
{
	struct GwPool *pool = gw_container_of(timer, struct GwPool, expiry);

	while (pool->first != NULL && expires_at(pool, pool->first) <= pool->loop->now)
	{
		struct GwCall *call = pool->first;

		dequeue(pool, call);
		finish(call, pool->shared == NULL && pool->nready == 0 ? GW_CALL_AWAY : GW_CALL_BUSY, NULL);
	}
	forget_tickets(pool);
	watch_expiry(pool);
}

/* Connects every link that is down; while none stands, one probes for all. */
static void
connect_links(struct GwTimer *timer)
{
	struct GwPool *pool = gw_container_of(timer, struct GwPool, retry);

	for (int i = 0; i < pool->nlinks; i++)
	{
		struct GwLink *link = &pool->links[i];

		if (link->state != GW_LINK_DOWN || link->is_cancelling)
			continue;
		gw_link_connect(link);
		if (pool->nready == 0)
			break;
	}
}

/* Decides when to connect again after a link went down. */
static void
plan_connecting(struct GwPool *pool, bool has_failed)
{
	int longest = pool->nready == 0 ? BACKOFF_AWAY_MS : BACKOFF_MS;

	if (pool->nready == 0)
		for (int i = 0; i < pool->nlinks; i++)
			if (pool->links[i].state == GW_LINK_CONNECTING || pool->links[i].state == GW_LINK_PREPARING)
				return;
	if (has_failed)
		pool->backoff_ms = pool->backoff_ms == 0 ? 10 : pool->backoff_ms * 2;
	else
		pool->backoff_ms = 0;
	if (pool->backoff_ms > longest)
		pool->backoff_ms = longest;
	gw_timer_set(&pool->loop->timers, &pool->retry, pool->loop->now + GW_MS(pool->backoff_ms));
}

/* Tells the log why a connection is missing, once for each reason. */
static void
tell_fault(struct GwPool *pool, const struct GwLink *link)
{
	if (strcmp(pool->fault, link->fault) == 0)
		return;
	snprintf(pool->fault, sizeof(pool->fault), "%s", link->fault);
	gw_log_event(&pool->loop->log, GW_LOG_WARN, "database_connection", "%s", link->fault);
}

/* Asks the shared lane for a link; the call waits in the queue until it has come. */
static void
borrow(struct GwPool *pool, struct GwCall *call)
{
	struct GwLink *link;

	switch (gw_lane_borrow(pool->shared, pool->loop, &link))
	{
		case GW_LENT:
			enqueue(pool, call, false);
			pool->ntickets++;
			gw_pool_granted(pool, link);
			break;
		case GW_LENT_LATER:
			enqueue(pool, call, false);
			pool->ntickets++;
			break;
		case GW_LENT_NEVER:
			finish(call, GW_CALL_BUSY, NULL);
			break;
	}
}

/* Puts a borrowed link to its next use here, or gives it back. */
static void
serve_or_return(struct GwLink *link)
{
	struct GwPool *pool = link->pool;
	struct GwCall *call = pool->first;

	if (link->used > 0 || link->is_cancelling)
		return;
	if (link->is_stale && link->state == GW_LINK_READY)
	{
		gw_link_drop(link);
		pool->nready--;
		gw_metrics_add(&pool->loop->metrics, GW_COUNT_FAST_CONNECTIONS + (enum GwCount) pool->lane, -1);
	}
	if (link->state == GW_LINK_READY)
		atomic_store(&pool->shared->is_proven, true);
	if (call == NULL || pool->nqueued <= pool->ntickets)
		give_back(link);
	else if (link->state == GW_LINK_DOWN)
		gw_link_connect(link);
	else
	{
		dequeue(pool, call);
		gw_link_send(link, call);
	}
}

static void
give_back(struct GwLink *link)
{
	struct GwPool *pool = link->pool;

	if (link->state == GW_LINK_READY)
		pool->nready--;
	gw_link_detach(link);
	if (gw_lane_return(pool->shared, link, pool->loop))
		gw_pool_granted(pool, link);
}

/* Takes back the tickets of calls that no longer wait. */
static void
forget_tickets(struct GwPool *pool)
{
	if (pool->shared == NULL)
		return;
	while (pool->ntickets > pool->nqueued && gw_lane_forget(pool->shared, pool->loop))
		pool->ntickets--;
}

/* Links that nobody uses notice nothing: where all others were lost, theirs may be too. */
static void
doubt_shared(struct GwPool *pool)
{
	for (int lane = 0; lane < GW_LANES; lane++)
		atomic_store(&pool->loop->gateway->shared[lane].is_proven, false);
}
