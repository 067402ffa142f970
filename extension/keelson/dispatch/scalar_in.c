/*
 * scalar_in.c
 *	  Read numbers and times from text.
 *
 * The types' own input functions take more than clients should send ("infinity",
 * "yesterday") and raise errors, after which only a
 * subtransaction lets the request go on collecting faults. These do neither.
 */
#include "postgres.h"

#include <errno.h>
#include <math.h>

#include "common/int.h"
#include "common/jsonapi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/numeric.h"

#include "dispatch/scalar_in.h"

/* What numeric can hold before and behind the point. */
#define NUMERIC_INTEGER_DIGITS 131072
#define NUMERIC_FRACTION_DIGITS 16383

/* A JSON number taken apart: value = digits * 10^exponent. */
typedef struct Number
{
	bool is_negative;
	char *digits; /* without zeros at either end; empty for zero */
	int count;
	int exponent;
	int scale; /* digits behind the point as it is written, zeros too */
} Number;

static bool take_apart(const char *text, int len, Number *number);
static int read_exponent(const char *at, const char *end);
static bool read_digits(const char **at, const char *end, int count, int *out);
static bool read_char(const char **at, const char *end, const char *chars);
static bool read_day(const char **at, const char *end, struct pg_tm *tm);
static bool read_time(const char **at, const char *end, struct pg_tm *tm, fsec_t *fraction);
static bool read_zone(const char **at, const char *end, int *seconds);

KsReading
ks_read_integer(const char *text, int len, int64 low, int64 high, int64 *out)
{
	Number number;
	int64 value = 0;

	if (!take_apart(text, len, &number))
		return KS_NOT_THAT;
	if (number.exponent < 0)
		return KS_NOT_INTEGRAL;
	if (number.count + number.exponent > 19)
		return KS_OUT_OF_RANGE;
	for (int i = 0; i < number.count + number.exponent; i++)
	{
		int digit = i < number.count ? number.digits[i] - '0' : 0;

		/* Negative on the way, since there is one more negative number. */
		if (pg_mul_s64_overflow(value, 10, &value) || pg_sub_s64_overflow(value, digit, &value))
			return KS_OUT_OF_RANGE;
	}
	if (!number.is_negative && pg_mul_s64_overflow(value, -1, &value))
		return KS_OUT_OF_RANGE;
	*out = value;
	return value >= low && value <= high ? KS_READ : KS_OUT_OF_RANGE;
}

