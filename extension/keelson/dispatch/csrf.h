/*
 * csrf.h
 *	  Proof that a page of ours sent a request that a cookie authenticates.
 */
#ifndef KS_CSRF_H
#define KS_CSRF_H

#include "postgres.h"

#include "dispatch/call.h"

/* NULL when the caller proves it for the session; otherwise what is missing, for a person. */
extern const char *ks_csrf_check(const KsCaller *caller, const pg_uuid_t *session_id);

/* A new token for the session's readable cookie. */
extern text *ks_csrf_token(const pg_uuid_t *session_id);

/* The step: requests that change something and came with a cookie. */
extern bool ks_csrf_step(KsCall *call);

#endif /* KS_CSRF_H */
