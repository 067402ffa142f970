/*
 * idempotency.c
 *	  Idempotency keys of authenticated callers.
 *
 * A request in flight holds an advisory transaction lock on its key, taken
 * without waiting: who does not get it learns that the first is in progress.
 * The row is looked for after the lock is held, with a snapshot of its own, so
 * that a first request which commits in between is seen. What rolls back
 * leaves neither lock nor row.
 *
 * The reply is sealed under the user's key, bound to the row: status, headers
 * as JSON, body.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/identity.h"
#include "core/keeper.h"
#include "core/roles.h"
#include "core/spi.h"
#include "dispatch/idempotency.h"
#include "secrets/crypto.h"
#include "secrets/seal.h"

#define KEY_LENGTH_MAX 255
#define PURGE_INTERVAL_MS (10 * 60 * 1000)
#define PURGE_BATCH 1000

/* Marks a reply without headers or body. */
#define ABSENT (-1)

/* The keeper's duty, by number; set while the library is preloaded. */
static int duty;

static bool is_key_good(const char *key);
static void key_hash(const KsCall *call, uint8 *hash);
static bool claim(const uint8 *hash);
static bytea *fingerprint(const KsCall *call);
static void hash_part(StringInfo message, const char *part, int len);
static bool find_kept(KsCall *call, bytea **fingerprint, bytea **sealed);
static void replay(KsCall *call, const uint8 *hash, const bytea *sealed);
static void seal_context(const KsCall *call, const uint8 *hash, KsSealContext *context);
static void write_part(StringInfo out, const char *part, int len);
static const char *read_part(StringInfo in, int *len);
static void purge(void);

void
ks_idempotency_init(void)
{
	duty = ks_keeper_register("idempotency keys", PURGE_INTERVAL_MS, true, purge);
}

bool
ks_idempotency_begin(KsCall *call)
{
	uint8 hash[KS_SHA256_LENGTH];
	bytea *kept_fingerprint;
	bytea *sealed;
	bytea *ours;

	/* Who acts counts, not the credential: what is open to all knows nobody by an access key. */
	if (call->caller.idempotency_key == NULL || !call->route->is_unsafe || !ks_identity()->has_user)
		return true;
	if (!is_key_good(call->caller.idempotency_key))
		return ks_reply_refuse(&call->reply, 400, "BAD_REQUEST", "the header Idempotency-Key is not 1 to 255 printable ASCII characters");
	key_hash(call, hash);
	if (!claim(hash))
		return ks_reply_refuse(&call->reply, 409, "IDEMPOTENCY_IN_PROGRESS", "a request with this Idempotency-Key is still in progress");
	call->is_keyed = true;
	if (!find_kept(call, &kept_fingerprint, &sealed))
		return true;
	ours = fingerprint(call);
	if (VARSIZE_ANY_EXHDR(kept_fingerprint) != VARSIZE_ANY_EXHDR(ours) ||
		memcmp(VARDATA_ANY(kept_fingerprint), VARDATA_ANY(ours), VARSIZE_ANY_EXHDR(ours)) != 0)
		return ks_reply_refuse(&call->reply, 409, "IDEMPOTENCY_CONFLICT", "this Idempotency-Key was used for another request");
	replay(call, hash, sealed);
	return false;
}

static bool
is_key_good(const char *key)
{
	int len = strlen(key);

	for (int i = 0; i < len; i++)
		if (key[i] < ' ' || key[i] > '~')
			return false;
	return len >= 1 && len <= KEY_LENGTH_MAX;
}

/* SHA-256 of user and key: names the lock, and the row for sealing. */
static void
key_hash(const KsCall *call, uint8 *hash)
{
	StringInfoData message;

	initStringInfo(&message);
	appendStringInfoString(&message, "keelson idempotency ");
	appendBinaryStringInfo(&message, (const char *) call->credential.identity.user_id.data, UUID_LEN);
	appendStringInfoString(&message, call->caller.idempotency_key);
	ks_sha256(message.data, message.len, hash);
}

/* Take the key's lock until the transaction ends; false when another has it. */
static bool
claim(const uint8 *hash)
{
	int64 lock;

	memcpy(&lock, hash, sizeof(lock));
	return DatumGetBool(DirectFunctionCall1(pg_try_advisory_xact_lock_int8, Int64GetDatum(lock)));
}

/* SHA-256 of what the request asks for. */
static bytea *
fingerprint(const KsCall *call)
{
	StringInfoData message;
	bytea *hash = palloc(VARHDRSZ + KS_SHA256_LENGTH);

	initStringInfo(&message);
	hash_part(&message, call->route->name, strlen(call->route->name));
	hash_part(&message, call->path_and_query, call->path_and_query_len);
	hash_part(&message, call->body, call->body_len);
	SET_VARSIZE(hash, VARHDRSZ + KS_SHA256_LENGTH);
	ks_sha256(message.data, message.len, (uint8 *) VARDATA(hash));
	return hash;
}

/* Each part after its length, so that no two requests are one. */
static void
hash_part(StringInfo message, const char *part, int len)
{
	appendStringInfo(message, "%d:", part != NULL ? len : ABSENT);
	if (part != NULL)
		appendBinaryStringInfo(message, part, len);
}

