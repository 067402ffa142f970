/*
 * password.c
 *	  Passwords: what they are hashed with, and which hashes are borne.
 *
 * A hash costs a core and 19 MiB for some 20 ms, or as much as the limits on a
 * stored hash's own cost allow: the hasher makes them (hashing.h), a bounded
 * number at once.
 *
 * Passwords are normalised to NFC (RFC 8265) before hashing; only an imported
 * bcrypt hash, which somebody else has made, is first compared with the bytes
 * as they came.
 */
#include "postgres.h"

#include "common/unicode_norm.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "core/error.h"
#include "core/owner.h"
#include "secrets/crypto.h"
#include "secrets/hashing.h"
#include "secrets/keyring.h"

/* The policy for new hashes: security.md of the design calls it P5. */
#define MEMORY_KIB 19456
#define PASSES 2

/* The most that a stored hash may ask for. */
#define MAX_MEMORY_KIB (256 * 1024)
#define MAX_PASSES 16
#define MAX_LANES 16
#define MAX_BCRYPT_COST 14

#define MAX_CODE_POINTS 1024

/* What an argon2id hash says of its cost. */
typedef struct Argon2Cost
{
	unsigned memory_kib;
	unsigned passes;
	unsigned lanes;
} Argon2Cost;

/* What is hashed; wiped when it is needed no longer, and with its memory context, however a wait for the hash ends. */
typedef struct Input
{
	size_t len;
	char bytes[FLEXIBLE_ARRAY_MEMBER];
} Input;

typedef struct Verdict
{
	bool is_match;
	bool needs_rehash; /* it matches, and is below what new hashes get */
} Verdict;

static text *hash_password(const text *password, uint32 pepper_key_id);
static Verdict verify_password(const text *password, const text *hash, uint32 pepper_key_id);
static Input *normalise(const text *password);
static Input *prepare_input(const text *password, uint32 pepper_key_id);
static void wipe_input(void *arg);
static bool parse_argon2(const char *hash, Argon2Cost *cost);
static bool verify_argon2(const char *hash, const text *password, uint32 pepper_key_id);
static bool is_bcrypt(const char *hash);
static bool verify_bcrypt(const char *hash, const text *password);
static void waste_time(const text *password, uint32 pepper_key_id);

/*
 * Hash with argon2id; with a pepper when the key id is not 0: then what is
 * hashed is the password's HMAC under a key of the keyring. Waits for the hasher,
 * cancellably, and raises KS503 as hashing.h says.
 */
static text *
hash_password(const text *password, uint32 pepper_key_id)
{
	char hash[KS_HASH_SIZE];
	Input *input = prepare_input(password, pepper_key_id);
	bool is_made = ks_hashing_make(input->bytes, input->len, PASSES, MEMORY_KIB, hash);

	wipe_input(input);
	if (!is_made)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not hash a password"),
				 errdetail("It needs %d KiB of memory.", MEMORY_KIB)));
	return cstring_to_text(hash);
}

/*
 * Compare with a hash: argon2id, or bcrypt of an imported user. A hash that is
 * neither takes as long as one that is, and does not match. NULL: the same, for
 * a user that does not exist.
 */
static Verdict
verify_password(const text *password, const text *hash, uint32 pepper_key_id)
{
	Verdict result = {false, false};
	char *stored = hash != NULL ? text_to_cstring(hash) : "";
	Argon2Cost cost;

	if (parse_argon2(stored, &cost))
	{
		result.is_match = verify_argon2(stored, password, pepper_key_id);
		result.needs_rehash = result.is_match && (cost.memory_kib < MEMORY_KIB || cost.passes < PASSES);
	}
	else if (is_bcrypt(stored))
		result.is_match = result.needs_rehash = verify_bcrypt(stored, password);
	else
		waste_time(password, pepper_key_id);
	return result;
}

/* The password in NFC. */
static Input *
normalise(const text *password)
{
	const unsigned char *from = (const unsigned char *) VARDATA_ANY(password);
	int bytes = (int) VARSIZE_ANY_EXHDR(password);
	int count = pg_mbstrlen_with_len((const char *) from, bytes);
	pg_wchar *points;
	pg_wchar *composed;
	Input *input;
	unsigned char *to;

	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("the database's encoding must be UTF8")));
	if (count > MAX_CODE_POINTS)
		ks_raise(400, "VALIDATION_FAILED", NULL, "a password may have %d characters", MAX_CODE_POINTS);
	points = palloc((count + 1) * sizeof(pg_wchar));
	for (int i = 0; i < count; i++)
	{
		points[i] = utf8_to_unicode(from);
		from += pg_utf_mblen(from);
	}
	points[count] = 0;
	composed = unicode_normalize(UNICODE_NFC, points);
	for (count = 0; composed[count] != 0; count++)
		;
	input = ks_owner_create(CurrentMemoryContext, offsetof(Input, bytes) + count * 4, wipe_input);
	to = (unsigned char *) input->bytes;
	for (int i = 0; i < count; i++)
	{
		unicode_to_utf8(composed[i], to);
		to += pg_utf_mblen(to);
	}
	input->len = to - (unsigned char *) input->bytes;
	ks_wipe(composed, count * sizeof(pg_wchar));
	ks_wipe(points, pg_mbstrlen_with_len(VARDATA_ANY(password), bytes) * sizeof(pg_wchar));
	return input;
}

