/*
 * totp.c
 *	  Time-based one-time passwords (RFC 6238, RFC 4226), base-32 (RFC 4648).
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "secrets/crypto.h"

#define PERIOD_SECONDS 30
#define DIGITS 6
#define DIGITS_MAX 8

static uint32 hotp(const bytea *secret, KsDigest digest, int64 counter, int digits);
static int64 step_at(TimestampTz moment);
static KsDigest digest_of(const text *algorithm);

PG_FUNCTION_INFO_V1(ks__base32);

/* keelson._base32(data bytea): without padding */
Datum
ks__base32(PG_FUNCTION_ARGS)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
	bytea *data = PG_GETARG_BYTEA_PP(0);
	const uint8 *bytes = (const uint8 *) VARDATA_ANY(data);
	int len = VARSIZE_ANY_EXHDR(data);
	int chars = (len * 8 + 4) / 5;
	text *encoded = palloc(VARHDRSZ + chars);
	char *out = VARDATA(encoded);
	uint32 bits = 0;
	int have = 0;

	for (int i = 0; i < len; i++)
	{
		bits = bits << 8 | bytes[i];
		for (have += 8; have >= 5; have -= 5)
			*out++ = alphabet[bits >> (have - 5) & 31];
	}
	if (have > 0)
		*out++ = alphabet[bits << (5 - have) & 31];
	SET_VARSIZE(encoded, VARHDRSZ + chars);
	PG_RETURN_TEXT_P(encoded);
}

PG_FUNCTION_INFO_V1(ks__totp_code);

/* keelson._totp_code(secret bytea, moment timestamptz, algorithm text, digits integer) */
Datum
ks__totp_code(PG_FUNCTION_ARGS)
{
	KsDigest digest = digest_of(PG_GETARG_TEXT_PP(2));
	int digits = PG_GETARG_INT32(3);

	if (digits < DIGITS || digits > DIGITS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a one-time password has %d to %d digits, not %d", DIGITS, DIGITS_MAX, digits)));
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%0*u", digits,
											  hotp(PG_GETARG_BYTEA_PP(0), digest, step_at(PG_GETARG_TIMESTAMPTZ(1)), digits))));
}

PG_FUNCTION_INFO_V1(ks__totp_step);

/*
 * keelson._totp_step(secret bytea, code text, moment timestamptz, ahead boolean, algorithm text)
 *
 * Every step that may be is computed and compared, whichever fits.
 */
Datum
ks__totp_step(PG_FUNCTION_ARGS)
{
	bytea *secret = PG_GETARG_BYTEA_PP(0);
	text *code = PG_GETARG_TEXT_PP(1);
	int64 present = step_at(PG_GETARG_TIMESTAMPTZ(2));
	int64 latest = present + (PG_GETARG_BOOL(3) ? 1 : 0);
	KsDigest digest = digest_of(PG_GETARG_TEXT_PP(4));
	int64 fitting = -1;

	if (VARSIZE_ANY_EXHDR(code) != DIGITS)
		PG_RETURN_NULL();
	for (int64 step = present - 1; step <= latest; step++)
	{
		char expected[DIGITS + 1];

		snprintf(expected, sizeof(expected), "%0*u", DIGITS, hotp(secret, digest, step, DIGITS));
		if (ks_equal(expected, VARDATA_ANY(code), DIGITS))
			fitting = step;
		ks_wipe(expected, sizeof(expected));
	}
	if (fitting < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(fitting);
}

/* RFC 4226, 5.3: so many digits of the dynamically truncated HMAC. */
static uint32
hotp(const bytea *secret, KsDigest digest, int64 counter, int digits)
{
	uint8 mac[KS_DIGEST_MAX_LENGTH];
	uint8 message[8];
	uint32 modulus = 1;
	uint32 number;
	size_t len;
	int offset;

	for (int i = 0; i < 8; i++)
		message[i] = (uint8) (counter >> (8 * (7 - i)));
	len = ks_hmac(digest, (const uint8 *) VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret), message, sizeof(message), mac);
	offset = mac[len - 1] & 15;
	number = (uint32) (mac[offset] & 127) << 24 | (uint32) mac[offset + 1] << 16 | (uint32) mac[offset + 2] << 8 | mac[offset + 3];
	ks_wipe(mac, sizeof(mac));
	while (digits-- > 0)
		modulus *= 10;
	return number % modulus;
}

static int64
step_at(TimestampTz moment)
{
	return timestamptz_to_time_t(moment) / PERIOD_SECONDS;
}

static KsDigest
digest_of(const text *algorithm)
{
	const char *name = text_to_cstring(algorithm);

	if (strcmp(name, "SHA1") == 0)
		return KS_SHA1;
	if (strcmp(name, "SHA256") == 0)
		return KS_SHA256;
	if (strcmp(name, "SHA512") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a one-time password is made with SHA1, SHA256 or SHA512, not \"%s\"", name)));
	return KS_SHA512;
}