KsReading
ks_read_numeric(const char *text, int len, Datum *out)
{
	Number number;

	if (!take_apart(text, len, &number))
		return KS_NOT_THAT;
	/* Trailing zeros of a fraction, and those of zero, count for numeric. */
	if (number.count + number.exponent > NUMERIC_INTEGER_DIGITS || number.scale < -NUMERIC_INTEGER_DIGITS ||
		number.scale > NUMERIC_FRACTION_DIGITS || len > NUMERIC_INTEGER_DIGITS)
		return KS_OUT_OF_RANGE;
	*out = DirectFunctionCall3(numeric_in, CStringGetDatum(pnstrdup(text, len)), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return KS_READ;
}

KsReading
ks_read_double(const char *text, int len, double *out)
{
	if (!IsValidJsonNumber(text, len))
		return KS_NOT_THAT;
	errno = 0;
	*out = strtod(pnstrdup(text, len), NULL);
	return errno == ERANGE && (isinf(*out) || *out == 0) ? KS_OUT_OF_RANGE : KS_READ;
}

/* Take a JSON number apart; false when it is none. */
static bool
take_apart(const char *text, int len, Number *number)
{
	const char *end = text + len;
	bool in_fraction = false;
	const char *at;

	if (!IsValidJsonNumber(text, len))
		return false;
	*number = (Number){.is_negative = *text == '-', .digits = palloc(len + 1)};
	for (at = text + number->is_negative; at < end && *at != 'e' && *at != 'E'; at++)
	{
		if (*at == '.')
		{
			in_fraction = true;
			continue;
		}
		if (number->count > 0 || *at != '0')
			number->digits[number->count++] = *at;
		number->exponent -= in_fraction;
	}
	if (at < end)
		number->exponent += read_exponent(at + 1, end);
	number->scale = -number->exponent;
	while (number->count > 0 && number->digits[number->count - 1] == '0')
	{
		number->count--;
		number->exponent++;
	}
	if (number->count == 0)
		number->exponent = 0;
	return true;
}

/* A number's exponent; one beyond reason is as good as any other such. */
static int
read_exponent(const char *at, const char *end)
{
	bool is_negative = *at == '-';
	int value = 0;

	for (at += *at == '-' || *at == '+'; at < end; at++)
		value = Min(value * 10 + (*at - '0'), 10 * 1000 * 1000);
	return is_negative ? -value : value;
}

KsReading
ks_read_timestamptz(const char *text, int len, TimestampTz *out)
{
	const char *end = text + len;
	struct pg_tm tm = {0};
	fsec_t fraction;
	int zone;

	if (!read_day(&text, end, &tm) || !read_char(&text, end, "Tt ") ||
		!read_time(&text, end, &tm, &fraction) || !read_zone(&text, end, &zone) || text != end)
		return KS_NOT_THAT;
	/* The server counts zones west of Greenwich. */
	zone = -zone;
	return tm2timestamp(&tm, fraction, &zone, out) == 0 ? KS_READ : KS_OUT_OF_RANGE;
}

KsReading
ks_read_date(const char *text, int len, DateADT *out)
{
	const char *end = text + len;
	struct pg_tm tm = {0};

	if (!read_day(&text, end, &tm) || text != end)
		return KS_NOT_THAT;
	*out = date2j(tm.tm_year, tm.tm_mon, tm.tm_mday) - POSTGRES_EPOCH_JDATE;
	return KS_READ;
}

/* Read a day that there is: 2025-01-15. */
static bool
read_day(const char **at, const char *end, struct pg_tm *tm)
{
	return read_digits(at, end, 4, &tm->tm_year) && read_char(at, end, "-") &&
		   read_digits(at, end, 2, &tm->tm_mon) && read_char(at, end, "-") &&
		   read_digits(at, end, 2, &tm->tm_mday) &&
		   tm->tm_year >= 1 && tm->tm_mon >= 1 && tm->tm_mon <= MONTHS_PER_YEAR && tm->tm_mday >= 1 &&
		   tm->tm_mday <= day_tab[isleap(tm->tm_year)][tm->tm_mon - 1];
}

/* Read 14:30:00, or 14:30:00.25 to the microsecond; a 60th second is allowed. */
static bool
read_time(const char **at, const char *end, struct pg_tm *tm, fsec_t *fraction)
{
	int scale = 100000;

	*fraction = 0;
	if (!read_digits(at, end, 2, &tm->tm_hour) || !read_char(at, end, ":") ||
		!read_digits(at, end, 2, &tm->tm_min) || !read_char(at, end, ":") ||
		!read_digits(at, end, 2, &tm->tm_sec) ||
		tm->tm_hour > 23 || tm->tm_min > 59 || tm->tm_sec > 60)
		return false;
	if (!read_char(at, end, "."))
		return true;
	if (*at >= end || !isdigit((unsigned char) **at))
		return false;
	for (; *at < end && isdigit((unsigned char) **at); (*at)++, scale /= 10)
		*fraction += (**at - '0') * scale;
	return true;
}

/* Read Z, or an offset such as +01:00, as seconds east of Greenwich. */
static bool
read_zone(const char **at, const char *end, int *seconds)
{
	bool is_west = *at < end && **at == '-';
	int hours, minutes;

	*seconds = 0;
	if (read_char(at, end, "Zz"))
		return true;
	if (!read_char(at, end, "+-") || !read_digits(at, end, 2, &hours) || !read_char(at, end, ":") ||
		!read_digits(at, end, 2, &minutes) || hours > 15 || minutes > 59)
		return false;
	*seconds = (hours * MINS_PER_HOUR + minutes) * SECS_PER_MINUTE * (is_west ? -1 : 1);
	return true;
}

static bool
read_digits(const char **at, const char *end, int count, int *out)
{
	*out = 0;
	for (; count > 0; count--, (*at)++)
	{
		if (*at >= end || !isdigit((unsigned char) **at))
			return false;
		*out = *out * 10 + (**at - '0');
	}
	return true;
}

/* Move past one of the characters, if it stands here. */
static bool
read_char(const char **at, const char *end, const char *chars)
{
	if (*at >= end || **at == '\0' || strchr(chars, **at) == NULL)
		return false;
	(*at)++;
	return true;
}
