/*
 * loop.h
 *	  One event loop: a thread, an epoll set, an HTTP daemon, database links.
 *
 * Everything hanging on a loop is touched by its thread alone.  Other threads
 * reach it by mail: gw_loop_post() hands over a message, which the loop
 * delivers to itself in its next turn.
 */
#ifndef GW_LOOP_H
#define GW_LOOP_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "log.h"
#include "metrics.h"
#include "question.h"
#include "router.h"
#include "timer.h"

struct GwGateway;
struct GwLoop;
struct GwPool;

/* A descriptor in the loop's epoll set. */
struct GwWatch
{
	int fd; /* -1 when not watched */
	uint32_t events;
	void (*ready)(struct GwLoop *loop, struct GwWatch *watch, uint32_t events);
};

/* A message to a loop; embedded in what it is about, its poster keeps off until it is delivered. */
struct GwMail
{
	struct GwMail *next;
	void (*deliver)(struct GwLoop *loop, struct GwMail *mail);
};

/*
 * RUNNING ─► DRAINING (no new connections, requests are finished) ─► STOPPED
 */
enum GwLoopState
{
	GW_LOOP_RUNNING,
	GW_LOOP_DRAINING,
	GW_LOOP_STOPPED
};

struct GwLoop
{
	struct GwGateway *gateway;
	int index;
	pthread_t thread;
	enum GwLoopState state;
	int64_t now; /* monotonic microseconds, as of this turn */
	int64_t drain_since;
	struct GwTimer drain; /* when the time to drain is over, and soon after */

	int epoll;
	struct GwWatch wake; /* eventfd: mail is waiting */
	struct GwTimers timers;
	struct GwLog log;
	struct GwTimer log_due; /* when its lines must have been written */
	struct GwMetrics metrics;

	struct MHD_Daemon *daemon;
	struct GwWatch http; /* the daemon's own epoll descriptor */
	int listener;
	bool wants_run; /* the daemon must run this turn */
	bool http_has_events;
	int64_t served_at; /* when it will, if that was put off; else 0 */

	struct GwPool *pools[GW_LANES];
	struct GwRoutes *routes;                    /* NULL until the first load */
	struct GwQuestion questions[GW_CALL_KINDS]; /* that of GW_CALL_DISPATCH is not used */

	struct GwHttp *connections; /* all, doubly linked */
	size_t nconnections;
	struct GwRequest *spare_requests;
	size_t nspare_requests;
	size_t nactive;     /* requests begun and not completed */
	size_t nwatchers;   /* open event streams */
	size_t body_bytes;  /* held by requests */
	size_t reply_bytes; /* of replies that are sent */
	struct GwLinger *lingers;
	struct GwHolds *holds; /* refusals that are repeated; NULL until the first */
	size_t nwaiting;       /* requests over a rate limit that wait for room */

	pthread_mutex_t mail_lock;
	struct GwMail *mail_first, **mail_last; /* under mail_lock */
};

bool gw_loop_open(struct GwLoop *loop, struct GwGateway *gateway, int index) __attribute__((warn_unused_result));
bool gw_loop_start(struct GwLoop *loop) __attribute__((warn_unused_result));
void gw_loop_close(struct GwLoop *loop);

/* From any thread. */
void gw_loop_post(struct GwLoop *loop, struct GwMail *mail);

/* From the loop's own thread. */
void gw_loop_drain(struct GwLoop *loop);
bool gw_loop_watch(struct GwLoop *loop, struct GwWatch *watch, int fd, uint32_t events) __attribute__((warn_unused_result));
void gw_loop_unwatch(struct GwLoop *loop, struct GwWatch *watch);
void gw_loop_resume(struct GwLoop *loop, struct MHD_Connection *connection);

#define gw_container_of(pointer, type, member) ((type *) ((char *) (pointer) -offsetof(type, member)))

#endif
