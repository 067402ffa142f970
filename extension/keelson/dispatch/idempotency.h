/*
 * idempotency.h
 *	  The first reply to an Idempotency-Key, given again.
 */
#ifndef KS_IDEMPOTENCY_H
#define KS_IDEMPOTENCY_H

#include "postgres.h"

#include "dispatch/call.h"

extern void ks_idempotency_init(void);

/*
 * The step: claim the request's key. False when the call ends here, be it with
 * the kept reply or a refusal.
 */
extern bool ks_idempotency_begin(KsCall *call);

/* Keep the reply, which is going to commit, for the claimed key. */
extern void ks_idempotency_keep(KsCall *call);

#endif /* KS_IDEMPOTENCY_H */
