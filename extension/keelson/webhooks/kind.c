/*
 * kind.c
 *	  The courier's deliveries of kind "webhook": making the request, and what
 *	  follows from its answer.
 *
 * What a courier needs of an endpoint (URL, header fields, keys to sign with)
 * is kept in its memory with the version it was read at; each delivery's row
 * tells the present version, so a change holds for whatever is sent after it.
 * Keys are dropped when the cache is, and wiped.
 */
#include "postgres.h"

#include <time.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "core/uuid.h"
#include "courier/columns.h"
#include "courier/courier.h"
#include "courier/lanes.h"
#include "secrets/seal.h"
#include "webhooks/kind.h"
#include "webhooks/sign.h"

#define MAX_ENDPOINTS 1024
#define STATUS_GONE 410
#define FAILING_DAYS 5

typedef struct Endpoint
{
	pg_uuid_t id; /* the hash key */
	int version;
	MemoryContext cxt; /* of all below */
	char *url;
	bool has_transform;
	int header_count;
	char **header_names;
	char **header_values;
	KsMac *mac;
	KsMac *previous_mac; /* or NULL */
	TimestampTz previous_until;
} Endpoint;

/* Of this process; emptied when it is full. */
static HTAB *endpoints;

static KsPlan events_plan = {
	"select w.place, e.id, e.body, e.traceparent, e.request_id, p.version, p.is_enabled"
	" from unnest($1, $2, $3, $4) as w (place, user_id, event_id, endpoint_id)"
	" left join keelson.webhook_events as e on e.user_id = w.user_id and e.id = w.event_id"
	" left join keelson.webhook_endpoints as p on p.user_id = w.user_id and p.id = w.endpoint_id",
	4,
	{INT4ARRAYOID, UUIDARRAYOID, UUIDARRAYOID, UUIDARRAYOID}};

static KsPlan endpoint_plan = {
	"select p.version, p.url, p.transform is not null, p.secret, p.previous_secret, p.previous_until,"
	" p.headers"
	" from keelson.webhook_endpoints as p where p.user_id = $1 and p.id = $2",
	2,
	{UUIDOID, UUIDOID}};

static KsPlan headers_plan = {"select h.key, h.value from jsonb_each_text($1::jsonb) as h order by h.key", 1, {TEXTOID}};

static KsPlan transform_plan = {
	"select b.body, b.fault from keelson.webhook_endpoints as p"
	" cross join lateral keelson._webhook_body(p.transform, $3::jsonb || jsonb_build_object('id', $4)) as b"
	" where p.user_id = $1 and p.id = $2",
	4,
	{UUIDOID, UUIDOID, TEXTOID, UUIDOID}};

static KsPlan disable_plan = {"select keelson._webhook_disable($1, $2, $3)", 3, {UUIDOID, UUIDOID, TEXTOID}};

/* The retry schedule of the contract, in seconds: 5 s to 24 h, 75 hours in all. */
static const int32 schedule[] = {5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400};

static void build(KsDelivery **deliveries, int count);
static void build_one(KsDelivery *delivery, HeapTuple row, TupleDesc desc);
static void add_fields(KsDelivery *delivery, const Endpoint *endpoint, Datum event_id, HeapTuple row, TupleDesc desc);
static Endpoint *get_endpoint(const KsDelivery *delivery, int version);
static void load_endpoint(Endpoint *endpoint, const KsDelivery *delivery);
static KsMac *open_secret(const KsDelivery *delivery, Datum sealed);
static void open_headers(Endpoint *endpoint, const KsDelivery *delivery, Datum sealed);
static void forget(Endpoint *endpoint);
static void forget_all(void);
static char *transform(KsDelivery *delivery, const char *body, const pg_uuid_t *event_id);
static void sign(KsDelivery *delivery, const Endpoint *endpoint, const char *id);
static void judge(KsDelivery *delivery);
static void settled(KsDelivery **deliveries, int count);
static void disable(const KsDelivery *delivery, const char *reason);

static const KsCourierKind kind = {"webhook", build, judge, settled, schedule, lengthof(schedule)};

