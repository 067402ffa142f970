/*
 * audit.c
 *	  keelson.audit() and its like in C: from an event to a record.
 *
 * A request's record is inserted in the action's own transaction as it is; if
 * that fails, the request fails as in a conflict, is tried again by whoever
 * made it, and its record goes the way of all others: it is inserted in a
 * subtransaction. If that fails, the record waits in `pending` for the
 * transaction to commit and then goes into the ring; if the transaction, or the
 * subtransaction in which the event was recorded, rolls back, it goes with it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "audit/audit.h"
#include "audit/days.h"
#include "audit/event_types.h"
#include "audit/partitions.h"
#include "audit/ring.h"
#include "audit/sanitise.h"
#include "audit/seal.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/uuid.h"
#include "secrets/seal.h"

/* How long after a failed insert all are guarded against another. */
#define GUARDED_US (60 * USECS_PER_SEC)

typedef struct Pending
{
	slist_node node;
	SubTransactionId recorded_in;
	KsFlatRecord *flat; /* NULL: too large, to be counted */
} Pending;

/* Records whose insert failed; in TopTransactionContext, emptied when the transaction ends. */
static slist_head pending = SLIST_STATIC_INIT(pending);

/* How many records the transaction has inserted; counted for all when it commits. */
static uint64 inserted;

/* In shared memory: until when (TimestampTz) every record is written in a subtransaction, since an insert has failed; 0: none has. */
static pg_atomic_uint64 *guarded_until;

/* Has the running request recorded what was no success? Cleared when one begins. */
static bool has_recorded_fault;

static void init_shared(void *area, bool found);
static bool require_type(const char *type);
static pg_uuid_t record_event(const KsAuditEvent *event);
static void record_at_once(const KsAuditEvent *event);
static void make_record(const KsAuditEvent *event, KsAuditRecord *record);
static void name_actor(const KsAuditEvent *event, KsAuditRecord *record, const KsIdentity *identity, bool in_request);
static void name_access_key(KsAuditRecord *record, const pg_uuid_t *id);
static void take_caller(KsAuditRecord *record, const KsCaller *caller);
static void write_or_hold(const KsAuditRecord *record);
static bool is_repeatable(void);
static bool is_guarded(void);
static bool write_fast(const KsAuditRecord *record);
static void write_guarded(const KsAuditRecord *record);
static bool ends_transaction(int sqlstate);
static void hold(const KsAuditRecord *record, const char *reason);
static void at_end(XactEvent event, void *arg);
static void at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg);
static void record_unopened(const KsSealContext *context);
static const char *refusal_type(int status, bool is_security);
static Jsonb *refusal_data(int status, const char *code, const char *endpoint);
static void push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string);
static KsOutcome read_outcome(text *given);

