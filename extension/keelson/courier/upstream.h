/*
 * upstream.h
 *	  Requests to the outside that a session waits for, such as the check of a
 *	  CAPTCHA or a call with a user's key.
 */
#ifndef KS_UPSTREAM_H
#define KS_UPSTREAM_H

#include "postgres.h"

#include "courier/transfer.h"

#define KS_UPSTREAM_NAME_LENGTH 64
#define KS_UPSTREAM_TIMEOUT_MS 10000

/*
 * Send the request and wait for the answer, 10 seconds at most; whoever calls
 * has written nothing yet. Calls of one name share a circuit breaker: an answer
 * of 5xx, or none, counts as a failure. Returns with whatever status came;
 * raises 502 UPSTREAM_FAILED where none did or where the answer was larger than
 * the request allows, 503 UNAVAILABLE while the breaker is open, and an error
 * of the program's where the transaction has written, or on the pool "fast".
 */
extern void ks_upstream_call(const char *name, KsRequest *request, KsAnswer *answer);

extern void ks_upstream_init(void);

#endif /* KS_UPSTREAM_H */
