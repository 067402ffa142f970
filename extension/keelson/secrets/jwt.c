/*
 * jwt.c
 *	  JSON Web Tokens: our access tokens, and the general functions of SQL.
 *
 * Verifying P-256 costs some 60 µs; a token that was found good is known again
 * by its SHA-256 until the keys change, in SETS sets of WAYS entries, so the
 * memory is bounded and a look-up costs a hash and a few comparisons. What is
 * kept is not the token and opens nothing. Its expiry is looked at every time;
 * whether its session still lives is the dispatcher's question.
 */
#include "postgres.h"

#include <time.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/shmem.h"
#include "core/uuid.h"
#include "secrets/crypto.h"
#include "secrets/jose.h"
#include "secrets/jose_json.h"
#include "secrets/jwt.h"
#include "secrets/keyring.h"
#include "secrets/signing_keys.h"

#define SETS 256
#define WAYS 4
#define JTI_LENGTH 16
#define ACCESS_TYPE "at+jwt"
#define MAX_TYPE_LENGTH 64

/* A verified access token; last_used 0: an empty place. */
typedef struct Verified
{
	uint8 hash[KS_SHA256_LENGTH];
	uint64 last_used;
	KsAccessToken token;
} Verified;

/* The backend's verified tokens; emptied when keys or issuer change. */
static struct
{
	uint64 generation;
	char *issuer;
	uint64 clock;
	Verified (*sets)[WAYS];
} verified;

static void validate_cache(void);
static Verified *find_verified(const uint8 *hash);
static void keep_verified(const uint8 *hash, const KsAccessToken *token);
static bool verify_access(const char *token, size_t len, KsAccessToken *out);
static bool read_access_claims(const JsonbContainer *claims, KsAccessToken *out);
static bool read_uuid(const JsonbContainer *claims, const char *name, pg_uuid_t *out);
static bool is_our_url(const JsonbContainer *claims, const char *name);
static char *write_access_claims(const KsAccessToken *token);
static char *uuid_text(const pg_uuid_t *uuid);
static text *sign(const char *typ, const char *payload);
static void append_encoded(StringInfo to, const void *data, size_t len);
static int64 unix_now(void);

KsTokenState
ks_access_token_verify(const char *token, size_t len, KsAccessToken *out)
{
	uint8 hash[KS_SHA256_LENGTH];
	Verified *known;

	ks_require_shmem();
	if (len == 0 || len > KS_TOKEN_MAX_LENGTH)
		return KS_TOKEN_INVALID;
	validate_cache();
	ks_sha256(token, len, hash);
	known = find_verified(hash);
	if (known != NULL)
		*out = known->token;
	else if (!verify_access(token, len, out))
		return KS_TOKEN_INVALID;
	if (known == NULL)
		keep_verified(hash, out);
	return out->expires_at > unix_now() ? KS_TOKEN_VALID : KS_TOKEN_EXPIRED;
}

text *
ks_access_token_sign(const KsAccessToken *token)
{
	return sign(ACCESS_TYPE, write_access_claims(token));
}

/* Empty the cache unless it was filled with the present keys and issuer. */
static void
validate_cache(void)
{
	uint64 generation = ks_signing_keys_generation();

	if (verified.sets == NULL)
		verified.sets = MemoryContextAllocZero(TopMemoryContext, SETS * sizeof(*verified.sets));
	if (likely(verified.generation == generation && verified.issuer != NULL && strcmp(verified.issuer, ks_guc_public_url) == 0))
		return;
	memset(verified.sets, 0, SETS * sizeof(*verified.sets));
	verified.generation = generation;
	if (verified.issuer != NULL)
		pfree(verified.issuer);
	verified.issuer = NULL;
	verified.issuer = MemoryContextStrdup(TopMemoryContext, ks_guc_public_url);
}

static Verified *
find_verified(const uint8 *hash)
{
	Verified *set = verified.sets[hash[0] % SETS];

	for (int i = 0; i < WAYS; i++)
		if (set[i].last_used != 0 && memcmp(set[i].hash, hash, KS_SHA256_LENGTH) == 0)
		{
			set[i].last_used = ++verified.clock;
			return &set[i];
		}
	return NULL;
}

/* In the place of the entry of the set that was used longest ago. */
static void
keep_verified(const uint8 *hash, const KsAccessToken *token)
{
	Verified *set = verified.sets[hash[0] % SETS];
	Verified *oldest = &set[0];

	for (int i = 1; i < WAYS; i++)
		if (set[i].last_used < oldest->last_used)
			oldest = &set[i];
	memcpy(oldest->hash, hash, KS_SHA256_LENGTH);
	oldest->last_used = ++verified.clock;
	oldest->token = *token;
}

