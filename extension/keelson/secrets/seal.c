/*
 * seal.c
 *	  seal and unseal: the format, the registered purposes, and the choice of
 *	  the key.
 *
 * A value of a user is sealed with the user's key (user_keys.c), so that
 * erasing that key erases the value; a value of the server with a key derived
 * for the purpose from a master key. Nonces are random, 96 bits: a key seals at
 * most 2^31 values, see the README.
 *
 * The ciphers keep the key of the value before, so that many values of one user
 * cost no key set-up; users' keys are wrapped by ciphers of their own, so that
 * values of many users cost one set-up each. They lose their keys when the
 * transaction ends.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "port/atomics.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "core/error.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "secrets/crypto.h"
#include "secrets/seal.h"
#include "secrets/user_keys.h"

#define VERSION 1
#define HEADER_LENGTH 5
#define MAX_KNOWN_PURPOSES 128
#define MAX_AAD (HEADER_LENGTH + 1 + 2 * UUID_LEN + KS_SEAL_PURPOSE_LENGTH)

/* A cipher and the serial of the key it holds, 0 for none. */
typedef struct KeyedCipher
{
	KsGcm *gcm;
	uint64 serial;
} KeyedCipher;

/* Of this backend; keys forgotten when the transaction ends. */
static KeyedCipher sealer;
static KeyedCipher opener;
static KeyedCipher wrapper;
static KeyedCipher unwrapper;

/* In shared memory: how many values did not open since the server started. */
static pg_atomic_uint64 *failures;

/* Who is told of them; set once, while the library is loaded. */
static void (*on_failure)(const KsSealContext *context);

/*
 * Purposes found in keelson.seal_purposes, most of them asked for once in a
 * backend's life. A purpose is never taken away, so none is forgotten.
 */
typedef struct KnownPurpose
{
	char name[KS_SEAL_PURPOSE_LENGTH];
	bool is_user;
	bool is_audited;
} KnownPurpose;

static KnownPurpose *known_purposes;
static int known_count;

static KsPlan purpose_plan = {"select scope = 'user', is_opening_audited from keelson.seal_purposes where name = $1", 1, {TEXTOID}};
static KsPlan audit_plan = {
	"select keelson.audit('key.use', pg_catalog.jsonb_build_object('what', $1, 'rowId', $2) || coalesce($3, '{}'), 'success', $4)",
	4,
	{TEXTOID, UUIDOID, JSONBOID, UUIDOID}};

static KsPlan audit_at_once_plan = {
	"select keelson._audit_at_once('key.use', pg_catalog.jsonb_build_object('what', $1, 'rowId', $2) || coalesce($3, '{}'), $4)",
	4,
	{TEXTOID, UUIDOID, JSONBOID, UUIDOID}};

static void init_shared(void *area, bool found);
static void seal_by(KeyedCipher *cipher, const KsKey *key, uint32 key_id, const KsSealContext *context, const void *data, size_t len, uint8 *out);
static bool unseal_by(KeyedCipher *cipher, const KsKey *key, const KsSealContext *context, const uint8 *sealed, size_t len, uint8 *out);
static const uint8 *choose(KeyedCipher *cipher, bool seals, const KsKey *key);
static void forget_keys(XactEvent event, void *arg);
static size_t write_aad(uint8 *aad, const uint8 *header, const KsSealContext *context);
static const KsKey *server_key(uint32 key_id, const char *purpose);
static const KnownPurpose *check_purpose(const KsSealContext *context);
static const KnownPurpose *find_purpose(const char *name);
static const KnownPurpose *load_purpose(const char *name);
static void record_opening(KsPlan *plan, const KsSealContext *context, Jsonb *details);
static bytea *open_recorded(FunctionCallInfo fcinfo, KsPlan *plan);

/* Begin: the counter of failures. */
void
ks_sealing_init(void)
{
	ks_shmem_register("keelson sealing", sizeof(pg_atomic_uint64), init_shared, (void **) &failures);
}

static void
init_shared(void *area, bool found)
{
	if (!found)
		pg_atomic_init_u64(area, 0);
}

void
ks_unseal_on_failure(void (*report)(const KsSealContext *context))
{
	on_failure = report;
}