void
ks_webhook_kind_init(void)
{
	ks_courier_kind_register(&kind);
}

static void
build(KsDelivery **deliveries, int count)
{
	static const Oid types[] = {INT4OID, UUIDOID, UUIDOID, UUIDOID};
	KsColumns *columns = ks_columns_create(count, 4, types);
	SPITupleTable *rows;
	uint64 row_count;
	Datum values[4];

	for (int i = 0; i < count; i++)
	{
		values[0] = Int32GetDatum(i);
		values[1] = UUIDPGetDatum(&deliveries[i]->user_id);
		values[2] = UUIDPGetDatum(&deliveries[i]->ref);
		values[3] = UUIDPGetDatum(&deliveries[i]->lane);
		ks_columns_add(columns, values, NULL);
	}
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&events_plan, values, NULL, true, 0);
	rows = SPI_tuptable;
	row_count = SPI_processed;
	for (uint64 i = 0; i < row_count; i++)
	{
		bool is_null;

		build_one(deliveries[DatumGetInt32(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &is_null))], rows->vals[i], rows->tupdesc);
	}
	SPI_freetuptable(rows);
}

static void
build_one(KsDelivery *delivery, HeapTuple row, TupleDesc desc)
{
	KsRequest *request = &delivery->request;
	bool lacks_event;
	bool lacks_endpoint;
	bool is_null;
	Datum event_id = SPI_getbinval(row, desc, 2, &lacks_event);
	int version = DatumGetInt32(SPI_getbinval(row, desc, 6, &lacks_endpoint));
	const Endpoint *endpoint;
	char *body;
	MemoryContext save;

	if (lacks_event || lacks_endpoint)
	{
		request->refusal = lacks_event ? "the event is gone" : "the endpoint is gone";
		delivery->verdict = KS_CANCELLED;
		return;
	}
	if (!DatumGetBool(SPI_getbinval(row, desc, 7, &is_null)))
	{
		/* Claimed before the courier heard of it: it waits until the endpoint is enabled. */
		request->refusal = "the endpoint is disabled";
		delivery->verdict = KS_RELEASED;
		ks_courier_lane_changed(&delivery->user_id, &delivery->lane);
		return;
	}
	endpoint = get_endpoint(delivery, version);
	body = TextDatumGetCString(SPI_getbinval(row, desc, 3, &is_null));
	if (endpoint->has_transform)
		body = transform(delivery, body, DatumGetUUIDP(event_id));
	if (body == NULL)
		return;
	/* From here on no statement: each would leave us in the memory of SPI, which goes with the transaction. */
	save = MemoryContextSwitchTo(delivery->cxt);
	request->url = pstrdup(endpoint->url);
	request->body = pstrdup(body);
	request->body_length = strlen(body);
	add_fields(delivery, endpoint, event_id, row, desc);
	MemoryContextSwitchTo(save);
}

/* The header fields: ours, then the endpoint's own. */
static void
add_fields(KsDelivery *delivery, const Endpoint *endpoint, Datum event_id, HeapTuple row, TupleDesc desc)
{
	KsRequest *request = &delivery->request;
	bool is_null;
	Datum value;

	ks_request_header(request, "Content-Type", "application/json");
	sign(delivery, endpoint, ks_uuid_string(DatumGetUUIDP(event_id)));
	value = SPI_getbinval(row, desc, 4, &is_null);
	if (!is_null)
		ks_request_header(request, "traceparent", TextDatumGetCString(value));
	value = SPI_getbinval(row, desc, 5, &is_null);
	if (!is_null)
		ks_request_header(request, "X-Request-ID", ks_uuid_string(DatumGetUUIDP(value)));
	for (int i = 0; i < endpoint->header_count; i++)
		ks_request_header(request, endpoint->header_names[i], endpoint->header_values[i]);
}

