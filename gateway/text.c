/*
 * text: a growing byte buffer that remembers failure.
 *
 * Growth doubles, so that appending is linear in the result; writing JSON
 * strings and times is done by hand because each request does it several times.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "text.h"

#define FIRST_SIZE 512

static size_t utf8_len(const unsigned char *data, size_t left);

bool
gw_text_reserve(struct GwText *text, size_t more)
{
	size_t size;
	char *data;

	if (text->failed)
		return false;
	if (text->size - text->len >= more)
		return true;
	if (more > SIZE_MAX / 2 - text->len)
	{
		text->failed = true;
		return false;
	}
	size = text->size ? text->size : FIRST_SIZE;
	while (size - text->len < more)
		size *= 2;
	data = realloc(text->data, size);
	if (data == NULL)
	{
		text->failed = true;
		return false;
	}
	text->data = data;
	text->size = size;
	return true;
}

void
gw_text_add(struct GwText *text, const char *data, size_t len)
{
	if (len == 0 || !gw_text_reserve(text, len))
		return;
	memcpy(text->data + text->len, data, len);
	text->len += len;
}

void
gw_text_puts(struct GwText *text, const char *string)
{
	gw_text_add(text, string, strlen(string));
}

void
gw_text_printf(struct GwText *text, const char *fmt, ...)
{
	char line[512];
	va_list args;
	int len;

	va_start(args, fmt);
	len = vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (len < 0)
		text->failed = true;
	else if ((size_t) len < sizeof(line))
		gw_text_add(text, line, (size_t) len);
	else if (gw_text_reserve(text, (size_t) len + 1))
	{
		va_start(args, fmt);
		vsnprintf(text->data + text->len, (size_t) len + 1, fmt, args);
		va_end(args);
		text->len += (size_t) len;
	}
}

void
gw_text_int(struct GwText *text, int64_t value)
{
	char digits[24];
	char *at = digits + sizeof(digits);
	uint64_t left = value < 0 ? -(uint64_t) value : (uint64_t) value;

	do
	{
		*--at = (char) ('0' + left % 10);
		left /= 10;
	} while (left > 0);
	if (value < 0)
		*--at = '-';
	gw_text_add(text, at, (size_t) (digits + sizeof(digits) - at));
}

void
gw_text_json(struct GwText *text, const char *data, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	const unsigned char *at = (const unsigned char *) data;
	const unsigned char *end = at + len;
	const unsigned char *from = at;

	gw_text_lit(text, "\"");
	while (at < end)
	{
		size_t step;

		if (*at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\')
		{
			at++;
			continue;
		}
		step = *at < 0x80 ? 0 : utf8_len(at, (size_t) (end - at));
		if (step > 0)
		{
			at += step;
			continue;
		}
		gw_text_add(text, (const char *) from, (size_t) (at - from));
		if (*at >= 0x80)
			gw_text_lit(text, "\\ufffd");
		else if (*at == '"')
			gw_text_lit(text, "\\\"");
		else if (*at == '\\')
			gw_text_lit(text, "\\\\");
		else if (*at == '\n')
			gw_text_lit(text, "\\n");
		else
		{
			char escape[6] = {'\\', 'u', '0', '0', hex[*at >> 4], hex[*at & 15]};

			gw_text_add(text, escape, sizeof(escape));
		}
		from = ++at;
	}
	gw_text_add(text, (const char *) from, (size_t) (at - from));
	gw_text_lit(text, "\"");
}

/* The length of the UTF-8 sequence at data, 0 if it is none. */
static size_t
utf8_len(const unsigned char *data, size_t left)
{
	unsigned char lead = data[0];
	size_t len = lead < 0x80 ? 1 : lead < 0xC2 ? 0
							   : lead < 0xE0   ? 2
							   : lead < 0xF0   ? 3
							   : lead < 0xF5   ? 4
											   : 0;
	size_t i;

	if (len == 0 || len > left)
		return 0;
	for (i = 1; i < len; i++)
		if ((data[i] & 0xC0) != 0x80)
			return 0;
	if ((lead == 0xE0 && data[1] < 0xA0) || (lead == 0xED && data[1] > 0x9F) ||
		(lead == 0xF0 && data[1] < 0x90) || (lead == 0xF4 && data[1] > 0x8F))
		return 0;
	return len;
}

