/*
 * failure.h
 *	  Errors of an endpoint's function, on their way to the client.
 */
#ifndef KS_FAILURE_H
#define KS_FAILURE_H

#include "postgres.h"

#include "dispatch/call.h"

/*
 * Take the error that has just been caught, as the gateway is to see it; the
 * caller throws it again with ReThrowError(). Called inside PG_CATCH, in the
 * call's memory context. `timed_out`: the route's time had passed. *status is
 * the HTTP status that it comes to.
 */
extern ErrorData *ks_failure_take(KsCall *call, bool timed_out, int *status);

#endif /* KS_FAILURE_H */
