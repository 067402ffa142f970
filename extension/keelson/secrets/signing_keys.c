/*
 * signing_keys.c
 *	  Our own P-256 keys: making, loading, choosing.
 *
 * A row of keelson.signing_keys never changes but for revoked_at. Which key
 * signs and which still counts follows from the clock: the newest whose
 * active_from has come signs; a key counts until GRACE_USECS after its
 * successor began, longer than any token lives. The backend's copy is loaded
 * again when the relation is invalidated, which every change to it makes
 * happen at commit, here and elsewhere, and locally at rollback too. When time
 * alone moves a key in or out, the copy is rebuilt from the same rows.
 *
 * The private scalar is kept only inside OpenSSL's key object, and is drawn
 * from OpenSSL's secure heap, which is locked and kept out of core dumps.
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/error.h"
#include "core/invalidation.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "secrets/crypto.h"
#include "secrets/jose.h"
#include "secrets/keyring.h"
#include "secrets/seal.h"
#include "secrets/signing_keys.h"

#define GRACE_USECS (3600 * USECS_PER_SEC)
#define COORDINATE_LENGTH 32
#define KID_LENGTH KS_BASE64URL_LENGTH(KS_SHA256_LENGTH)
#define SECURE_HEAP_BYTES 32768
#define SECURE_HEAP_MIN 32

/* A row as the table has it, the newest first. */
typedef struct KeyRow
{
	pg_uuid_t id;
	char kid[KID_LENGTH + 1];
	TimestampTz active_from;
	uint8 x[COORDINATE_LENGTH];
	uint8 y[COORDINATE_LENGTH];
} KeyRow;

/*
 * The backend's copy: `rows` as last read (`is_read`), `set` what counts until
 * `valid_until`, in a context that is reset when it is rebuilt. Written by
 * refresh() and, to say that it is stale, by the invalidation.
 */
static struct
{
	bool is_read;
	Oid relation;
	uint64 generation;
	int row_count;
	KeyRow rows[KS_JWK_MAX_KEYS];
	MemoryContext cxt;
	KsJwkSet *set;
	TimestampTz valid_until;
	const KeyRow *signer; /* of `rows`, or NULL */
	EVP_PKEY *pair;       /* of the signer, when it was asked for */
} keys;

static KsPlan read_plan = {
	"select id, kid, active_from, public_key->>'x', public_key->>'y' from keelson.signing_keys"
	" where revoked_at is null order by active_from desc, id desc limit 32"};
static KsPlan private_plan = {"select private_key from keelson.signing_keys where id = $1", 1, {UUIDOID}};
static KsPlan ensure_plan = {"select keelson._signing_key_ensure()"};
static KsPlan insert_plan = {
	"insert into keelson.signing_keys (id, kid, algorithm, public_key, private_key, active_from)"
	" values ($1, $2, 'ES256', pg_catalog.jsonb_build_object('kty', 'EC', 'crv', 'P-256', 'x', $3, 'y', $4), $5, $6)",
	6,
	{UUIDOID, TEXTOID, TEXTOID, TEXTOID, BYTEAOID, TIMESTAMPTZOID}};

static void refresh(void);
static void read_rows(void);
static bool read_coordinate(HeapTuple tuple, TupleDesc desc, int column, uint8 *out);
static void rebuild(TimestampTz now);
static void drop_pair(void);
static void load_pair(void);
static void forget_relation(Datum arg, Oid relation);
static void ensure_key(void);
static EVP_PKEY *generate_pair(uint8 *x, uint8 *y, uint8 *scalar);
static void thumbprint(const uint8 *x, const uint8 *y, char kid[KID_LENGTH + 1]);
static void insert_row(const KeyRow *row, bytea *sealed);

const KsJwkSet *
ks_signing_keys(void)
{
	refresh();
	return keys.set;
}

EVP_PKEY *
ks_signing_key(const char **kid)
{
	ks_keyring_require();
	refresh();
	if (keys.signer == NULL)
	{
		ensure_key();
		refresh();
	}
	if (keys.signer == NULL)
		ks_raise(503, "UNAVAILABLE", "select keelson.migrate() makes one.", "there is no key to sign tokens with");
	if (keys.pair == NULL)
		load_pair();
	*kid = keys.signer->kid;
	return keys.pair;
}

uint64
ks_signing_keys_generation(void)
{
	refresh();
	return keys.generation;
}

