/*
 * lane.c
 *	  The slow, the upstream and the rows lane: few links, lent to the loops in turn.
 */
#include "lane.h"

#include "pool.h"

#include <stdlib.h>

static void deliver_link(struct GwLoop *loop, struct GwMail *mail);

bool
gw_lane_open(struct GwShared *shared, enum GwLane lane, int nlinks)
{
	*shared = (struct GwShared){.lane = lane, .nlinks = nlinks};
	shared->links = calloc((size_t) nlinks, sizeof(*shared->links));
	if (shared->links == NULL)
		return false;
	pthread_mutex_init(&shared->lock, NULL);
	for (int i = 0; i < nlinks; i++)
	{
		struct GwLink *link = &shared->links[i];

		gw_link_open(link, lane);
		link->mail.deliver = deliver_link;
		link->next_idle = shared->idle;
		shared->idle = link;
	}
	return true;
}

/* Closes all links; every loop has stopped. */
void
gw_lane_close(struct GwShared *shared)
{
	if (shared->links == NULL)
		return;
	for (int i = 0; i < shared->nlinks; i++)
		gw_link_close(&shared->links[i]);
	pthread_mutex_destroy(&shared->lock);
	free(shared->links);
	shared->links = NULL;
}

/* Takes an idle link, or leaves a ticket for the next that is given back. */
enum GwLent
gw_lane_borrow(struct GwShared *shared, struct GwLoop *loop, struct GwLink **link)
{
	enum GwLent lent = GW_LENT_NEVER;

	pthread_mutex_lock(&shared->lock);
	*link = shared->idle;
	if (*link != NULL)
	{
		shared->idle = (*link)->next_idle;
		lent = GW_LENT;
	}
	else if (shared->ntickets < GW_LANE_TICKETS)
	{
		shared->tickets[shared->ntickets++] = loop;
		lent = GW_LENT_LATER;
	}
	pthread_mutex_unlock(&shared->lock);
	return lent;
}

/*
 * Gives a link back, detached.  True: the oldest ticket was the caller's own,
 * so that the link is its again; else it is idle, or on its way to another loop.
 */
bool
gw_lane_return(struct GwShared *shared, struct GwLink *link, struct GwLoop *loop)
{
	struct GwLoop *next = NULL;

	pthread_mutex_lock(&shared->lock);
	if (shared->ntickets > 0)
	{
		next = shared->tickets[0];
		shared->ntickets--;
		memmove(shared->tickets, shared->tickets + 1, (size_t) shared->ntickets * sizeof(shared->tickets[0]));
	}
	else
	{
		link->next_idle = shared->idle;
		shared->idle = link;
	}
	pthread_mutex_unlock(&shared->lock);
	if (next != NULL && next != loop)
		gw_loop_post(next, &link->mail);
	return next != NULL && next == loop;
}

/* Takes one ticket of the loop back, the youngest; false when its link is on the way already. */
bool
gw_lane_forget(struct GwShared *shared, struct GwLoop *loop)
{
	bool is_forgotten = false;

	pthread_mutex_lock(&shared->lock);
	for (int i = shared->ntickets - 1; i >= 0; i--)
		if (shared->tickets[i] == loop)
		{
			shared->ntickets--;
			memmove(shared->tickets + i, shared->tickets + i + 1, (size_t) (shared->ntickets - i) * sizeof(shared->tickets[0]));
			is_forgotten = true;
			break;
		}
	pthread_mutex_unlock(&shared->lock);
	return is_forgotten;
}

static void
deliver_link(struct GwLoop *loop, struct GwMail *mail)
{
	struct GwLink *link = gw_container_of(mail, struct GwLink, mail);

	gw_pool_granted(loop->pools[link->lane], link);
}
