/*
 * lane.h
 *	  The slow, the upstream and the rows lane: few links, lent to the loops in turn.
 *
 * A link is either idle here, or with one loop, or in that loop's mail.  A loop
 * that finds none idle leaves a ticket; whoever gives a link back hands it to
 * the loop of the oldest ticket.
 */
#ifndef GW_LANE_H
#define GW_LANE_H

#include <stdatomic.h>

#include "link.h"

#define GW_LANE_TICKETS 64 /* calls that may wait for one shared lane */

struct GwShared
{
	enum GwLane lane;
	atomic_bool is_proven; /* a link worked, and none has been lost or refused since */
	pthread_mutex_t lock;  /* over all below */
	struct GwLink *links;
	int nlinks;
	struct GwLink *idle;
	struct GwLoop *tickets[GW_LANE_TICKETS]; /* oldest first */
	int ntickets;
};

enum GwLent
{
	GW_LENT,       /* *link is the loop's now */
	GW_LENT_LATER, /* a ticket was left */
	GW_LENT_NEVER  /* too many wait */
};

bool gw_lane_open(struct GwShared *shared, enum GwLane lane, int nlinks) __attribute__((warn_unused_result));
void gw_lane_close(struct GwShared *shared);
enum GwLent gw_lane_borrow(struct GwShared *shared, struct GwLoop *loop, struct GwLink **link);
bool gw_lane_return(struct GwShared *shared, struct GwLink *link, struct GwLoop *loop);
bool gw_lane_forget(struct GwShared *shared, struct GwLoop *loop);

#endif
