/*
 * counters.h
 *	  Counters of calls, by route, in shared memory.
 */
#ifndef KS_COUNTERS_H
#define KS_COUNTERS_H

#include "postgres.h"

#include "portability/instr_time.h"

typedef struct KsCounter KsCounter;

extern void ks_counters_init(void);

/* The counter of a route; that of all others for 0, or when the table is full. */
extern KsCounter *ks_counter(int32 route_id);

/* Count a call that was answered with the status, 500 and more for errors. */
extern void ks_counter_add(KsCounter *counter, int status, const instr_time *started);

#endif /* KS_COUNTERS_H */
