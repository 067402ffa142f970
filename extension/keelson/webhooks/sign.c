/*
 * sign.c
 *	  Standard Webhooks 1.0, symmetric scheme v1.
 */
#include "postgres.h"

#include "common/base64.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "core/error.h"
#include "webhooks/sign.h"

#define MIN_KEY 24
#define MAX_KEY 64

void
ks_webhook_sign(KsMac *mac, const char *id, const char *timestamp, const char *body, size_t length, char out[KS_SIGNATURE_LENGTH])
{
	size_t id_length = strlen(id);
	size_t timestamp_length = strlen(timestamp);
	char *content = palloc(id_length + timestamp_length + length + 2);
	char *at = content;
	uint8 digest[KS_SHA256_LENGTH];
	int written;

	memcpy(at, id, id_length);
	at += id_length;
	*at++ = '.';
	memcpy(at, timestamp, timestamp_length);
	at += timestamp_length;
	*at++ = '.';
	memcpy(at, body, length);
	at += length;
	ks_mac(mac, content, at - content, digest);
	pfree(content);
	memcpy(out, "v1,", 3);
	written = pg_b64_encode((const char *) digest, sizeof(digest), out + 3, KS_SIGNATURE_LENGTH - 4);
	Assert(written == KS_SIGNATURE_LENGTH - 4);
	out[3 + written] = '\0';
}

size_t
ks_webhook_secret_key(const char *secret, size_t length, uint8 *out)
{
	char decoded[128];
	int decoded_length;

	if (length > strlen(KS_WEBHOOK_SECRET_PREFIX) && memcmp(secret, KS_WEBHOOK_SECRET_PREFIX, strlen(KS_WEBHOOK_SECRET_PREFIX)) == 0)
	{
		secret += strlen(KS_WEBHOOK_SECRET_PREFIX);
		length -= strlen(KS_WEBHOOK_SECRET_PREFIX);
	}
	if (length > 100)
		return 0;
	decoded_length = pg_b64_decode(secret, length, decoded, sizeof(decoded));
	if (decoded_length < MIN_KEY || decoded_length > MAX_KEY)
	{
		ks_wipe(decoded, sizeof(decoded));
		return 0;
	}
	memcpy(out, decoded, decoded_length);
	ks_wipe(decoded, sizeof(decoded));
	return decoded_length;
}

PG_FUNCTION_INFO_V1(ks_webhook_signature);

/* keelson._webhook_signature(secret bytea, id text, moment bigint, body bytea) */
Datum
ks_webhook_signature(PG_FUNCTION_ARGS)
{
	const bytea *secret = PG_GETARG_BYTEA_PP(0);
	const bytea *body = PG_GETARG_BYTEA_PP(3);
	char *id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char *timestamp = psprintf(INT64_FORMAT, PG_GETARG_INT64(2));
	uint8 key[MAX_KEY];
	char signature[KS_SIGNATURE_LENGTH];
	size_t length = ks_webhook_secret_key(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret), key);
	KsMac *mac;

	if (length == 0)
		ks_raise_field(400, "VALIDATION_FAILED", "secret", NULL, "a signing secret is whsec_ and 24 to 64 bytes in base64");
	mac = ks_mac_create(key, length);
	ks_wipe(key, sizeof(key));
	ks_webhook_sign(mac, id, timestamp, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body), signature);
	ks_mac_free(mac);
	PG_RETURN_TEXT_P(cstring_to_text(signature));
}
