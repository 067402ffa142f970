/*
 * record.h
 *	  An event with all that is known of it, on its way into the table.
 */
#ifndef KS_AUDIT_RECORD_H
#define KS_AUDIT_RECORD_H

#include "postgres.h"

#include "audit/audit.h"

#define KS_AUDIT_TYPE_LENGTH 64
#define KS_AUDIT_MAX_DATA 8192
#define KS_AUDIT_MAX_ADDRESS 64
#define KS_AUDIT_MAX_USER_AGENT 512

typedef enum KsAuditActor
{
	KS_BY_USER,
	KS_BY_ACCESS_KEY,
	KS_BY_ADMIN,
	KS_BY_SYSTEM,
	KS_BY_ANONYMOUS
} KsAuditActor;

typedef struct KsAuditRecord
{
	pg_uuid_t id;
	pg_uuid_t user_id; /* nil: nobody known */
	KsAuditActor actor;
	KsOutcome outcome;
	bool has_actor_id;
	pg_uuid_t actor_id;
	bool has_request_id;
	pg_uuid_t request_id;
	const char *type;
	const char *ip;         /* or NULL */
	const char *user_agent; /* or NULL */
	int user_agent_len;
	Jsonb *data;     /* or NULL */
	Jsonb *personal; /* or NULL */
} KsAuditRecord;

/*
 * Insert the record, sealing what is personal, as keelson_system; an error is
 * the caller's. With `may_exist`, one that is there already is left as it is.
 */
extern void ks_audit_insert(const KsAuditRecord *record, bool may_exist);

/*
 * The same in less than half the time, without a subtransaction: an error is
 * the transaction's. False, with nothing done, where it takes ks_audit_insert().
 */
extern bool ks_audit_insert_fast(const KsAuditRecord *record);

/* The data, NULL for none, with one more member. */
extern Jsonb *ks_audit_data_with(Jsonb *data, const char *name, JsonbValue *value);

#endif /* KS_AUDIT_RECORD_H */
