/*
 * record.c
 *	  Write one record into keelson.audit_events.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/xid8.h"

#include "audit/days.h"
#include "audit/direct.h"
#include "audit/record.h"
#include "core/era.h"
#include "core/partition.h"
#include "core/roles.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "secrets/keyring.h"
#include "secrets/seal.h"

#define ADDRESS_HASH_LENGTH 16
#define KNOWN_ADDRESSES 64

static const char *const outcomes[] = {[KS_SUCCESS] = "success", [KS_FAILURE] = "failure", [KS_DENIED] = "denied"};
static const char *const actors[] = {
	[KS_BY_USER] = "user",
	[KS_BY_ACCESS_KEY] = "access_key",
	[KS_BY_ADMIN] = "admin",
	[KS_BY_SYSTEM] = "system",
	[KS_BY_ANONYMOUS] = "anonymous"};

/* Each statement names the partition of a day: the way there through the table costs as much as the insert. */
#define INSERT                                                                                                 \
	"insert into keelson.%s"                                                                                   \
	" (user_id, id, era, xid, event_type, outcome, actor, actor_id, request_id, data, personal, address_hash)" \
	" values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)%s"

/* A plan for the day that it was last needed for; written by plan_for(). */
typedef struct DayPlan
{
	int64 day; /* since 1970; 0: none yet */
	const char *ending;
	char sql[512];
	KsPlan plan;
} DayPlan;

/* The second looks before it inserts, which costs. */
static DayPlan insert_plan = {.ending = "", .plan = {.nargs = KS_AUDIT_COLUMN_COUNT, .argtypes = {KS_AUDIT_COLUMN_TYPES}}};
static DayPlan insert_new_plan = {.ending = " on conflict do nothing", .plan = {.nargs = KS_AUDIT_COLUMN_COUNT, .argtypes = {KS_AUDIT_COLUMN_TYPES}}};

/* Hashes of addresses, each where its own hash says; written by hash_address() alone. */
typedef struct KnownAddress
{
	uint64 generation; /* of the keyring that it was made with; 0: none was */
	char ip[KS_AUDIT_MAX_ADDRESS + 1];
	uint8 hash[ADDRESS_HASH_LENGTH];
} KnownAddress;

static KnownAddress known_addresses[KNOWN_ADDRESSES];

static void write_values(const KsAuditRecord *record, Datum *values, bool *nulls);
static const char *partition_of(int64 day);
static KsPlan *plan_for(DayPlan *of, int64 day);
static bytea *seal_personal(const KsAuditRecord *record);
static bytea *hash_address(const char *ip);

void
ks_audit_insert(const KsAuditRecord *record, bool may_exist)
{
	KsRoleSwitch save;
	Datum values[KS_AUDIT_COLUMN_COUNT];
	bool is_null[KS_AUDIT_COLUMN_COUNT];
	char nulls[KS_AUDIT_COLUMN_COUNT + 1] = {0};

	write_values(record, values, is_null);
	for (int i = 0; i < KS_AUDIT_COLUMN_COUNT; i++)
		nulls[i] = is_null[i] ? 'n' : ' ';
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(plan_for(may_exist ? &insert_new_plan : &insert_plan, ks_uuid7_day(&record->id)), values, nulls, false, 0);
	ks_role_leave(&save);
	ks_spi_finish();
	ks_audit_day_written(ks_uuid7_day(&record->id));
}

bool
ks_audit_insert_fast(const KsAuditRecord *record)
{
	KsRoleSwitch save;
	Datum values[KS_AUDIT_COLUMN_COUNT];
	bool nulls[KS_AUDIT_COLUMN_COUNT];
	int64 day = ks_uuid7_day(&record->id);
	bool is_inserted;

	write_values(record, values, nulls);
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	is_inserted = ks_audit_insert_directly(partition_of(day), values, nulls);
	ks_role_leave(&save);
	if (is_inserted)
		ks_audit_day_written(day);
	return is_inserted;
}

static void
write_values(const KsAuditRecord *record, Datum *values, bool *nulls)
{
	bytea *personal = seal_personal(record);
	bytea *address_hash = record->ip != NULL ? hash_address(record->ip) : NULL;

	memset(nulls, 0, KS_AUDIT_COLUMN_COUNT * sizeof(bool));
	values[0] = UUIDPGetDatum(&record->user_id);
	values[1] = UUIDPGetDatum(&record->id);
	values[2] = Int32GetDatum(ks_era());
	values[3] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[4] = CStringGetTextDatum(record->type);
	values[5] = CStringGetTextDatum(outcomes[record->outcome]);
	values[6] = CStringGetTextDatum(actors[record->actor]);
	values[7] = UUIDPGetDatum(&record->actor_id);
	nulls[7] = !record->has_actor_id;
	values[8] = UUIDPGetDatum(&record->request_id);
	nulls[8] = !record->has_request_id;
	values[9] = PointerGetDatum(record->data);
	nulls[9] = record->data == NULL;
	values[10] = PointerGetDatum(personal);
	nulls[10] = personal == NULL;
	values[11] = PointerGetDatum(address_hash);
	nulls[11] = address_hash == NULL;
}

