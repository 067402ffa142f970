/*
 * emit.c
 *	  From an event to its deliveries, in the transaction that it happens in.
 *
 * Costs one index probe where the user has no endpoint. Endpoints are matched
 * here (globs, filter), so that what is to be delivered is decided with the
 * state that the event happened in; what is sent is made when it is sent.
 *
 * Events of one ordering key are emitted one transaction after the other: the
 * order of their ids is then the order of their commits.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/jsonpath.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/error.h"
#include "core/identity.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "courier/courier.h"
#include "webhooks/budget.h"
#include "webhooks/glob.h"
#include "webhooks/webhooks.h"

#define TYPE_LENGTH 64
#define MAX_PAYLOAD (256 * 1024)
#define MAX_KNOWN_TYPES 1024
#define MAX_ORDERING_KEY 255
#define MAX_MATCHES 100

typedef struct Event
{
	const char *type; /* one of keelson.webhook_event_types */
	Jsonb *payload;   /* an object */
	pg_uuid_t user_id;
	const char *ordering_key;     /* or NULL: in any order */
	const pg_uuid_t *endpoint_id; /* to this one alone, whatever it wants; or NULL */
} Event;

typedef struct KnownType
{
	char name[TYPE_LENGTH];
	bool is_reserved;
} KnownType;

typedef struct Filter
{
	text *path;
	Jsonb *payload;
	bool is_passed;
} Filter;

/* Types that were found; none is ever removed. Made on first use, bounded. */
static HTAB *known_types;

static KsPlan type_plan = {"select is_reserved, xmin from keelson.webhook_event_types where name = $1", 1, {TEXTOID}};
static KsPlan endpoints_plan = {
	"select e.id, e.events, e.filter from keelson.webhook_endpoints as e where e.user_id = $1 and e.is_enabled", 1, {UUIDOID}};
static KsPlan event_plan = {
	"insert into keelson.webhook_events (user_id, id, event_type, ordering_key, endpoint_ids, request_id, traceparent, body)"
	" values ($1, $2, $3, $4, $5, $6, $7, $8)",
	8,
	{UUIDOID, UUIDOID, TEXTOID, TEXTOID, UUIDARRAYOID, UUIDOID, TEXTOID, TEXTOID}};
static KsPlan delivery_plan = {
	"insert into keelson.deliveries (user_id, id, lane, kind, ref, due_at, ordering_key) values ($1, $2, $3, 'webhook', $4, $5, $6)",
	6,
	{UUIDOID, UUIDOID, UUIDOID, UUIDOID, TIMESTAMPTZOID, TEXTOID}};

static bool emit(const Event *event, pg_uuid_t *event_id);
static void check(const Event *event);
static bool find_type(const char *name, bool *is_reserved);
static int match(const Event *event, pg_uuid_t *out);
static bool is_wanted(HeapTuple row, TupleDesc desc, const Event *event, int64 *left_us);
static void apply_filter(void *arg);
static void lock_order(const Event *event);
static text *make_body(const Event *event, TimestampTz now);
static void record_event(const Event *event, const pg_uuid_t *id, const pg_uuid_t *endpoints, int count, TimestampTz now);
static void record_deliveries(const Event *event, const pg_uuid_t *id, const pg_uuid_t *endpoints, int count, TimestampTz now);

/*
 * Record the event in the running transaction, and a delivery for each of the
 * user's endpoints that wants it. They go out once the transaction commits.
 * False, and nothing recorded, when no endpoint wants it. Raises an error for
 * an event that cannot be one.
 */
static bool
emit(const Event *event, pg_uuid_t *event_id)
{
	pg_uuid_t endpoints[MAX_MATCHES];
	KsRoleSwitch save;
	TimestampTz now;
	int count;

	ks_require_shmem();
	check(event);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	count = match(event, endpoints);
	if (count > 0)
	{
		if (event->ordering_key != NULL)
			lock_order(event);
		ks_uuid7(event_id);
		now = GetCurrentTimestamp();
		record_event(event, event_id, endpoints, count, now);
		record_deliveries(event, event_id, endpoints, count, now);
	}
	ks_role_leave(&save);
	ks_spi_finish();
	return count > 0;
}

static void
check(const Event *event)
{
	if (!find_type(event->type, NULL))
		ks_raise_field(400, "VALIDATION_FAILED", "event_type", "Register it with keelson.webhook_event_type().",
					   "event type \"%s\" is not registered", event->type);
	if (event->payload == NULL || !JB_ROOT_IS_OBJECT(event->payload))
		ks_raise_field(400, "VALIDATION_FAILED", "payload", NULL, "the payload of an event must be an object");
	if (VARSIZE(event->payload) > MAX_PAYLOAD)
		ks_raise_field(413, "PAYLOAD_TOO_LARGE", "payload", NULL, "the payload of an event may have 256 KiB");
	if (event->ordering_key != NULL && (event->ordering_key[0] == '\0' || strlen(event->ordering_key) > MAX_ORDERING_KEY))
		ks_raise_field(400, "VALIDATION_FAILED", "ordering_key", NULL, "an ordering key has 1 to %d bytes", MAX_ORDERING_KEY);
}

