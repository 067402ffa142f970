/*
 * limit.h
 *	  Rate limits and blocks as steps of a request.
 */
#ifndef KS_LIMIT_H
#define KS_LIMIT_H

#include "postgres.h"

#include "dispatch/call.h"

/* Before the credential is looked at: blocked addresses, limits of the address. */
extern bool ks_limit_address_step(KsCall *call);

/* When it is known who is calling: all limits together. */
extern bool ks_limit_caller_step(KsCall *call);

/* Add to the reply what it says of the limits. */
extern void ks_limit_headers(KsCall *call);

#endif /* KS_LIMIT_H */
