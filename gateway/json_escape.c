/*
 * json_escape: the escapes of JSON strings.
 */
#include "json_escape.h"

#include "text.h"

static int hex4(const char *at, const char *end);

const char *
gw_json_escape_read(const char **place, const char *end, uint32_t *code)
{
	static const char plain[] = "\"\\/bfnrt";
	static const char meant[] = "\"\\/\b\f\n\r\t";
	const char *at = *place + 1;
	const char *known;
	int unit;

	if (at < end && *at != '\0' && (known = strchr(plain, *at)) != NULL)
	{
		*code = (unsigned char) meant[known - plain];
		*place += 2;
		return NULL;
	}
	unit = at < end && *at == 'u' ? hex4(at + 1, end) : -1;
	if (unit < 0)
		return "A string has an escape that JSON does not know";
	if (unit == 0)
		return "A string has the character U+0000";
	at += 5;
	*code = (uint32_t) unit;
	if (unit >= 0xD800 && unit <= 0xDFFF)
	{
		int low = unit <= 0xDBFF && end - at >= 6 && at[0] == '\\' && at[1] == 'u' ? hex4(at + 2, end) : -1;

		if (low < 0xDC00 || low > 0xDFFF)
			return "A string has half of a surrogate pair";
		*code = 0x10000 + (((uint32_t) unit - 0xD800) << 10) + ((uint32_t) low - 0xDC00);
		at += 6;
	}
	*place = at;
	return NULL;
}

/* The value of four hexadecimal digits, -1 if there are none. */
static int
hex4(const char *at, const char *end)
{
	int value = 0;
	int i;

	if (end - at < 4)
		return -1;
	for (i = 0; i < 4; i++)
	{
		int digit = gw_hex_digit(at[i]);

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

size_t
gw_utf8_put(char *out, uint32_t code)
{
	if (code < 0x80)
	{
		out[0] = (char) code;
		return 1;
	}
	if (code < 0x800)
	{
		out[0] = (char) (0xC0 | code >> 6);
		out[1] = (char) (0x80 | (code & 0x3F));
		return 2;
	}
	if (code < 0x10000)
	{
		out[0] = (char) (0xE0 | code >> 12);
		out[1] = (char) (0x80 | (code >> 6 & 0x3F));
		out[2] = (char) (0x80 | (code & 0x3F));
		return 3;
	}
	out[0] = (char) (0xF0 | code >> 18);
	out[1] = (char) (0x80 | (code >> 12 & 0x3F));
	out[2] = (char) (0x80 | (code >> 6 & 0x3F));
	out[3] = (char) (0x80 | (code & 0x3F));
	return 4;
}
