/*
 * access_key.c
 *	  The text of an access key: making it, and telling it from anything else.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/pg_crc.h"

#include "core/guc.h"
#include "keys/access_key.h"
#include "secrets/crypto.h"

#define BEGINNING_LENGTH 8
#define SECRET_LENGTH 32
#define PAYLOAD_LENGTH (2 * UUID_LEN + SECRET_LENGTH)
#define BLOCK_LENGTH 8
#define BLOCK_DIGITS 11
#define PAYLOAD_DIGITS (PAYLOAD_LENGTH / BLOCK_LENGTH * BLOCK_DIGITS)
#define CHECKSUM_DIGITS 6

StaticAssertDecl(BEGINNING_LENGTH + PAYLOAD_DIGITS + CHECKSUM_DIGITS == KS_ACCESS_KEY_LENGTH, "length of an access key");

static const char live[] = "ks_live_";
static const char test[] = "ks_test_";
static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static void make(bool is_live, const pg_uuid_t *id, const pg_uuid_t *user_id, char out[KS_ACCESS_KEY_LENGTH]);
static uint32 checksum(const char *text);
static void write_number(uint64 number, int count, char *out);
static bool read_number(const char *text, int count, uint64 *number);
static int digit_value(char c);

bool
ks_access_keys_are_live(void)
{
	return ks_guc_environment == KS_PRODUCTION;
}

bool
ks_access_key_has_shape(const char *text, size_t len)
{
	return len > BEGINNING_LENGTH && (memcmp(text, live, BEGINNING_LENGTH) == 0 || memcmp(text, test, BEGINNING_LENGTH) == 0);
}

bool
ks_access_key_parse(const char *text, size_t len, KsAccessKeyText *out)
{
	uint64 blocks[PAYLOAD_LENGTH / BLOCK_LENGTH];
	uint64 sum;

	if (len != KS_ACCESS_KEY_LENGTH || !ks_access_key_has_shape(text, len) ||
		!read_number(text + len - CHECKSUM_DIGITS, CHECKSUM_DIGITS, &sum) || sum != checksum(text))
		return false;
	for (int i = 0; i < lengthof(blocks); i++)
	{
		if (!read_number(text + BEGINNING_LENGTH + i * BLOCK_DIGITS, BLOCK_DIGITS, &blocks[i]))
			return false;
		blocks[i] = pg_hton64(blocks[i]);
	}
	out->is_live = memcmp(text, live, BEGINNING_LENGTH) == 0;
	memcpy(&out->id, blocks, UUID_LEN);
	memcpy(&out->user_id, blocks + UUID_LEN / BLOCK_LENGTH, UUID_LEN);
	return true;
}

/* Write a new key with a secret of its own. */
static void
make(bool is_live, const pg_uuid_t *id, const pg_uuid_t *user_id, char out[KS_ACCESS_KEY_LENGTH])
{
	uint64 blocks[PAYLOAD_LENGTH / BLOCK_LENGTH];

	memcpy(blocks, id, UUID_LEN);
	memcpy((char *) blocks + UUID_LEN, user_id, UUID_LEN);
	ks_random((char *) blocks + 2 * UUID_LEN, SECRET_LENGTH);
	memcpy(out, is_live ? live : test, BEGINNING_LENGTH);
	for (int i = 0; i < lengthof(blocks); i++)
		write_number(pg_ntoh64(blocks[i]), BLOCK_DIGITS, out + BEGINNING_LENGTH + i * BLOCK_DIGITS);
	write_number(checksum(out), CHECKSUM_DIGITS, out + KS_ACCESS_KEY_LENGTH - CHECKSUM_DIGITS);
	ks_wipe(blocks, sizeof(blocks));
}

/* CRC-32 as zlib, gzip and PNG have it (ISO 3309), of all but the checksum itself. */
static uint32
checksum(const char *text)
{
	pg_crc32 crc;

	INIT_TRADITIONAL_CRC32(crc);
	COMP_TRADITIONAL_CRC32(crc, text, KS_ACCESS_KEY_LENGTH - CHECKSUM_DIGITS);
	FIN_TRADITIONAL_CRC32(crc);
	return crc;
}

/* The highest digit first, with leading zeros. */
static void
write_number(uint64 number, int count, char *out)
{
	while (--count >= 0)
	{
		out[count] = digits[number % 62];
		number /= 62;
	}
}

/* False for what is no number, or too large for 64 bits: each has one way to be written. */
static bool
read_number(const char *text, int count, uint64 *number)
{
	uint64 sum = 0;

	for (int i = 0; i < count; i++)
	{
		int value = digit_value(text[i]);

		if (value < 0 || pg_mul_u64_overflow(sum, 62, &sum) || pg_add_u64_overflow(sum, (uint64) value, &sum))
			return false;
	}
	*number = sum;
	return true;
}

static int
digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'Z')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 36;
	return -1;
}

PG_FUNCTION_INFO_V1(ks__access_key_make);

/* keelson._access_key_make(user_id, id): key, prefix, hash, environment */
Datum
ks__access_key_make(PG_FUNCTION_ARGS)
{
	char key[KS_ACCESS_KEY_LENGTH];
	bool is_live = ks_access_keys_are_live();
	bytea *hash = palloc(VARHDRSZ + KS_SHA256_LENGTH);
	TupleDesc desc;
	Datum values[4];
	bool nulls[4] = {false, false, false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	make(is_live, PG_GETARG_UUID_P(1), PG_GETARG_UUID_P(0), key);
	SET_VARSIZE(hash, VARHDRSZ + KS_SHA256_LENGTH);
	ks_sha256(key, sizeof(key), (uint8 *) VARDATA(hash));
	values[0] = PointerGetDatum(cstring_to_text_with_len(key, sizeof(key)));
	values[1] = PointerGetDatum(cstring_to_text_with_len(key, KS_ACCESS_KEY_PREFIX_LENGTH));
	values[2] = PointerGetDatum(hash);
	values[3] = CStringGetTextDatum(is_live ? "live" : "test");
	ks_wipe(key, sizeof(key));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

PG_FUNCTION_INFO_V1(ks_access_key_read);

/* keelson.access_key_read(key): environment, user_id, id */
Datum
ks_access_key_read(PG_FUNCTION_ARGS)
{
	text *key = PG_GETARG_TEXT_PP(0);
	KsAccessKeyText parts;
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (ks_access_key_parse(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), &parts))
	{
		memset(nulls, false, sizeof(nulls));
		values[0] = CStringGetTextDatum(parts.is_live ? "live" : "test");
		values[1] = UUIDPGetDatum(&parts.user_id);
		values[2] = UUIDPGetDatum(&parts.id);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
