/*
 * argon2.h
 *	  argon2id by libsodium, out of the way of other work.
 */
#ifndef KS_ARGON2_H
#define KS_ARGON2_H

#include "postgres.h"

#include <sodium.h>

/* Room for a hash, as a PHC string (argon2id, version 19). */
#define KS_ARGON2_SIZE crypto_pwhash_argon2id_STRBYTES

/* Hash with a new salt; false when there is not enough memory. */
extern bool ks_argon2_hash(const char *input, size_t len, int passes, int memory_kib, char hash[KS_ARGON2_SIZE]);

/* Does the hash, which is padded with zeros, come from the input? */
extern bool ks_argon2_matches(const char *input, size_t len, const char hash[KS_ARGON2_SIZE]);

#endif /* KS_ARGON2_H */
