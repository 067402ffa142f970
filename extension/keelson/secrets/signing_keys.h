/*
 * signing_keys.h
 *	  Our own keys for signing tokens, kept per backend.
 */
#ifndef KS_SIGNING_KEYS_H
#define KS_SIGNING_KEYS_H

#include "postgres.h"

#include <openssl/evp.h>

#include "secrets/jose.h"

/* The keys whose tokens count at this moment, for verifying; never NULL. */
extern const KsJwkSet *ks_signing_keys(void);

/* The kid and the pair that sign at this moment, made if there are none. */
extern EVP_PKEY *ks_signing_key(const char **kid);

/* Rises whenever the set of keys that count may have changed. */
extern uint64 ks_signing_keys_generation(void);

#endif /* KS_SIGNING_KEYS_H */
