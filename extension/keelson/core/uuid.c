/*
 * uuid.c
 *	  UUID version 7: ids that sort by the time of their making.
 */
#include "postgres.h"

#include <limits.h>
#include <time.h>

#include "fmgr.h"
#include "miscadmin.h"

#include "core/uuid.h"

#define MS_PER_DAY INT64CONST(86400000)

/* 2^12 steps of a millisecond, in nanoseconds, rounded up. */
#define STEP_NS (1000000 / 4096 + 1)

/* A clock that is set back by more than this had been wrong before: ids are not to be of its time any longer. */
#define AHEAD_MAX_NS (INT64CONST(60) * 1000000000)

/* A draw of random bytes costs for hundreds what it costs for eight. */
#define POOL_SIZE 2048

/* The values of digits, each more by one: 0 is of what is none. */
static const uint8 digit_values[UCHAR_MAX + 1] = {
	['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8, ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16, ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16};

static void draw(uint8 *out, int len);
static int64 rising_clock(void);

void
ks_uuid7(pg_uuid_t *out)
{
	int64 now = rising_clock();
	uint64 milliseconds = now / 1000000;
	uint32 fraction = (uint64) (now % 1000000) * 4096 / 1000000;

	draw(out->data + 8, UUID_LEN - 8);
	for (int i = 0; i < 6; i++)
		out->data[i] = milliseconds >> (8 * (5 - i));
	out->data[6] = 0x70 | (fraction >> 8);
	out->data[7] = fraction;
	out->data[8] = 0x80 | (out->data[8] & 0x3f);
}

void
ks_uuid_write(const pg_uuid_t *uuid, char out[KS_UUID_TEXT_LENGTH])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = digits[uuid->data[i] >> 4];
		*out++ = digits[uuid->data[i] & 0x0F];
	}
}

char *
ks_uuid_string(const pg_uuid_t *uuid)
{
	char *text = palloc(KS_UUID_TEXT_LENGTH + 1);

	ks_uuid_write(uuid, text);
	text[KS_UUID_TEXT_LENGTH] = '\0';
	return text;
}

bool
ks_uuid_read(const char *text, size_t len, pg_uuid_t *uuid)
{
	pg_uuid_t read;

	if (len != KS_UUID_TEXT_LENGTH)
		return false;
	for (int i = 0; i < UUID_LEN; i++)
	{
		uint8 high, low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
			return false;
		if ((high = digit_values[(uint8) text[0]]) == 0 || (low = digit_values[(uint8) text[1]]) == 0)
			return false;
		read.data[i] = (uint8) ((high - 1) << 4 | (low - 1));
		text += 2;
	}
	*uuid = read;
	return true;
}

bool
ks_uuid_is_nil(const pg_uuid_t *uuid)
{
	static const pg_uuid_t nil = {{0}};

	return memcmp(uuid, &nil, sizeof(nil)) == 0;
}

int64
ks_uuid7_ms(const pg_uuid_t *uuid)
{
	int64 milliseconds = 0;

	for (int i = 0; i < 6; i++)
		milliseconds = milliseconds << 8 | uuid->data[i];
	return milliseconds;
}

int32
ks_uuid7_day(const pg_uuid_t *uuid)
{
	return (int32) (ks_uuid7_ms(uuid) / MS_PER_DAY);
}

PG_FUNCTION_INFO_V1(ks_uuid7_sql);

/* keelson.uuid7() */
Datum
ks_uuid7_sql(PG_FUNCTION_ARGS)
{
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));

	ks_uuid7(uuid);
	PG_RETURN_UUID_P(uuid);
}

/* Take random bytes from those drawn ahead. Each is handed out once, and by the process that drew it. */
static void
draw(uint8 *out, int len)
{
	/* Written here alone. */
	static uint8 pool[POOL_SIZE];
	static int left;
	static int owner;

	if (left < len || owner != MyProcPid)
	{
		if (!pg_strong_random(pool, POOL_SIZE))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		left = POOL_SIZE;
		owner = MyProcPid;
	}
	left -= len;
	memcpy(out, pool + left, len);
	explicit_bzero(pool + left, len);
}

/* Nanoseconds since 1970, at least one step after the last call's, unless that was far ahead. */
static int64
rising_clock(void)
{
	/* Written here alone: the last time handed out by this backend. */
	static int64 last = 0;
	struct timespec ts;
	int64 now;

	clock_gettime(CLOCK_REALTIME, &ts);
	now = (int64) ts.tv_sec * 1000000000 + ts.tv_nsec;
	if (now < last + STEP_NS && last - now < AHEAD_MAX_NS)
		now = last + STEP_NS;
	last = now;
	return now;
}