bytea *
ks_seal(const KsSealContext *context, const void *data, size_t len)
{
	bytea *result;
	const KsKey *key;
	uint32 key_id;

	ks_keyring_require();
	(void) check_purpose(context);
	if (len > KS_SEAL_MAX_LENGTH)
		ks_raise(413, "PAYLOAD_TOO_LARGE", NULL, "a value to seal may have %d bytes", KS_SEAL_MAX_LENGTH);
	result = palloc(VARHDRSZ + len + KS_SEAL_OVERHEAD);
	SET_VARSIZE(result, VARHDRSZ + len + KS_SEAL_OVERHEAD);
	if (context->has_user)
	{
		key = ks_user_key_current(&context->user_id, &key_id);
		seal_by(&sealer, key, key_id, context, data, len, (uint8 *) VARDATA(result));
		ks_user_key_count_use(&context->user_id, key_id);
		return result;
	}
	key_id = ks_keyring_primary();
	key = server_key(key_id, context->purpose);
	seal_by(&sealer, key, key_id, context, data, len, (uint8 *) VARDATA(result));
	return result;
}

bytea *
ks_unseal(const KsSealContext *context, const bytea *sealed)
{
	const uint8 *bytes = (const uint8 *) VARDATA_ANY(sealed);
	size_t len = VARSIZE_ANY_EXHDR(sealed);
	const KsKey *key;
	uint32 key_id;
	bytea *result;

	ks_keyring_require();
	(void) check_purpose(context);
	if (!ks_seal_key_id(bytes, len, &key_id))
		ks_unseal_fail(context, "it is no sealed value");
	result = palloc(VARHDRSZ + len - KS_SEAL_OVERHEAD);
	SET_VARSIZE(result, VARHDRSZ + len - KS_SEAL_OVERHEAD);
	if (context->has_user)
		key = ks_user_key(&context->user_id, key_id);
	else
		key = ks_keyring_has(key_id) ? server_key(key_id, context->purpose) : NULL;
	if (key == NULL)
		ks_unseal_fail(context, context->has_user ? "the user has no key %u" : "the keyring lacks key %u", key_id);
	if (!unseal_by(&opener, key, context, bytes, len, (uint8 *) VARDATA(result)))
		ks_unseal_fail(context, "it was changed, or sealed for another place, under key %u", key_id);
	return result;
}

void
ks_unseal_fail(const KsSealContext *context, const char *fmt, ...)
{
	char reason[128];
	va_list args;

	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	pg_atomic_fetch_add_u64(failures, 1);
	ereport(LOG_SERVER_ONLY,
			(errmsg("a sealed value of purpose \"%s\" could not be opened: %s", context->purpose, reason),
			 errdetail("It belongs to user %s, row %s.", ks_uuid_string(&context->user_id), ks_uuid_string(&context->row_id))));
	if (on_failure != NULL)
		on_failure(context);
	ks_raise(500, "INTERNAL", NULL, "a sealed value could not be opened");
}

void
ks_wrap_with(const KsKey *key, uint32 key_id, const KsSealContext *context, const uint8 in[KS_KEY_LENGTH], uint8 *out)
{
	seal_by(&wrapper, key, key_id, context, in, KS_KEY_LENGTH, out);
}

bool
ks_unwrap_with(const KsKey *key, const KsSealContext *context, const uint8 *wrapped, size_t len, uint8 *out)
{
	return unseal_by(&unwrapper, key, context, wrapped, len, out);
}

static void
seal_by(KeyedCipher *cipher, const KsKey *key, uint32 key_id, const KsSealContext *context, const void *data, size_t len, uint8 *out)
{
	uint8 aad[MAX_AAD];
	size_t aad_len;
	uint32 network_id = pg_hton32(key_id);
	uint8 *nonce = out + HEADER_LENGTH;
	uint8 *text = nonce + KS_NONCE_LENGTH;
	const uint8 *new_key = choose(cipher, true, key);

	out[0] = VERSION;
	memcpy(out + 1, &network_id, sizeof(network_id));
	ks_random_nonce(nonce, KS_NONCE_LENGTH);
	aad_len = write_aad(aad, out, context);
	ks_gcm_seal(cipher->gcm, new_key, nonce, aad, aad_len, data, len, text, text + len);
	cipher->serial = key->serial;
}

