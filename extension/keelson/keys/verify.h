/*
 * verify.h
 *	  What an access key proves.
 */
#ifndef KS_KEYS_VERIFY_H
#define KS_KEYS_VERIFY_H

#include "postgres.h"

#include "utils/timestamp.h"
#include "utils/uuid.h"

typedef enum KsKeyState
{
	KS_KEY_INVALID,
	KS_KEY_EXPIRED,   /* was good */
	KS_KEY_ELSEWHERE, /* is good, but not from this address */
	KS_KEY_VALID
} KsKeyState;

typedef struct KsAccessKey
{
	pg_uuid_t user_id;
	pg_uuid_t id;
	TimestampTz expires_at; /* DT_NOEND: never */
	int scope_count;
	const char **scopes;
} KsAccessKey;

/*
 * Verify a key that a client at the address (NULL: unknown) has sent: checksum,
 * environment, the key's row and its user's, each time, so that what ends a
 * key holds for the next statement. *out is filled unless it is invalid, in
 * the current context. A use is noted, and written down later.
 */
extern KsKeyState ks_access_key_verify(const char *text, size_t len, const char *ip, KsAccessKey *out);

/* Begin the capability: shared memory, and the keeper's duties. */
extern void ks_keys_init(void);

#endif /* KS_KEYS_VERIFY_H */