/* Is it an access token that we have signed, for us, whatever its expiry? */
static bool
verify_access(const char *token, size_t len, KsAccessToken *out)
{
	KsJws jws;
	Jsonb *claims;

	if (ks_jws_verify(ks_signing_keys(), KS_ES256, token, len, &jws) != NULL || jws.kid == NULL ||
		jws.typ == NULL || strcmp(jws.typ, ACCESS_TYPE) != 0)
		return false;
	claims = ks_json_object((const char *) jws.payload, jws.payload_len);
	return claims != NULL && read_access_claims(&claims->root, out);
}

static bool
read_access_claims(const JsonbContainer *claims, KsAccessToken *out)
{
	int64 aal;
	int64 not_before;

	memset(out, 0, sizeof(*out));
	if (!is_our_url(claims, "iss") || !is_our_url(claims, "aud") ||
		!read_uuid(claims, "sub", &out->user_id) || !read_uuid(claims, "sid", &out->session_id) ||
		!ks_json_seconds(claims, "iat", &out->issued_at) || !ks_json_seconds(claims, "exp", &out->expires_at) ||
		!ks_json_seconds(claims, "aal", &aal))
		return false;
	/* We write none, but what it says would hold. */
	if (ks_json_member(claims, "nbf") != NULL &&
		(!ks_json_seconds(claims, "nbf", &not_before) || not_before > unix_now() + KS_JWT_MAX_LEEWAY))
		return false;
	out->aal = (int) Min(aal, PG_INT16_MAX);
	return out->issued_at <= unix_now() + KS_JWT_MAX_LEEWAY;
}

/* A UUID in the one form that we write: 36 characters, lower case. */
static bool
read_uuid(const JsonbContainer *claims, const char *name, pg_uuid_t *out)
{
	char *text = ks_json_string(claims, name);

	return text != NULL && strspn(text, "0123456789abcdef-") == strlen(text) && ks_uuid_read(text, strlen(text), out);
}

static bool
is_our_url(const JsonbContainer *claims, const char *name)
{
	char *url = ks_json_string(claims, name);

	return url != NULL && strcmp(url, ks_guc_public_url) == 0;
}

