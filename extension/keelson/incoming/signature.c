/*
 * signature.c
 *	  Checking the signature of an incoming webhook under one secret or key.
 *
 * Nothing of a secret leaves this file: keys that are made of one are wiped
 * before it returns.
 */
#include "postgres.h"

#include <ctype.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "common/base64.h"
#include "common/string.h"

#include "core/owner.h"
#include "incoming/signature.h"
#include "secrets/crypto.h"
#include "secrets/jose.h"

#define KEY_MAX 4096
#define ED25519_KEY_LENGTH 32
#define RSA_BITS_MIN 2048

#define WHSEC_PREFIX "whsec_"
#define WHPK_PREFIX "whpk_"
#define PEM_MARK "-----BEGIN "
#define PEM_BEGIN "-----BEGIN PUBLIC KEY-----"
#define PEM_END "-----END PUBLIC KEY-----"

typedef struct PublicKey
{
	EVP_PKEY *key;
} PublicKey;

static const char *const algorithm_names[KS_WEBHOOK_ALGORITHM_COUNT] = {
	[KS_WEBHOOK_HMAC_SHA1] = "hmac-sha1",
	[KS_WEBHOOK_HMAC_SHA256] = "hmac-sha256",
	[KS_WEBHOOK_HMAC_SHA512] = "hmac-sha512",
	[KS_WEBHOOK_ED25519] = "ed25519",
	[KS_WEBHOOK_RSA_SHA256] = "rsa-sha256",
	[KS_WEBHOOK_TOKEN] = "token",
};
static const char *const form_names[] = {[KS_KEY_TEXT] = "text", [KS_KEY_BASE64] = "base64", [KS_KEY_WHSEC] = "whsec"};

static int find(const char *name, const char *const *names, int count);
static int decode_hex(const char *text, size_t length, uint8 *out, size_t room);
static bool has_prefix(const char *text, size_t length, const char *prefix);
static bool matches_bytes(const KsSignatures *signatures, const uint8 *expected, size_t length);
static bool match_mac(const KsSignatures *signatures, KsDigest digest, KsKeyForm form, const char *secret, size_t secret_length,
					  const void *content, size_t length, bool *is_key);
static bool match_token(const KsSignatures *signatures, const char *secret, size_t secret_length);
static bool match_key(const KsSignatures *signatures, KsWebhookAlgorithm algorithm, const char *text, size_t text_length,
					  const void *content, size_t length, bool *is_key);
static bool is_public(const char *text, size_t length);
static EVP_PKEY *read_key(const char *text, size_t length);
static bool is_key_for(EVP_PKEY *key, KsWebhookAlgorithm algorithm);
static void free_key(void *owner);

bool
ks_webhook_algorithm_find(const char *name, KsWebhookAlgorithm *out)
{
	int found = find(name, algorithm_names, lengthof(algorithm_names));

	*out = found;
	return found >= 0;
}

bool
ks_key_form_find(const char *name, KsKeyForm *out)
{
	int found = find(name, form_names, lengthof(form_names));

	*out = found;
	return found >= 0;
}

