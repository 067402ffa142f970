/*
 * flight.h
 *	  The deliveries that a courier holds: each has a place from its claim until
 *	  it is settled.
 */
#ifndef KS_COURIER_FLIGHT_H
#define KS_COURIER_FLIGHT_H

#include "courier/courier.h"
#include "courier/wake.h"

/* Make so many places. They and all below count in these counters. */
extern void ks_flight_create(int places, KsCourierCounters *counters);

/* How many places are taken, how many are free, and how many of the taken have ended and are to be settled. */
extern int ks_flight_count(void);
extern int ks_flight_room(void);
extern int ks_flight_ended(void);

/*
 * Is it time to settle? Where much is going on many end a moment after the
 * first of them: they are settled together, unless nothing else is under way
 * that could end.
 */
extern bool ks_flight_is_due(TimestampTz now);

/* A place for a delivery that has just been claimed; there is one, since no more were asked for. */
extern KsDelivery *ks_flight_take(void);

/* Its place is free again, and its lane has one less: for a claimed delivery that is not to be sent. */
extern void ks_flight_give_back(KsDelivery *delivery);

/* The claims are committed: send. */
extern void ks_flight_start(KsDelivery **claimed, int count);

/* Transfers that have ended: judge them, and let their lanes know. */
extern void ks_flight_take_ended(void);

/* Write down all that has ended, and free its places; true when breakers have changed. Inside a transaction. */
extern bool ks_flight_settle(TimestampTz now);

/* The claims of all that is held, into `out`, which has room for ks_flight_count() of them. */
extern void ks_flight_claims(int64 *out);

/* What has not ended yet is to be settled as if it had never been claimed. */
extern void ks_flight_release(void);

#endif /* KS_COURIER_FLIGHT_H */
