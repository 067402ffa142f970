/*
 * link.h
 *	  One connection to the database, never blocking, in pipeline mode.
 *
 *		DOWN ──connect──► CONNECTING ──► PREPARING ──► READY
 *		  ▲                   │              │            │
 *		  └───────────────────┴──── lost ────┴────────────┘
 *
 * A link has one owner at a time: the loop it is attached to, or, detached, the
 * shared lane that keeps it.  It reports to its owner's pool (link_* in pool.h).
 */
#ifndef GW_LINK_H
#define GW_LINK_H

#include "call.h"
#include "loop.h"

#define GW_LINK_DEPTH 4

enum GwLinkState
{
	GW_LINK_DOWN,
	GW_LINK_CONNECTING,
	GW_LINK_PREPARING,
	GW_LINK_READY
};

/* A request in the pipeline; the first is the one that the server works on. */
struct GwSlot
{
	struct GwCall *call; /* NULL: abandoned, its answer is thrown away */
	PGresult *result;    /* so far; kept until the Sync behind it is answered */
	int64_t sent_at;
	bool is_quick;         /* a read that is known not to take long */
	bool is_cancelled;     /* a cancel was sent for it */
	bool may_be_cancelled; /* a cancel for the one before it may have hit it */
};

struct GwLink
{
	struct GwWatch watch;
	struct GwTimer timer;    /* connecting: give up; abandoned head: cancel has no effect */
	struct GwMail mail;      /* handing over to another loop */
	struct GwMail cancelled; /* from the canceller */
	struct GwLoop *loop;     /* NULL when detached */
	struct GwPool *pool;
	struct GwLink *next_idle; /* in a shared lane */
	enum GwLane lane;
	enum GwLinkState state;
	PGconn *connection;
	struct GwSlot slots[GW_LINK_DEPTH]; /* a ring */
	unsigned first, used;
	unsigned nslow;      /* of those in use that are no quick reads */
	int64_t answered_at; /* the last time */
	bool is_paused;      /* a streamed call wants no more for now */
	bool is_cancelling;  /* a cancel is on its way: nothing may be sent */
	bool is_stale;       /* to be closed and opened again when it is idle */
	bool is_reading;     /* inside take_results: do not enter again */
	char fault[256];     /* why the last attempt failed */
};

void gw_link_open(struct GwLink *link, enum GwLane lane);
bool gw_link_attach(struct GwLink *link, struct GwLoop *loop, struct GwPool *pool) __attribute__((warn_unused_result));
void gw_link_detach(struct GwLink *link);
void gw_link_close(struct GwLink *link);

void gw_link_connect(struct GwLink *link);
bool gw_link_check(struct GwLink *link) __attribute__((warn_unused_result));
void gw_link_drop(struct GwLink *link);
bool gw_link_is_quick(const struct GwLink *link);
bool gw_link_has_room(const struct GwLink *link, unsigned depth, int64_t now);
void gw_link_send(struct GwLink *link, struct GwCall *call);
void gw_link_abandon(struct GwLink *link, struct GwCall *call);
void gw_link_pause(struct GwLink *link, bool is_paused);

#endif
