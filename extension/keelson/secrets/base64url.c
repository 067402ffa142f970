/*
 * base64url.c
 *	  base64url as RFC 7515 has it, written and read in its one canonical form.
 */
#include "postgres.h"

#include "core/compat.h"
#include "secrets/crypto.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int digit_value(unsigned char c);

/* Write the text, without a terminator; returns its length. */
size_t
ks_base64url_encode(const uint8 *data, size_t len, char *out)
{
	char *to = out;
	size_t i;

	for (i = 0; i + 3 <= len; i += 3)
	{
		uint32 group = data[i] << 16 | data[i + 1] << 8 | data[i + 2];

		*to++ = alphabet[group >> 18];
		*to++ = alphabet[group >> 12 & 63];
		*to++ = alphabet[group >> 6 & 63];
		*to++ = alphabet[group & 63];
	}
	if (i < len)
	{
		uint32 group = data[i] << 16 | (i + 1 < len ? data[i + 1] << 8 : 0);

		*to++ = alphabet[group >> 18];
		*to++ = alphabet[group >> 12 & 63];
		if (i + 1 < len)
			*to++ = alphabet[group >> 6 & 63];
	}
	return to - out;
}

text *
ks_base64url(const uint8 *data, size_t len)
{
	text *result = palloc(VARHDRSZ + KS_BASE64URL_LENGTH(len));

	SET_VARSIZE(result, VARHDRSZ + ks_base64url_encode(data, len, VARDATA(result)));
	return result;
}

bool
ks_base64url_decode(const char *s, size_t len, uint8 *out, size_t *out_len)
{
	uint8 *to = out;
	uint32 bits = 0;
	int bit_count = 0;

	if (len % 4 == 1)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		int value = digit_value((unsigned char) s[i]);

		if (value < 0)
			return false;
		bits = bits << 6 | (uint32) value;
		bit_count += 6;
		if (bit_count >= 8)
		{
			bit_count -= 8;
			*to++ = bits >> bit_count & 255;
		}
	}
	if ((bits & ((1U << bit_count) - 1)) != 0)
		return false;
	*out_len = to - out;
	return true;
}

static int
digit_value(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '-')
		return 62;
	if (c == '_')
		return 63;
	return -1;
}