static bool
unseal_by(KeyedCipher *cipher, const KsKey *key, const KsSealContext *context, const uint8 *sealed, size_t len, uint8 *out)
{
	uint8 aad[MAX_AAD];
	size_t aad_len = write_aad(aad, sealed, context);
	const uint8 *nonce = sealed + HEADER_LENGTH;
	const uint8 *text = nonce + KS_NONCE_LENGTH;
	const uint8 *new_key = choose(cipher, false, key);
	size_t text_len = len - KS_SEAL_OVERHEAD;
	bool opened = ks_gcm_open(cipher->gcm, new_key, nonce, aad, aad_len, text, text_len, out, text + text_len);

	cipher->serial = key->serial;
	return opened;
}

bool
ks_seal_key_id(const uint8 *sealed, size_t len, uint32 *key_id)
{
	if (len < KS_SEAL_OVERHEAD || sealed[0] != VERSION)
		return false;
	memcpy(key_id, sealed + 1, sizeof(*key_id));
	*key_id = pg_ntoh32(*key_id);
	return true;
}

/*
 * Make the cipher ready for the key: returns the bytes to set up, or NULL when
 * it holds that key already. An error in between leaves it holding none.
 */
static const uint8 *
choose(KeyedCipher *cipher, bool seals, const KsKey *key)
{
	static bool registered = false;
	bool is_held = cipher->serial == key->serial && cipher->gcm != NULL && ks_gcm_is_keyed(cipher->gcm);

	if (!registered)
	{
		RegisterXactCallback(forget_keys, NULL);
		registered = true;
	}
	if (cipher->gcm == NULL)
		cipher->gcm = ks_gcm_create(seals);
	cipher->serial = 0;
	return is_held ? NULL : key->bytes;
}

static void
forget_keys(XactEvent event, void *arg)
{
	KeyedCipher *ciphers[] = {&sealer, &opener, &wrapper, &unwrapper};

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE &&
		event != XACT_EVENT_PARALLEL_COMMIT && event != XACT_EVENT_PARALLEL_ABORT)
		return;
	for (int i = 0; i < lengthof(ciphers); i++)
	{
		if (ciphers[i]->gcm != NULL)
			ks_gcm_forget(ciphers[i]->gcm);
		ciphers[i]->serial = 0;
	}
}

/* What the tag binds besides the text: of fixed length up to the purpose. */
static size_t
write_aad(uint8 *aad, const uint8 *header, const KsSealContext *context)
{
	uint8 *to = aad;
	size_t len = strlen(context->purpose);

	memcpy(to, header, HEADER_LENGTH);
	to += HEADER_LENGTH;
	*to++ = context->has_user ? 1 : 0;
	if (context->has_user)
		memcpy(to, context->user_id.data, UUID_LEN);
	else
		memset(to, 0, UUID_LEN);
	to += UUID_LEN;
	memcpy(to, context->row_id.data, UUID_LEN);
	to += UUID_LEN;
	memcpy(to, context->purpose, len);
	return to + len - aad;
}

/* The server's key for the purpose: each has its own. */
static const KsKey *
server_key(uint32 key_id, const char *purpose)
{
	char name[KS_SEAL_PURPOSE_LENGTH + 8];

	snprintf(name, sizeof(name), "seal:%s", purpose);
	return ks_keyring_key(key_id, name);
}

/* The registered purpose; refuses one that is not, or not for this kind of value. */
static const KnownPurpose *
check_purpose(const KsSealContext *context)
{
	const KnownPurpose *known = find_purpose(context->purpose);

	if (known == NULL && strlen(context->purpose) < KS_SEAL_PURPOSE_LENGTH)
		known = load_purpose(context->purpose);
	if (known == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("purpose \"%s\" of a sealed value is not registered", context->purpose),
				 errhint("Insert it into keelson.seal_purposes.")));
	if (known->is_user != context->has_user)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("purpose \"%s\" is for values of %s", context->purpose, known->is_user ? "a user" : "the server")));
	return known;
}

static const KnownPurpose *
find_purpose(const char *name)
{
	for (int i = 0; i < known_count; i++)
		if (strcmp(known_purposes[i].name, name) == 0)
			return &known_purposes[i];
	return NULL;
}

