/*
 * jose.c
 *	  Compact JWS: taking it apart strictly, choosing the key, checking the
 *	  signature.
 *
 * What is refused stands in RFC 8725 and in the tests: any text that is not
 * the one canonical form, names said twice, keys that the token brings along,
 * critical extensions (we know none), payloads that are not encoded, and
 * algorithms other than the key's own.
 *
 * OpenSSL objects made here are freed in the function that made them, which
 * raises its error, if any, after that.
 */
#include "postgres.h"

#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "secrets/crypto.h"
#include "secrets/jose.h"
#include "secrets/jose_json.h"

#define COORDINATE_LENGTH 32
#define MAX_DER_SIGNATURE 80

static const struct
{
	KsAlgorithm algorithm;
	const char *name;
} algorithms[] = {
	{KS_ES256, "ES256"},
	{KS_RS256, "RS256"},
	{KS_PS256, "PS256"},
	{KS_EDDSA, "EdDSA"}};

/* The three parts of a token, still encoded. */
typedef struct Parts
{
	const char *part[3];
	size_t len[3];
} Parts;

static bool split(const char *token, size_t len, Parts *parts);
static const char *read_header(const Parts *parts, KsJws *jws);
static const KsJwk *choose_key(const KsJwkSet *set, const KsJws *jws);
static uint8 *decode_part(const Parts *parts, int which, size_t *len);
static bool verify_with(EVP_PKEY_CTX *key_ctx, EVP_MD_CTX *ctx, KsAlgorithm algorithm, const void *data, size_t len, const uint8 *signature, size_t signature_len);
static int es256_to_der(const uint8 *signature, uint8 *der);
static bool es256_from_der(const uint8 *der, size_t len, uint8 *signature);

int
ks_algorithm(const char *name)
{
	for (int i = 0; i < lengthof(algorithms); i++)
		if (strcmp(algorithms[i].name, name) == 0)
			return algorithms[i].algorithm;
	return 0;
}

const char *
ks_jws_verify(const KsJwkSet *set, int allowed, const char *token, size_t len, KsJws *jws)
{
	Parts parts;
	const KsJwk *jwk;
	uint8 *signature;
	size_t signature_len;
	const char *problem;

	memset(jws, 0, sizeof(*jws));
	if (len > KS_TOKEN_MAX_LENGTH)
		return "it is too long";
	if (!split(token, len, &parts))
		return "it has not the three parts of a signed token";
	problem = read_header(&parts, jws);
	if (problem != NULL)
		return problem;
	if ((jws->payload = decode_part(&parts, 1, &jws->payload_len)) == NULL ||
		(signature = decode_part(&parts, 2, &signature_len)) == NULL)
		return "a part is not base64url";
	if ((jwk = choose_key(set, jws)) == NULL)
		return "no key of the set fits its header";
	if ((jws->algorithm & jwk->algorithms & allowed) == 0)
		return "its algorithm is not the key's, or not allowed";
	/* What is signed is both parts as they stand in the token. */
	if (!ks_signature_verify(jwk->key, jws->algorithm, token, parts.part[2] - 1 - token, signature, signature_len))
		return "its signature is wrong";
	return NULL;
}

bool
ks_signature_verify(EVP_PKEY *key, KsAlgorithm algorithm, const void *data, size_t len, const uint8 *signature, size_t signature_len)
{
	const EVP_MD *digest = algorithm == KS_EDDSA ? NULL : EVP_sha256();
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	EVP_PKEY_CTX *key_ctx = NULL; /* belongs to ctx */
	bool verified = ctx != NULL && EVP_DigestVerifyInit(ctx, &key_ctx, digest, NULL, key) > 0 &&
					verify_with(key_ctx, ctx, algorithm, data, len, signature, signature_len);

	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return verified;
}

void
ks_es256_sign(EVP_PKEY *key, const void *data, size_t len, uint8 signature[KS_ES256_LENGTH])
{
	uint8 der[MAX_DER_SIGNATURE];
	size_t der_len = sizeof(der);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool done = ctx != NULL && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) > 0 &&
				EVP_DigestSign(ctx, der, &der_len, data, len) > 0 && es256_from_der(der, der_len, signature);

	EVP_MD_CTX_free(ctx);
	if (!done)
		ks_crypto_fail("sign");
}

/* Two dots, and something before, between (or nothing: an empty payload) and after them. */
static bool
split(const char *token, size_t len, Parts *parts)
{
	const char *end = token + len;
	const char *first = memchr(token, '.', len);
	const char *second = first != NULL ? memchr(first + 1, '.', end - first - 1) : NULL;

	if (second == NULL || memchr(second + 1, '.', end - second - 1) != NULL)
		return false;
	parts->part[0] = token;
	parts->len[0] = first - token;
	parts->part[1] = first + 1;
	parts->len[1] = second - first - 1;
	parts->part[2] = second + 1;
	parts->len[2] = end - second - 1;
	return parts->len[0] > 0 && parts->len[2] > 0;
}