static char *
write_access_claims(const KsAccessToken *token)
{
	StringInfoData claims;
	uint8 jti[JTI_LENGTH];

	ks_random(jti, sizeof(jti));
	initStringInfo(&claims);
	appendStringInfoString(&claims, "{\"iss\":");
	escape_json(&claims, ks_guc_public_url);
	appendStringInfoString(&claims, ",\"aud\":");
	escape_json(&claims, ks_guc_public_url);
	appendStringInfo(&claims, ",\"sub\":\"%s\",\"sid\":\"%s\"", uuid_text(&token->user_id), uuid_text(&token->session_id));
	appendStringInfo(&claims, ",\"iat\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT, token->issued_at, token->expires_at);
	appendStringInfo(&claims, ",\"jti\":\"%s\",\"aal\":%d}", text_to_cstring(ks_base64url(jti, sizeof(jti))), token->aal);
	return claims.data;
}

static char *
uuid_text(const pg_uuid_t *uuid)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

/* Sign the payload with the key in force. */
static text *
sign(const char *typ, const char *payload)
{
	StringInfoData token;
	StringInfoData header;
	const char *kid;
	EVP_PKEY *pair = ks_signing_key(&kid);
	uint8 signature[KS_ES256_LENGTH];

	initStringInfo(&header);
	appendStringInfo(&header, "{\"alg\":\"ES256\",\"typ\":\"%s\",\"kid\":\"%s\"}", typ, kid);
	initStringInfo(&token);
	append_encoded(&token, header.data, header.len);
	appendStringInfoChar(&token, '.');
	append_encoded(&token, payload, strlen(payload));
	ks_es256_sign(pair, token.data, token.len, signature);
	appendStringInfoChar(&token, '.');
	append_encoded(&token, signature, sizeof(signature));
	if (token.len > KS_TOKEN_MAX_LENGTH)
		ks_raise_field(400, "VALIDATION_FAILED", "claims", NULL, "a token may have %d bytes, this would have %d", KS_TOKEN_MAX_LENGTH, token.len);
	return cstring_to_text_with_len(token.data, token.len);
}

static void
append_encoded(StringInfo to, const void *data, size_t len)
{
	enlargeStringInfo(to, (int) KS_BASE64URL_LENGTH(len));
	to->len += (int) ks_base64url_encode(data, len, to->data + to->len);
	to->data[to->len] = '\0';
}

static int64
unix_now(void)
{
	return (int64) time(NULL);
}

static const char *check_times(const JsonbContainer *claims, int leeway, bool *is_expired);
static bool is_for_audience(const JsonbContainer *claims, ArrayType *audience);
static bool holds_text(ArrayType *texts, const char *value, size_t len);
static int read_algorithms(ArrayType *names);
static const KsJwkSet *read_key_set(Jsonb *jwks, text *pem);
static char *optional_text(FunctionCallInfo fcinfo, int argno);

PG_FUNCTION_INFO_V1(ks_jwt_sign);

/* keelson.jwt_sign(claims jsonb, typ text) */
Datum
ks_jwt_sign(PG_FUNCTION_ARGS)
{
	Jsonb *claims = PG_GETARG_JSONB_P(0);
	char *typ = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int64 expires_at;

	if (!JB_ROOT_IS_OBJECT(claims) || !ks_json_seconds(&claims->root, "exp", &expires_at))
		ks_raise_field(400, "VALIDATION_FAILED", "claims", NULL, "the claims must be an object with exp, in seconds since 1970");
	if (strlen(typ) > MAX_TYPE_LENGTH || typ[0] == '\0' ||
		strspn(typ, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.+-") != strlen(typ))
		ks_raise_field(400, "VALIDATION_FAILED", "typ", NULL, "the type of a token is made of letters, digits, dots, plus and minus");
	PG_RETURN_TEXT_P(sign(typ, JsonbToCString(NULL, &claims->root, VARSIZE_ANY_EXHDR(claims))));
}

PG_FUNCTION_INFO_V1(ks_jwt_verify);

/* keelson.jwt_verify(token, keys, pem, algorithms, issuer, audience, typ, leeway) */
Datum
ks_jwt_verify(PG_FUNCTION_ARGS)
{
	text *token;
	KsJwtExpected expected;
	const KsJwkSet *set;
	int allowed;
	KsJws jws;
	Jsonb *claims = NULL;
	const char *problem;
	bool is_expired = false;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	token = PG_GETARG_TEXT_PP(0);
	set = read_key_set(PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1), PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2));
	allowed = PG_ARGISNULL(3) ? KS_ALL_ALGORITHMS : read_algorithms(PG_GETARG_ARRAYTYPE_P(3));
	expected.issuer = optional_text(fcinfo, 4);
	expected.audience = PG_ARGISNULL(5) ? NULL : PG_GETARG_ARRAYTYPE_P(5);
	expected.typ = optional_text(fcinfo, 6);
	expected.leeway = PG_ARGISNULL(7) ? 0 : PG_GETARG_INT32(7);
	if (expected.leeway < 0 || expected.leeway > KS_JWT_MAX_LEEWAY)
		ks_raise_field(400, "VALIDATION_FAILED", "leeway", NULL, "the leeway is 0 to %d seconds", KS_JWT_MAX_LEEWAY);
	problem = ks_jws_verify(set, allowed, VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &jws);
	if (problem == NULL)
	{
		claims = ks_json_object((const char *) jws.payload, jws.payload_len);
		problem = claims != NULL ? ks_jwt_check(&claims->root, &jws, &expected, &is_expired) : "its claims are not a well-formed JSON object";
	}
	if (problem != NULL)
		ks_raise(401, is_expired ? "TOKEN_EXPIRED" : "UNAUTHENTICATED", NULL, "the token is not valid: %s", problem);
	PG_RETURN_JSONB_P(claims);
}

const char *
ks_jwt_check(const JsonbContainer *claims, const KsJws *jws, const KsJwtExpected *expected, bool *is_expired)
{
	const char *issuer = ks_json_string(claims, "iss");

	if (expected->typ != NULL && !ks_jwt_is_type(jws->typ, expected->typ))
		return "it is of another type";
	if (expected->issuer != NULL && (issuer == NULL || strcmp(issuer, expected->issuer) != 0))
		return "it is of another issuer";
	if (expected->audience != NULL && !is_for_audience(claims, expected->audience))
		return "it is for another audience";
	return check_times(claims, expected->leeway, is_expired);
}

static const char *
check_times(const JsonbContainer *claims, int leeway, bool *is_expired)
{
	int64 now = unix_now();
	int64 at;

	if (!ks_json_seconds(claims, "exp", &at))
		return "it has no expiry";
	*is_expired = at + leeway <= now;
	if (*is_expired)
		return "it has expired";
	if (ks_json_member(claims, "nbf") != NULL && (!ks_json_seconds(claims, "nbf", &at) || at > now + leeway))
		return "its time has not come";
	if (ks_json_member(claims, "iat") != NULL && (!ks_json_seconds(claims, "iat", &at) || at > now + leeway))
		return "it was issued in the future";
	return NULL;
}

bool
ks_jwt_is_type(const char *typ, const char *expected)
{
	static const char prefix[] = "application/";

	if (typ != NULL && pg_strncasecmp(typ, prefix, strlen(prefix)) == 0)
		typ += strlen(prefix);
	return typ != NULL && pg_strcasecmp(typ, expected) == 0;
}

/* Is one of the token's audiences, or its only one, among the expected? */
static bool
is_for_audience(const JsonbContainer *claims, ArrayType *audience)
{
	JsonbValue *aud = ks_json_member(claims, "aud");
	bool found = false;

	if (aud == NULL)
		return false;
	if (aud->type == jbvString)
		return holds_text(audience, aud->val.string.val, aud->val.string.len);
	if (aud->type != jbvBinary || !JsonContainerIsArray(aud->val.binary.data))
		return false;
	for (uint32 i = 0; i < JsonContainerSize(aud->val.binary.data); i++)
	{
		JsonbValue *one = getIthJsonbValueFromContainer(aud->val.binary.data, i);

		if (one->type != jbvString)
			return false;
		found |= holds_text(audience, one->val.string.val, one->val.string.len);
	}
	return found;
}

static bool
holds_text(ArrayType *texts, const char *value, size_t len)
{
	Datum *elements;
	bool *nulls;
	int count;

	deconstruct_array(texts, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		text *element = nulls[i] ? NULL : DatumGetTextPP(elements[i]);

		if (element != NULL && VARSIZE_ANY_EXHDR(element) == len && memcmp(VARDATA_ANY(element), value, len) == 0)
			return true;
	}
	return false;
}

static int
read_algorithms(ArrayType *names)
{
	Datum *elements;
	bool *nulls;
	int count;
	int set = 0;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		int algorithm = nulls[i] ? 0 : ks_algorithm(TextDatumGetCString(elements[i]));

		if (algorithm == 0)
			ks_raise_field(400, "VALIDATION_FAILED", "algorithms", NULL, "the algorithms of a token are ES256, RS256, PS256 and EdDSA");
		set |= algorithm;
	}
	return set;
}

