/*
 * jwk.c
 *	  JSON Web Keys: reading sets of other people's public keys.
 *
 * A key of a kind or for a use that is not ours is left out, as RFC 7517 asks,
 * so that an issuer may publish such beside the ones we can use. A key of ours
 * that is malformed, too short, off its curve or known to be weak is left out
 * too. What makes a whole set suspect refuses it: a symmetric or a private key
 * among public ones, two keys of one kid.
 */
#include "postgres.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>

#include "core/owner.h"
#include "secrets/crypto.h"
#include "secrets/jose.h"
#include "secrets/jose_json.h"

#define P256_LENGTH 32
#define ED25519_LENGTH 32
#define MIN_RSA_BITS 2048
#define MAX_RSA_BITS 8192
#define MIN_RSA_EXPONENT 65537

static void release_set(void *owned);
static const char *read_keys(KsJwkSet *set, const JsonbContainer *keys);
static const char *read_key(KsJwkSet *set, const JsonbContainer *jwk);
static bool is_for_verifying(const JsonbContainer *jwk);
static const char *add_key(KsJwkSet *set, const char *kid, int algorithms, EVP_PKEY *key);
static EVP_PKEY *read_ec(const JsonbContainer *jwk);
static EVP_PKEY *read_okp(const JsonbContainer *jwk);
static EVP_PKEY *read_rsa(const JsonbContainer *jwk);
static int rsa_algorithms(const char *alg);
static bool rsa_is_sound(const EVP_PKEY *key);
static uint8 *decode_member(const JsonbContainer *jwk, const char *name, size_t *len);
static EVP_PKEY *make_key(const char *type, int selection, OSSL_PARAM_BLD *build);
static bool is_on_curve(EVP_PKEY *key);

KsJwkSet *
ks_jwk_set_create(MemoryContext cxt)
{
	KsJwkSet *set = ks_owner_create(cxt, sizeof(KsJwkSet), release_set);

	set->cxt = cxt;
	return set;
}

KsJwkSet *
ks_jwk_set_read(MemoryContext cxt, const char *json, size_t len, const char **why)
{
	KsJwkSet *set = ks_jwk_set_create(cxt);
	Jsonb *object = len <= KS_JWK_SET_MAX_LENGTH ? ks_json_object(json, len) : NULL;
	JsonbValue *keys;

	if (object == NULL)
	{
		*why = "it is not a JSON object of at most 64 KiB";
		return NULL;
	}
	keys = ks_json_member(&object->root, "keys");
	if (keys == NULL)
		*why = read_key(set, &object->root);
	else if (keys->type == jbvBinary && JsonContainerIsArray(keys->val.binary.data))
		*why = read_keys(set, keys->val.binary.data);
	else
		*why = "its keys are not an array";
	if (*why == NULL && set->count == 0)
		*why = "it holds no key that we can verify with";
	return *why == NULL ? set : NULL;
}

KsJwkSet *
ks_jwk_set_from_pem(MemoryContext cxt, const char *pem, size_t len, const char **why)
{
	KsJwkSet *set = ks_jwk_set_create(cxt);
	BIO *bio = len <= KS_JWK_SET_MAX_LENGTH ? BIO_new_mem_buf(pem, (int) len) : NULL;
	EVP_PKEY *key = bio != NULL ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	int algorithms = 0;

	BIO_free(bio);
	if (key != NULL && EVP_PKEY_is_a(key, "RSA") && rsa_is_sound(key))
		algorithms = KS_RS256 | KS_PS256;
	else if (key != NULL && EVP_PKEY_is_a(key, "ED25519"))
		algorithms = KS_EDDSA;
	else if (key != NULL && EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_bits(key) == 256 && is_on_curve(key))
	{
		char curve[32] = "";

		(void) EVP_PKEY_get_group_name(key, curve, sizeof(curve), NULL);
		algorithms = strcmp(curve, "prime256v1") == 0 ? KS_ES256 : 0;
	}
	ERR_clear_error();
	if (algorithms == 0)
	{
		EVP_PKEY_free(key);
		*why = "it is not the public key of RSA (2048 bits or more), P-256 or Ed25519 in PEM";
		return NULL;
	}
	set->keys[set->count++] = (KsJwk){NULL, algorithms, key};
	return set;
}

static void
release_set(void *owned)
{
	KsJwkSet *set = owned;

	for (int i = 0; i < set->count; i++)
		EVP_PKEY_free(set->keys[i].key);
	set->count = 0;
}

/* Read each key; NULL, or why the set is refused. */
static const char *
read_keys(KsJwkSet *set, const JsonbContainer *keys)
{
	uint32 count = JsonContainerSize(keys);

	if (count > KS_JWK_MAX_KEYS)
		return "it holds too many keys";
	for (uint32 i = 0; i < count; i++)
	{
		JsonbValue *key = getIthJsonbValueFromContainer((JsonbContainer *) keys, i);
		const char *problem;

		if (key->type != jbvBinary || !JsonContainerIsObject(key->val.binary.data))
			return "one of its keys is not an object";
		problem = read_key(set, key->val.binary.data);
		if (problem != NULL)
			return problem;
	}
	return NULL;
}