/* Read the header; NULL, or what is wrong with it. */
static const char *
read_header(const Parts *parts, KsJws *jws)
{
	static const char *const forbidden[] = {"crit", "jku", "jwk", "x5u", "x5c"};
	size_t len;
	uint8 *text = decode_part(parts, 0, &len);
	Jsonb *header = text != NULL ? ks_json_object((const char *) text, len) : NULL;
	JsonbValue *value;
	char *alg;

	if (header == NULL)
		return "its header is not a well-formed JSON object in base64url";
	for (int i = 0; i < lengthof(forbidden); i++)
		if (ks_json_member(&header->root, forbidden[i]) != NULL)
			return "its header has a member that we refuse: crit, or a key";
	value = ks_json_member(&header->root, "b64");
	if (value != NULL && !(value->type == jbvBool && value->val.boolean))
		return "its payload is not encoded";
	alg = ks_json_string(&header->root, "alg");
	jws->algorithm = alg != NULL ? ks_algorithm(alg) : 0;
	if (jws->algorithm == 0)
		return "its algorithm is none of ours";
	value = ks_json_member(&header->root, "typ");
	if (value != NULL && (jws->typ = ks_json_string(&header->root, "typ")) == NULL)
		return "its typ is not a string";
	value = ks_json_member(&header->root, "kid");
	if (value != NULL && (jws->kid = ks_json_string(&header->root, "kid")) == NULL)
		return "its kid is not a string";
	return NULL;
}

/*
 * The key that the header names. Without a kid in the header, the set must
 * have one key of the algorithm; a single key without a kid is it.
 */
static const KsJwk *
choose_key(const KsJwkSet *set, const KsJws *jws)
{
	const KsJwk *chosen = NULL;

	for (int i = 0; i < set->count; i++)
	{
		const KsJwk *key = &set->keys[i];

		if (jws->kid != NULL && key->kid != NULL)
		{
			if (strcmp(jws->kid, key->kid) == 0)
				return key;
		}
		else if ((key->kid == NULL || jws->kid == NULL) && (key->algorithms & jws->algorithm) != 0)
		{
			if (chosen != NULL)
				return NULL;
			chosen = key;
		}
	}
	return jws->kid == NULL || (chosen != NULL && set->count == 1) ? chosen : NULL;
}

/* Decode one part; NULL where it is not canonical base64url. */
static uint8 *
decode_part(const Parts *parts, int which, size_t *len)
{
	uint8 *bytes = palloc(KS_BASE64URL_BYTES(parts->len[which]) + 1);

	return ks_base64url_decode(parts->part[which], parts->len[which], bytes, len) ? bytes : NULL;
}

static bool
verify_with(EVP_PKEY_CTX *key_ctx, EVP_MD_CTX *ctx, KsAlgorithm algorithm, const void *data, size_t len, const uint8 *signature, size_t signature_len)
{
	uint8 der[MAX_DER_SIGNATURE];
	EVP_PKEY *key = EVP_PKEY_CTX_get0_pkey(key_ctx);

	switch (algorithm)
	{
		case KS_ES256:
			if (signature_len != KS_ES256_LENGTH)
				return false;
			signature_len = (size_t) es256_to_der(signature, der);
			return signature_len > 0 && EVP_DigestVerify(ctx, der, signature_len, data, len) == 1;
		case KS_PS256:
			if (EVP_PKEY_CTX_set_rsa_padding(key_ctx, RSA_PKCS1_PSS_PADDING) <= 0 ||
				EVP_PKEY_CTX_set_rsa_mgf1_md(key_ctx, EVP_sha256()) <= 0 ||
				EVP_PKEY_CTX_set_rsa_pss_saltlen(key_ctx, RSA_PSS_SALTLEN_DIGEST) <= 0)
				return false;
			/* FALLTHROUGH */
		case KS_RS256:
			return signature_len == (size_t) EVP_PKEY_get_size(key) && EVP_DigestVerify(ctx, signature, signature_len, data, len) == 1;
		case KS_EDDSA:
			return EVP_DigestVerify(ctx, signature, signature_len, data, len) == 1;
	}
	return false;
}

/* r and s as the DER that OpenSSL wants; returns its length, or 0. */
static int
es256_to_der(const uint8 *signature, uint8 *der)
{
	ECDSA_SIG *pair = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(signature, COORDINATE_LENGTH, NULL);
	BIGNUM *s = BN_bin2bn(signature + COORDINATE_LENGTH, COORDINATE_LENGTH, NULL);
	int len = 0;

	/* The pair takes the numbers over if it takes them. */
	if (pair == NULL || r == NULL || s == NULL || !ECDSA_SIG_set0(pair, r, s))
	{
		BN_free(r);
		BN_free(s);
	}
	else
		len = i2d_ECDSA_SIG(pair, &der);
	ECDSA_SIG_free(pair);
	return Max(len, 0);
}

static bool
es256_from_der(const uint8 *der, size_t len, uint8 *signature)
{
	ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &der, (long) len);
	bool done = pair != NULL &&
				BN_bn2binpad(ECDSA_SIG_get0_r(pair), signature, COORDINATE_LENGTH) == COORDINATE_LENGTH &&
				BN_bn2binpad(ECDSA_SIG_get0_s(pair), signature + COORDINATE_LENGTH, COORDINATE_LENGTH) == COORDINATE_LENGTH;

	ECDSA_SIG_free(pair);
	return done;
}
