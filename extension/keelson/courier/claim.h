/*
 * claim.h
 *	  Claiming deliveries, and what a courier reads of its lanes.
 */
#ifndef KS_COURIER_CLAIM_H
#define KS_COURIER_CLAIM_H

#include "postgres.h"

#include "courier/courier.h"
#include "courier/lanes.h"

/* All inside a transaction of the courier. */

/* Read settings and breakers of lanes that were not read yet. */
extern void ks_claim_load_lanes(KsLane **lanes, int count);

/*
 * Claim what is wanted. give() hands out a place for each delivery that was
 * claimed, and counts against its lane. Returns how many there are.
 */
extern int ks_claim(const KsWanted *wanted, int lanes, int64 claim_id, int64 life, TimestampTz now, KsDelivery *(*give)(void), KsDelivery **out);

#endif /* KS_COURIER_CLAIM_H */
