/*
 * token.c
 *	  Random tokens, their hashes, and comparing without telling.
 */
#include "postgres.h"

#include "fmgr.h"

#include "core/compat.h"
#include "secrets/crypto.h"

#define TOKEN_LENGTH 32
#define MAX_RANDOM 1024

PG_FUNCTION_INFO_V1(ks_token_new);

/* keelson.token_new() */
Datum
ks_token_new(PG_FUNCTION_ARGS)
{
	uint8 bytes[TOKEN_LENGTH];
	text *token;

	ks_random(bytes, sizeof(bytes));
	token = ks_base64url(bytes, sizeof(bytes));
	ks_wipe(bytes, sizeof(bytes));
	PG_RETURN_TEXT_P(token);
}

PG_FUNCTION_INFO_V1(ks_token_hash);

/* keelson.token_hash(token text) */
Datum
ks_token_hash(PG_FUNCTION_ARGS)
{
	text *token = PG_GETARG_TEXT_PP(0);
	bytea *hash = palloc(VARHDRSZ + KS_SHA256_LENGTH);

	SET_VARSIZE(hash, VARHDRSZ + KS_SHA256_LENGTH);
	ks_sha256(VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), (uint8 *) VARDATA(hash));
	PG_RETURN_BYTEA_P(hash);
}

PG_FUNCTION_INFO_V1(ks_bytes_equal);

/* keelson._bytes_equal(a bytea, b bytea) */
Datum
ks_bytes_equal(PG_FUNCTION_ARGS)
{
	bytea *a = PG_GETARG_BYTEA_PP(0);
	bytea *b = PG_GETARG_BYTEA_PP(1);

	PG_RETURN_BOOL(VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
				   ks_equal(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)));
}

PG_FUNCTION_INFO_V1(ks_random_bytes);

/* keelson._random_bytes(count integer) */
Datum
ks_random_bytes(PG_FUNCTION_ARGS)
{
	int32 count = PG_GETARG_INT32(0);
	bytea *bytes;

	if (count < 1 || count > MAX_RANDOM)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("random bytes are had 1 to %d at a time, not %d", MAX_RANDOM, count)));
	bytes = palloc(VARHDRSZ + count);
	SET_VARSIZE(bytes, VARHDRSZ + count);
	ks_random(VARDATA(bytes), count);
	PG_RETURN_BYTEA_P(bytes);
}
