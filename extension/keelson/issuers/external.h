/*
 * external.h
 *	  What a token of an external issuer proves.
 */
#ifndef KS_EXTERNAL_H
#define KS_EXTERNAL_H

#include "postgres.h"

#include "utils/uuid.h"

typedef enum KsExternalState
{
	KS_EXTERNAL_INVALID,
	KS_EXTERNAL_EXPIRED,    /* was good */
	KS_EXTERNAL_UNLINKED,   /* is good, and no user is made or found for it */
	KS_EXTERNAL_UNVERIFIED, /* the same, since its e-mail address is not verified */
	KS_EXTERNAL_VALID
} KsExternalState;

typedef struct KsExternalToken
{
	pg_uuid_t user_id;
	int64 expires_at;    /* seconds since 1970 */
	bool is_first_sight; /* the statement's snapshot does not show the user: a newer one does */
} KsExternalToken;

/*
 * Verify a token that is none of ours: signature by a key of its issuer, type,
 * issuer, audience and times, each as keelson.issuers says; then its user, who
 * is made or linked when the subject is met for the first time. A token that
 * was found good is known again by its hash, in this backend, until it expires
 * or its issuer changes; the user's status is looked up each time. Needs a
 * snapshot. *out is filled when valid.
 */
extern KsExternalState ks_external_verify(const char *token, size_t len, KsExternalToken *out);

/* Was this token found good by ks_external_verify() before? Cheap; proves nothing. */
extern bool ks_external_is_known(const char *token, size_t len);

#endif /* KS_EXTERNAL_H */
