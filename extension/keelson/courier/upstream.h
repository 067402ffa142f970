/*
 * upstream.h
 *	  Requests to the outside that a session waits for, such as the check of a
 *	  CAPTCHA or a call with a user's key.
 */
#ifndef KS_UPSTREAM_H
#define KS_UPSTREAM_H

#include "postgres.h"

extern void ks_upstream_init(void);

#endif /* KS_UPSTREAM_H */
