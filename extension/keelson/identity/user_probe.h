/*
 * user_probe.h
 *	  Whether a user may act: asked wherever no session tells it.
 */
#ifndef KS_USER_PROBE_H
#define KS_USER_PROBE_H

#include "postgres.h"

#include "utils/uuid.h"

typedef enum KsUserState
{
	KS_USER_NONE,     /* there is no such user */
	KS_USER_INACTIVE, /* blocked, or deleted */
	KS_USER_ACTIVE
} KsUserState;

/* The user's state in the statement's snapshot. */
extern KsUserState ks_user_probe(const pg_uuid_t *user_id);

#endif /* KS_USER_PROBE_H */