void
ks_audit_init(void)
{
	ks_ring_init();
	ks_audit_days_init();
	ks_shmem_register("keelson audit guard", sizeof(pg_atomic_uint64), init_shared, (void **) &guarded_until);
	ks_audit_partitions_init();
	ks_seal_init();
	ks_unseal_on_failure(record_unopened);
	RegisterXactCallback(at_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
}

static void
init_shared(void *area, bool found)
{
	if (!found)
		pg_atomic_init_u64(area, 0);
}

pg_uuid_t
ks_audit(const KsAuditEvent *event)
{
	ks_require_shmem();
	(void) require_type(event->type);
	return record_event(event);
}

/*
 * Record an event through the ring at once: nothing is written, and the event
 * stands whatever becomes of the transaction. Where the ring is full the event
 * is lost and counted. Raises an error for an event that cannot be one.
 */
static void
record_at_once(const KsAuditEvent *event)
{
	KsAuditRecord record;

	ks_require_shmem();
	(void) require_type(event->type);
	make_record(event, &record);
	ks_ring_push(ks_flat_record(&record), false);
}

/* Refuse a type that is not registered; tells whether it is the core's alone. */
static bool
require_type(const char *type)
{
	bool is_reserved;

	if (!ks_audit_type_find(type, &is_reserved))
		ks_raise_field(400, "VALIDATION_FAILED", "event_type", "Register it with keelson.audit_event_type().",
					   "event type \"%s\" is not registered", type);
	return is_reserved;
}

/* Record an event whose type is registered; returns its id. */
static pg_uuid_t
record_event(const KsAuditEvent *event)
{
	KsAuditRecord record;

	make_record(event, &record);
	if (event->outcome != KS_SUCCESS)
		has_recorded_fault = true;
	write_or_hold(&record);
	return record.id;
}

/* Check the event's data and bring together all that is to be said of it. */
static void
make_record(const KsAuditEvent *event, KsAuditRecord *record)
{
	const KsCaller *caller = ks_caller();

	memset(record, 0, sizeof(*record));
	record->type = event->type;
	record->outcome = event->outcome;
	if (event->data != NULL)
	{
		if (!JB_ROOT_IS_OBJECT(event->data))
			ks_raise_field(400, "VALIDATION_FAILED", "data", NULL, "the data of an audit event must be an object");
		if (VARSIZE(event->data) > KS_AUDIT_MAX_DATA)
			ks_raise_field(400, "VALIDATION_FAILED", "data", NULL, "the data of an audit event may have %d bytes", KS_AUDIT_MAX_DATA);
		if (JB_ROOT_COUNT(event->data) > 0)
			ks_audit_sanitise(event->data, &record->data, &record->personal);
	}
	name_actor(event, record, ks_identity(), caller->request_id != NULL || caller->ip != NULL);
	take_caller(record, caller);
	ks_uuid7(&record->id);
}

static void
name_actor(const KsAuditEvent *event, KsAuditRecord *record, const KsIdentity *identity, bool in_request)
{
	static const KsAuditActor actors[] = {
		[KS_ACTOR_USER] = KS_BY_USER,
		[KS_ACTOR_ACCESS_KEY] = KS_BY_ACCESS_KEY,
		[KS_ACTOR_ADMIN] = KS_BY_ADMIN,
		[KS_ACTOR_SYSTEM] = KS_BY_SYSTEM};

	if (event->has_user)
		record->user_id = event->user_id;
	else if (identity->has_user)
		record->user_id = identity->user_id;
	record->has_actor_id = identity->has_user;
	record->actor_id = identity->user_id;
	if (identity->actor != KS_ACTOR_NONE)
		record->actor = actors[identity->actor];
	else if (!in_request)
		record->actor = ks_is_background_worker() ? KS_BY_SYSTEM : KS_BY_ADMIN;
	else if (event->has_user && event->outcome == KS_SUCCESS)
	{
		/* Who registers or logs in has shown who they are when it succeeds. */
		record->actor = KS_BY_USER;
		record->has_actor_id = true;
		record->actor_id = event->user_id;
	}
	else
		record->actor = KS_BY_ANONYMOUS;
	if (identity->has_access_key)
		name_access_key(record, &identity->access_key_id);
}

/* Which of a user's keys it was stands in the data. */
static void
name_access_key(KsAuditRecord *record, const pg_uuid_t *id)
{
	JsonbValue value = {.type = jbvString};

	value.val.string.val = ks_uuid_string(id);
	value.val.string.len = strlen(value.val.string.val);
	record->data = ks_audit_data_with(record->data, "accessKeyId", &value);
}

static void
take_caller(KsAuditRecord *record, const KsCaller *caller)
{
	if (caller->ip != NULL && strlen(caller->ip) <= KS_AUDIT_MAX_ADDRESS)
		record->ip = caller->ip;
	if (caller->user_agent != NULL)
	{
		record->user_agent = caller->user_agent;
		record->user_agent_len = pg_mbcliplen(caller->user_agent, strlen(caller->user_agent), KS_AUDIT_MAX_USER_AGENT);
	}
	record->has_request_id = caller->request_id != NULL && ks_uuid_read(caller->request_id, strlen(caller->request_id), &record->request_id);
}

/* Insert the record; where that fails, hold it for the ring. */
static void
write_or_hold(const KsAuditRecord *record)
{
	if (XactReadOnly || IsInParallelMode())
		hold(record, "the transaction is read-only");
	else if (!is_repeatable() || !write_fast(record))
		write_guarded(record);
}

/* Is it a request, which whoever made it tries again on a conflict, and was there no trouble lately? */
static bool
is_repeatable(void)
{
	return ks_caller()->request_id != NULL && !is_guarded();
}

/* Is it still the minute after a failed insert? Once it is over the clock need not be asked any more. */
static bool
is_guarded(void)
{
	uint64 until = pg_atomic_read_u64(guarded_until);

	if (until == 0)
		return false;
	if (until > (uint64) GetCurrentTimestamp())
		return true;
	(void) pg_atomic_compare_exchange_u64(guarded_until, &until, 0);
	return false;
}

/*
 * Insert the record without a subtransaction, which costs a third of it; false
 * where that cannot be. Should it fail, the transaction goes with it, as in a
 * conflict: the request is tried again, and its events are written guarded.
 */
static bool
write_fast(const KsAuditRecord *record)
{
	MemoryContext cxt = CurrentMemoryContext;
	bool is_written = false;

	PG_TRY();
	{
		is_written = ks_audit_insert_fast(record);
		inserted += is_written;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		if (ends_transaction(geterrcode()))
			PG_RE_THROW();
		error = CopyErrorData();
		FlushErrorState();
		pg_atomic_write_u64(guarded_until, GetCurrentTimestamp() + GUARDED_US);
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not write an audit event of type \"%s\": %s", record->type, error->message),
				 errhint("Try again: the event then goes another way.")));
	}
	PG_END_TRY();
	return is_written;
}

