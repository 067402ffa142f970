/*
 * crypto.h
 *	  The cryptographic primitives that everything else uses: a thin, fast
 *	  wrapping of OpenSSL, and strict base64url.
 *
 * Functions that return void raise an error when OpenSSL fails, which it does
 * only when memory is out; OpenSSL's error queue is always left empty.
 */
#ifndef KS_CRYPTO_H
#define KS_CRYPTO_H

#include "postgres.h"

#include "core/compat.h"

#define KS_KEY_LENGTH 32
#define KS_SHA256_LENGTH 32
#define KS_DIGEST_MAX_LENGTH 64
#define KS_NONCE_LENGTH 12
#define KS_TAG_LENGTH 16

typedef enum KsDigest
{
	KS_SHA1,
	KS_SHA256,
	KS_SHA512,
	KS_DIGEST_COUNT
} KsDigest;

extern void ks_sha256(const void *data, size_t len, uint8 out[KS_SHA256_LENGTH]);

/* Returns the length of the MAC; `out` has room for KS_DIGEST_MAX_LENGTH. */
extern size_t ks_hmac(KsDigest digest, const uint8 *key, size_t keylen, const void *data, size_t len, uint8 *out);

/*
 * An HMAC-SHA-256 that keeps its key, for keys that are used again and again.
 * Create and key it once; it lives until ks_mac_free().
 */
typedef struct KsMac KsMac;
extern KsMac *ks_mac_create(const uint8 *key, size_t keylen);
extern void ks_mac(KsMac *mac, const void *data, size_t len, uint8 out[KS_SHA256_LENGTH]);
extern void ks_mac_free(KsMac *mac);

/* Both return false where the length cannot be had (RFC 5869: 8,160 bytes). */
extern bool ks_hkdf_sha256(const void *secret, size_t secret_len, const void *salt, size_t salt_len, const void *info, size_t info_len, uint8 *out, size_t out_len);
extern bool ks_pbkdf2_sha256(const void *password, size_t password_len, const void *salt, size_t salt_len, int rounds, uint8 *out, size_t out_len);

/*
 * AES-256-GCM with 96-bit nonces and 128-bit tags, nothing else. A KsGcm works
 * in one direction. `key` NULL means the key of the call before; a key stays
 * in the object until ks_gcm_forget(). `out` has room for `len` bytes and may
 * be `in`. Opening returns false, and leaves zeros in `out`, when the tag does
 * not fit.
 */
typedef struct KsGcm KsGcm;
extern KsGcm *ks_gcm_create(bool seals);
extern void ks_gcm_seal(KsGcm *gcm, const uint8 *key, const uint8 nonce[KS_NONCE_LENGTH], const void *aad, size_t aad_len, const void *in, size_t len, uint8 *out, uint8 tag[KS_TAG_LENGTH]);
extern bool ks_gcm_open(KsGcm *gcm, const uint8 *key, const uint8 nonce[KS_NONCE_LENGTH], const void *aad, size_t aad_len, const void *in, size_t len, uint8 *out, const uint8 tag[KS_TAG_LENGTH]);
extern bool ks_gcm_is_keyed(const KsGcm *gcm);
extern void ks_gcm_forget(KsGcm *gcm);

/* Random bytes, for keys; and from a buffer filled ahead, for what is no secret itself (nonces). */
extern void ks_random(void *out, size_t len);
extern void ks_random_nonce(uint8 *out, size_t len);

/* Compare in a time that depends on the length alone. */
extern bool ks_equal(const void *a, const void *b, size_t len);

/* Overwrite with zeros, whatever the compiler thinks of it. */
extern void ks_wipe(void *secret, size_t len);

/* Empty OpenSSL's error queue and raise "could not <what>". */
KS_NORETURN extern void ks_crypto_fail(const char *what);

/*
 * base64url without padding (RFC 7515). The decoder takes canonical text only:
 * no padding, no white space, unused bits zero. `out` has room for
 * KS_BASE64URL_BYTES(len) bytes.
 */
#define KS_BASE64URL_LENGTH(bytes) ((4 * (bytes) + 2) / 3)
#define KS_BASE64URL_BYTES(len) (3 * (len) / 4)
extern size_t ks_base64url_encode(const uint8 *data, size_t len, char *out);
extern text *ks_base64url(const uint8 *data, size_t len);
extern bool ks_base64url_decode(const char *s, size_t len, uint8 *out, size_t *out_len);

#endif /* KS_CRYPTO_H */