/* The endpoint as of the version, read if need be. */
static Endpoint *
get_endpoint(const KsDelivery *delivery, int version)
{
	bool found;
	Endpoint *endpoint;

	if (endpoints == NULL)
	{
		HASHCTL control = {.keysize = sizeof(pg_uuid_t), .entrysize = sizeof(Endpoint), .hcxt = TopMemoryContext};

		endpoints = hash_create("keelson webhook endpoints", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	endpoint = hash_search(endpoints, &delivery->lane, HASH_FIND, NULL);
	if (endpoint != NULL && endpoint->version == version)
		return endpoint;
	if (endpoint == NULL && hash_get_num_entries(endpoints) >= MAX_ENDPOINTS)
		forget_all();
	endpoint = hash_search(endpoints, &delivery->lane, HASH_ENTER, &found);
	if (!found)
		memset((char *) endpoint + sizeof(pg_uuid_t), 0, sizeof(*endpoint) - sizeof(pg_uuid_t));
	load_endpoint(endpoint, delivery);
	return endpoint;
}

static void
load_endpoint(Endpoint *endpoint, const KsDelivery *delivery)
{
	Datum values[2] = {UUIDPGetDatum(&delivery->user_id), UUIDPGetDatum(&delivery->lane)};
	MemoryContext save;
	HeapTuple row;
	TupleDesc desc;
	bool is_null;
	Datum value;

	/* Until all of it is read it is of no version. */
	forget(endpoint);
	(void) ks_spi_execute(&endpoint_plan, values, NULL, true, 1);
	if (SPI_processed == 0)
		elog(ERROR, "the endpoint is gone");
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	endpoint->cxt = AllocSetContextCreate(TopMemoryContext, "keelson webhook endpoint", ALLOCSET_SMALL_SIZES);
	save = MemoryContextSwitchTo(endpoint->cxt);
	endpoint->url = TextDatumGetCString(SPI_getbinval(row, desc, 2, &is_null));
	endpoint->has_transform = DatumGetBool(SPI_getbinval(row, desc, 3, &is_null));
	MemoryContextSwitchTo(save);
	value = SPI_getbinval(row, desc, 6, &is_null);
	endpoint->previous_until = is_null ? 0 : DatumGetTimestampTz(value);
	endpoint->mac = open_secret(delivery, SPI_getbinval(row, desc, 4, &is_null));
	value = SPI_getbinval(row, desc, 5, &is_null);
	if (!is_null)
		endpoint->previous_mac = open_secret(delivery, value);
	value = SPI_getbinval(row, desc, 7, &is_null);
	if (!is_null)
		open_headers(endpoint, delivery, value);
	endpoint->version = DatumGetInt32(SPI_getbinval(row, desc, 1, &is_null));
}

static KsMac *
open_secret(const KsDelivery *delivery, Datum sealed)
{
	KsSealContext context = {.purpose = "webhook-endpoint", .has_user = true, .user_id = delivery->user_id, .row_id = delivery->lane};
	bytea *secret = ks_unseal(&context, DatumGetByteaPP(sealed));
	uint8 key[64];
	size_t length = ks_webhook_secret_key(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret), key);
	KsMac *mac;

	ks_wipe(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret));
	if (length == 0)
		elog(ERROR, "the endpoint's secret is none");
	mac = ks_mac_create(key, length);
	ks_wipe(key, sizeof(key));
	return mac;
}

static void
open_headers(Endpoint *endpoint, const KsDelivery *delivery, Datum sealed)
{
	KsSealContext context = {.purpose = "webhook-headers", .has_user = true, .user_id = delivery->user_id, .row_id = delivery->lane};
	bytea *object = ks_unseal(&context, DatumGetByteaPP(sealed));
	/* Text and bytea are made alike. */
	Datum values[1] = {PointerGetDatum(object)};
	MemoryContext save;

	(void) ks_spi_execute(&headers_plan, values, NULL, true, 0);
	save = MemoryContextSwitchTo(endpoint->cxt);
	endpoint->header_names = palloc(SPI_processed * sizeof(char *));
	endpoint->header_values = palloc(SPI_processed * sizeof(char *));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool is_null;

		endpoint->header_names[i] = TextDatumGetCString(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
		endpoint->header_values[i] = TextDatumGetCString(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &is_null));
	}
	endpoint->header_count = SPI_processed;
	MemoryContextSwitchTo(save);
	ks_wipe(VARDATA_ANY(object), VARSIZE_ANY_EXHDR(object));
}