/* Bring the backend's copy up to date with the table and the clock. */
static void
refresh(void)
{
	TimestampTz now = GetCurrentTimestamp();
	static bool registered = false;

	if (likely(keys.is_read && now < keys.valid_until))
		return;
	if (!registered)
		ks_on_relation_change(forget_relation, (Datum) 0);
	registered = true;
	/* An invalidation that comes while the rows are read makes them be read again. */
	for (int i = 0; !keys.is_read && i < 4; i++)
	{
		keys.relation = get_relname_relid("signing_keys", get_namespace_oid("keelson", false));
		keys.is_read = true;
		read_rows();
	}
	rebuild(now);
}

static void
read_rows(void)
{
	KsRoleSwitch save;

	/* Should reading fail, the copy is stale and the next call reads again. */
	keys.row_count = 0;
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	PG_TRY();
	{
		(void) ks_spi_read_latest(&read_plan, NULL, 0);
	}
	PG_CATCH();
	{
		keys.is_read = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	for (uint64 i = 0; i < SPI_processed && keys.row_count < KS_JWK_MAX_KEYS; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		KeyRow *row = &keys.rows[keys.row_count];
		bool is_null;

		row->id = *DatumGetUUIDP(SPI_getbinval(tuple, desc, 1, &is_null));
		strlcpy(row->kid, SPI_getvalue(tuple, desc, 2), sizeof(row->kid));
		row->active_from = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 3, &is_null));
		if (read_coordinate(tuple, desc, 4, row->x) && read_coordinate(tuple, desc, 5, row->y))
			keys.row_count++;
	}
	ks_role_leave(&save);
	ks_spi_finish();
}

static bool
read_coordinate(HeapTuple tuple, TupleDesc desc, int column, uint8 *out)
{
	char *value = SPI_getvalue(tuple, desc, column);
	size_t len;

	return value != NULL && strlen(value) == KS_BASE64URL_LENGTH(COORDINATE_LENGTH) &&
		   ks_base64url_decode(value, strlen(value), out, &len);
}

/* Make the set of the keys that count now, and note until when it holds. */
static void
rebuild(TimestampTz now)
{
	drop_pair();
	if (keys.cxt == NULL)
		keys.cxt = AllocSetContextCreate(TopMemoryContext, "keelson signing keys", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(keys.cxt);
	keys.signer = NULL;
	keys.generation++;
	keys.valid_until = 0;
	keys.set = ks_jwk_set_create(keys.cxt);
	keys.valid_until = now + GRACE_USECS;
	for (int i = 0; i < keys.row_count; i++)
	{
		KeyRow *row = &keys.rows[i];
		TimestampTz ends = i == 0 ? DT_NOEND : keys.rows[i - 1].active_from + GRACE_USECS;
		KsJwk *jwk = &keys.set->keys[keys.set->count];

		if (ends <= now)
			break;
		keys.valid_until = Min(keys.valid_until, ends);
		if (row->active_from > now)
			keys.valid_until = Min(keys.valid_until, row->active_from);
		else if (keys.signer == NULL)
			keys.signer = row;
		jwk->key = ks_p256_key(row->x, row->y, NULL);
		if (jwk->key == NULL)
			continue;
		jwk->kid = row->kid;
		jwk->algorithms = KS_ES256;
		keys.set->count++;
	}
}

static void
drop_pair(void)
{
	EVP_PKEY *pair = keys.pair;

	keys.pair = NULL;
	EVP_PKEY_free(pair);
}

/* Open the signer's private half. */
static void
load_pair(void)
{
	KsRoleSwitch save;
	const KeyRow *signer = keys.signer;
	KsSealContext context = {.purpose = "signing-key", .row_id = signer->id};
	Datum values[1] = {UUIDPGetDatum(&signer->id)};
	bytea *scalar = NULL;
	bool is_null;

	(void) CRYPTO_secure_malloc_init(SECURE_HEAP_BYTES, SECURE_HEAP_MIN);
	ERR_clear_error();
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&private_plan, values, NULL, false, 1);
	if (SPI_processed == 1)
		scalar = ks_unseal(&context, DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null)));
	if (scalar != NULL && VARSIZE_ANY_EXHDR(scalar) == COORDINATE_LENGTH)
		keys.pair = ks_p256_key(signer->x, signer->y, (const uint8 *) VARDATA_ANY(scalar));
	if (scalar != NULL)
		ks_wipe(VARDATA_ANY(scalar), VARSIZE_ANY_EXHDR(scalar));
	ks_role_leave(&save);
	ks_spi_finish();
	if (keys.pair == NULL)
		ks_raise(503, "UNAVAILABLE", NULL, "the key to sign tokens with cannot be read");
}