/* Add the key to the set if we can use it; NULL, or why the set is refused. */
static const char *
read_key(KsJwkSet *set, const JsonbContainer *jwk)
{
	static const char *const private_members[] = {"k", "d", "p", "q", "dp", "dq", "qi", "oth"};
	char *kty = ks_json_string(jwk, "kty");
	char *alg = ks_json_string(jwk, "alg");
	char *kid = ks_json_string(jwk, "kid");
	EVP_PKEY *key = NULL;
	int algorithms = 0;

	if (kty == NULL || (kid == NULL && ks_json_member(jwk, "kid") != NULL) || (alg == NULL && ks_json_member(jwk, "alg") != NULL))
		return "one of its keys has no kty, or an alg or kid that is not a string";
	if (kid != NULL && strlen(kid) > KS_KID_MAX_LENGTH)
		return "one of its keys has too long a kid";
	if (strcmp(kty, "oct") == 0)
		return "it holds a symmetric key";
	for (int i = 0; i < lengthof(private_members); i++)
		if (ks_json_member(jwk, private_members[i]) != NULL)
			return "it holds a private key";
	if (!is_for_verifying(jwk))
		return NULL;
	if (strcmp(kty, "EC") == 0 && (alg == NULL || strcmp(alg, "ES256") == 0))
	{
		key = read_ec(jwk);
		algorithms = KS_ES256;
	}
	else if (strcmp(kty, "OKP") == 0 && (alg == NULL || strcmp(alg, "EdDSA") == 0 || strcmp(alg, "Ed25519") == 0))
	{
		key = read_okp(jwk);
		algorithms = KS_EDDSA;
	}
	else if (strcmp(kty, "RSA") == 0 && (algorithms = rsa_algorithms(alg)) != 0)
		key = read_rsa(jwk);
	return key != NULL ? add_key(set, kid, algorithms, key) : NULL;
}

/* Neither its use nor its operations speak against verifying. */
static bool
is_for_verifying(const JsonbContainer *jwk)
{
	JsonbValue *use = ks_json_member(jwk, "use");
	JsonbValue *operations = ks_json_member(jwk, "key_ops");
	JsonbValue verify = {.type = jbvString, .val.string = {.len = strlen("verify"), .val = "verify"}};

	if (use != NULL && !(use->type == jbvString && use->val.string.len == 3 && strncmp(use->val.string.val, "sig", 3) == 0))
		return false;
	if (operations == NULL)
		return true;
	return operations->type == jbvBinary && JsonContainerIsArray(operations->val.binary.data) &&
		   findJsonbValueFromContainer(operations->val.binary.data, JB_FARRAY, &verify) != NULL;
}

/* The set takes the key over, also where it is refused. */
static const char *
add_key(KsJwkSet *set, const char *kid, int algorithms, EVP_PKEY *key)
{
	const char *problem = NULL;

	for (int i = 0; i < set->count; i++)
		if (kid != NULL && set->keys[i].kid != NULL && strcmp(kid, set->keys[i].kid) == 0)
			problem = "it names two keys alike";
	set->keys[set->count].algorithms = algorithms;
	set->keys[set->count].key = key;
	set->keys[set->count].kid = NULL;
	set->count++;
	if (kid != NULL)
		set->keys[set->count - 1].kid = MemoryContextStrdup(set->cxt, kid);
	return problem;
}

EVP_PKEY *
ks_p256_key(const uint8 x[32], const uint8 y[32], const uint8 *scalar)
{
	uint8 point[1 + 2 * P256_LENGTH];
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	BIGNUM *number = scalar != NULL ? BN_secure_new() : NULL;
	EVP_PKEY *key = NULL;
	bool built;

	point[0] = POINT_CONVERSION_UNCOMPRESSED;
	memcpy(point + 1, x, P256_LENGTH);
	memcpy(point + 1 + P256_LENGTH, y, P256_LENGTH);
	built = build != NULL && OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) &&
			OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point));
	if (built && scalar != NULL)
		built = number != NULL && BN_bin2bn(scalar, P256_LENGTH, number) != NULL &&
				OSSL_PARAM_BLD_push_BN_pad(build, OSSL_PKEY_PARAM_PRIV_KEY, number, P256_LENGTH);
	if (built)
		key = make_key("EC", scalar != NULL ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, build);
	OSSL_PARAM_BLD_free(build);
	BN_clear_free(number);
	if (key != NULL && !is_on_curve(key))
	{
		EVP_PKEY_free(key);
		key = NULL;
	}
	ERR_clear_error();
	return key;
}

static EVP_PKEY *
read_ec(const JsonbContainer *jwk)
{
	char *curve = ks_json_string(jwk, "crv");
	size_t x_len;
	size_t y_len;
	uint8 *x = decode_member(jwk, "x", &x_len);
	uint8 *y = decode_member(jwk, "y", &y_len);

	if (curve == NULL || strcmp(curve, "P-256") != 0 || x == NULL || y == NULL || x_len != P256_LENGTH || y_len != P256_LENGTH)
		return NULL;
	return ks_p256_key(x, y, NULL);
}