/* The name of the day's partition; stands until the next call. */
static const char *
partition_of(int64 day)
{
	static char name[NAMEDATALEN];
	static int64 named_day = -1;

	if (day == named_day)
		return name;
	ks_partition_name("audit_events", (int32) day, name);
	named_day = day;
	return name;
}

/* The statement for the day. */
static KsPlan *
plan_for(DayPlan *of, int64 day)
{
	if (day == of->day)
		return &of->plan;
	if (of->plan.plan != NULL)
		SPI_freeplan(of->plan.plan);
	of->plan.plan = NULL;
	snprintf(of->sql, sizeof(of->sql), INSERT, partition_of(day), of->ending);
	of->plan.sql = of->sql;
	of->day = day;
	return &of->plan;
}

Jsonb *
ks_audit_data_with(Jsonb *data, const char *name, JsonbValue *value)
{
	JsonbParseState *state = NULL;
	JsonbValue key = {.type = jbvString}, each;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (data != NULL)
	{
		JsonbIterator *iterator = JsonbIteratorInit(&data->root);
		JsonbIteratorToken token;

		while ((token = JsonbIteratorNext(&iterator, &each, true)) != WJB_DONE)
			if (token == WJB_KEY || token == WJB_VALUE)
				pushJsonbValue(&state, token, &each);
	}
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_VALUE, value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* {"ip": …, "userAgent": …, "data": {…}} as far as known, sealed; NULL for nothing. */
static bytea *
seal_personal(const KsAuditRecord *record)
{
	KsSealContext context = {.row_id = record->id};
	StringInfoData json;

	if (record->ip == NULL && record->user_agent == NULL && record->personal == NULL)
		return NULL;
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	if (record->ip != NULL)
	{
		appendStringInfoString(&json, "\"ip\":");
		escape_json(&json, record->ip);
	}
	if (record->user_agent != NULL)
	{
		appendStringInfoString(&json, json.len > 1 ? ",\"userAgent\":" : "\"userAgent\":");
		escape_json(&json, pnstrdup(record->user_agent, record->user_agent_len));
	}
	if (record->personal != NULL)
	{
		appendStringInfoString(&json, json.len > 1 ? ",\"data\":" : "\"data\":");
		(void) JsonbToCString(&json, &record->personal->root, VARSIZE(record->personal));
	}
	appendStringInfoChar(&json, '}');
	context.has_user = !ks_uuid_is_nil(&record->user_id);
	context.purpose = context.has_user ? "audit" : "audit-nobody";
	context.user_id = record->user_id;
	return ks_seal(&context, json.data, json.len);
}

static bytea *
hash_address(const char *ip)
{
	size_t len = strlen(ip);
	KnownAddress *known = &known_addresses[hash_bytes((const unsigned char *) ip, len) % KNOWN_ADDRESSES];
	uint64 generation = ks_keyring_generation();
	uint8 mac[KS_SHA256_LENGTH];
	bytea *hash = palloc(VARHDRSZ + ADDRESS_HASH_LENGTH);

	ks_keyring_require();
	if (known->generation != generation || strcmp(known->ip, ip) != 0)
	{
		known->generation = 0;
		ks_keyring_mac(0, "audit-address", ip, len, mac);
		memcpy(known->hash, mac, ADDRESS_HASH_LENGTH);
		strlcpy(known->ip, ip, sizeof(known->ip));
		known->generation = generation;
	}
	SET_VARSIZE(hash, VARHDRSZ + ADDRESS_HASH_LENGTH);
	memcpy(VARDATA(hash), known->hash, ADDRESS_HASH_LENGTH);
	return hash;
}

PG_FUNCTION_INFO_V1(ks_audit_address_hash);

/* keelson._audit_address_hash(key_id integer, address text) */
Datum
ks_audit_address_hash(PG_FUNCTION_ARGS)
{
	uint8 mac[KS_SHA256_LENGTH];
	text *address = PG_GETARG_TEXT_PP(1);
	bytea *hash = palloc(VARHDRSZ + ADDRESS_HASH_LENGTH);

	ks_keyring_mac((uint32) PG_GETARG_INT32(0), "audit-address", VARDATA_ANY(address), VARSIZE_ANY_EXHDR(address), mac);
	SET_VARSIZE(hash, VARHDRSZ + ADDRESS_HASH_LENGTH);
	memcpy(VARDATA(hash), mac, ADDRESS_HASH_LENGTH);
	PG_RETURN_BYTEA_P(hash);
}