static bool
find_type(const char *name, bool *is_reserved)
{
	KnownType *known;
	Datum values[1];
	KsRoleSwitch save;
	bool found;
	bool reserved = false;
	bool is_lasting = false;

	if (strlen(name) >= TYPE_LENGTH)
		return false;
	if (known_types == NULL)
	{
		HASHCTL control = {.keysize = TYPE_LENGTH, .entrysize = sizeof(KnownType), .hcxt = TopMemoryContext};

		known_types = hash_create("keelson webhook event types", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	known = hash_search(known_types, name, HASH_FIND, NULL);
	if (known != NULL)
	{
		if (is_reserved != NULL)
			*is_reserved = known->is_reserved;
		return true;
	}
	values[0] = CStringGetTextDatum(name);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&type_plan, values, NULL, true, 1);
	found = SPI_processed == 1;
	if (found)
	{
		bool is_null;

		reserved = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
		/* Not one that this transaction may yet roll back. */
		is_lasting = !TransactionIdIsCurrentTransactionId(
			DatumGetTransactionId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null)));
	}
	ks_role_leave(&save);
	ks_spi_finish();
	if (is_lasting && hash_get_num_entries(known_types) < MAX_KNOWN_TYPES)
	{
		known = hash_search(known_types, name, HASH_ENTER, NULL);
		known->is_reserved = reserved;
	}
	if (is_reserved != NULL)
		*is_reserved = reserved;
	return found;
}

/* The user's endpoints that want the event. */
static int
match(const Event *event, pg_uuid_t *out)
{
	Datum values[1] = {UUIDPGetDatum(&event->user_id)};
	SPITupleTable *rows;
	uint64 row_count;
	int64 left_us = KS_WEBHOOK_FILTER_BUDGET;
	int count = 0;

	if (event->endpoint_id != NULL)
	{
		out[0] = *event->endpoint_id;
		return 1;
	}
	(void) ks_spi_execute(&endpoints_plan, values, NULL, false, MAX_MATCHES);
	rows = SPI_tuptable;
	row_count = SPI_processed;
	for (uint64 i = 0; i < row_count; i++)
		if (is_wanted(rows->vals[i], rows->tupdesc, event, &left_us))
		{
			bool is_null;

			out[count++] = *DatumGetUUIDP(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &is_null));
		}
	SPI_freetuptable(rows);
	return count;
}

/*
 * What a filter does not decide in time is wanted: nothing is lost. One that
 * fails for this payload is not true; it is not to fail who emits, who may be
 * another than the endpoint's user, and emit for many.
 */
static bool
is_wanted(HeapTuple row, TupleDesc desc, const Event *event, int64 *left_us)
{
	bool is_null;
	Datum *globs;
	int count;
	bool matches = false;
	Datum value;
	Filter filter = {.payload = event->payload};
	ErrorData *error;

	deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(row, desc, 2, &is_null)), TEXTOID, -1, false, TYPALIGN_INT, &globs, NULL, &count);
	for (int i = 0; i < count && !matches; i++)
		matches = ks_glob_matches(VARDATA_ANY(DatumGetPointer(globs[i])), VARSIZE_ANY_EXHDR(DatumGetPointer(globs[i])), event->type, strlen(event->type));
	if (!matches)
		return false;
	value = SPI_getbinval(row, desc, 3, &is_null);
	if (is_null)
		return true;
	filter.path = DatumGetTextPP(value);
	if (ks_budget_run(left_us, apply_filter, &filter, &error))
		return filter.is_passed;
	return error == NULL;
}

/* Is the predicate true? One that cannot be evaluated for this payload is not. */
static void
apply_filter(void *arg)
{
	Filter *filter = arg;
	Datum path = DirectFunctionCall1(jsonpath_in, CStringGetDatum(text_to_cstring(filter->path)));
	Datum vars = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	LOCAL_FCINFO(fcinfo, 4);
	Datum result;

	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0] = (NullableDatum){JsonbPGetDatum(filter->payload), false};
	fcinfo->args[1] = (NullableDatum){path, false};
	fcinfo->args[2] = (NullableDatum){vars, false};
	fcinfo->args[3] = (NullableDatum){BoolGetDatum(true), false};
	result = jsonb_path_match_tz(fcinfo);
	filter->is_passed = !fcinfo->isnull && DatumGetBool(result);
}

/* One transaction after the other, for this user and key. */
static void
lock_order(const Event *event)
{
	uint64 hash = hash_bytes_extended(event->user_id.data, UUID_LEN, 0) ^
				  hash_bytes_extended((const unsigned char *) event->ordering_key, strlen(event->ordering_key), 1);

	(void) DirectFunctionCall1(pg_advisory_xact_lock_int8, Int64GetDatum((int64) hash));
}