static int
find(const char *name, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

bool
ks_signatures_add(KsSignatures *signatures, const char *text, size_t length, bool is_hex)
{
	uint8 *out;
	int decoded;

	if (signatures->count == KS_SIGNATURES_MAX || length > KS_SIGNATURE_BYTES)
		return false;
	out = signatures->bytes[signatures->count];
	decoded = is_hex ? decode_hex(text, length, out, KS_SIGNATURE_BYTES) : pg_b64_decode(text, length, (char *) out, KS_SIGNATURE_BYTES);
	if (decoded <= 0)
		return false;
	signatures->lengths[signatures->count++] = decoded;
	return true;
}

/* The number of bytes, or -1. */
static int
decode_hex(const char *text, size_t length, uint8 *out, size_t room)
{
	if (length % 2 != 0 || length / 2 > room)
		return -1;
	for (size_t i = 0; i < length; i++)
	{
		char digit = text[i];
		uint8 value;

		if (digit >= '0' && digit <= '9')
			value = digit - '0';
		else if (digit >= 'a' && digit <= 'f')
			value = digit - 'a' + 10;
		else if (digit >= 'A' && digit <= 'F')
			value = digit - 'A' + 10;
		else
			return -1;
		out[i / 2] = i % 2 == 0 ? value << 4 : out[i / 2] | value;
	}
	return length / 2;
}

bool
ks_signatures_match(const KsSignatures *signatures, KsWebhookAlgorithm algorithm, KsKeyForm form,
					const char *secret, size_t secret_length, const void *content, size_t length, bool *is_key)
{
	bool is_asymmetric = algorithm == KS_WEBHOOK_ED25519 || algorithm == KS_WEBHOOK_RSA_SHA256;

	*is_key = secret_length > 0 && (is_asymmetric || !is_public(secret, secret_length));
	if (!*is_key)
		return false;
	switch (algorithm)
	{
		case KS_WEBHOOK_HMAC_SHA1:
			return match_mac(signatures, KS_SHA1, form, secret, secret_length, content, length, is_key);
		case KS_WEBHOOK_HMAC_SHA256:
			return match_mac(signatures, KS_SHA256, form, secret, secret_length, content, length, is_key);
		case KS_WEBHOOK_HMAC_SHA512:
			return match_mac(signatures, KS_SHA512, form, secret, secret_length, content, length, is_key);
		case KS_WEBHOOK_ED25519:
		case KS_WEBHOOK_RSA_SHA256:
			return match_key(signatures, algorithm, secret, secret_length, content, length, is_key);
		case KS_WEBHOOK_TOKEN:
			return match_token(signatures, secret, secret_length);
		case KS_WEBHOOK_ALGORITHM_COUNT:
			break;
	}
	return false;
}

static bool
match_mac(const KsSignatures *signatures, KsDigest digest, KsKeyForm form, const char *secret, size_t secret_length,
		  const void *content, size_t length, bool *is_key)
{
	uint8 key[KEY_MAX];
	uint8 expected[KS_DIGEST_MAX_LENGTH];
	int key_length;
	bool matches;

	*is_key = false;
	if (secret_length > KEY_MAX)
		return false;
	if (form == KS_KEY_TEXT)
	{
		memcpy(key, secret, secret_length);
		key_length = secret_length;
	}
	else
	{
		size_t skipped = form == KS_KEY_WHSEC && has_prefix(secret, secret_length, WHSEC_PREFIX) ? strlen(WHSEC_PREFIX) : 0;

		key_length = pg_b64_decode(secret + skipped, secret_length - skipped, (char *) key, sizeof(key));
		if (key_length <= 0)
			return false;
	}
	*is_key = true;
	matches = matches_bytes(signatures, expected, ks_hmac(digest, key, key_length, content, length, expected));
	ks_wipe(key, sizeof(key));
	ks_wipe(expected, sizeof(expected));
	return matches;
}

static bool
has_prefix(const char *text, size_t length, const char *prefix)
{
	return length >= strlen(prefix) && memcmp(text, prefix, strlen(prefix)) == 0;
}

/* All are compared, whichever fits. */
static bool
matches_bytes(const KsSignatures *signatures, const uint8 *expected, size_t length)
{
	bool matches = false;

	for (int i = 0; i < signatures->count; i++)
		matches |= signatures->lengths[i] == length && ks_equal(signatures->bytes[i], expected, length);
	return matches;
}

/* Hashes are compared, so that the time tells nothing of the length either. */
static bool
match_token(const KsSignatures *signatures, const char *secret, size_t secret_length)
{
	uint8 given[KS_SHA256_LENGTH];
	uint8 expected[KS_SHA256_LENGTH];
	bool matches = false;

	ks_sha256(secret, secret_length, expected);
	for (int i = 0; i < signatures->count; i++)
	{
		ks_sha256(signatures->bytes[i], signatures->lengths[i], given);
		matches |= ks_equal(given, expected, sizeof(expected));
	}
	ks_wipe(expected, sizeof(expected));
	return matches;
}

static bool
match_key(const KsSignatures *signatures, KsWebhookAlgorithm algorithm, const char *text, size_t text_length,
		  const void *content, size_t length, bool *is_key)
{
	PublicKey *owner = ks_owner_create(CurrentMemoryContext, sizeof(PublicKey), free_key);
	bool matches = false;

	owner->key = read_key(text, text_length);
	*is_key = owner->key != NULL && is_key_for(owner->key, algorithm);
	for (int i = 0; i < signatures->count && *is_key && !matches; i++)
		matches = ks_signature_verify(owner->key, algorithm == KS_WEBHOOK_ED25519 ? KS_EDDSA : KS_RS256, content, length,
									  signatures->bytes[i], signatures->lengths[i]);
	free_key(owner);
	return matches;
}

/* Is it a key that anybody may know? Then nothing is proven by what was made with it as a secret. */
static bool
is_public(const char *text, size_t length)
{
	EVP_PKEY *key;

	for (; length > 0 && isspace((unsigned char) *text); length--)
		text++;
	if (has_prefix(text, length, PEM_MARK) || has_prefix(text, length, WHPK_PREFIX))
		return true;
	key = read_key(text, length);
	EVP_PKEY_free(key);
	return key != NULL;
}

/* A public key: SubjectPublicKeyInfo, in PEM or its base64 alone, or whpk_ and 32 bytes of Ed25519; NULL for none. */
static EVP_PKEY *
read_key(const char *text, size_t length)
{
	char packed[KEY_MAX];
	uint8 der[KEY_MAX];
	const uint8 *at = der;
	size_t packed_length = 0;
	int decoded;
	EVP_PKEY *key;
	bool is_raw = has_prefix(text, length, WHPK_PREFIX);
	size_t start = is_raw ? strlen(WHPK_PREFIX) : 0;

	if (length > KEY_MAX)
		return NULL;
	if (has_prefix(text, length, PEM_BEGIN))
	{
		char *copy = pnstrdup(text, length);
		char *end = strstr(copy, PEM_END);

		if (end == NULL)
			return NULL;
		start = strlen(PEM_BEGIN);
		length = end - copy;
	}
	for (size_t i = start; i < length; i++)
		if (text[i] != '\n' && text[i] != '\r')
			packed[packed_length++] = text[i];
	decoded = packed_length > 0 ? pg_b64_decode(packed, packed_length, (char *) der, sizeof(der)) : -1;
	if (is_raw)
		key = decoded == ED25519_KEY_LENGTH ? EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, der, decoded) : NULL;
	else
		key = decoded > 0 ? d2i_PUBKEY(NULL, &at, decoded) : NULL;
	ERR_clear_error();
	return key;
}

static bool
is_key_for(EVP_PKEY *key, KsWebhookAlgorithm algorithm)
{
	if (algorithm == KS_WEBHOOK_ED25519)
		return EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519;
	return EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA && EVP_PKEY_get_bits(key) >= RSA_BITS_MIN && !ks_rsa_is_roca(key);
}

static void
free_key(void *owner)
{
	PublicKey *public_key = owner;

	EVP_PKEY_free(public_key->key);
	public_key->key = NULL;
}
