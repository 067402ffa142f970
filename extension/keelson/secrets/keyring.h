/*
 * keyring.h
 *	  The master keys, in locked shared memory, and the keys derived from them.
 */
#ifndef KS_KEYRING_H
#define KS_KEYRING_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "secrets/crypto.h"

/* A key in locked memory; two keys that differ have different serials. */
typedef struct KsKey
{
	uint64 serial; /* 0: none */
	uint8 bytes[KS_KEY_LENGTH];
} KsKey;

/*
 * May secrets be used: is a keyring loaded, and is it the one that this
 * database was sealed with? If not, and `why` is not NULL, appends the reason:
 * words for an operator, without paths. Reads tables, so needs a snapshot.
 */
extern bool ks_keyring_ready(StringInfo why);

/* Raise KS503 UNAVAILABLE with the reason unless ready; nearly free when it is. */
extern void ks_keyring_require(void);

/* The id of the primary key; 0 where no keyring is loaded. */
extern uint32 ks_keyring_primary(void);

extern bool ks_keyring_has(uint32 key_id);

/* Rises with every change of the keyring; 0 where none is loaded. */
extern uint64 ks_keyring_generation(void);

/*
 * HMAC-SHA-256 under the key for a purpose, which never leaves the keyring:
 * HKDF-SHA-256 of a master key (id 0: the primary), kept per backend. The
 * purpose is one of the list in keyring.c. Requires the keyring, and raises an
 * error for a key id that it lacks; a key id that a client sent is checked with
 * ks_keyring_has() first.
 */
extern void ks_keyring_mac(uint32 key_id, const char *purpose, const void *data, size_t len, uint8 out[KS_SHA256_LENGTH]);

/*
 * The same key in place, for secrets/ alone: of any purpose, valid until the
 * next call into the keyring.
 */
extern const KsKey *ks_keyring_key(uint32 key_id, const char *purpose);

/* The value by which a database knows a master key again. */
extern void ks_keyring_check_value(uint32 key_id, uint8 out[KS_KEY_LENGTH]);

/* A serial that no key has had in this process. */
extern uint64 ks_key_serial(void);

extern void ks_secrets_init(void);

#endif /* KS_KEYRING_H */
