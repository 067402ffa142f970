/*
 * call.h
 *	  One request on its way through the dispatcher.
 */
#ifndef KS_CALL_H
#define KS_CALL_H

#include "postgres.h"

#include "core/identity.h"
#include "dispatch/fault.h"
#include "dispatch/reply.h"
#include "dispatch/route_cache.h"

/* What the credential has proved. */
typedef enum KsProof
{
	KS_PROOF_NONE,    /* no credential, or one that proves nothing */
	KS_PROOF_EXPIRED, /* was good */
	KS_PROOF_REFUSED, /* is good, and opens nothing here: see refusal */
	KS_PROOF_VALID
} KsProof;

/* Why a credential that is good is refused all the same. */
typedef struct KsProofRefusal
{
	int status;
	const char *code;
	const char *message;
} KsProofRefusal;

typedef struct KsCredential
{
	const char *kind; /* in words; NULL: none that we know */
	KsProof proof;
	KsProofRefusal refusal; /* when refused */
	KsIdentity identity;    /* when valid */
	bool is_scoped;         /* may do only what its scopes say */
	int scope_count;
	const char *const *scopes;
	bool names_session; /* a properly signed token, expired or not, names these */
	pg_uuid_t token_user_id;
	pg_uuid_t token_session_id;
	int64 token_expires_at; /* seconds since 1970; 0: unknown */
	bool is_first_sight;    /* the user is newer than the statement's snapshot */
} KsCredential;

typedef struct KsCall
{
	int32 route_id;

	/* What came in. The strings belong to the statement's arguments. */
	const char *token; /* the credential as it was sent, NULL without one */
	int token_len;
	const char *path_and_query; /* JSON, NULL without either */
	int path_and_query_len;
	const char *body; /* NULL without one */
	int body_len;
	KsCaller caller;

	/* What the steps have made of it. */
	KsRoute *route;
	KsCredential credential;
	bool has_snapshot; /* a newer one than the statement's was pushed */
	bool is_keyed;     /* holds the lock of its Idempotency-Key */
	Datum *values;     /* of the function's arguments */
	bool *nulls;
	bool *given;
	bool is_binding; /* an input function's error is the client's */
	KsReply reply;
} KsCall;

/*
 * The running call; NULL outside of one, and while its endpoint is looked up,
 * when constant defaults are computed.
 */
extern KsCall *ks_call(void);

#endif /* KS_CALL_H */
