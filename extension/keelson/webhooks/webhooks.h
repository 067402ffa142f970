/*
 * webhooks.h
 *	  Telling users' endpoints what has happened.
 */
#ifndef KS_WEBHOOKS_H
#define KS_WEBHOOKS_H

#include "postgres.h"

extern void ks_webhooks_init(void);

#endif /* KS_WEBHOOKS_H */