/* What was opened is wiped. */
static void
forget(Endpoint *endpoint)
{
	ks_mac_free(endpoint->mac);
	ks_mac_free(endpoint->previous_mac);
	for (int i = 0; i < endpoint->header_count; i++)
		ks_wipe(endpoint->header_values[i], strlen(endpoint->header_values[i]));
	if (endpoint->cxt != NULL)
		MemoryContextDelete(endpoint->cxt);
	memset((char *) endpoint + sizeof(pg_uuid_t), 0, sizeof(*endpoint) - sizeof(pg_uuid_t));
}

static void
forget_all(void)
{
	HASH_SEQ_STATUS scan;
	Endpoint *endpoint;

	hash_seq_init(&scan, endpoints);
	while ((endpoint = hash_seq_search(&scan)) != NULL)
	{
		forget(endpoint);
		hash_search(endpoints, &endpoint->id, HASH_REMOVE, NULL);
	}
}

/* What the endpoint's template makes of the body; NULL, and the request refused, where it fails. */
static char *
transform(KsDelivery *delivery, const char *body, const pg_uuid_t *event_id)
{
	Datum values[4] = {UUIDPGetDatum(&delivery->user_id), UUIDPGetDatum(&delivery->lane), CStringGetTextDatum(body), UUIDPGetDatum(event_id)};
	char *made = NULL;
	char *fault = NULL;

	(void) ks_spi_execute(&transform_plan, values, NULL, true, 1);
	if (SPI_processed == 1)
	{
		made = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		fault = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	}
	if (made == NULL)
		delivery->request.refusal = fault == NULL ? "the endpoint is gone" : MemoryContextStrdup(delivery->cxt, fault);
	return made;
}

/* The three fields of Standard Webhooks; while a secret is replaced both sign. */
static void
sign(KsDelivery *delivery, const Endpoint *endpoint, const char *id)
{
	KsRequest *request = &delivery->request;
	char *timestamp = psprintf(INT64_FORMAT, (int64) time(NULL));
	char signatures[2 * KS_SIGNATURE_LENGTH + 1];

	ks_webhook_sign(endpoint->mac, id, timestamp, request->body, request->body_length, signatures);
	if (endpoint->previous_mac != NULL && endpoint->previous_until > GetCurrentTimestamp())
	{
		signatures[KS_SIGNATURE_LENGTH - 1] = ' ';
		ks_webhook_sign(endpoint->previous_mac, id, timestamp, request->body, request->body_length, signatures + KS_SIGNATURE_LENGTH);
	}
	ks_request_header(request, "webhook-id", id);
	ks_request_header(request, "webhook-timestamp", timestamp);
	ks_request_header(request, "webhook-signature", signatures);
}

/* Whoever says that it is gone is not asked again. */
static void
judge(KsDelivery *delivery)
{
	if (delivery->outcome.status == STATUS_GONE)
		delivery->verdict = KS_EXHAUSTED;
}

/* Endpoints that are gone, or have failed for days, are disabled. */
static void
settled(KsDelivery **deliveries, int count)
{
	for (int i = 0; i < count; i++)
	{
		const KsDelivery *delivery = deliveries[i];
		TimestampTz since = delivery->lane_state->failing_since;

		if (delivery->outcome.status == STATUS_GONE)
			disable(delivery, "gone");
		else if ((delivery->verdict == KS_RETRY || delivery->verdict == KS_EXHAUSTED) && since != 0 &&
				 GetCurrentTimestamp() - since > (int64) FAILING_DAYS * USECS_PER_DAY)
			disable(delivery, "failing");
	}
}

static void
disable(const KsDelivery *delivery, const char *reason)
{
	Datum values[3] = {UUIDPGetDatum(&delivery->user_id), UUIDPGetDatum(&delivery->lane), CStringGetTextDatum(reason)};

	(void) ks_spi_execute(&disable_plan, values, NULL, false, 0);
}
