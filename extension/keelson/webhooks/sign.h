/*
 * sign.h
 *	  Signatures of deliveries, as Standard Webhooks defines them.
 */
#ifndef KS_WEBHOOKS_SIGN_H
#define KS_WEBHOOKS_SIGN_H

#include "postgres.h"

#include "secrets/crypto.h"

#define KS_WEBHOOK_SECRET_PREFIX "whsec_"

/* "v1," and 44 characters of base64, and its end. */
#define KS_SIGNATURE_LENGTH (3 + 44 + 1)

/*
 * Sign id, timestamp (Unix seconds) and body: HMAC-SHA-256 over
 * "id.timestamp.body", in base64, with "v1," before it.
 */
extern void ks_webhook_sign(KsMac *mac, const char *id, const char *timestamp, const char *body, size_t length, char out[KS_SIGNATURE_LENGTH]);

/*
 * The key in a secret "whsec_<base64>" of 24 to 64 bytes; the prefix may be
 * missing. Returns its length, 0 when it is no such secret. `out` has room for 64.
 */
extern size_t ks_webhook_secret_key(const char *secret, size_t length, uint8 *out);

#endif /* KS_WEBHOOKS_SIGN_H */
