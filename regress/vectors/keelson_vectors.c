/*
 * keelson_vectors.c
 *	  The extension's cryptographic primitives as SQL functions, for the tests
 *	  against published vectors alone. vectors.sql declares them.
 */
#include "postgres.h"

#include <openssl/err.h>

#include "fmgr.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"

#include "secrets/crypto.h"
#include "secrets/jose.h"
#include "secrets/jose_json.h"

PG_MODULE_MAGIC;

static bytea *make_bytea(size_t len);
static KsJwkSet *read_set(text *jwks, const char **why);

#define BYTES(n) ((const uint8 *) VARDATA_ANY(PG_GETARG_BYTEA_PP(n)))
#define LENGTH(n) (VARSIZE_ANY_EXHDR(PG_GETARG_BYTEA_PP(n)))

PG_FUNCTION_INFO_V1(vector_gcm_seal);

/* gcm_seal(key, nonce, aad, message): ciphertext and tag; null where a length is not ours */
Datum
vector_gcm_seal(PG_FUNCTION_ARGS)
{
	KsGcm *gcm = ks_gcm_create(true);
	bytea *out = make_bytea(LENGTH(3) + KS_TAG_LENGTH);

	if (LENGTH(0) != KS_KEY_LENGTH || LENGTH(1) != KS_NONCE_LENGTH)
		PG_RETURN_NULL();
	ks_gcm_seal(gcm, BYTES(0), BYTES(1), BYTES(2), LENGTH(2), BYTES(3), LENGTH(3), (uint8 *) VARDATA(out), (uint8 *) VARDATA(out) + LENGTH(3));
	ks_gcm_forget(gcm);
	PG_RETURN_BYTEA_P(out);
}

PG_FUNCTION_INFO_V1(vector_gcm_open);

/* gcm_open(key, nonce, aad, ciphertext, tag): the message; null where the tag does not fit */
Datum
vector_gcm_open(PG_FUNCTION_ARGS)
{
	KsGcm *gcm = ks_gcm_create(false);
	bytea *out = make_bytea(LENGTH(3));
	bool opened;

	if (LENGTH(0) != KS_KEY_LENGTH || LENGTH(1) != KS_NONCE_LENGTH || LENGTH(4) != KS_TAG_LENGTH)
		PG_RETURN_NULL();
	opened = ks_gcm_open(gcm, BYTES(0), BYTES(1), BYTES(2), LENGTH(2), BYTES(3), LENGTH(3), (uint8 *) VARDATA(out), BYTES(4));
	ks_gcm_forget(gcm);
	if (!opened)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(out);
}

PG_FUNCTION_INFO_V1(vector_hmac);

/* hmac(digest: 1, 256 or 512, key, message) */
Datum
vector_hmac(PG_FUNCTION_ARGS)
{
	int32 which = PG_GETARG_INT32(0);
	uint8 mac[KS_DIGEST_MAX_LENGTH];
	size_t len = ks_hmac(which == 1 ? KS_SHA1 : which == 256 ? KS_SHA256
															 : KS_SHA512,
						 BYTES(1), LENGTH(1), BYTES(2), LENGTH(2), mac);
	bytea *out = make_bytea(len);

	memcpy(VARDATA(out), mac, len);
	PG_RETURN_BYTEA_P(out);
}

PG_FUNCTION_INFO_V1(vector_kept_hmac);

/* kept_hmac(key, message): HMAC-SHA-256 by a context that keeps its key, the second use of it */
Datum
vector_kept_hmac(PG_FUNCTION_ARGS)
{
	KsMac *mac = ks_mac_create(BYTES(0), LENGTH(0));
	bytea *out = make_bytea(KS_SHA256_LENGTH);

	ks_mac(mac, "first", 5, (uint8 *) VARDATA(out));
	ks_mac(mac, BYTES(1), LENGTH(1), (uint8 *) VARDATA(out));
	ks_mac_free(mac);
	PG_RETURN_BYTEA_P(out);
}

PG_FUNCTION_INFO_V1(vector_sha256);

/* sha256(message) */
Datum
vector_sha256(PG_FUNCTION_ARGS)
{
	bytea *out = make_bytea(KS_SHA256_LENGTH);

	ks_sha256(BYTES(0), LENGTH(0), (uint8 *) VARDATA(out));
	PG_RETURN_BYTEA_P(out);
}

PG_FUNCTION_INFO_V1(vector_hkdf);

/* hkdf(secret, salt, info, size): null where that much cannot be had */
Datum
vector_hkdf(PG_FUNCTION_ARGS)
{
	int32 size = PG_GETARG_INT32(3);
	bytea *out = make_bytea(size);

	if (!ks_hkdf_sha256(BYTES(0), LENGTH(0), BYTES(1), LENGTH(1), BYTES(2), LENGTH(2), (uint8 *) VARDATA(out), size))
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(out);
}

PG_FUNCTION_INFO_V1(vector_pbkdf2);

