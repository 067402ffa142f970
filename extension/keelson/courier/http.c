/*
 * http.c
 *	  The kind "http": a request that stands in keelson.http_requests, and a
 *	  function that is called with the answer, in the transaction that settles it.
 *
 * For what the server fetches off the request path: key sets of issuers,
 * alerts. The row goes when the delivery is over.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "core/spi.h"
#include "courier/courier.h"
#include "courier/http.h"

static KsPlan read_plan = {
	"select r.url, r.method, r.body, r.timeout_ms, r.is_trusted,"
	" array(select h.key from jsonb_each_text(r.headers) as h order by h.key),"
	" array(select h.value from jsonb_each_text(r.headers) as h order by h.key)"
	" from keelson.http_requests as r where r.user_id = $1 and r.id = $2",
	2,
	{UUIDOID, UUIDOID}};
static KsPlan answer_plan = {
	"select keelson._http_answer($1, $2, $3, $4, $5, $6, $7, $8)", 8, {UUIDOID, UUIDOID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID}};

static const int32 schedule[] = {1, 5, 30, 300};

static void build(KsDelivery **deliveries, int count);
static void build_one(KsDelivery *delivery);
static void add_headers(KsRequest *request, HeapTuple row, TupleDesc desc);
static char *get_text(MemoryContext cxt, HeapTuple row, TupleDesc desc, int number);
static void settled(KsDelivery **deliveries, int count);

static const KsCourierKind kind = {"http", build, NULL, settled, schedule, lengthof(schedule)};

void
ks_http_init(void)
{
	ks_courier_kind_register(&kind);
}

static void
build(KsDelivery **deliveries, int count)
{
	for (int i = 0; i < count; i++)
		build_one(deliveries[i]);
}

static void
build_one(KsDelivery *delivery)
{
	KsRequest *request = &delivery->request;
	Datum values[2] = {UUIDPGetDatum(&delivery->user_id), UUIDPGetDatum(&delivery->ref)};
	MemoryContext save = MemoryContextSwitchTo(delivery->cxt);
	HeapTuple row;
	TupleDesc desc;
	bool is_null;

	(void) ks_spi_execute(&read_plan, values, NULL, true, 1);
	if (SPI_processed == 0)
	{
		request->refusal = "the request is gone";
		delivery->verdict = KS_CANCELLED;
		MemoryContextSwitchTo(save);
		return;
	}
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	request->url = get_text(delivery->cxt, row, desc, 1);
	request->method = get_text(delivery->cxt, row, desc, 2);
	request->body = get_text(delivery->cxt, row, desc, 3);
	request->body_length = request->body == NULL ? 0 : strlen(request->body);
	request->timeout_ms = DatumGetInt32(SPI_getbinval(row, desc, 4, &is_null));
	request->is_trusted = DatumGetBool(SPI_getbinval(row, desc, 5, &is_null));
	request->response_kept = KS_RESPONSE_READ;
	request->wants_cache_control = true;
	MemoryContextSwitchTo(delivery->cxt);
	add_headers(request, row, desc);
	SPI_freetuptable(SPI_tuptable);
	MemoryContextSwitchTo(save);
}

static void
add_headers(KsRequest *request, HeapTuple row, TupleDesc desc)
{
	ArrayType *names;
	ArrayType *values;
	Datum *name;
	Datum *value;
	bool is_null;
	int count;

	names = DatumGetArrayTypePCopy(SPI_getbinval(row, desc, 6, &is_null));
	values = DatumGetArrayTypePCopy(SPI_getbinval(row, desc, 7, &is_null));
	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &name, NULL, &count);
	deconstruct_array(values, TEXTOID, -1, false, TYPALIGN_INT, &value, NULL, &count);
	for (int i = 0; i < count; i++)
		ks_request_header(request, TextDatumGetCString(name[i]), TextDatumGetCString(value[i]));
}

static char *
get_text(MemoryContext cxt, HeapTuple row, TupleDesc desc, int number)
{
	char *value = SPI_getvalue(row, desc, number);

	return value == NULL ? NULL : MemoryContextStrdup(cxt, value);
}

/* Hand the answer over, and whether there will be another. */
static void
settled(KsDelivery **deliveries, int count)
{
	for (int i = 0; i < count; i++)
	{
		const KsDelivery *delivery = deliveries[i];
		const KsAnswer *outcome = &delivery->outcome;
		char nulls[9] = "        ";
		Datum values[8] = {UUIDPGetDatum(&delivery->user_id), UUIDPGetDatum(&delivery->ref), Int32GetDatum(outcome->status)};
		bool is_text;

		if (delivery->verdict == KS_RELEASED)
			continue;
		is_text = outcome->response_length > 0 && pg_verify_mbstr(GetDatabaseEncoding(), outcome->response, outcome->response_length, true);
		if (outcome->content_type != NULL)
			values[3] = CStringGetTextDatum(outcome->content_type);
		if (outcome->cache_control != NULL)
			values[4] = CStringGetTextDatum(outcome->cache_control);
		if (is_text)
			values[5] = PointerGetDatum(cstring_to_text_with_len(outcome->response, outcome->response_length));
		if (outcome->error != NULL)
			values[6] = CStringGetTextDatum(outcome->error);
		values[7] = BoolGetDatum(delivery->verdict != KS_RETRY);
		nulls[2] = outcome->status == 0 ? 'n' : ' ';
		nulls[3] = outcome->content_type == NULL ? 'n' : ' ';
		nulls[4] = outcome->cache_control == NULL ? 'n' : ' ';
		nulls[5] = is_text ? ' ' : 'n';
		nulls[6] = outcome->error == NULL ? 'n' : ' ';
		(void) ks_spi_execute(&answer_plan, values, nulls, false, 0);
	}
}
