/*
 * decide.h
 *	  Sliding-window limits: does this fit, and if so, count it.
 *
 * A limit says how much may happen in any window of a length. What is counted
 * together has one key, which the caller makes unguessable. Times are
 * microseconds of a clock that only goes forward, so that setting the wall
 * clock changes nothing.
 */
#ifndef KS_LIMITS_DECIDE_H
#define KS_LIMITS_DECIDE_H

#include "postgres.h"

/* Limits that can be decided together. */
#define KS_LIMITS_TOGETHER 16

/* Up to this many in a window each one's time is kept; above, buckets of 1/64 window are. */
#define KS_LIMITS_EXACT 1024

#define KS_LIMITS_MOST 1000000000

typedef struct KsLimitKey
{
	uint64 a;
	uint64 b;
} KsLimitKey;

/*
 * One limit that a request meets. The key must differ where window_us, which
 * is of whole seconds, or is_coarse differ.
 */
typedef struct KsLimitRequest
{
	KsLimitKey key;
	int64 window_us;
	int32 most;        /* in force now, 1 to KS_LIMITS_MOST */
	int32 cost;        /* at least 1 */
	bool is_coarse;    /* buckets: where the limit as written is above KS_LIMITS_EXACT */
	bool is_protected; /* counted in the space of its own that the others cannot fill */
	bool is_shadow;    /* decided and counted, but refuses nothing */
} KsLimitRequest;

typedef struct KsLimitDecision
{
	bool fits;       /* within this limit, whatever the others say */
	int64 used;      /* before the charge */
	int32 remaining; /* what is left, after the charge if there was one */
	int64 more_us;   /* until something is given back; 0 when nothing is used */
	int64 retry_us;  /* until the cost fits; 0 when it does */
	int64 charged;   /* when it was charged, for a refund; -1 when it was not */
} KsLimitDecision;

/*
 * Decide all limits in one instant: true when each that is no shadow has room,
 * and then, with `charge`, the cost is counted in each that has room. When
 * one refuses, nothing is counted anywhere.
 */
extern bool ks_limits_decide(const KsLimitRequest *requests, int n, bool charge, KsLimitDecision *decisions);

/* The same at a time of the caller's choice, for tests. */
extern bool ks_limits_decide_at(const KsLimitRequest *requests, int n, bool charge, int64 now_us, KsLimitDecision *decisions);

/* Take back what a decision charged; no harm when it has expired or was evicted. */
extern void ks_limits_refund(const KsLimitRequest *request, const KsLimitDecision *decision);

/* Now, on the clock that windows are measured with. */
extern int64 ks_limits_clock(void);

#endif /* KS_LIMITS_DECIDE_H */
