/*
 * jose.h
 *	  JSON Web Signature and JSON Web Key, on OpenSSL's EVP: no library of the
 *	  kind is used, since those we could have bring a symbol into the server
 *	  that clashes with one of its own.
 */
#ifndef KS_JOSE_H
#define KS_JOSE_H

#include "postgres.h"

#include <openssl/evp.h>

#include "utils/jsonb.h"

#define KS_TOKEN_MAX_LENGTH 8192
#define KS_JWK_MAX_KEYS 32
#define KS_JWK_SET_MAX_LENGTH 65536
#define KS_KID_MAX_LENGTH 256
#define KS_ES256_LENGTH 64

/* Bits of a set; there is no symmetric one, nor "none". */
typedef enum KsAlgorithm
{
	KS_ES256 = 1,
	KS_RS256 = 2,
	KS_PS256 = 4,
	KS_EDDSA = 8
} KsAlgorithm;

#define KS_ALL_ALGORITHMS (KS_ES256 | KS_RS256 | KS_PS256 | KS_EDDSA)

/* The algorithm of the name ("ES256"), or 0. */
extern int ks_algorithm(const char *name);

typedef struct KsJwk
{
	char *kid;      /* or NULL */
	int algorithms; /* what the key may be used with: one, or RS256 and PS256 */
	EVP_PKEY *key;
} KsJwk;

typedef struct KsJwkSet
{
	MemoryContext cxt; /* that it lives in */
	int count;
	KsJwk keys[KS_JWK_MAX_KEYS];
} KsJwkSet;

/*
 * Read a JWK set, or a single JWK, of public keys. Keys of other kinds and for
 * other uses are left out; a set is refused as a whole (NULL, and *why) when
 * it is malformed, names a kid twice, or holds a symmetric or private key. The
 * set lives in the context and frees its keys with it.
 */
extern KsJwkSet *ks_jwk_set_read(MemoryContext cxt, const char *json, size_t len, const char **why);

/* The same of one public key in PEM, SubjectPublicKeyInfo. */
extern KsJwkSet *ks_jwk_set_from_pem(MemoryContext cxt, const char *pem, size_t len, const char **why);

/* An empty set, to be filled by the caller; frees the keys it is given. */
extern KsJwkSet *ks_jwk_set_create(MemoryContext cxt);

/* A P-256 key of its coordinates, and of its private scalar unless that is NULL; NULL: no such key. */
extern EVP_PKEY *ks_p256_key(const uint8 x[32], const uint8 y[32], const uint8 *scalar);

/* Is this RSA modulus of the weak form (CVE-2017-15361, ROCA)? */
extern bool ks_rsa_is_roca(const EVP_PKEY *key);

typedef struct KsJws
{
	int algorithm;
	char *typ; /* of the header, or NULL */
	char *kid; /* of the header, or NULL */
	uint8 *payload;
	size_t payload_len;
} KsJws;

/*
 * Verify a compact JWS: NULL, and *jws filled, when a key of the set that its
 * header names has signed it with an allowed algorithm; else the reason, in
 * words for a log. The algorithm is the key's, and the header must agree.
 */
extern const char *ks_jws_verify(const KsJwkSet *set, int allowed, const char *token, size_t len, KsJws *jws);

/* Verify a signature as JWS has it; ES256's is r and s, 32 bytes each. */
extern bool ks_signature_verify(EVP_PKEY *key, KsAlgorithm algorithm, const void *data, size_t len, const uint8 *signature, size_t signature_len);

/* Sign with a P-256 key. */
extern void ks_es256_sign(EVP_PKEY *key, const void *data, size_t len, uint8 signature[KS_ES256_LENGTH]);

#endif /* KS_JOSE_H */
