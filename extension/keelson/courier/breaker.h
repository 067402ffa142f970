/*
 * breaker.h
 *	  The circuit breaker of a lane.
 *
 *	 closed ──5 failures to connect in a row, or half of 10 or more in a minute──► open
 *	 open ──after 30 s, doubled with each trip up to 15 min (±20 %)──► half open
 *	 half open ──success: 1, 2, 4 at a time, then──► closed
 *	 half open ──failure──► open
 *	 forced open, forced closed: by an administrator, until told otherwise
 *
 * While it is open nothing is claimed: what waits keeps its attempts. The state
 * is kept in keelson.courier_lanes, written when it changes.
 */
#ifndef KS_COURIER_BREAKER_H
#define KS_COURIER_BREAKER_H

#include "postgres.h"

#include "utils/timestamp.h"

typedef enum KsBreakerState
{
	KS_BREAKER_CLOSED,
	KS_BREAKER_OPEN,
	KS_BREAKER_HALF_OPEN,
	KS_BREAKER_FORCED_OPEN,
	KS_BREAKER_FORCED_CLOSED
} KsBreakerState;

typedef struct KsBreaker
{
	KsBreakerState state;
	TimestampTz open_until;
	int trips;       /* since it was last closed for good */
	bool is_changed; /* since it was last written */
	int probes;      /* how many may be in flight while it is half open */
	int unreachable; /* in a row */
	TimestampTz minute_at;
	int minute_attempts;
	int minute_failures;
} KsBreaker;

/* How many deliveries may be in flight as far as the breaker is concerned. */
extern int ks_breaker_room(KsBreaker *breaker, TimestampTz now);

/* Take in the end of an attempt. */
extern void ks_breaker_judge(KsBreaker *breaker, bool success, bool is_unreachable, TimestampTz now);

extern const char *ks_breaker_name(KsBreakerState state);
extern KsBreakerState ks_breaker_parse(const char *name);

/* A time that differs by up to a fifth, so that what failed together does not come back together. */
extern int64 ks_jitter(int64 value);

#endif /* KS_COURIER_BREAKER_H */