/* The keys to verify with: those given, else our own. */
static const KsJwkSet *
read_key_set(Jsonb *jwks, text *pem)
{
	const KsJwkSet *set;
	const char *why = NULL;

	if (jwks == NULL && pem == NULL)
	{
		ks_require_shmem();
		return ks_signing_keys();
	}
	if (jwks != NULL && pem != NULL)
		ks_raise_field(400, "VALIDATION_FAILED", "pem", NULL, "keys are given as a JWK set or in PEM, not both");
	if (pem != NULL)
		set = ks_jwk_set_from_pem(CurrentMemoryContext, VARDATA_ANY(pem), VARSIZE_ANY_EXHDR(pem), &why);
	else
	{
		char *json = JsonbToCString(NULL, &jwks->root, VARSIZE_ANY_EXHDR(jwks));

		set = ks_jwk_set_read(CurrentMemoryContext, json, strlen(json), &why);
	}
	if (set == NULL)
		ks_raise_field(400, "VALIDATION_FAILED", pem != NULL ? "pem" : "keys", NULL, "the key set cannot be used: %s", why);
	return set;
}

static char *
optional_text(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

PG_FUNCTION_INFO_V1(ks_access_token_sign_sql);

/* keelson._access_token_sign(user_id, session_id, aal, lifetime in seconds) */
Datum
ks_access_token_sign_sql(PG_FUNCTION_ARGS)
{
	KsAccessToken token;

	token.user_id = *PG_GETARG_UUID_P(0);
	token.session_id = *PG_GETARG_UUID_P(1);
	token.aal = PG_GETARG_INT32(2);
	token.issued_at = unix_now();
	token.expires_at = token.issued_at + PG_GETARG_INT32(3);
	PG_RETURN_TEXT_P(ks_access_token_sign(&token));
}

PG_FUNCTION_INFO_V1(ks_access_token_verify_sql);

/* keelson._access_token_verify(token): state, user_id, session_id, aal, expires_at */
Datum
ks_access_token_verify_sql(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {
		[KS_TOKEN_VALID] = "valid", [KS_TOKEN_EXPIRED] = "expired", [KS_TOKEN_INVALID] = "invalid"};
	text *token = PG_GETARG_TEXT_PP(0);
	TupleDesc desc;
	Datum values[5];
	bool nulls[5] = {false, true, true, true, true};
	KsAccessToken found;
	KsTokenState state = ks_access_token_verify(VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &found);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = CStringGetTextDatum(states[state]);
	values[1] = UUIDPGetDatum(&found.user_id);
	values[2] = UUIDPGetDatum(&found.session_id);
	values[3] = Int32GetDatum(found.aal);
	values[4] = TimestampTzGetDatum(time_t_to_timestamptz((pg_time_t) found.expires_at));
	if (state != KS_TOKEN_INVALID)
		memset(nulls, false, sizeof(nulls));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
