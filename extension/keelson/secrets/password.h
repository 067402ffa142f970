/*
 * password.h
 *	  Passwords: hash one, compare one.
 */
#ifndef KS_PASSWORD_H
#define KS_PASSWORD_H

#include "postgres.h"

typedef struct KsPasswordResult
{
	bool is_match;
	bool needs_rehash; /* it matches, and is below what new hashes get */
} KsPasswordResult;

/*
 * Hash with argon2id; with a pepper when the key id is not 0: then what is
 * hashed is the password's HMAC under a key of the keyring. Waits for the hasher,
 * cancellably, and raises KS503 as hashing.h says.
 */
extern text *ks_password_hash(const text *password, uint32 pepper_key_id);

/*
 * Compare with a hash: argon2id, or bcrypt of an imported user. A hash that is
 * neither takes as long as one that is, and does not match. NULL: the same, for
 * a user that does not exist.
 */
extern KsPasswordResult ks_password_verify(const text *password, const text *hash, uint32 pepper_key_id);

#endif /* KS_PASSWORD_H */
