/*
 * limits.h
 *	  Rate limits and blocks, as the dispatcher asks for them.
 *
 * A request goes through ks_limits_begin() before its credential is looked at
 * and, if that let it pass, through ks_limits_admit() once it is known who is
 * calling. What was decided is kept until the transaction ends, for the
 * headers of the reply.
 */
#ifndef KS_LIMITS_H
#define KS_LIMITS_H

#include "postgres.h"

#include "utils/uuid.h"

typedef enum KsRateClass
{
	KS_RATE_GENERAL,
	KS_RATE_API,
	KS_RATE_AUTH,
	KS_RATE_RESET,
	KS_RATE_CLASS_COUNT
} KsRateClass;

/* What a route says about its limits. */
typedef struct KsLimitsRoute
{
	int32 id;
	KsRateClass rate_class;
	int32 cost;    /* what a request counts as, at least 1 */
	int32 wait_ms; /* how long the gateway may hold a request instead of refusing it */
} KsLimitsRoute;

/* Who is calling; NULL where somebody may be named: nobody. */
typedef struct KsLimitsSubject
{
	const pg_uuid_t *user_id;
	const pg_uuid_t *access_key_id;
	const char *tier; /* NULL: none, or nothing depends on it */
} KsLimitsSubject;

/* Why a request is refused. */
typedef struct KsLimitsRefusal
{
	int status;
	const char *code;
	const char *message;
	const char *extra; /* members of the reply's body, JSON that begins with a comma; NULL: none */
} KsLimitsRefusal;

typedef struct KsLimitsHeader
{
	const char *name;
	const char *value;
} KsLimitsHeader;

#define KS_LIMITS_HEADERS 8

/* The class of this name; false when there is none. */
extern bool ks_rate_class_find(const char *name, KsRateClass *out);

/*
 * Before authentication: is the address blocked, has it used up what it may?
 * Without a credential everything is decided and charged here. `email` is the
 * address that the request names, or NULL. False: refused.
 */
extern bool ks_limits_begin(const KsLimitsRoute *route, const char *email, bool has_credential, KsLimitsRefusal *refusal);

/* Does any limit, or the present load, ask for a user's tier? */
extern bool ks_limits_by_tier(void);

/*
 * After authentication: all limits are decided together, and charged unless
 * one refuses. `who` is NULL when the credential proved nothing. Does nothing
 * when ks_limits_begin() has charged already. False: refused.
 */
extern bool ks_limits_admit(const KsLimitsSubject *who, KsLimitsRefusal *refusal);

/*
 * Was the running request refused here, and is that no news? Of a flood the
 * audit trail hears now and then; keelson.rate_limit_violations counts all of it.
 */
extern bool ks_limits_is_repetition(void);

/* The headers of the reply, made in the current context; their number. */
extern int ks_limits_headers(KsLimitsHeader headers[KS_LIMITS_HEADERS]);

/* Give back everything that the running request was charged: it will be tried again. */
extern void ks_limits_undo(void);

extern void ks_limits_init(void);

#endif /* KS_LIMITS_H */