/* pbkdf2(password, salt, rounds, size) */
Datum
vector_pbkdf2(PG_FUNCTION_ARGS)
{
	int32 size = PG_GETARG_INT32(3);
	bytea *out = make_bytea(size);

	if (!ks_pbkdf2_sha256(BYTES(0), LENGTH(0), BYTES(1), LENGTH(1), PG_GETARG_INT32(2), (uint8 *) VARDATA(out), size))
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(out);
}

PG_FUNCTION_INFO_V1(vector_base64url);

/* base64url(text): decoded, and encoded again; null where it is not canonical */
Datum
vector_base64url(PG_FUNCTION_ARGS)
{
	text *given = PG_GETARG_TEXT_PP(0);
	uint8 *bytes = palloc(KS_BASE64URL_BYTES(VARSIZE_ANY_EXHDR(given)) + 1);
	size_t len;

	if (!ks_base64url_decode(VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), bytes, &len))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(ks_base64url(bytes, len));
}

PG_FUNCTION_INFO_V1(vector_signature);

/* signature(algorithm, public key as JWK or PEM, message, signature): verified? Null: we refuse the key */
Datum
vector_signature(PG_FUNCTION_ARGS)
{
	int algorithm = ks_algorithm(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	const char *why;
	KsJwkSet *set = read_set(PG_GETARG_TEXT_PP(1), &why);

	if (set == NULL || set->count != 1 || (set->keys[0].algorithms & algorithm) == 0)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(ks_signature_verify(set->keys[0].key, algorithm, BYTES(2), LENGTH(2), BYTES(3), LENGTH(3)));
}

PG_FUNCTION_INFO_V1(vector_jws);

/* jws(token, keys as JWK set): null when it is good, else what is wrong with it or the keys */
Datum
vector_jws(PG_FUNCTION_ARGS)
{
	text *token = PG_GETARG_TEXT_PP(0);
	const char *problem = NULL;
	KsJwkSet *set = read_set(PG_GETARG_TEXT_PP(1), &problem);
	KsJws jws;

	if (set != NULL)
		problem = ks_jws_verify(set, KS_ALL_ALGORITHMS, VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &jws);
	if (ERR_peek_error() != 0)
		elog(ERROR, "OpenSSL's error queue is not empty");
	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}

PG_FUNCTION_INFO_V1(vector_json);

/* json(text as bytes): does the tokens' parser take it for an object? */
Datum
vector_json(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ks_json_object((const char *) BYTES(0), LENGTH(0)) != NULL);
}

PG_FUNCTION_INFO_V1(vector_time);

/* time(what, rounds): nanoseconds a call of sha256, hmac, kept_hmac, hkdf, gcm64, gcm1k, gcm4k, gcm64_new_key */
Datum
vector_time(PG_FUNCTION_ARGS)
{
	char *what = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int32 rounds = PG_GETARG_INT32(1);
	static uint8 in[4096];
	static uint8 out[4096];
	uint8 key[KS_KEY_LENGTH] = {1};
	uint8 tag[KS_TAG_LENGTH];
	uint8 nonce[KS_NONCE_LENGTH];
	size_t size = strncmp(what, "gcm4k", 5) == 0 ? 4096 : strncmp(what, "gcm1k", 5) == 0 ? 1024
																						 : 64;
	KsGcm *gcm = ks_gcm_create(true);
	KsMac *mac = ks_mac_create(key, sizeof(key));
	instr_time start;
	instr_time took;

	ks_random_nonce(nonce, sizeof(nonce));
	ks_gcm_seal(gcm, key, nonce, in, 60, in, size, out, tag);
	INSTR_TIME_SET_CURRENT(start);
	for (int i = 0; i < rounds; i++)
	{
		if (strcmp(what, "sha256") == 0)
			ks_sha256(in, 43, out);
		else if (strcmp(what, "hmac") == 0)
			(void) ks_hmac(KS_SHA256, key, sizeof(key), in, 43, out);
		else if (strcmp(what, "kept_hmac") == 0)
			ks_mac(mac, in, 43, out);
		else if (strcmp(what, "hkdf") == 0)
			(void) ks_hkdf_sha256(key, sizeof(key), "salt", 4, "info", 4, out, 32);
		else
		{
			ks_random_nonce(nonce, sizeof(nonce));
			ks_gcm_seal(gcm, strcmp(what, "gcm64_new_key") == 0 ? key : NULL, nonce, in, 60, in, size, out, tag);
		}
	}
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, start);
	ks_gcm_forget(gcm);
	ks_mac_free(mac);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_DOUBLE(took) * 1e9 / rounds);
}

static bytea *
make_bytea(size_t len)
{
	bytea *out = palloc0(VARHDRSZ + len);

	SET_VARSIZE(out, VARHDRSZ + len);
	return out;
}

/* A key set of JSON, or of PEM, which begins with dashes. */
static KsJwkSet *
read_set(text *keys, const char **why)
{
	if (VARSIZE_ANY_EXHDR(keys) > 0 && VARDATA_ANY(keys)[0] == '-')
		return ks_jwk_set_from_pem(CurrentMemoryContext, VARDATA_ANY(keys), VARSIZE_ANY_EXHDR(keys), why);
	return ks_jwk_set_read(CurrentMemoryContext, VARDATA_ANY(keys), VARSIZE_ANY_EXHDR(keys), why);
}
