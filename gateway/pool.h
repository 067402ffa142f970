/*
 * pool.h
 *	  Which connection a call takes, and how it waits for one.
 *
 * Each loop has a pool per lane.  The fast lane's pool owns KEELSON_POOL links;
 * calls go to an idle one first, and into the pipeline of a busy one only when
 * none is idle and nothing in it is older than a few milliseconds.  The other
 * lanes have few links for the whole gateway, one call at a time on each;
 * their pools borrow them from the shared lane (lane.h).
 */
#ifndef GW_POOL_H
#define GW_POOL_H

#include "lane.h"
#include "link.h"

struct GwPool
{
	struct GwLoop *loop;
	enum GwLane lane;
	struct GwShared *shared; /* NULL: the links below are this pool's own */
	struct GwLink *links;
	int nlinks;
	int nready;                  /* links that can take calls; of borrowed ones, those held now */
	struct GwCall *first, *last; /* the queue, oldest first */
	size_t nqueued;
	size_t ntickets;       /* left with the shared lane, or on the way back as links */
	struct GwTimer expiry; /* of the queue's head */
	struct GwTimer retry;  /* of the next attempt to connect */
	int64_t down_since;    /* when nready became 0 */
	int backoff_ms;
	bool is_closing;
	char fault[256]; /* last one told to the log */
};

struct GwPool *gw_pool_open(struct GwLoop *loop, enum GwLane lane, int nlinks, struct GwShared *shared) __attribute__((warn_unused_result));
void gw_pool_close(struct GwPool *pool);

/* Takes the call; done() may be called before this returns. */
void gw_pool_submit(struct GwPool *pool, struct GwCall *call);

/* Forgets the call: done() will not be called.  What the server runs is cancelled.  Harmless on an idle call. */
void gw_pool_abandon(struct GwCall *call);

/* Stops or restarts the rows of a streamed call. */
void gw_pool_pause(struct GwCall *call, bool is_paused);

/* Links report here. */
void gw_pool_link_ready(struct GwLink *link);
void gw_pool_link_free(struct GwLink *link);
void gw_pool_links_are_stale(struct GwLink *link);
void gw_pool_link_down(struct GwLink *link, bool was_ready);
void gw_pool_call_lost(struct GwPool *pool, struct GwCall *call, const PGresult *result);
void gw_pool_call_again(struct GwPool *pool, struct GwCall *call);

/* A shared lane's link has come. */
void gw_pool_granted(struct GwPool *pool, struct GwLink *link);

#endif
