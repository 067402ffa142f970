/*
 * seal.h
 *	  Sealing of values, with AES-256-GCM.
 *
 * A sealed value is: version (1 byte, 1), key id (4 bytes, big-endian), nonce
 * (12), ciphertext, tag (16). Its additional data bind version, key id, user,
 * row and purpose: moved to another row or used for another purpose, it does
 * not open.
 */
#ifndef KS_SEAL_H
#define KS_SEAL_H

#include "postgres.h"

#include "utils/uuid.h"

#include "secrets/keyring.h"

#define KS_SEAL_OVERHEAD (1 + 4 + KS_NONCE_LENGTH + KS_TAG_LENGTH)
#define KS_SEAL_MAX_LENGTH (16 * 1024 * 1024)
#define KS_SEAL_PURPOSE_LENGTH 64

typedef struct KsSealContext
{
	const char *purpose; /* one of keelson.seal_purposes */
	bool has_user;       /* sealed with the user's key, else with the server's */
	pg_uuid_t user_id;
	pg_uuid_t row_id; /* of the row that the value stands in; zero without one */
} KsSealContext;

/* Seal; the result is palloc-ed. */
extern bytea *ks_seal(const KsSealContext *context, const void *data, size_t len);

/*
 * Open; one error, KS500, for whatever is wrong with the value. The caller
 * records the opening where the purpose asks for it; keelson.unseal() does.
 */
extern bytea *ks_unseal(const KsSealContext *context, const bytea *sealed);

/*
 * Raise that error, count it, and tell the server's log the reason, which the
 * error keeps to itself; and whoever has asked to be told (one may ask).
 */
KS_NORETURN extern void ks_unseal_fail(const KsSealContext *context, const char *fmt, ...) pg_attribute_printf(2, 3);
extern void ks_unseal_on_failure(void (*report)(const KsSealContext *context));

/*
 * The same with a key that the caller has, for secrets/ alone: users' keys are
 * wrapped so, which keeps their key apart from the values'. `out` has room for
 * what comes: KS_SEAL_OVERHEAD bytes more, or less.
 */
extern void ks_wrap_with(const KsKey *key, uint32 key_id, const KsSealContext *context, const uint8 in[KS_KEY_LENGTH], uint8 *out);
extern bool ks_unwrap_with(const KsKey *key, const KsSealContext *context, const uint8 *wrapped, size_t len, uint8 *out);

/* The key id that a sealed value names; false when it is no sealed value. */
extern bool ks_seal_key_id(const uint8 *sealed, size_t len, uint32 *key_id);

extern void ks_sealing_init(void);

#endif /* KS_SEAL_H */
