/*
 * token.c
 *	  Making and opening tokens that need no table.
 */
#include "postgres.h"

#include "fmgr.h"
#include "port/pg_bswap.h"

#include "core/compat.h"
#include "secrets/crypto.h"
#include "secrets/keyring.h"
#include "sessions/token.h"

#define BYTES_MAX (KS_TOKEN_PAYLOAD_MAX + KS_SHA256_LENGTH)

static void mac_of(const KsTokenKind *kind, const uint8 *payload, uint8 mac[KS_SHA256_LENGTH]);

text *
ks_token_make(const KsTokenKind *kind, const uint8 *payload)
{
	uint8 bytes[BYTES_MAX];
	size_t prefix_len = strlen(kind->prefix);
	size_t len = kind->payload_len + KS_SHA256_LENGTH;
	text *token = palloc(VARHDRSZ + prefix_len + KS_BASE64URL_LENGTH(BYTES_MAX));

	memcpy(bytes, payload, kind->payload_len);
	mac_of(kind, payload, bytes + kind->payload_len);
	memcpy(VARDATA(token), kind->prefix, prefix_len);
	len = ks_base64url_encode(bytes, len, VARDATA(token) + prefix_len);
	SET_VARSIZE(token, VARHDRSZ + prefix_len + len);
	return token;
}

bool
ks_token_open(const KsTokenKind *kind, const char *token, size_t len, uint8 *payload)
{
	uint8 bytes[BYTES_MAX];
	uint8 mac[KS_SHA256_LENGTH];
	size_t prefix_len = strlen(kind->prefix);
	size_t bytes_len = kind->payload_len + KS_SHA256_LENGTH;
	size_t decoded;

	if (len != prefix_len + KS_BASE64URL_LENGTH(bytes_len) || memcmp(token, kind->prefix, prefix_len) != 0)
		return false;
	if (!ks_base64url_decode(token + prefix_len, len - prefix_len, bytes, &decoded) || decoded != bytes_len)
		return false;
	if (!ks_keyring_has(ks_get_uint32(bytes + kind->payload_len - sizeof(uint32))))
		return false;
	mac_of(kind, bytes, mac);
	if (!ks_equal(mac, bytes + kind->payload_len, sizeof(mac)))
		return false;
	memcpy(payload, bytes, kind->payload_len);
	return true;
}

/* The HMAC under the key that the payload names; an error if there is none. */
static void
mac_of(const KsTokenKind *kind, const uint8 *payload, uint8 mac[KS_SHA256_LENGTH])
{
	uint32 key_id = ks_get_uint32(payload + kind->payload_len - sizeof(uint32));

	ks_keyring_mac(key_id, kind->purpose, payload, kind->payload_len, mac);
}

void
ks_put_uint32(uint8 *at, uint32 value)
{
	value = pg_hton32(value);
	memcpy(at, &value, sizeof(value));
}

uint32
ks_get_uint32(const uint8 *at)
{
	uint32 value;

	memcpy(&value, at, sizeof(value));
	return pg_ntoh32(value);
}

PG_FUNCTION_INFO_V1(ks__token_key_id);

/* keelson._token_key_id(): the keyring's key that new tokens are made with */
Datum
ks__token_key_id(PG_FUNCTION_ARGS)
{
	ks_keyring_require();
	PG_RETURN_INT32(ks_keyring_primary());
}
