/*
 * tokens.c
 *	  Fuzzes what proves who somebody is: signed tokens, their claims, sets of
 *	  keys, tokens with a MAC, access keys, sealed values.
 *
 * Claims: nothing raises an error; what we have not signed is never taken; what
 * we have signed, sealed or made is taken as it is and in no other form.
 */
#include "postgres.h"

#include <zlib.h>

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "core/error.h"
#include "core/guc.h"
#include "issuers/external.h"
#include "keys/access_key.h"
#include "secrets/crypto.h"
#include "secrets/jose.h"
#include "secrets/jwt.h"
#include "secrets/keyring.h"
#include "secrets/seal.h"
#include "secrets/signing_keys.h"
#include "sessions/token.h"
#include "targets.h"

/* Public keys of the published examples: RFC 7517 (appendix A.1), RFC 8037 (A.2), RFC 7515 (A.3). */
static const char keys[] =
	"{\"keys\":["
	"{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"ec\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
	"\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"},"
	"{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"ed\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"},"
	"{\"kty\":\"RSA\",\"kid\":\"rsa\",\"n\":\"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_"
	"BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qM"
	"QvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw\",\"e\":\"AQAB\"}]}";

typedef struct Sealed
{
	KsSealContext context;
	bytea *value;
	bytea *opened;
} Sealed;

static KsJwkSet *example_set(void);
static text *sign_as_ours(const char *header, size_t header_len, const void *payload, size_t payload_len);
static void append_part(StringInfo to, const void *data, size_t len);
static void mutate(uint8 *bytes, size_t len, const uint8 *changes, size_t count);
static void flip(const KsTokenKind *kind, const uint8 *data, size_t size);
static void write_base62(uint64 number, int count, char *out);
static void unseal(void *argument);

static KsJwkSet *
example_set(void)
{
	const char *why = NULL;
	KsJwkSet *set = ks_jwk_set_read(CurrentMemoryContext, keys, strlen(keys), &why);

	REQUIRE(set != NULL && set->count == 3);
	return set;
}

/* A token of any bytes: nobody has signed it. */
void
fuzz_jws(const uint8 *data, size_t size)
{
	const char *token = (const char *) data;
	KsJws jws;
	KsAccessToken access;
	KsExternalToken external;

	REQUIRE(ks_jws_verify(example_set(), KS_ALL_ALGORITHMS, token, size, &jws) != NULL);
	REQUIRE(ks_access_token_verify(token, size, &access) == KS_TOKEN_INVALID);
	REQUIRE(ks_external_verify(token, size, &external) == KS_EXTERNAL_INVALID && !ks_external_is_known(token, size));
}

/*
 * A token that we have signed, whose header (first byte even) or payload is the
 * input. Only a whole payload of ours, under a header of ours, is an access token.
 */
void
fuzz_jwt_claims(const uint8 *data, size_t size)
{
	char *payload = psprintf("{\"iss\":\"%s\",\"aud\":\"%s\",\"sub\":\"0194e0a0-0000-7000-8000-000000000000\","
							 "\"sid\":\"0194e0a0-0000-7000-8000-000000000001\",\"iat\":1700000000,\"exp\":4000000000,\"jti\":\"a\",\"aal\":1}",
							 ks_guc_public_url, ks_guc_public_url);
	KsAccessToken access;
	KsJws jws;
	const char *kid;
	const char *problem;
	char *header;
	text *token;
	KsTokenState state;

	if (size == 0)
		return;
	(void) ks_signing_key(&kid);
	header = psprintf("{\"alg\":\"ES256\",\"typ\":\"at+jwt\",\"kid\":\"%s\"}", kid);
	token = data[0] % 2 == 0 ? sign_as_ours((const char *) data + 1, size - 1, payload, strlen(payload))
							 : sign_as_ours(header, strlen(header), data + 1, size - 1);
	problem = ks_jws_verify(ks_signing_keys(), KS_ES256, VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &jws);
	/* The header is ours: signed properly, whatever the payload. */
	REQUIRE(data[0] % 2 == 0 || problem == NULL || VARSIZE_ANY_EXHDR(token) > KS_TOKEN_MAX_LENGTH);
	state = ks_access_token_verify(VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &access);
	REQUIRE(state == KS_TOKEN_INVALID || problem == NULL);
	if (state == KS_TOKEN_INVALID)
		return;
	REQUIRE(access.aal >= 0 && access.issued_at >= 0 && access.expires_at >= 0);
	if (data[0] % 2 == 0)
		REQUIRE(strcmp(jws.typ, "at+jwt") == 0 && strcmp(jws.kid, kid) == 0 && access.expires_at == INT64CONST(4000000000));
}