static EVP_PKEY *
read_okp(const JsonbContainer *jwk)
{
	char *curve = ks_json_string(jwk, "crv");
	size_t len;
	uint8 *x = decode_member(jwk, "x", &len);
	EVP_PKEY *key;

	if (curve == NULL || strcmp(curve, "Ed25519") != 0 || x == NULL || len != ED25519_LENGTH)
		return NULL;
	key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, x, len);
	ERR_clear_error();
	return key;
}

static EVP_PKEY *
read_rsa(const JsonbContainer *jwk)
{
	size_t n_len;
	size_t e_len;
	uint8 *n = decode_member(jwk, "n", &n_len);
	uint8 *e = decode_member(jwk, "e", &e_len);
	OSSL_PARAM_BLD *build;
	BIGNUM *modulus;
	BIGNUM *exponent;
	EVP_PKEY *key = NULL;

	if (n == NULL || e == NULL || n_len > MAX_RSA_BITS / 8 + 1 || e_len > 8)
		return NULL;
	build = OSSL_PARAM_BLD_new();
	modulus = BN_bin2bn(n, (int) n_len, NULL);
	exponent = BN_bin2bn(e, (int) e_len, NULL);
	if (build != NULL && modulus != NULL && exponent != NULL &&
		OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, modulus) && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, exponent))
		key = make_key("RSA", EVP_PKEY_PUBLIC_KEY, build);
	OSSL_PARAM_BLD_free(build);
	BN_free(modulus);
	BN_free(exponent);
	if (key != NULL && !rsa_is_sound(key))
	{
		EVP_PKEY_free(key);
		key = NULL;
	}
	ERR_clear_error();
	return key;
}

/* RS256 where the key does not say: the token's header must then say so too. */
static int
rsa_algorithms(const char *alg)
{
	if (alg == NULL)
		return KS_RS256;
	return ks_algorithm(alg) & (KS_RS256 | KS_PS256);
}

/* Long enough, an odd exponent of at least 65,537, and not of the weak form. */
static bool
rsa_is_sound(const EVP_PKEY *key)
{
	BIGNUM *exponent = NULL;
	int bits = EVP_PKEY_get_bits(key);
	bool sound = bits >= MIN_RSA_BITS && bits <= MAX_RSA_BITS && EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) &&
				 BN_num_bits(exponent) <= 64 && BN_is_odd(exponent) &&
				 (BN_num_bits(exponent) > 32 || BN_get_word(exponent) >= MIN_RSA_EXPONENT);

	BN_free(exponent);
	return sound && !ks_rsa_is_roca(key);
}

/*
 * The weak primes are k * M + (65537^a mod M), M a product of small primes: so
 * modulo each of those the modulus is a power of 65537. An RSA modulus of
 * another making passes all these tests once in 2^27.
 */
bool
ks_rsa_is_roca(const EVP_PKEY *key)
{
	static const uint8 primes[] = {3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83,
								   89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167};
	BIGNUM *modulus = NULL;
	bool is_weak = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &modulus) == 1;

	for (int i = 0; i < lengthof(primes) && is_weak; i++)
	{
		unsigned prime = primes[i];
		unsigned rest = (unsigned) BN_mod_word(modulus, prime);
		unsigned power = 1;
		bool is_power = false;

		for (unsigned j = 0; j < prime && !is_power; j++)
		{
			is_power = power == rest;
			power = power * (65537 % prime) % prime;
		}
		is_weak = is_power;
	}
	BN_free(modulus);
	return is_weak;
}

/* A member that is a string of base64url, decoded and palloc-ed; NULL: it is none. */
static uint8 *
decode_member(const JsonbContainer *jwk, const char *name, size_t *len)
{
	char *text = ks_json_string(jwk, name);
	uint8 *bytes;

	if (text == NULL)
		return NULL;
	bytes = palloc(KS_BASE64URL_BYTES(strlen(text)) + 1);
	return ks_base64url_decode(text, strlen(text), bytes, len) ? bytes : NULL;
}

/* A key of what has been put together; NULL: there is no such key. */
static EVP_PKEY *
make_key(const char *type, int selection, OSSL_PARAM_BLD *build)
{
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	EVP_PKEY *key = NULL;

	if (params == NULL || ctx == NULL || EVP_PKEY_fromdata_init(ctx) <= 0 || EVP_PKEY_fromdata(ctx, &key, selection, params) <= 0)
		key = NULL;
	EVP_PKEY_CTX_free(ctx);
	OSSL_PARAM_free(params);
	return key;
}

static bool
is_on_curve(EVP_PKEY *key)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
	bool sound = ctx != NULL && EVP_PKEY_public_check(ctx) == 1;

	EVP_PKEY_CTX_free(ctx);
	return sound;
}