static bool
find_kept(KsCall *call, bytea **kept_fingerprint, bytea **sealed)
{
	static KsPlan plan = {
		.sql = "select fingerprint, reply from keelson.idempotency_keys "
			   "where user_id = $1 and key = $2 and expires_at > pg_catalog.now()",
		.nargs = 2,
		.argtypes = {UUIDOID, TEXTOID}};
	Datum values[] = {UUIDPGetDatum(&call->credential.identity.user_id), CStringGetTextDatum(call->caller.idempotency_key)};
	MemoryContext cxt = CurrentMemoryContext;
	KsRoleSwitch save;
	bool is_null;
	bool found;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	/* Not read-only: that would take the statement's snapshot, older than the lock. */
	(void) ks_spi_execute(&plan, values, NULL, false, 1);
	ks_role_leave(&save);
	found = SPI_processed == 1;
	if (found)
	{
		HeapTuple tuple = SPI_tuptable->vals[0];
		MemoryContext spi = MemoryContextSwitchTo(cxt);

		*kept_fingerprint = DatumGetByteaPCopy(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null));
		*sealed = DatumGetByteaPCopy(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &is_null));
		MemoryContextSwitchTo(spi);
	}
	ks_spi_finish();
	return found;
}

/* Make the kept reply this call's. */
static void
replay(KsCall *call, const uint8 *hash, const bytea *sealed)
{
	KsSealContext context;
	bytea *plain;
	StringInfoData in;
	const char *part;
	int len;

	seal_context(call, hash, &context);
	plain = ks_unseal(&context, sealed);
	in.data = VARDATA_ANY(plain);
	in.len = in.maxlen = VARSIZE_ANY_EXHDR(plain);
	in.cursor = 0;
	call->reply.status = pq_getmsgint(&in, 4);
	part = read_part(&in, &len);
	if (part != NULL)
		ks_reply_headers(&call->reply, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(part, len)))));
	part = read_part(&in, &len);
	call->reply.body = part != NULL ? cstring_to_text_with_len(part, len) : NULL;
	ks_reply_header(&call->reply, "Idempotency-Replayed", "true");
}

void
ks_idempotency_keep(KsCall *call)
{
	static KsPlan plan = {
		.sql = "insert into keelson.idempotency_keys as kept (user_id, key, fingerprint, reply, expires_at) "
			   "values ($1, $2, $3, $4, pg_catalog.now() + '24 hours') "
			   "on conflict on constraint idempotency_keys_pkey do update "
			   "set fingerprint = excluded.fingerprint, reply = excluded.reply, "
			   "created_at = excluded.created_at, expires_at = excluded.expires_at "
			   "where kept.expires_at <= pg_catalog.now()",
		.nargs = 4,
		.argtypes = {UUIDOID, TEXTOID, BYTEAOID, BYTEAOID}};
	Jsonb *headers = ks_reply_headers_jsonb(&call->reply);
	char *header_text = headers != NULL ? JsonbToCString(NULL, &headers->root, VARSIZE(headers)) : NULL;
	uint8 hash[KS_SHA256_LENGTH];
	KsSealContext context;
	KsRoleSwitch save;
	StringInfoData plain;
	Datum values[4];

	pq_begintypsend(&plain);
	pq_sendint32(&plain, call->reply.status);
	write_part(&plain, header_text, header_text != NULL ? strlen(header_text) : 0);
	write_part(&plain, call->reply.body != NULL ? VARDATA_ANY(call->reply.body) : NULL,
			   call->reply.body != NULL ? VARSIZE_ANY_EXHDR(call->reply.body) : 0);
	key_hash(call, hash);
	seal_context(call, hash, &context);
	values[0] = UUIDPGetDatum(&call->credential.identity.user_id);
	values[1] = CStringGetTextDatum(call->caller.idempotency_key);
	values[2] = PointerGetDatum(fingerprint(call));
	values[3] = PointerGetDatum(ks_seal(&context, plain.data + VARHDRSZ, plain.len - VARHDRSZ));
	ks_wipe(plain.data, plain.len);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&plan, values, NULL, false, 0);
	ks_role_leave(&save);
	ks_spi_finish();
}

static void
seal_context(const KsCall *call, const uint8 *hash, KsSealContext *context)
{
	*context = (KsSealContext){
		.purpose = "idempotency",
		.has_user = true,
		.user_id = call->credential.identity.user_id};
	memcpy(context->row_id.data, hash, UUID_LEN);
}

static void
write_part(StringInfo out, const char *part, int len)
{
	pq_sendint32(out, part != NULL ? len : ABSENT);
	if (part != NULL)
		pq_sendbytes(out, part, len);
}

static const char *
read_part(StringInfo in, int *len)
{
	*len = (int) pq_getmsgint(in, 4);
	return *len == ABSENT ? NULL : pq_getmsgbytes(in, *len);
}

/* The keeper's duty: delete what has expired, a batch at a time. */
static void
purge(void)
{
	static KsPlan plan = {
		.sql = "select keelson._idempotency_keys_purge($1)",
		.nargs = 1,
		.argtypes = {INT4OID}};

	ks_keeper_purge(duty, &plan, PURGE_BATCH);
}