static text *
sign_as_ours(const char *header, size_t header_len, const void *payload, size_t payload_len)
{
	const char *kid;
	EVP_PKEY *pair = ks_signing_key(&kid);
	uint8 signature[KS_ES256_LENGTH];
	StringInfoData token;

	initStringInfo(&token);
	append_part(&token, header, header_len);
	appendStringInfoChar(&token, '.');
	append_part(&token, payload, payload_len);
	ks_es256_sign(pair, token.data, token.len, signature);
	appendStringInfoChar(&token, '.');
	append_part(&token, signature, sizeof(signature));
	return cstring_to_text_with_len(token.data, token.len);
}

static void
append_part(StringInfo to, const void *data, size_t len)
{
	enlargeStringInfo(to, (int) KS_BASE64URL_LENGTH(len));
	to->len += (int) ks_base64url_encode(data, len, to->data + to->len);
	to->data[to->len] = '\0';
}

void
fuzz_jwk(const uint8 *data, size_t size)
{
	const char *why = NULL;
	KsJwkSet *set = ks_jwk_set_read(CurrentMemoryContext, (const char *) data, size, &why);
	uint8 signature[256] = {0};

	REQUIRE((set == NULL) == (why != NULL));
	for (int i = 0; set != NULL && i < set->count; i++)
	{
		REQUIRE(set->keys[i].key != NULL && set->keys[i].algorithms != 0);
		for (int algorithm = KS_ES256; algorithm <= KS_EDDSA; algorithm *= 2)
			if ((set->keys[i].algorithms & algorithm) != 0)
				REQUIRE(!ks_signature_verify(set->keys[i].key, algorithm, data, size, signature, algorithm == KS_ES256 || algorithm == KS_EDDSA ? 64 : 256));
	}
	why = NULL;
	set = ks_jwk_set_from_pem(CurrentMemoryContext, (const char *) data, size, &why);
	REQUIRE((set == NULL) == (why != NULL) && (set == NULL || set->count == 1));
}

/* Change bytes as the input says: pairs of a place and what is xored to it. */
static void
mutate(uint8 *bytes, size_t len, const uint8 *changes, size_t count)
{
	for (size_t i = 0; i + 1 < count; i += 2)
		bytes[changes[i] % len] ^= changes[i + 1];
}

void
fuzz_token(const uint8 *data, size_t size)
{
	uint8 payload[KS_TOKEN_PAYLOAD_MAX];

	REQUIRE(!ks_token_open(&ks_refresh_kind, (const char *) data, size, payload));
	REQUIRE(!ks_token_open(&ks_device_kind, (const char *) data, size, payload));
	flip(&ks_refresh_kind, data, size);
	flip(&ks_device_kind, data, size);
}

/* A token that we have made opens as it is, and not when anything in it is changed. */
static void
flip(const KsTokenKind *kind, const uint8 *data, size_t size)
{
	uint8 payload[KS_TOKEN_PAYLOAD_MAX] = {1, 2, 3};
	uint8 opened[KS_TOKEN_PAYLOAD_MAX];
	text *token;
	char *changed;
	size_t len;

	ks_put_uint32(payload + kind->payload_len - sizeof(uint32), ks_keyring_primary());
	token = ks_token_make(kind, payload);
	len = VARSIZE_ANY_EXHDR(token);
	changed = pnstrdup(VARDATA_ANY(token), len);
	mutate((uint8 *) changed, len, data, size);
	REQUIRE(ks_token_open(kind, changed, len, opened) == (memcmp(changed, VARDATA_ANY(token), len) == 0));
	REQUIRE(!ks_token_open(kind, changed, len - 1, opened));
}

