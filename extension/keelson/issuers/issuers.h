/*
 * issuers.h
 *	  Whose tokens are taken besides our own: a copy of keelson.issuers in each
 *	  backend's memory.
 */
#ifndef KS_ISSUERS_H
#define KS_ISSUERS_H

#include "postgres.h"

#include "utils/array.h"
#include "utils/uuid.h"

#include "secrets/jose.h"

#define KS_ISSUERS_MAX 64
#define KS_ISSUER_TYPES_MAX 8

typedef struct KsIssuer
{
	pg_uuid_t id;
	uint32 version; /* another one after each change of the row */
	char *issuer;
	ArrayType *audience;
	ArrayType *parties; /* or NULL */
	int type_count;
	char *types[KS_ISSUER_TYPES_MAX];
	int algorithms;
	char *email_claim; /* these may be NULL */
	char *email_verified_claim;
	char *name_claim;
	bool trusts_email;
	bool is_published; /* its keys are at a URL, and fetched from there */
	KsJwkSet *keys;    /* or NULL: none are known yet */
} KsIssuer;

typedef struct KsIssuers
{
	int count;
	KsIssuer issuers[KS_ISSUERS_MAX];
} KsIssuers;

/* The issuers that are enabled and have keys, or publish them. Valid until the next call. */
extern const KsIssuers *ks_issuers(void);

#endif /* KS_ISSUERS_H */
