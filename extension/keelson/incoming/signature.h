/*
 * signature.h
 *	  The signatures that incoming webhooks carry, and the keys they are
 *	  checked with.
 */
#ifndef KS_INCOMING_SIGNATURE_H
#define KS_INCOMING_SIGNATURE_H

#include "postgres.h"

#define KS_SIGNATURES_MAX 10
#define KS_SIGNATURE_BYTES 1024

typedef enum KsWebhookAlgorithm
{
	KS_WEBHOOK_HMAC_SHA1,
	KS_WEBHOOK_HMAC_SHA256,
	KS_WEBHOOK_HMAC_SHA512,
	KS_WEBHOOK_ED25519,
	KS_WEBHOOK_RSA_SHA256,
	KS_WEBHOOK_TOKEN, /* the header holds the secret itself */
	KS_WEBHOOK_ALGORITHM_COUNT
} KsWebhookAlgorithm;

/* How an HMAC's key stands in the secret. */
typedef enum KsKeyForm
{
	KS_KEY_TEXT,   /* the secret's own bytes, prefix and all */
	KS_KEY_BASE64, /* decoded */
	KS_KEY_WHSEC   /* decoded, after whsec_ */
} KsKeyForm;

/* What a request claims to be signed with. */
typedef struct KsSignatures
{
	int count;
	size_t lengths[KS_SIGNATURES_MAX];
	uint8 bytes[KS_SIGNATURES_MAX][KS_SIGNATURE_BYTES];
} KsSignatures;

/* Find the algorithm, or the form of a key, by its name; false for none. */
extern bool ks_webhook_algorithm_find(const char *name, KsWebhookAlgorithm *out);
extern bool ks_key_form_find(const char *name, KsKeyForm *out);

/* Decode a signature and add it to the others; false when it is none, or one too many. */
extern bool ks_signatures_add(KsSignatures *signatures, const char *text, size_t length, bool is_hex);

/*
 * Is one of the signatures the content's, under this secret? *is_key is set
 * if the secret is a key for the algorithm at all. Time depends on lengths
 * alone.
 */
extern bool ks_signatures_match(const KsSignatures *signatures, KsWebhookAlgorithm algorithm, KsKeyForm form,
								const char *secret, size_t secret_length, const void *content, size_t length, bool *is_key);

#endif /* KS_INCOMING_SIGNATURE_H */
