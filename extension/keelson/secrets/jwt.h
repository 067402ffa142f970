/*
 * jwt.h
 *	  Access tokens: JWTs that we sign ourselves (ES256, typ at+jwt); and what
 *	  the claims of anybody's token must say.
 */
#ifndef KS_JWT_H
#define KS_JWT_H

#include "postgres.h"

#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "secrets/jose.h"

/* The most that clocks may differ, in seconds. */
#define KS_JWT_MAX_LEEWAY 30

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

/* What a token must say; NULL where anything will do. */
typedef struct KsJwtExpected
{
	const char *issuer;
	ArrayType *audience; /* of text: the token names one of them */
	const char *typ;
	int leeway; /* seconds by which clocks may differ */
} KsJwtExpected;

/*
 * NULL, or what is wrong with the claims of a token that is properly signed, in
 * words for a log; *is_expired tells that it is its expiry.
 */
extern const char *ks_jwt_check(const JsonbContainer *claims, const KsJws *jws, const KsJwtExpected *expected, bool *is_expired);

/* Is the typ (NULL: none) this media type? Without regard to case; "application/" may be left out. */
extern bool ks_jwt_is_type(const char *typ, const char *expected);

#endif /* KS_JWT_H */