/* Insert the record in a subtransaction; where that fails, hold it for the ring. */
static void
write_guarded(const KsAuditRecord *record)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		ks_audit_insert(record, false);
		ReleaseCurrentSubTransaction();
		inserted++;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		if (ends_transaction(geterrcode()))
			PG_RE_THROW();
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		hold(record, error->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
}

/* Errors that are not the insert's own: the transaction is to end, or to be tried again. */
static bool
ends_transaction(int sqlstate)
{
	int category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_TRANSACTION_ROLLBACK;
}

static void
hold(const KsAuditRecord *record, const char *reason)
{
	MemoryContext cxt = MemoryContextSwitchTo(TopTransactionContext);
	Pending *held = palloc(sizeof(Pending));

	held->recorded_in = GetCurrentSubTransactionId();
	held->flat = ks_flat_record(record);
	slist_push_head(&pending, &held->node);
	MemoryContextSwitchTo(cxt);
	ks_audit_count(KS_COUNT_FALLBACKS, 1);
	ereport(LOG,
			(errmsg("an audit event of type \"%s\" goes by shared memory: %s", record->type, reason)));
}

/* Put what was held into the ring, once it is certain that it happened. */
static void
at_end(XactEvent event, void *arg)
{
	slist_iter iter;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	/* Its events are visible to all by now, which the sealing counts on. */
	if (inserted > 0 && event != XACT_EVENT_ABORT)
		ks_audit_count(KS_COUNT_WRITTEN, inserted);
	inserted = 0;
	if (slist_is_empty(&pending))
		return;
	slist_foreach(iter, &pending)
	{
		if (event == XACT_EVENT_COMMIT)
			ks_ring_push(slist_container(Pending, node, iter.cur)->flat, false);
		else if (event == XACT_EVENT_PREPARE)
			ks_audit_count(KS_COUNT_DROPPED, 1);
	}
	slist_init(&pending);
}

/* What a rolled-back subtransaction has recorded did not happen; a committed one's is its parent's. */
static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	slist_mutable_iter iter;

	if (slist_is_empty(&pending) || (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB))
		return;
	slist_foreach_modify(iter, &pending)
	{
		Pending *held = slist_container(Pending, node, iter.cur);

		if (held->recorded_in != mine)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			slist_delete_current(&iter);
		else
			held->recorded_in = parent;
	}
}

void
ks_audit_request_begin(void)
{
	has_recorded_fault = false;
}

void
ks_audit_request_refused(const KsAuditRefusal *refusal)
{
	KsAuditEvent event = {.type = refusal_type(refusal->status, refusal->is_security)};
	KsAuditRecord record = {0};

	if (event.type == NULL || (refusal->is_committed && has_recorded_fault))
		return;
	event.outcome = refusal->status >= 500 ? KS_FAILURE : KS_DENIED;
	record.type = event.type;
	record.outcome = event.outcome;
	record.data = refusal_data(refusal->status, refusal->code, refusal->endpoint);
	name_actor(&event, &record, refusal->identity, true);
	take_caller(&record, refusal->caller);
	ks_uuid7(&record.id);
	ks_ring_push(ks_flat_record(&record), true);
}

