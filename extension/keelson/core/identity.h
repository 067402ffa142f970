/*
 * identity.h
 *	  Who is acting, and for which request: known to the backend's memory alone.
 *
 * Only dispatch() and act_as() set it. SQL reads it by keelson.current_*() and
 * has no means to write it. It ends with the transaction, whatever way that
 * ends; unset means nobody, and row-level security then shows no rows.
 */
#ifndef KS_IDENTITY_H
#define KS_IDENTITY_H

#include "postgres.h"

#include "utils/uuid.h"

typedef enum KsActor
{
	KS_ACTOR_NONE,
	KS_ACTOR_USER,
	KS_ACTOR_ACCESS_KEY,
	KS_ACTOR_ADMIN,
	KS_ACTOR_SYSTEM
} KsActor;

typedef struct KsIdentity
{
	KsActor actor;
	bool has_user;
	pg_uuid_t user_id;
	bool has_session;
	pg_uuid_t session_id;
	bool has_access_key;
	pg_uuid_t access_key_id;
	int aal; /* authenticator assurance level, 0 unknown */
} KsIdentity;

/*
 * What the gateway tells of the request. Strings or NULL; they belong to whom
 * set them and must live until the caller is cleared or replaced.
 */
typedef struct KsCaller
{
	const char *ip;
	const char *user_agent;
	const char *request_id;
	const char *traceparent;
	const char *scheme; /* http or https */
	const char *via;    /* bearer, cookie or api_key */
	const char *origin;
	const char *referer;
	const char *fetch_site;
	const char *csrf; /* X-CSRF-Token */
	const char *csrf_cookie;
	const char *refresh_cookie;
	const char *device_cookie;
	const char *idempotency_key;
	const char *content_type;
	const char *accept;
	const char *if_none_match;
	const char *repeat;  /* not NULL: an event stream looks again, which no limit counts */
	const char *headers; /* of a raw endpoint's request: the header fields, a JSON object */
	const char *held;    /* how many refusals the gateway has repeated in our name */
	const char *queue;   /* how many calls wait in the gateway */
} KsCaller;

/* Never NULL; all zero when nobody is known. */
extern const KsIdentity *ks_identity(void);
extern const KsCaller *ks_caller(void);

/* The acting user's id; an error (401) when nobody is known. */
extern const pg_uuid_t *ks_acting_user(void);

/* For dispatch() and act_as() alone. */
extern void ks_identity_set(const KsIdentity *identity);
extern void ks_caller_set(const KsCaller *caller);
extern void ks_identity_clear(void);

extern void ks_identity_init(void);

#endif /* KS_IDENTITY_H */