/* Our own writing of the form that access_key.h describes. */
void
fuzz_access_key(const uint8 *data, size_t size)
{
	uint8 payload[64] = {0};
	char key[KS_ACCESS_KEY_LENGTH + 1];
	char changed[KS_ACCESS_KEY_LENGTH];
	KsAccessKeyText parts;

	(void) ks_access_key_has_shape((const char *) data, size);
	if (ks_access_key_parse((const char *) data, size, &parts))
		REQUIRE(size == KS_ACCESS_KEY_LENGTH);
	memcpy(payload, data, Min(size, sizeof(payload)));
	memcpy(key, size % 2 == 0 ? "ks_live_" : "ks_test_", 8);
	for (int block = 0; block < 8; block++)
	{
		uint64 number = 0;

		for (int i = 0; i < 8; i++)
			number = number << 8 | payload[block * 8 + i];
		write_base62(number, 11, key + 8 + block * 11);
	}
	write_base62(crc32(0, (const Bytef *) key, KS_ACCESS_KEY_LENGTH - 6), 6, key + KS_ACCESS_KEY_LENGTH - 6);
	REQUIRE(ks_access_key_parse(key, KS_ACCESS_KEY_LENGTH, &parts));
	REQUIRE(parts.is_live == (size % 2 == 0) && memcmp(&parts.id, payload, 16) == 0 && memcmp(&parts.user_id, payload + 16, 16) == 0);
	/* One letter mistyped is always found. */
	memcpy(changed, key, KS_ACCESS_KEY_LENGTH);
	mutate((uint8 *) changed, KS_ACCESS_KEY_LENGTH, data, Min(size, 2));
	REQUIRE(ks_access_key_parse(changed, KS_ACCESS_KEY_LENGTH, &parts) == (memcmp(changed, key, KS_ACCESS_KEY_LENGTH) == 0));
}

static void
write_base62(uint64 number, int count, char *out)
{
	while (--count >= 0)
	{
		out[count] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[number % 62];
		number /= 62;
	}
}

/* The first byte says what of a sealed value is tried in another place or changed by the rest. */
void
fuzz_seal(const uint8 *data, size_t size)
{
	Sealed sealed = {.context = {.purpose = "fuzz-server"}};
	bytea *intact;
	size_t len;
	int sqlstate = 0;
	bool is_changed;

	if (size == 0)
		return;
	memset(&sealed.context.row_id, 7, sizeof(pg_uuid_t));
	intact = ks_seal(&sealed.context, data, Min(size, 64));
	len = VARSIZE_ANY_EXHDR(intact);
	sealed.value = (bytea *) cstring_to_text_with_len(VARDATA_ANY(intact), (int) len);
	is_changed = data[0] % 4 != 0;
	switch (data[0] % 4)
	{
		case 0:
			mutate((uint8 *) VARDATA_ANY(sealed.value), len, data + 1, size - 1);
			is_changed = memcmp(VARDATA_ANY(sealed.value), VARDATA_ANY(intact), len) != 0;
			break;
		case 1:
			sealed.value = (bytea *) cstring_to_text_with_len((const char *) data + 1, (int) size - 1);
			break;
		case 2:
			sealed.context.row_id.data[data[size - 1] % UUID_LEN] ^= 1 + data[size / 2] % 255;
			break;
		case 3:
			SET_VARSIZE(sealed.value, VARHDRSZ + data[size - 1] % len);
			break;
	}
	if (fuzz_raises(unseal, &sealed, &sqlstate))
		REQUIRE(is_changed && sqlstate == KS_SQLSTATE(500));
	else
		REQUIRE(!is_changed);
}

static void
unseal(void *argument)
{
	Sealed *sealed = argument;

	sealed->opened = ks_unseal(&sealed->context, sealed->value);
}
