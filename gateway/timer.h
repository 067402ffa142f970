/*
 * timer.h
 *	  Deadlines of one loop, in a binary heap.
 *
 * A timer belongs to one loop's thread.  Room in the heap is reserved when a
 * timer is opened, so that setting it later cannot fail.
 */
#ifndef GW_TIMER_H
#define GW_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_NEVER INT64_MAX
#define GW_MS(n) ((int64_t) (n) *1000)
#define GW_SECONDS(n) ((int64_t) (n) *1000000)

struct GwTimer
{
	int64_t at;  /* microseconds of the monotonic clock */
	size_t slot; /* place in the heap from 1; 0 when not set */
	void (*fire)(struct GwTimer *timer);
};

struct GwTimers
{
	struct GwTimer **heap; /* heap[0] is not used */
	size_t used;
	size_t opened;
	size_t room;
};

bool gw_timer_open(struct GwTimers *timers, struct GwTimer *timer, void (*fire)(struct GwTimer *timer)) __attribute__((warn_unused_result));
void gw_timer_close(struct GwTimers *timers, struct GwTimer *timer);
void gw_timer_set(struct GwTimers *timers, struct GwTimer *timer, int64_t at);
void gw_timer_clear(struct GwTimers *timers, struct GwTimer *timer);
int64_t gw_timers_next(const struct GwTimers *timers);
void gw_timers_run(struct GwTimers *timers, int64_t now);
void gw_timers_free(struct GwTimers *timers);

#endif
