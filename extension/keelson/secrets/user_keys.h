/*
 * user_keys.h
 *	  The users' own keys: random, wrapped by a master key, kept per backend.
 */
#ifndef KS_USER_KEYS_H
#define KS_USER_KEYS_H

#include "postgres.h"

#include "utils/uuid.h"

#include "secrets/keyring.h"

/*
 * The key that new values of the user are sealed with, made if there is none;
 * its number goes to *key_no. Valid until the next call that may touch the
 * catalog. Requires the keyring and a transaction.
 */
extern const KsKey *ks_user_key_current(const pg_uuid_t *user_id, uint32 *key_no);

/* The key with the number, or NULL where the user has none of that number. */
extern const KsKey *ks_user_key(const pg_uuid_t *user_id, uint32 key_no);

/* Note that the current key is about to seal one value more. */
extern void ks_user_key_count_use(const pg_uuid_t *user_id, uint32 key_no);

#endif /* KS_USER_KEYS_H */
