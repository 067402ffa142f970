/*
 * call.c
 *	  The statements that the gateway sends, and the shape of their replies.
 *
 * One prepared statement per request, values always bound, the reply in the
 * binary format: keelson.reply arrives as one composite column, which is a
 * count of fields and then for each its type, its length and its bytes.
 */
#include "call.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdatomic.h>

/* What counts as quick, and how many calls the running mean looks back on. */
#define QUICK_US 1000
#define PACE_WEIGHT 8

/* Types of the server's catalogue; they never change. */
#define BYTEA_OID 17
#define INT4_OID 23
#define TEXT_OID 25
#define JSON_OID 114

#define REPLY_FIELDS 3
#define JSONB_VERSION 1

const char gw_call_dispatch_name[] = "dispatch";
const char gw_call_dispatch_sql[] = "select keelson.dispatch($1, $2, $3, $4, $5)";
const Oid gw_call_dispatch_types[GW_CALL_DISPATCH_PARAMS] = {INT4_OID, TEXT_OID, JSON_OID, BYTEA_OID, JSON_OID};

static const char *const statements[GW_CALL_KINDS] = {
	[GW_CALL_READY] = "select is_ready, reason from keelson.gateway_ready()",
	[GW_CALL_HEALTH] = "select is_ready, reason, keelson.gateway_health() from keelson.gateway_ready()",
	[GW_CALL_METRICS] = "select name, labels, value, type, help from keelson.gateway_metrics()",
};

static int write_dispatch(const struct GwCall *call, PGconn *connection);
static bool take_int(struct GwSlice *from, int32_t *out);
static bool take_field(struct GwSlice *from, struct GwSlice *field);

bool
gw_call_write(const struct GwCall *call, PGconn *connection)
{
	int sent;

	if (call->kind == GW_CALL_DISPATCH)
		sent = write_dispatch(call, connection);
	else
		sent = PQsendQueryParams(connection, statements[call->kind], 0, NULL, NULL, NULL, NULL, 0);
	if (!sent)
		return false;
	if (call->is_streamed && !PQsetSingleRowMode(connection))
		return false;
	return PQpipelineSync(connection) == 1;
}

bool
gw_call_row(const PGresult *result, int row, struct GwRow *out)
{
	struct GwSlice record;
	struct GwSlice fields[REPLY_FIELDS];
	int32_t count;

	if (PQnfields(result) != 1 || PQfformat(result, 0) != 1 || row >= PQntuples(result))
		return false;
	record = (struct GwSlice){PQgetvalue(result, row, 0), (size_t) PQgetlength(result, row, 0)};
	if (!take_int(&record, &count) || count != REPLY_FIELDS)
		return false;
	for (int i = 0; i < REPLY_FIELDS; i++)
		if (!take_field(&record, &fields[i]))
			return false;
	out->status = 0;
	if (fields[0].data != NULL)
	{
		if (fields[0].len != 4 || !take_int(&fields[0], &count))
			return false;
		out->status = count;
	}
	out->headers = (struct GwSlice){NULL, 0};
	if (fields[1].data != NULL)
	{
		if (fields[1].len < 1 || fields[1].data[0] != JSONB_VERSION)
			return false;
		out->headers = (struct GwSlice){fields[1].data + 1, fields[1].len - 1};
	}
	out->body = fields[2];
	return true;
}

bool
gw_call_is_quick(const struct GwCall *call)
{
	unsigned mean;

	if (!call->is_read || call->pace == NULL)
		return false;
	mean = atomic_load_explicit(&call->pace->mean_us, memory_order_relaxed);
	return mean > 0 && mean <= QUICK_US;
}

/* Other loops do the same: a sample that is lost between them does not matter. */
void
gw_call_took(struct GwCall *call, int64_t us)
{
	int64_t mean;

	if (call->pace == NULL)
		return;
	mean = atomic_load_explicit(&call->pace->mean_us, memory_order_relaxed);
	mean = mean == 0 ? us : mean + (us - mean) / PACE_WEIGHT;
	atomic_store_explicit(&call->pace->mean_us, mean < 1 ? 1 : mean > UINT_MAX ? UINT_MAX
																			   : (unsigned) mean,
						  memory_order_relaxed);
}

const char *
gw_call_sqlstate(const PGresult *result)
{
	if (result == NULL || PQresultStatus(result) != PGRES_FATAL_ERROR)
		return NULL;
	return PQresultErrorField(result, PG_DIAG_SQLSTATE);
}

static int
write_dispatch(const struct GwCall *call, PGconn *connection)
{
	uint32_t route = htonl((uint32_t) call->route_id);
	const char *values[GW_CALL_DISPATCH_PARAMS] = {
		(const char *) &route, call->credential, call->path_and_query, call->body, call->caller};
	int lengths[GW_CALL_DISPATCH_PARAMS] = {sizeof(route), 0, 0, (int) call->body_len, 0};
	static const int formats[GW_CALL_DISPATCH_PARAMS] = {1, 0, 0, 1, 0};

	return PQsendQueryPrepared(connection, gw_call_dispatch_name, GW_CALL_DISPATCH_PARAMS, values, lengths, formats, 1);
}

static bool
take_int(struct GwSlice *from, int32_t *out)
{
	uint32_t raw;

	if (from->len < sizeof(raw))
		return false;
	memcpy(&raw, from->data, sizeof(raw));
	*out = (int32_t) ntohl(raw);
	from->data += sizeof(raw);
	from->len -= sizeof(raw);
	return true;
}

/* One field of a record: type, length, bytes; data is NULL for a null. */
static bool
take_field(struct GwSlice *from, struct GwSlice *field)
{
	int32_t type;
	int32_t len;

	*field = (struct GwSlice){NULL, 0};
	if (!take_int(from, &type) || !take_int(from, &len))
		return false;
	if (len < 0)
		return true;
	if ((size_t) len > from->len)
		return false;
	*field = (struct GwSlice){from->data, (size_t) len};
	from->data += len;
	from->len -= (size_t) len;
	return true;
}