/*
 * A sealed value did not open: through the ring, for the transaction that met
 * it goes. Nothing personal is said, which would have to be sealed.
 */
static void
record_unopened(const KsSealContext *context)
{
	KsAuditEvent event = {.type = "security.unseal_failed", .outcome = KS_FAILURE, .has_user = context->has_user, .user_id = context->user_id};
	KsAuditRecord record = {0};
	JsonbParseState *state = NULL;
	const KsCaller *caller = ks_caller();

	record.type = event.type;
	record.outcome = event.outcome;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_string(&state, WJB_KEY, "what");
	push_string(&state, WJB_VALUE, context->purpose);
	push_string(&state, WJB_KEY, "rowId");
	push_string(&state, WJB_VALUE, ks_uuid_string(&context->row_id));
	record.data = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	name_actor(&event, &record, ks_identity(), caller->request_id != NULL || caller->ip != NULL);
	take_caller(&record, caller);
	ks_uuid7(&record.id);
	ks_ring_push(ks_flat_record(&record), true);
}

/* The type of event that a request with this status is, NULL for none. */
static const char *
refusal_type(int status, bool is_security)
{
	switch (status)
	{
		case 401:
			return "security.unauthenticated";
		case 403:
			return "security.forbidden";
		case 423:
			return "security.locked";
		case 429:
			return "security.rate_limited";
		default:
			return status >= 500 && is_security ? "security.failed" : NULL;
	}
}

static Jsonb *
refusal_data(int status, const char *code, const char *endpoint)
{
	JsonbParseState *state = NULL;
	JsonbValue number = {.type = jbvNumeric, .val.numeric = int64_to_numeric(status)};

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_string(&state, WJB_KEY, "endpoint");
	push_string(&state, WJB_VALUE, endpoint);
	push_string(&state, WJB_KEY, "status");
	pushJsonbValue(&state, WJB_VALUE, &number);
	if (code != NULL)
	{
		push_string(&state, WJB_KEY, "code");
		push_string(&state, WJB_VALUE, code);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string)
{
	JsonbValue value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	pushJsonbValue(state, token, &value);
}

PG_FUNCTION_INFO_V1(ks_audit_sql);

/* keelson.audit(event_type text, data jsonb, outcome text, user_id uuid) */
Datum
ks_audit_sql(PG_FUNCTION_ARGS)
{
	KsAuditEvent event = {0};
	pg_uuid_t *id;

	ks_require_shmem();
	if (PG_ARGISNULL(0))
		ks_raise_field(400, "VALIDATION_FAILED", "event_type", NULL, "an audit event needs a type");
	event.type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	event.data = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	event.outcome = PG_ARGISNULL(2) ? KS_SUCCESS : read_outcome(PG_GETARG_TEXT_PP(2));
	event.has_user = !PG_ARGISNULL(3);
	if (event.has_user)
		event.user_id = *PG_GETARG_UUID_P(3);
	if (require_type(event.type))
		ks_role_require_core("this type of event is recorded by the core alone");
	if (event.has_user && (!ks_identity()->has_user || memcmp(&ks_identity()->user_id, &event.user_id, UUID_LEN) != 0))
		ks_role_require_core("events of another user are recorded by the core alone");
	id = palloc(sizeof(pg_uuid_t));
	*id = record_event(&event);
	PG_RETURN_UUID_P(id);
}

PG_FUNCTION_INFO_V1(ks__audit_at_once);

/* keelson._audit_at_once(event_type text, data jsonb, user_id uuid) */
Datum
ks__audit_at_once(PG_FUNCTION_ARGS)
{
	KsAuditEvent event = {.outcome = KS_SUCCESS, .has_user = true};

	event.type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	event.data = PG_GETARG_JSONB_P(1);
	event.user_id = *PG_GETARG_UUID_P(2);
	record_at_once(&event);
	PG_RETURN_VOID();
}

static KsOutcome
read_outcome(text *given)
{
	char *outcome = text_to_cstring(given);

	if (strcmp(outcome, "success") == 0)
		return KS_SUCCESS;
	if (strcmp(outcome, "failure") == 0)
		return KS_FAILURE;
	if (strcmp(outcome, "denied") != 0)
		ks_raise_field(400, "VALIDATION_FAILED", "outcome", NULL, "the outcome of an audit event is success, failure or denied");
	return KS_DENIED;
}
