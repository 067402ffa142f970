/*
 * verify.c
 *	  What an access key proves: two rows are read by their primary keys, the
 *	  key's and its user's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inet.h"
#include "utils/lsyscache.h"

#include "core/compat.h"
#include "core/probe.h"
#include "identity/user_probe.h"
#include "keys/access_key.h"
#include "keys/last_use.h"
#include "keys/verify.h"
#include "secrets/crypto.h"

enum
{
	SECRET_HASH,
	ENVIRONMENT,
	SCOPES,
	ALLOWED_NETWORKS,
	EXPIRES_AT,
	REVOKED_AT
};

/* The places in it are written by core/probe.c. */
static KsProbeTable access_keys = {
	.name = "access_keys",
	.key_count = 2,
	.keys = {"user_id", "id"},
	.columns = {
		[SECRET_HASH] = "secret_hash",
		[ENVIRONMENT] = "environment",
		[SCOPES] = "scopes",
		[ALLOWED_NETWORKS] = "allowed_networks",
		[EXPIRES_AT] = "expires_at",
		[REVOKED_AT] = "revoked_at"}};

typedef struct Judgement
{
	const uint8 *hash;
	const char *ip;
	KsKeyState state;
	KsAccessKey *key;
} Judgement;

static void judge(const KsProbeRow *row, void *arg);
static bool is_hash(const KsProbeRow *row, const uint8 *hash);
static bool is_allowed_from(const KsProbeRow *row, const char *ip);
static void read_scopes(const KsProbeRow *row, KsAccessKey *key);

void
ks_keys_init(void)
{
	ks_last_use_init();
}

KsKeyState
ks_access_key_verify(const char *text, size_t len, const char *ip, KsAccessKey *out)
{
	uint8 hash[KS_SHA256_LENGTH];
	Judgement judgement = {.hash = hash, .ip = ip, .state = KS_KEY_INVALID, .key = out};
	const pg_uuid_t *const key[] = {&out->user_id, &out->id};
	KsAccessKeyText parts;

	if (!ks_access_key_parse(text, len, &parts) || parts.is_live != ks_access_keys_are_live())
		return KS_KEY_INVALID;
	out->user_id = parts.user_id;
	out->id = parts.id;
	ks_sha256(text, len, hash);
	(void) ks_probe(&access_keys, key, judge, &judgement);
	if (judgement.state == KS_KEY_INVALID || ks_user_probe(&out->user_id) != KS_USER_ACTIVE)
		return KS_KEY_INVALID;
	if (judgement.state == KS_KEY_VALID)
		ks_key_used(&out->user_id, &out->id);
	return judgement.state;
}

static void
judge(const KsProbeRow *row, void *arg)
{
	Judgement *judgement = arg;
	KsAccessKey *key = judgement->key;
	bool is_null;

	/* Whoever does not hold the key learns nothing of it. */
	if (!is_hash(row, judgement->hash))
		return;
	(void) ks_probe_column(row, REVOKED_AT, &is_null);
	if (!is_null)
		return;
	key->expires_at = DatumGetTimestampTz(ks_probe_column(row, EXPIRES_AT, &is_null));
	if (is_null)
		key->expires_at = DT_NOEND;
	read_scopes(row, key);
	if (key->expires_at <= GetCurrentStatementStartTimestamp())
		judgement->state = KS_KEY_EXPIRED;
	else
		judgement->state = is_allowed_from(row, judgement->ip) ? KS_KEY_VALID : KS_KEY_ELSEWHERE;
}

static bool
is_hash(const KsProbeRow *row, const uint8 *hash)
{
	bool is_null;
	bytea *kept = DatumGetByteaPP(ks_probe_column(row, SECRET_HASH, &is_null));

	return VARSIZE_ANY_EXHDR(kept) == KS_SHA256_LENGTH && ks_equal(VARDATA_ANY(kept), hash, KS_SHA256_LENGTH);
}

/* Is the address in one of the key's networks? Null: any address will do. */
static bool
is_allowed_from(const KsProbeRow *row, const char *ip)
{
	bool is_null;
	Datum networks = ks_probe_column(row, ALLOWED_NETWORKS, &is_null);
	Datum address;
	Datum *elements;
	int count;

	if (is_null)
		return true;
	if (ip == NULL)
		return false;
	address = DirectFunctionCall1(inet_in, CStringGetDatum(ip));
	deconstruct_array(DatumGetArrayTypeP(networks), CIDROID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		if (DatumGetBool(DirectFunctionCall2(network_subeq, address, elements[i])))
			return true;
	return false;
}

static void
read_scopes(const KsProbeRow *row, KsAccessKey *key)
{
	bool is_null;
	Datum scopes = ks_probe_column(row, SCOPES, &is_null);
	Datum *elements;

	deconstruct_array(DatumGetArrayTypeP(scopes), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &key->scope_count);
	key->scopes = palloc(Max(key->scope_count, 1) * sizeof(char *));
	for (int i = 0; i < key->scope_count; i++)
		key->scopes[i] = TextDatumGetCString(elements[i]);
}
