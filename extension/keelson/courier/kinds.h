/*
 * kinds.h
 *	  The kinds of deliveries that were registered, and the places for deliveries in a courier.
 */
#ifndef KS_COURIER_KINDS_H
#define KS_COURIER_KINDS_H

#include "postgres.h"

#include "courier/courier.h"

/* The kind of that name; one that nobody registered fails what it is asked to build. */
extern const KsCourierKind *ks_kind_find(const char *name);

/* Have the kinds fill the requests; what fails has a refusal. In the courier's transaction. */
extern void ks_kinds_build(KsDelivery **deliveries, int count);

/* Tell the kinds what became of them, after they were settled. */
extern void ks_kinds_settled(KsDelivery **deliveries, int count);

#endif /* KS_COURIER_KINDS_H */