bool
gw_utf8_is_valid(const char *data, size_t len)
{
	const unsigned char *at = (const unsigned char *) data;
	const unsigned char *end = at + len;

	while (at < end)
	{
		size_t step = *at < 0x80 ? 1 : utf8_len(at, (size_t) (end - at));

		if (step == 0)
			return false;
		at += step;
	}
	return true;
}

/* Writes "2025-01-15T00:00:00" (19 bytes) for seconds since 1970. */
void
gw_time_stamp(char out[20], int64_t seconds)
{
	/* Days to civil date by Howard Hinnant's method: years begin in March. */
	int64_t days = seconds / 86400;
	int64_t rest = seconds % 86400;
	int64_t era, day_of_era, year_of_era, day_of_year, month, year;
	int field[6];
	static const int places[6] = {2, 5, 8, 11, 14, 17};
	int i;

	if (rest < 0)
	{
		rest += 86400;
		days--;
	}
	days += 719468;
	era = (days >= 0 ? days : days - 146096) / 146097;
	day_of_era = days - era * 146097;
	year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	month = (5 * day_of_year + 2) / 153;
	year = year_of_era + era * 400 + (month >= 10);
	field[0] = (int) (year % 100);
	field[1] = (int) (month < 10 ? month + 3 : month - 9);
	field[2] = (int) (day_of_year - (153 * month + 2) / 5 + 1);
	field[3] = (int) (rest / 3600);
	field[4] = (int) (rest / 60 % 60);
	field[5] = (int) (rest % 60);
	memcpy(out, "0000-00-00T00:00:00", 20);
	out[0] = (char) ('0' + year / 1000 % 10);
	out[1] = (char) ('0' + year / 100 % 10);
	for (i = 0; i < 6; i++)
	{
		out[places[i]] = (char) ('0' + field[i] / 10);
		out[places[i] + 1] = (char) ('0' + field[i] % 10);
	}
}

void
gw_text_time(struct GwText *text, int64_t unix_us)
{
	char stamp[28];
	int64_t seconds = unix_us / 1000000;
	int64_t micros = unix_us % 1000000;
	int i;

	if (micros < 0)
	{
		micros += 1000000;
		seconds--;
	}
	gw_time_stamp(stamp, seconds);
	stamp[19] = '.';
	for (i = 25; i > 19; i--)
	{
		stamp[i] = (char) ('0' + micros % 10);
		micros /= 10;
	}
	stamp[26] = 'Z';
	gw_text_add(text, stamp, 27);
}

size_t
gw_text_plain(const char *data, size_t len)
{
	const uint64_t ones = UINT64_C(0x0101010101010101);
	size_t i = 0;

	/* Eight at a time, as long as none of them is one. */
	for (; len - i >= 8; i += 8)
	{
		uint64_t eight, controls, deletes;

		memcpy(&eight, data + i, sizeof(eight));
		controls = (eight - 0x20 * ones) & ~eight;
		deletes = ((eight ^ 0x7F * ones) - ones) & ~(eight ^ 0x7F * ones);
		if (((controls | deletes) & 0x80 * ones) != 0)
			break;
	}
	while (i < len && (unsigned char) data[i] >= 0x20 && data[i] != 0x7F)
		i++;
	return i;
}

char *
gw_text_take(struct GwText *text, size_t *len)
{
	char *data = NULL;

	if (gw_text_reserve(text, 1))
	{
		text->data[text->len] = '\0';
		data = text->data;
		if (len != NULL)
			*len = text->len;
	}
	else
		free(text->data);
	memset(text, 0, sizeof(*text));
	return data;
}

void
gw_text_free(struct GwText *text)
{
	free(text->data);
	memset(text, 0, sizeof(*text));
}