static const KnownPurpose *
load_purpose(const char *name)
{
	KsRoleSwitch save;
	Datum values[1] = {CStringGetTextDatum(name)};
	bool is_null;
	bool found;
	bool is_user = false;
	bool is_audited = false;
	KnownPurpose *known;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&purpose_plan, values, NULL, true, 1);
	found = SPI_processed == 1;
	if (found)
	{
		is_user = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
		is_audited = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));
	}
	ks_role_leave(&save);
	ks_spi_finish();
	if (!found)
		return NULL;
	if (known_purposes == NULL)
		known_purposes = MemoryContextAllocZero(TopMemoryContext, MAX_KNOWN_PURPOSES * sizeof(KnownPurpose));
	known = &known_purposes[known_count < MAX_KNOWN_PURPOSES ? known_count++ : MAX_KNOWN_PURPOSES - 1];
	strlcpy(known->name, name, sizeof(known->name));
	known->is_user = is_user;
	known->is_audited = is_audited;
	return known;
}

/* Note in the audit trail that a user's secret was opened; with details, where there are any. */
static void
record_opening(KsPlan *plan, const KsSealContext *context, Jsonb *details)
{
	KsRoleSwitch save;
	Datum values[4];
	const char *nulls = details == NULL ? "  n " : "    ";

	values[0] = CStringGetTextDatum(context->purpose);
	values[1] = UUIDPGetDatum(&context->row_id);
	values[2] = details != NULL ? JsonbPGetDatum(details) : (Datum) 0;
	values[3] = UUIDPGetDatum(&context->user_id);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(plan, values, nulls, false, 0);
	ks_role_leave(&save);
	ks_spi_finish();
}

/* The row type of the context as the calls of one expression see it. */
typedef struct ContextType
{
	Oid type;
	int32 typmod;
	TupleDesc desc;
} ContextType;

static TupleDesc context_desc(FunctionCallInfo fcinfo, HeapTupleHeader row);

/* Read a keelson.seal_context; purpose has KS_SEAL_PURPOSE_LENGTH bytes. */
static void
read_context(FunctionCallInfo fcinfo, HeapTupleHeader row, KsSealContext *context, char *purpose)
{
	HeapTupleData tuple;
	Datum values[3];
	bool nulls[3];
	text *name;

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	heap_deform_tuple(&tuple, context_desc(fcinfo, row), values, nulls);
	if (nulls[0])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a sealed value needs a purpose")));
	name = DatumGetTextPP(values[0]);
	text_to_cstring_buffer(name, purpose, KS_SEAL_PURPOSE_LENGTH);
	memset(context, 0, sizeof(*context));
	context->purpose = purpose;
	context->has_user = !nulls[1];
	if (!nulls[1])
		context->user_id = *DatumGetUUIDP(values[1]);
	if (!nulls[2])
		context->row_id = *DatumGetUUIDP(values[2]);
}

static TupleDesc
context_desc(FunctionCallInfo fcinfo, HeapTupleHeader row)
{
	ContextType *known = fcinfo->flinfo->fn_extra;
	Oid type = HeapTupleHeaderGetTypeId(row);
	int32 typmod = HeapTupleHeaderGetTypMod(row);
	MemoryContext old;

	if (known != NULL && known->type == type && known->typmod == typmod)
		return known->desc;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	known = palloc(sizeof(ContextType));
	known->type = type;
	known->typmod = typmod;
	known->desc = lookup_rowtype_tupdesc_copy(type, typmod);
	MemoryContextSwitchTo(old);
	if (known->desc->natts != 3)
		elog(ERROR, "keelson.seal_context has %d attributes, not 3", known->desc->natts);
	fcinfo->flinfo->fn_extra = known;
	return known->desc;
}

PG_FUNCTION_INFO_V1(ks_seal_sql);

/* keelson.seal(bytea, keelson.seal_context) */
Datum
ks_seal_sql(PG_FUNCTION_ARGS)
{
	bytea *data = PG_GETARG_BYTEA_PP(0);
	char purpose[KS_SEAL_PURPOSE_LENGTH];
	KsSealContext context;

	read_context(fcinfo, PG_GETARG_HEAPTUPLEHEADER(1), &context, purpose);
	PG_RETURN_BYTEA_P(ks_seal(&context, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)));
}