/* {"type": …, "timestamp": …, "data": …}: the very bytes that are sent. */
static text *
make_body(const Event *event, TimestampTz now)
{
	StringInfoData body;
	char time[MAXDATELEN + 1];
	text *result;

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"type\":");
	escape_json(&body, event->type);
	/* A timestamptz counts from an epoch in UTC, as a timestamp does. */
	(void) JsonEncodeDateTime(time, TimestampTzGetDatum(now), TIMESTAMPOID, NULL);
	appendStringInfo(&body, ",\"timestamp\":\"%sZ\",\"data\":", time);
	(void) JsonbToCString(&body, &event->payload->root, VARSIZE(event->payload));
	appendStringInfoChar(&body, '}');
	result = cstring_to_text_with_len(body.data, body.len);
	pfree(body.data);
	return result;
}

static void
record_event(const Event *event, const pg_uuid_t *id, const pg_uuid_t *endpoints, int count, TimestampTz now)
{
	const KsCaller *caller = ks_caller();
	Datum ids[MAX_MATCHES];
	Datum values[8];
	char nulls[9] = "        ";
	pg_uuid_t request_id;

	for (int i = 0; i < count; i++)
		ids[i] = UUIDPGetDatum(&endpoints[i]);
	values[0] = UUIDPGetDatum(&event->user_id);
	values[1] = UUIDPGetDatum(id);
	values[2] = CStringGetTextDatum(event->type);
	nulls[3] = event->ordering_key == NULL ? 'n' : ' ';
	if (event->ordering_key != NULL)
		values[3] = CStringGetTextDatum(event->ordering_key);
	values[4] = PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	nulls[5] = caller->request_id != NULL && ks_uuid_read(caller->request_id, strlen(caller->request_id), &request_id) ? ' ' : 'n';
	values[5] = UUIDPGetDatum(&request_id);
	nulls[6] = caller->traceparent != NULL ? ' ' : 'n';
	if (nulls[6] == ' ')
		values[6] = CStringGetTextDatum(caller->traceparent);
	values[7] = PointerGetDatum(make_body(event, now));
	(void) ks_spi_execute(&event_plan, values, nulls, false, 0);
}

static void
record_deliveries(const Event *event, const pg_uuid_t *id, const pg_uuid_t *endpoints, int count, TimestampTz now)
{
	for (int i = 0; i < count; i++)
	{
		pg_uuid_t delivery_id;
		Datum values[6];
		char nulls[7] = "      ";

		ks_uuid7(&delivery_id);
		values[0] = UUIDPGetDatum(&event->user_id);
		values[1] = UUIDPGetDatum(&delivery_id);
		values[2] = UUIDPGetDatum(&endpoints[i]);
		values[3] = UUIDPGetDatum(id);
		values[4] = TimestampTzGetDatum(now);
		nulls[5] = event->ordering_key == NULL ? 'n' : ' ';
		if (event->ordering_key != NULL)
			values[5] = CStringGetTextDatum(event->ordering_key);
		(void) ks_spi_execute(&delivery_plan, values, nulls, false, 0);
		ks_courier_hint(&event->user_id, &endpoints[i], now);
	}
}

PG_FUNCTION_INFO_V1(ks_webhook_emit_sql);

/* keelson.webhook_emit(event_type text, payload jsonb, user_id uuid, ordering_key text) */
Datum
ks_webhook_emit_sql(PG_FUNCTION_ARGS)
{
	const KsIdentity *identity = ks_identity();
	Event event = {0};
	pg_uuid_t *id = palloc(sizeof(pg_uuid_t));
	bool is_reserved = false;

	ks_require_shmem();
	if (PG_ARGISNULL(0))
		ks_raise_field(400, "VALIDATION_FAILED", "event_type", NULL, "an event needs a type");
	event.type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	event.payload = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	event.ordering_key = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (!PG_ARGISNULL(2))
		event.user_id = *PG_GETARG_UUID_P(2);
	else if (identity->has_user)
		event.user_id = identity->user_id;
	else
		ks_raise_field(400, "VALIDATION_FAILED", "user_id", NULL, "an event needs the user that it concerns");
	if (find_type(event.type, &is_reserved) && is_reserved)
		ks_role_require_core("this type of event is emitted by the core alone");
	if (!identity->has_user || memcmp(&identity->user_id, &event.user_id, UUID_LEN) != 0)
		ks_role_require_core("events of another user are emitted by the core alone");
	if (!emit(&event, id))
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(id);
}

PG_FUNCTION_INFO_V1(ks_webhook_emit_to);

/* keelson._webhook_emit_to(endpoint_id uuid, event_type text, payload jsonb) */
Datum
ks_webhook_emit_to(PG_FUNCTION_ARGS)
{
	Event event = {0};
	pg_uuid_t *id = palloc(sizeof(pg_uuid_t));

	event.user_id = *ks_acting_user();
	event.endpoint_id = PG_GETARG_UUID_P(0);
	event.type = text_to_cstring(PG_GETARG_TEXT_PP(1));
	event.payload = PG_GETARG_JSONB_P(2);
	(void) emit(&event, id);
	PG_RETURN_UUID_P(id);
}
