/*
 * settle.h
 *	  Settling deliveries: what became of them goes into the tables.
 */
#ifndef KS_COURIER_SETTLE_H
#define KS_COURIER_SETTLE_H

#include "postgres.h"

#include "courier/courier.h"
#include "courier/lanes.h"

/* Decide what becomes of an attempt that has ended. No database. */
extern void ks_settle_judge(KsDelivery *delivery, TimestampTz now);

/*
 * Write the verdicts, in a transaction of the courier. A row that another
 * claim has taken since, or that is gone, is left as it is.
 */
extern void ks_settle(KsDelivery **deliveries, int count, TimestampTz now);

/* Write what has changed of lanes: breaker, and since when they fail. What somebody has locked stays marked as changed. */
extern void ks_settle_lanes(KsLane **lanes, int count);

/* The longest that a receiver may ask us to wait. */
#define KS_LONGEST_RETRY_AFTER (24 * 3600)

#endif /* KS_COURIER_SETTLE_H */
