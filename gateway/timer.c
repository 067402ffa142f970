/*
 * timer.c
 *	  Deadlines of one loop, in a binary heap.
 */
#include "timer.h"

#include <stdlib.h>

static void place(struct GwTimers *timers, struct GwTimer *timer, size_t slot);
static void sift_up(struct GwTimers *timers, struct GwTimer *timer, size_t slot);
static void sift_down(struct GwTimers *timers, struct GwTimer *timer, size_t slot);

/* Reserves room for a timer; false when there is no memory. */
bool
gw_timer_open(struct GwTimers *timers, struct GwTimer *timer, void (*fire)(struct GwTimer *timer))
{
	if (timers->opened + 1 >= timers->room)
	{
		size_t room = timers->room ? timers->room * 2 : 64;
		struct GwTimer **heap = realloc(timers->heap, room * sizeof(*heap));

		if (heap == NULL)
			return false;
		timers->heap = heap;
		timers->room = room;
	}
	timers->opened++;
	timer->at = GW_NEVER;
	timer->slot = 0;
	timer->fire = fire;
	return true;
}

/* Gives the room back; harmless on a timer that was never opened. */
void
gw_timer_close(struct GwTimers *timers, struct GwTimer *timer)
{
	if (timer->fire == NULL)
		return;
	gw_timer_clear(timers, timer);
	timers->opened--;
	timer->fire = NULL;
}

/* Sets the timer, or moves it when it is set already. */
void
gw_timer_set(struct GwTimers *timers, struct GwTimer *timer, int64_t at)
{
	size_t slot = timer->slot;

	if (slot == 0)
		slot = ++timers->used;
	else if (at > timer->at)
	{
		timer->at = at;
		sift_down(timers, timer, slot);
		return;
	}
	timer->at = at;
	sift_up(timers, timer, slot);
}

void
gw_timer_clear(struct GwTimers *timers, struct GwTimer *timer)
{
	size_t slot = timer->slot;
	struct GwTimer *last;

	if (slot == 0)
		return;
	timer->slot = 0;
	last = timers->heap[timers->used--];
	if (last == timer)
		return;
	if (slot > 1 && timers->heap[slot / 2]->at > last->at)
		sift_up(timers, last, slot);
	else
		sift_down(timers, last, slot);
}

/* When the first timer is due, or GW_NEVER. */
int64_t
gw_timers_next(const struct GwTimers *timers)
{
	return timers->used ? timers->heap[1]->at : GW_NEVER;
}

/* Fires what is due.  A timer is clear when it fires and may set itself again. */
void
gw_timers_run(struct GwTimers *timers, int64_t now)
{
	while (timers->used && timers->heap[1]->at <= now)
	{
		struct GwTimer *timer = timers->heap[1];

		gw_timer_clear(timers, timer);
		timer->fire(timer);
	}
}

void
gw_timers_free(struct GwTimers *timers)
{
	free(timers->heap);
	*timers = (struct GwTimers){0};
}

static void
place(struct GwTimers *timers, struct GwTimer *timer, size_t slot)
{
	timers->heap[slot] = timer;
	timer->slot = slot;
}

static void
sift_up(struct GwTimers *timers, struct GwTimer *timer, size_t slot)
{
	while (slot > 1 && timers->heap[slot / 2]->at > timer->at)
	{
		place(timers, timers->heap[slot / 2], slot);
		slot /= 2;
	}
	place(timers, timer, slot);
}

static void
sift_down(struct GwTimers *timers, struct GwTimer *timer, size_t slot)
{
	for (;;)
	{
		size_t child = slot * 2;

		if (child > timers->used)
			break;
		if (child < timers->used && timers->heap[child + 1]->at < timers->heap[child]->at)
			child++;
		if (timers->heap[child]->at >= timer->at)
			break;
		place(timers, timers->heap[child], slot);
		slot = child;
	}
	place(timers, timer, slot);
}
