/*
 * call.h
 *	  One call of the database: what is asked, and how it ends.
 */
#ifndef GW_CALL_H
#define GW_CALL_H

#include <libpq-fe.h>

#include "router.h"

struct GwLink;
struct GwPool;

enum GwCallKind
{
	GW_CALL_DISPATCH,
	GW_CALL_READY,   /* is_ready, reason */
	GW_CALL_HEALTH,  /* is_ready, reason, health */
	GW_CALL_METRICS, /* name, labels, value, type, help */
	GW_CALL_KINDS
};

enum GwCallEnd
{
	GW_CALL_ANSWERED, /* the database's answer, a good one or an error */
	GW_CALL_BUSY,     /* never sent: the queue is full, or the wait in it was too long */
	GW_CALL_AWAY,     /* never sent: no connection to the database */
	GW_CALL_LOST      /* sent, then the connection died: it may have happened or not */
};

/*
 * IDLE ─► QUEUED ─► SENT ─► IDLE (done is called), or abandoned from any state
 */
enum GwCallState
{
	GW_CALL_IDLE,
	GW_CALL_QUEUED,
	GW_CALL_SENT
};

/*
 * A call belongs to whoever embeds it; between gw_pool_submit() and done() (or
 * gw_pool_abandon()) it and the memory it points to must stay.
 */
struct GwCall
{
	enum GwCallKind kind;
	bool is_read;     /* may be sent again if its connection dies */
	bool is_streamed; /* "row" gets the rows one by one */
	int route_id;
	const char *credential; /* NULL-able, like the next three */
	const char *path_and_query;
	const char *caller;
	const char *body;
	size_t body_len;
	int timeout_ms;      /* of the route */
	struct GwPace *pace; /* of the route, or NULL */

	/* A row of a streamed call; the result is the link's. */
	void (*row)(struct GwCall *call, const PGresult *result);
	/* The end. The result (only with GW_CALL_ANSWERED; else an error or NULL) is the link's. */
	void (*done)(struct GwCall *call, enum GwCallEnd end, const PGresult *result);

	/* The pool's: */
	enum GwCallState state;
	bool was_resent; /* after a lost connection or a stray cancel: once only */
	struct GwPool *pool;
	struct GwLink *link;
	struct GwCall *previous, *next; /* in the queue */
	int64_t queued_at;
};

/* A row of keelson.dispatch(); slices point into the result. */
struct GwRow
{
	int status;
	struct GwSlice headers; /* JSON text; len 0: null */
	struct GwSlice body;    /* data NULL: null */
};

/* The statement that every link prepares, and its parameter types. */
extern const char gw_call_dispatch_name[];
extern const char gw_call_dispatch_sql[];
#define GW_CALL_DISPATCH_PARAMS 5
extern const Oid gw_call_dispatch_types[GW_CALL_DISPATCH_PARAMS];

/* Puts the call into the connection's pipeline, with its Sync. False: not all of it was written. */
bool gw_call_write(const struct GwCall *call, PGconn *connection) __attribute__((warn_unused_result));

/* Says whether the call is a read of a route whose calls take the database less than a millisecond. */
bool gw_call_is_quick(const struct GwCall *call);

/* Tells how long the database took for the call. */
void gw_call_took(struct GwCall *call, int64_t us);

/* Reads a row of a result of keelson.dispatch(); false if it has another shape. */
bool gw_call_row(const PGresult *result, int row, struct GwRow *out) __attribute__((warn_unused_result));

/* The SQLSTATE of a failed result, else NULL. */
const char *gw_call_sqlstate(const PGresult *result);

#endif
