/*
 * signature.c
 *	  Verifying of a compact JWS with a P-256 key.
 */
#include "signature.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#define MAX_TOKEN 8192

static EVP_PKEY *read_key(Slice jwk);
static bool is_signed(EVP_PKEY *key, Slice signed_part, const uint8_t signature[64]);
static bool read_claims(Slice claims, Checkpoint *checkpoint);
static bool equals(Slice value, const char *text);

const char *
checkpoint_open(Slice token, Slice key, Checkpoint *checkpoint)
{
	static uint8_t header[MAX_TOKEN], payload[MAX_TOKEN];
	uint8_t signature[MAX_TOKEN];
	const char *dot1 = token.start != NULL && token.len <= MAX_TOKEN ? memchr(token.start, '.', token.len) : NULL;
	const char *dot2 = dot1 != NULL ? memchr(dot1 + 1, '.', token.start + token.len - dot1 - 1) : NULL;
	long header_len, payload_len;
	EVP_PKEY *pkey;
	bool good;

	if (dot2 == NULL)
		return "the checkpoint is no JWT";
	header_len = base64_decode((Slice){token.start, dot1 - token.start}, header);
	payload_len = base64_decode((Slice){dot1 + 1, dot2 - dot1 - 1}, payload);
	if (header_len < 0 || payload_len < 0 ||
		base64_decode((Slice){dot2 + 1, token.start + token.len - dot2 - 1}, signature) != 64)
		return "the checkpoint is no JWT";
	if (!equals(json_member((Slice){(char *) header, header_len}, "alg"), "ES256") ||
		!equals(json_member((Slice){(char *) header, header_len}, "typ"), "audit-checkpoint"))
		return "the token is no checkpoint of an audit trail";
	pkey = read_key(key);
	if (pkey == NULL)
		return "the key is no P-256 key as a JWK";
	good = is_signed(pkey, (Slice){token.start, dot2 - token.start}, signature);
	EVP_PKEY_free(pkey);
	if (!good)
		return "the key has not signed the checkpoint";
	return read_claims((Slice){(char *) payload, payload_len}, checkpoint) ? NULL : "the checkpoint lacks size or root";
}

/* A P-256 public key of its coordinates; NULL when it is none. */
static EVP_PKEY *
read_key(Slice jwk)
{
	uint8_t point[65] = {4};
	uint8_t coordinate[128];
	static const char *const names[2] = {"x", "y"};
	EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	OSSL_PARAM params[3];
	EVP_PKEY *key = NULL;

	for (int i = 0; i < 2; i++)
	{
		Slice value = json_string(json_member(jwk, names[i]));

		if (value.start == NULL || value.len > 100 || base64_decode(value, coordinate) != 32)
			goto done;
		memcpy(point + 1 + 32 * i, coordinate, 32);
	}
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *) "P-256", 0);
	params[1] = OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point));
	params[2] = OSSL_PARAM_construct_end();
	if (context == NULL || EVP_PKEY_fromdata_init(context) != 1 || EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
		key = NULL;
done:
	EVP_PKEY_CTX_free(context);
	return key;
}

/* The signature is r and s, 32 bytes each; OpenSSL wants them in DER. */
static bool
is_signed(EVP_PKEY *key, Slice signed_part, const uint8_t signature[64])
{
	ECDSA_SIG *pair = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(signature, 32, NULL);
	BIGNUM *s = BN_bin2bn(signature + 32, 32, NULL);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned char *der = NULL;
	int der_len;
	bool good;

	if (pair == NULL || r == NULL || s == NULL || context == NULL || ECDSA_SIG_set0(pair, r, s) != 1)
		abort();
	der_len = i2d_ECDSA_SIG(pair, &der);
	good = der_len > 0 && EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key) == 1 &&
		   EVP_DigestVerify(context, der, der_len, (const unsigned char *) signed_part.start, signed_part.len) == 1;
	OPENSSL_free(der);
	EVP_MD_CTX_free(context);
	ECDSA_SIG_free(pair);
	return good;
}

static bool
read_claims(Slice claims, Checkpoint *checkpoint)
{
	Slice root = json_string(json_member(claims, "root"));

	if (root.start == NULL || root.len != 2 * HASH_LENGTH || !json_number(json_member(claims, "size"), &checkpoint->size))
		return false;
	for (int i = 0; i < HASH_LENGTH; i++)
	{
		char digits[3] = {root.start[2 * i], root.start[2 * i + 1], '\0'};
		char *end;

		checkpoint->root.bytes[i] = (uint8_t) strtoul(digits, &end, 16);
		if (*end != '\0')
			return false;
	}
	return true;
}

static bool
equals(Slice value, const char *text)
{
	Slice string = json_string(value);

	return string.start != NULL && string.len == strlen(text) && memcmp(string.start, text, string.len) == 0;
}