PG_FUNCTION_INFO_V1(ks_unseal_sql);

/* keelson.unseal(bytea, keelson.seal_context) */
Datum
ks_unseal_sql(PG_FUNCTION_ARGS)
{
	bytea *sealed = PG_GETARG_BYTEA_PP(0);
	char purpose[KS_SEAL_PURPOSE_LENGTH];
	KsSealContext context;
	bytea *data;

	read_context(fcinfo, PG_GETARG_HEAPTUPLEHEADER(1), &context, purpose);
	data = ks_unseal(&context, sealed);
	if (unlikely(check_purpose(&context)->is_audited))
		record_opening(&audit_plan, &context, NULL);
	PG_RETURN_BYTEA_P(data);
}

/* Open a value and have that recorded, with the details of the third argument. */
static bytea *
open_recorded(FunctionCallInfo fcinfo, KsPlan *plan)
{
	bytea *sealed = PG_GETARG_BYTEA_PP(0);
	char purpose[KS_SEAL_PURPOSE_LENGTH];
	KsSealContext context;
	bytea *data;

	read_context(fcinfo, PG_GETARG_HEAPTUPLEHEADER(1), &context, purpose);
	data = ks_unseal(&context, sealed);
	record_opening(plan, &context, PG_GETARG_JSONB_P(2));
	return data;
}

PG_FUNCTION_INFO_V1(ks_unseal_for);

/* keelson._unseal_for(bytea, keelson.seal_context, details jsonb) */
Datum
ks_unseal_for(PG_FUNCTION_ARGS)
{
	PG_RETURN_BYTEA_P(open_recorded(fcinfo, &audit_plan));
}

PG_FUNCTION_INFO_V1(ks_unseal_at_once);

/* keelson._unseal_at_once(bytea, keelson.seal_context, details jsonb) */
Datum
ks_unseal_at_once(PG_FUNCTION_ARGS)
{
	PG_RETURN_BYTEA_P(open_recorded(fcinfo, &audit_at_once_plan));
}

PG_FUNCTION_INFO_V1(ks_reseal);

/* keelson._reseal(bytea, keelson.seal_context): null where the value does not open */
Datum
ks_reseal(PG_FUNCTION_ARGS)
{
	bytea *sealed = PG_GETARG_BYTEA_PP(0);
	const uint8 *bytes = (const uint8 *) VARDATA_ANY(sealed);
	size_t len = VARSIZE_ANY_EXHDR(sealed);
	char purpose[KS_SEAL_PURPOSE_LENGTH];
	KsSealContext context;
	uint32 key_id;
	uint8 *data;
	bytea *result;

	read_context(fcinfo, PG_GETARG_HEAPTUPLEHEADER(1), &context, purpose);
	ks_keyring_require();
	(void) check_purpose(&context);
	if (context.has_user)
		elog(ERROR, "a user's value is not sealed anew: its key is wrapped anew");
	if (!ks_seal_key_id(bytes, len, &key_id) || !ks_keyring_has(key_id))
		PG_RETURN_NULL();
	data = palloc(len);
	if (!unseal_by(&opener, server_key(key_id, purpose), &context, bytes, len, data))
		PG_RETURN_NULL();
	result = ks_seal(&context, data, len - KS_SEAL_OVERHEAD);
	ks_wipe(data, len);
	PG_RETURN_BYTEA_P(result);
}

PG_FUNCTION_INFO_V1(ks_sealed_key_id);

/* keelson._sealed_key_id(bytea): null for what is no sealed value */
Datum
ks_sealed_key_id(PG_FUNCTION_ARGS)
{
	bytea *sealed = PG_GETARG_BYTEA_PP(0);
	uint32 key_id;

	if (!ks_seal_key_id((const uint8 *) VARDATA_ANY(sealed), VARSIZE_ANY_EXHDR(sealed), &key_id))
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) key_id);
}

PG_FUNCTION_INFO_V1(ks_unseal_failures);

/* keelson._unseal_failures() */
Datum
ks_unseal_failures(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	PG_RETURN_INT64((int64) pg_atomic_read_u64(failures));
}
