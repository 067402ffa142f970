/*
 * csrf.h
 *	  Proof that a page of ours sent a request that a cookie authenticates.
 */
#ifndef KS_CSRF_H
#define KS_CSRF_H

#include "postgres.h"

#include "dispatch/call.h"

/* The step: requests that change something and came with a cookie. */
extern bool ks_csrf_step(KsCall *call);

#endif /* KS_CSRF_H */
