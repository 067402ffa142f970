/*
 * token.h
 *	  Tokens that need no table: a payload and its HMAC under a key of the
 *	  keyring, as text with a prefix.
 *
 *	  prefix base64url(payload | HMAC-SHA-256(key of the purpose, payload))
 *
 * The last four bytes of a payload are the id of the key, big-endian, so that
 * tokens of an older key open as long as the keyring has it.
 */
#ifndef KS_TOKEN_H
#define KS_TOKEN_H

#include "postgres.h"

#include "utils/uuid.h"

#define KS_TOKEN_PAYLOAD_MAX 64

typedef struct KsTokenKind
{
	const char *prefix;
	const char *purpose; /* of the key, see secrets/keyring.h */
	size_t payload_len;
} KsTokenKind;

/* The kinds that there are. */
extern const KsTokenKind ks_refresh_kind;
extern const KsTokenKind ks_device_kind;

extern text *ks_token_make(const KsTokenKind *kind, const uint8 *payload);

/* False for all that is not a token of this kind made by this installation. */
extern bool ks_token_open(const KsTokenKind *kind, const char *token, size_t len, uint8 *payload);

extern void ks_put_uint32(uint8 *at, uint32 value);
extern uint32 ks_get_uint32(const uint8 *at);

#endif /* KS_TOKEN_H */
