/*
 * last_use.h
 *	  When access keys were last used.
 */
#ifndef KS_LAST_USE_H
#define KS_LAST_USE_H

#include "postgres.h"

#include "utils/uuid.h"

/* The key was used just now. Costs no write: the keeper writes it down within a minute. */
extern void ks_key_used(const pg_uuid_t *user_id, const pg_uuid_t *id);

extern void ks_last_use_init(void);

#endif /* KS_LAST_USE_H */
