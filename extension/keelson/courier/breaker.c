/*
 * breaker.c
 *	  The breaker's transitions, by given times, without a clock or a database.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "courier/breaker.h"

#define UNREACHABLE_IN_A_ROW 5
#define MINUTE_US (60 * USECS_PER_SEC)
#define FEWEST_ATTEMPTS 10
#define FIRST_OPEN_US (30 * USECS_PER_SEC)
#define LONGEST_OPEN_US (15 * 60 * USECS_PER_SEC)
#define PROBES_TO_CLOSE 8

static const char *const names[] = {
	[KS_BREAKER_CLOSED] = "closed",
	[KS_BREAKER_OPEN] = "open",
	[KS_BREAKER_HALF_OPEN] = "half_open",
	[KS_BREAKER_FORCED_OPEN] = "forced_open",
	[KS_BREAKER_FORCED_CLOSED] = "forced_closed",
};

static void trip(KsBreaker *breaker, TimestampTz now);
static void count(KsBreaker *breaker, bool success, bool is_unreachable, TimestampTz now);

int
ks_breaker_room(KsBreaker *breaker, TimestampTz now)
{
	switch (breaker->state)
	{
		case KS_BREAKER_FORCED_OPEN:
			return 0;
		case KS_BREAKER_OPEN:
			/* A clock that was set back does not keep it open for long. */
			if (now < breaker->open_until && breaker->open_until - now <= 2 * LONGEST_OPEN_US)
				return 0;
			breaker->state = KS_BREAKER_HALF_OPEN;
			breaker->probes = 1;
			breaker->is_changed = true;
			return 1;
		case KS_BREAKER_HALF_OPEN:
			return breaker->probes;
		case KS_BREAKER_CLOSED:
		case KS_BREAKER_FORCED_CLOSED:
			break;
	}
	return PG_INT32_MAX;
}

void
ks_breaker_judge(KsBreaker *breaker, bool success, bool is_unreachable, TimestampTz now)
{
	if (breaker->state == KS_BREAKER_FORCED_OPEN || breaker->state == KS_BREAKER_FORCED_CLOSED)
		return;
	if (breaker->state == KS_BREAKER_HALF_OPEN)
	{
		if (!success)
			trip(breaker, now);
		else if ((breaker->probes *= 2) > PROBES_TO_CLOSE)
		{
			memset(breaker, 0, sizeof(*breaker));
			breaker->is_changed = true;
		}
		return;
	}
	count(breaker, success, is_unreachable, now);
	if (breaker->state == KS_BREAKER_CLOSED && !success &&
		(breaker->unreachable >= UNREACHABLE_IN_A_ROW ||
		 (breaker->minute_attempts >= FEWEST_ATTEMPTS && breaker->minute_failures * 2 >= breaker->minute_attempts)))
		trip(breaker, now);
}

static void
count(KsBreaker *breaker, bool success, bool is_unreachable, TimestampTz now)
{
	if (now - breaker->minute_at > MINUTE_US || now < breaker->minute_at)
	{
		breaker->minute_at = now;
		breaker->minute_attempts = 0;
		breaker->minute_failures = 0;
	}
	breaker->minute_attempts++;
	if (!success)
		breaker->minute_failures++;
	breaker->unreachable = is_unreachable ? breaker->unreachable + 1 : 0;
}

static void
trip(KsBreaker *breaker, TimestampTz now)
{
	int64 wait = LONGEST_OPEN_US;

	if (breaker->trips < 5)
		wait = Min(FIRST_OPEN_US << breaker->trips, LONGEST_OPEN_US);
	breaker->state = KS_BREAKER_OPEN;
	breaker->open_until = now + ks_jitter(wait);
	breaker->trips++;
	breaker->unreachable = 0;
	breaker->minute_at = 0;
	breaker->is_changed = true;
}

const char *
ks_breaker_name(KsBreakerState state)
{
	return names[state];
}

KsBreakerState
ks_breaker_parse(const char *name)
{
	for (int i = 0; i < lengthof(names); i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return KS_BREAKER_CLOSED;
}

int64
ks_jitter(int64 value)
{
	return (int64) (value * (0.8 + 0.4 * pg_prng_double(&pg_global_prng_state)));
}
