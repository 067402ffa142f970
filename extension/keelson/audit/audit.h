/*
 * audit.h
 *	  Recording of what happened.
 *
 * An event is written in the transaction of the action that it is about, so
 * that one is never without the other. Should that fail, the action goes on,
 * and the event goes through a ring in shared memory when the action commits.
 * What a refused or failed request has to say goes through the ring at once.
 */
#ifndef KS_AUDIT_H
#define KS_AUDIT_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "core/identity.h"

typedef enum KsOutcome
{
	KS_SUCCESS,
	KS_FAILURE,
	KS_DENIED
} KsOutcome;

typedef struct KsAuditEvent
{
	const char *type; /* one of keelson.audit_event_types */
	KsOutcome outcome;
	Jsonb *data; /* an object, or NULL; what is secret in it is taken out */
	bool has_user;
	pg_uuid_t user_id; /* whom it concerns; without: the acting user, if any */
} KsAuditEvent;

/*
 * Record an event in the running transaction; who did it, whence and in which
 * request is taken from identity and caller. Returns its id. Raises an error
 * for an event that cannot be one (type, data), and where the transaction
 * itself is over (cancelled, to be serialised again); otherwise never.
 */
extern pg_uuid_t ks_audit(const KsAuditEvent *event);

/* A request that was refused, or has failed. */
typedef struct KsAuditRefusal
{
	int status;
	const char *code; /* or NULL */
	const char *endpoint;
	bool is_security;  /* of an endpoint whose failures (5xx) are to be known too */
	bool is_committed; /* what the request has recorded itself stands */
	const KsIdentity *identity;
	const KsCaller *caller;
} KsAuditRefusal;

/*
 * For the dispatcher: a request begins; and what came of it, when that was a
 * refusal or failure. Those that matter are recorded through the ring, unless
 * the request has recorded a fault itself; raises no error but out of memory.
 */
extern void ks_audit_request_begin(void);
extern void ks_audit_request_refused(const KsAuditRefusal *refusal);

extern void ks_audit_init(void);

#endif /* KS_AUDIT_H */
