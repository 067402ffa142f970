/*
 * webhooks.h
 *	  Telling users' endpoints what has happened.
 */
#ifndef KS_WEBHOOKS_H
#define KS_WEBHOOKS_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/uuid.h"

#define KS_WEBHOOK_TYPE_LENGTH 64
#define KS_WEBHOOK_MAX_PAYLOAD (256 * 1024)

typedef struct KsWebhookEvent
{
	const char *type; /* one of keelson.webhook_event_types */
	Jsonb *payload;   /* an object */
	pg_uuid_t user_id;
	const char *ordering_key;     /* or NULL: in any order */
	const pg_uuid_t *endpoint_id; /* to this one alone, whatever it wants; or NULL */
} KsWebhookEvent;

/*
 * Record the event in the running transaction, and a delivery for each of the
 * user's endpoints that wants it. They go out once the transaction commits.
 * False, and nothing recorded, when no endpoint wants it. Raises an error for
 * an event that cannot be one.
 */
extern bool ks_webhook_emit(const KsWebhookEvent *event, pg_uuid_t *event_id);

extern void ks_webhooks_init(void);

#endif /* KS_WEBHOOKS_H */
