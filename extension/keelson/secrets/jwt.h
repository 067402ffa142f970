/*
 * jwt.h
 *	  Access tokens: JWTs that we sign ourselves (ES256, typ at+jwt).
 */
#ifndef KS_JWT_H
#define KS_JWT_H

#include "postgres.h"

#include "utils/uuid.h"

typedef struct KsAccessToken
{
	pg_uuid_t user_id;
	pg_uuid_t session_id;
	int64 issued_at; /* seconds since 1970 */
	int64 expires_at;
	int aal; /* authenticator assurance level */
} KsAccessToken;

typedef enum KsTokenState
{
	KS_TOKEN_VALID,
	KS_TOKEN_EXPIRED, /* properly signed, ours; *out is filled */
	KS_TOKEN_INVALID
} KsTokenState;

/*
 * Verify an access token: signature by a key of ours that still counts, type,
 * issuer, audience and times. A token that was found good is known again by
 * its hash, in this backend, until it expires or the key set changes. Raises
 * an error only where the keys cannot be read; needs a snapshot.
 */
extern KsTokenState ks_access_token_verify(const char *token, size_t len, KsAccessToken *out);

/* Sign an access token with the key in force, which is made if there is none. */
extern text *ks_access_token_sign(const KsAccessToken *token);

#endif /* KS_JWT_H */
