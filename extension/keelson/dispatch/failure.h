/*
 * failure.h
 *	  Errors of an endpoint's function, on their way to the client.
 */
#ifndef KS_FAILURE_H
#define KS_FAILURE_H

#include "postgres.h"

#include "core/compat.h"
#include "dispatch/call.h"

/*
 * Throw the error that has just been caught again, as the gateway is to see
 * it. Called inside PG_CATCH, in the call's memory context. `timed_out`: the
 * route's time had passed.
 */
KS_NORETURN extern void ks_failure_rethrow(KsCall *call, bool timed_out);

/* The HTTP status of the error that is being handled. */
extern int ks_failure_status(void);

#endif /* KS_FAILURE_H */