/* The copy is stale; what it holds stays until the next use replaces it. */
static void
forget_relation(Datum arg, Oid relation)
{
	if (relation == InvalidOid || relation == keys.relation)
		keys.is_read = false;
}

static void
ensure_key(void)
{
	KsRoleSwitch save;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&ensure_plan, NULL, NULL, false, 0);
	ks_role_leave(&save);
	ks_spi_finish();
}

PG_FUNCTION_INFO_V1(ks_signing_key_make);

/* keelson._signing_key_make(active_from timestamptz) : its kid */
Datum
ks_signing_key_make(PG_FUNCTION_ARGS)
{
	KsSealContext context = {.purpose = "signing-key"};
	KeyRow row;
	uint8 scalar[COORDINATE_LENGTH];
	bytea *sealed;

	ks_keyring_require();
	row.active_from = PG_GETARG_TIMESTAMPTZ(0);
	ks_uuid7(&row.id);
	context.row_id = row.id;
	EVP_PKEY_free(generate_pair(row.x, row.y, scalar));
	thumbprint(row.x, row.y, row.kid);
	sealed = ks_seal(&context, scalar, sizeof(scalar));
	ks_wipe(scalar, sizeof(scalar));
	insert_row(&row, sealed);
	PG_RETURN_TEXT_P(cstring_to_text(row.kid));
}

PG_FUNCTION_INFO_V1(ks_signing_keys_changed);

/* keelson._signing_keys_changed() */
Datum
ks_signing_keys_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcacheByRelid(get_relname_relid("signing_keys", get_namespace_oid("keelson", false)));
	PG_RETURN_VOID();
}

/* A new pair, and its numbers. */
static EVP_PKEY *
generate_pair(uint8 *x, uint8 *y, uint8 *scalar)
{
	EVP_PKEY *pair = EVP_EC_gen("P-256");
	BIGNUM *number[3] = {NULL, NULL, NULL};
	uint8 *out[3] = {x, y, scalar};
	static const char *const names[3] = {OSSL_PKEY_PARAM_EC_PUB_X, OSSL_PKEY_PARAM_EC_PUB_Y, OSSL_PKEY_PARAM_PRIV_KEY};
	bool done = pair != NULL;

	for (int i = 0; i < 3 && done; i++)
		done = EVP_PKEY_get_bn_param(pair, names[i], &number[i]) && BN_bn2binpad(number[i], out[i], COORDINATE_LENGTH) == COORDINATE_LENGTH;
	for (int i = 0; i < 3; i++)
		BN_clear_free(number[i]);
	if (!done)
	{
		EVP_PKEY_free(pair);
		ks_crypto_fail("make a key");
	}
	return pair;
}

/* RFC 7638: the hash of the required members in alphabetical order, without white space. */
static void
thumbprint(const uint8 *x, const uint8 *y, char kid[KID_LENGTH + 1])
{
	uint8 hash[KS_SHA256_LENGTH];
	char *members = psprintf("{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}",
							 text_to_cstring(ks_base64url(x, COORDINATE_LENGTH)), text_to_cstring(ks_base64url(y, COORDINATE_LENGTH)));

	ks_sha256(members, strlen(members), hash);
	kid[ks_base64url_encode(hash, sizeof(hash), kid)] = '\0';
}

static void
insert_row(const KeyRow *row, bytea *sealed)
{
	KsRoleSwitch save;
	Datum values[6];

	values[0] = UUIDPGetDatum(&row->id);
	values[1] = CStringGetTextDatum(row->kid);
	values[2] = PointerGetDatum(ks_base64url(row->x, COORDINATE_LENGTH));
	values[3] = PointerGetDatum(ks_base64url(row->y, COORDINATE_LENGTH));
	values[4] = PointerGetDatum(sealed);
	values[5] = TimestampTzGetDatum(row->active_from);
	/* Before the insert, so that the command's end makes it felt here at once. */
	CacheInvalidateRelcacheByRelid(get_relname_relid("signing_keys", get_namespace_oid("keelson", false)));
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&insert_plan, values, NULL, false, 0);
	ks_role_leave(&save);
	ks_spi_finish();
}
