/*
 * text: a growing byte buffer that remembers failure.
 *
 * Growth doubles, so that appending is linear in the result; writing JSON
 * strings and times is done by hand because each request does it several times.
 * Of a time, what does not change within a second is worked out once by each thread.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "text.h"

#define FIRST_SIZE 512
#define STAMP_LEN 19

static size_t utf8_len(const unsigned char *data, size_t left);

bool
gw_text_grow(struct GwText *text, size_t more)
{
	size_t size = text->size ? text->size : FIRST_SIZE;
	char *data;

	if (more > SIZE_MAX / 2 - text->len)
	{
		text->failed = true;
		return false;
	}
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

size_t
gw_digits(char out[GW_DIGITS_MAX], int64_t value)
{
	uint64_t left = value < 0 ? -(uint64_t) value : (uint64_t) value;
	size_t len = value < 0 ? 2 : 1;
	char *at;

	for (uint64_t rest = left; rest >= 10; rest /= 10)
		len++;
	out[0] = '-';
	at = out + len;
	do
	{
		*--at = (char) ('0' + left % 10);
		left /= 10;
	} while (left > 0);
	return len;
}

void
gw_text_int(struct GwText *text, int64_t value)
{
	if (gw_text_reserve(text, GW_DIGITS_MAX))
		text->len += gw_digits(text->data + text->len, value);
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

		at += gw_text_safe((const char *) at, (size_t) (end - at));
		if (at == end)
			break;
		step = *at == 0x7F ? 1 : *at < 0x80 ? 0
											: utf8_len(at, (size_t) (end - at));
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

/* Writes "2025-01-15T00:00:00" for seconds since 1970. */
static void
write_stamp(char out[STAMP_LEN], int64_t seconds)
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
	memcpy(out, "0000-00-00T00:00:00", STAMP_LEN);
	out[0] = (char) ('0' + year / 1000 % 10);
	out[1] = (char) ('0' + year / 100 % 10);
	for (i = 0; i < 6; i++)
	{
		out[places[i]] = (char) ('0' + field[i] / 10);
		out[places[i] + 1] = (char) ('0' + field[i] % 10);
	}
}

void
gw_time_write(char out[GW_TIME_LEN], int64_t unix_us)
{
	static _Thread_local struct
	{
		int64_t second;
		char stamp[STAMP_LEN];
	} last = {0, "1970-01-01T00:00:00"};
	int64_t second = unix_us / 1000000;
	uint32_t rest;
	int i;

	if (second * 1000000 > unix_us)
		second--;
	rest = (uint32_t) (unix_us - second * 1000000);
	if (second != last.second)
	{
		last.second = second;
		write_stamp(last.stamp, second);
	}
	memcpy(out, last.stamp, STAMP_LEN);
	out[STAMP_LEN] = '.';
	for (i = GW_TIME_LEN - 2; i > STAMP_LEN; i--)
	{
		out[i] = (char) ('0' + rest % 10);
		rest /= 10;
	}
	out[GW_TIME_LEN - 1] = 'Z';
}

void
gw_text_time(struct GwText *text, int64_t unix_us)
{
	if (!gw_text_reserve(text, GW_TIME_LEN))
		return;
	gw_time_write(text->data + text->len, unix_us);
	text->len += GW_TIME_LEN;
}

void
gw_date_write(char out[GW_DATE_SIZE], int64_t seconds)
{
	static _Thread_local struct
	{
		time_t second;
		char date[GW_DATE_SIZE];
	} last = {0, "Thu, 01 Jan 1970 00:00:00 GMT"};
	struct tm parts;

	if (seconds != last.second)
	{
		last.second = (time_t) seconds;
		strftime(last.date, sizeof(last.date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&last.second, &parts));
	}
	memcpy(out, last.date, sizeof(last.date));
}

/* Those of sixteen bytes that are not of a kind, marked. */
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef Bytes (*Kind)(Bytes bytes);

static inline Bytes
not_plain(Bytes bytes)
{
	return (Bytes) ((bytes < 0x20) | (bytes == 0x7F));
}

static inline Bytes
not_safe(Bytes bytes)
{
	return (Bytes) ((bytes < 0x20) | (bytes >= 0x7F) | (bytes == '"') | (bytes == '\\'));
}

static inline Bytes
not_solid(Bytes bytes)
{
	return (Bytes) ((bytes <= ' ') | (bytes >= 0x7F));
}

static inline bool
has_any(Bytes marked)
{
	uint64_t halves[2];

	memcpy(halves, &marked, sizeof(halves));
	return (halves[0] | halves[1]) != 0;
}

/* How many bytes stand before the first that is not of the kind. */
static inline size_t
span(const char *data, size_t len, Kind not_of_kind)
{
	Bytes bytes;
	size_t i = 0;

	for (; len - i >= sizeof(bytes); i += sizeof(bytes))
	{
		memcpy(&bytes, data + i, sizeof(bytes));
		if (has_any(not_of_kind(bytes)))
			break;
	}
	if (len - i < sizeof(bytes) && len > i)
	{
		/* The rest, filled up with what is of every kind. */
		memset(&bytes, 'x', sizeof(bytes));
		memcpy(&bytes, data + i, len - i);
		if (!has_any(not_of_kind(bytes)))
			return len;
	}
	while (i < len && !has_any(not_of_kind((Bytes){} + (uint8_t) data[i])))
		i++;
	return i;
}

size_t
gw_text_plain(const char *data, size_t len)
{
	return span(data, len, not_plain);
}

size_t
gw_text_safe(const char *data, size_t len)
{
	return span(data, len, not_safe);
}

size_t
gw_text_solid(const char *data, size_t len)
{
	return span(data, len, not_solid);
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