/* What goes into argon2id: the password, or its HMAC under the pepper. */
static Input *
prepare_input(const text *password, uint32 pepper_key_id)
{
	Input *plain = normalise(password);
	Input *mac;

	if (pepper_key_id == 0)
		return plain;
	mac = ks_owner_create(CurrentMemoryContext, offsetof(Input, bytes) + KS_SHA256_LENGTH, wipe_input);
	mac->len = KS_SHA256_LENGTH;
	ks_keyring_mac(pepper_key_id, "pepper", plain->bytes, plain->len, (uint8 *) mac->bytes);
	wipe_input(plain);
	return mac;
}

static void
wipe_input(void *arg)
{
	Input *input = arg;

	ks_wipe(input->bytes, input->len);
}

/* Is this an argon2id hash, of a cost that we are willing to bear? */
static bool
parse_argon2(const char *hash, Argon2Cost *cost)
{
	int end = 0;

	if (strlen(hash) >= KS_HASH_SIZE ||
		sscanf(hash, "$argon2id$v=19$m=%6u,t=%2u,p=%2u$%n", &cost->memory_kib, &cost->passes, &cost->lanes, &end) != 3 || end == 0)
		return false;
	return cost->memory_kib <= MAX_MEMORY_KIB && cost->passes <= MAX_PASSES && cost->lanes <= MAX_LANES;
}

static bool
verify_argon2(const char *hash, const text *password, uint32 pepper_key_id)
{
	Input *input = prepare_input(password, pepper_key_id);
	bool matches = ks_hashing_matches(KS_HASH_ARGON2, input->bytes, input->len, hash);

	wipe_input(input);
	return matches;
}

/* $2a$, $2b$ or $2y$, a cost within bounds, 53 characters. */
static bool
is_bcrypt(const char *hash)
{
	int cost;

	if (strlen(hash) != 60 || hash[0] != '$' || hash[1] != '2' || strchr("aby", hash[2]) == NULL || hash[3] != '$' || hash[6] != '$')
		return false;
	if (strspn(hash + 4, "0123456789") != 2 ||
		strspn(hash + 7, "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != 53)
		return false;
	cost = (hash[4] - '0') * 10 + hash[5] - '0';
	return cost >= 4 && cost <= MAX_BCRYPT_COST;
}

/* Compare with the password as it came, then, where that differs, in NFC. */
static bool
verify_bcrypt(const char *hash, const text *password)
{
	Input *composed = normalise(password);
	const char *raw = VARDATA_ANY(password);
	size_t raw_len = VARSIZE_ANY_EXHDR(password);
	bool is_composed = composed->len == raw_len && memcmp(raw, composed->bytes, raw_len) == 0;
	bool matches = ks_hashing_matches(KS_HASH_BCRYPT, raw, raw_len, hash);

	if (!matches && !is_composed)
		matches = ks_hashing_matches(KS_HASH_BCRYPT, composed->bytes, composed->len, hash);
	wipe_input(composed);
	return matches;
}

/* Cost as much as a comparison that fails. */
static void
waste_time(const text *password, uint32 pepper_key_id)
{
	(void) hash_password(password, pepper_key_id);
}

PG_FUNCTION_INFO_V1(ks_password_hash);

/* keelson.password_hash(password text) */
Datum
ks_password_hash(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(hash_password(PG_GETARG_TEXT_PP(0), 0));
}

PG_FUNCTION_INFO_V1(ks_password_verify);

/* keelson.password_verify(password text, hash text) */
Datum
ks_password_verify(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(verify_password(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1), 0).is_match);
}

PG_FUNCTION_INFO_V1(ks_password_store);

/* keelson._password_store(password text): hash, pepper_key_id */
Datum
ks_password_store(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};
	uint32 pepper_key_id;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	ks_keyring_require();
	pepper_key_id = ks_keyring_primary();
	values[0] = PointerGetDatum(hash_password(PG_GETARG_TEXT_PP(0), pepper_key_id));
	values[1] = Int32GetDatum((int32) pepper_key_id);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

PG_FUNCTION_INFO_V1(ks_password_check);

/* keelson._password_check(password text, hash text, pepper_key_id integer): is_match, needs_rehash */
Datum
ks_password_check(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};
	Verdict result;
	uint32 pepper_key_id;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the password is null")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	ks_keyring_require();
	/* Of a user without a password: as for one who has one now. */
	pepper_key_id = PG_ARGISNULL(2) ? ks_keyring_primary() : (uint32) PG_GETARG_INT32(2);
	result = verify_password(PG_GETARG_TEXT_PP(0), PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1), pepper_key_id);
	values[0] = BoolGetDatum(result.is_match);
	values[1] = BoolGetDatum(result.is_match && (result.needs_rehash || pepper_key_id != ks_keyring_primary()));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
