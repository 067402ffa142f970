/*
 * headers.c
 *	  What a reply says of the limits its request met.
 *
 * X-RateLimit-* tell of the limit with the least left, and in a refusal of the
 * one that lasts longest. RateLimit and RateLimit-Policy (the IETF's draft)
 * list all of them, in a refusal those that refuse: so Retry-After is never
 * before any of their times. Headers that begin with a colon are for the gateway.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "limits/request.h"
#include "secrets/crypto.h"

#define US_PER_SECOND INT64CONST(1000000)
#define UNIX_EPOCH_US ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Room for what a header says of one limit: its name, two numbers, its partition key. */
#define ITEM_SIZE (KS_LIMIT_NAME_LENGTH + 2 * MAXINT8LEN + 64)

/* Above this window a reply does not offer all that is left at once, */
#define LONG_WINDOW_US (3600 * US_PER_SECOND)
/* but what fits into the time until more comes, at so many times the mean rate. */
#define BURST 10

/* How long a gateway may repeat a refusal: an administrator who removes a block is not to wait long, */
#define HOLD_BLOCK_MS 5000
#define HOLD_MOST_MS 60000
/* nor who shares an address with somebody whose login gives its charge back, nor who is refused for a peak of load. */
#define HOLD_BRIEF_MS 1000

static bool is_shown(const KsLimitsState *state, int i);
static int most_pressing(const KsLimitsState *state);
static int64 reset_us(const KsLimitsState *state, int i);
static int64 seconds(int64 us);
static const char *number_text(int64 number);
static char *put(char *at, const char *text);
static char *put_number(char *at, int64 number);
static char *put_partition_key(char *at, const uint8 *key);
static const char *limits_text(const KsLimitsState *state);
static const char *policies_text(const KsLimitsState *state);
static int64 offered(const KsLimitRequest *request, const KsLimitDecision *decision, int64 until);
static int64 hold_ms(const KsLimitsState *state);

int
ks_limits_headers(KsLimitsHeader headers[KS_LIMITS_HEADERS])
{
	const KsLimitsState *state = ks_limits_state();
	int pressing = most_pressing(state);
	int count = 0;

	if (pressing >= 0)
	{
		/* The decision was made as the statement began, and its times count from there. */
		int64 now = GetCurrentStatementStartTimestamp() + UNIX_EPOCH_US;

		headers[count++] = (KsLimitsHeader){"X-RateLimit-Limit", number_text(state->requests[pressing].most)};
		headers[count++] = (KsLimitsHeader){"X-RateLimit-Remaining", number_text(state->decisions[pressing].remaining)};
		headers[count++] = (KsLimitsHeader){"X-RateLimit-Reset", number_text(seconds(now + reset_us(state, pressing)))};
		headers[count++] = (KsLimitsHeader){"RateLimit", limits_text(state)};
		headers[count++] = (KsLimitsHeader){"RateLimit-Policy", policies_text(state)};
	}
	if ((state->is_refused || state->is_blocked) && state->retry_us > 0)
		headers[count++] = (KsLimitsHeader){"Retry-After", number_text(seconds(state->retry_us))};
	if (state->is_blocked)
		headers[count++] = (KsLimitsHeader){":holdAddress", number_text(HOLD_BLOCK_MS)};
	else if (state->is_refused && state->wait_us > 0)
		headers[count++] = (KsLimitsHeader){":wait", psprintf(INT64_FORMAT "/%d", state->wait_us / 1000 + 1, state->route.wait_ms)};
	else if (state->is_refused && hold_ms(state) > 0)
		headers[count++] = (KsLimitsHeader){":hold", number_text(hold_ms(state))};
	return count;
}

/* Shadows are not shown; of a refusal only what refuses is. */
static bool
is_shown(const KsLimitsState *state, int i)
{
	return !state->requests[i].is_shadow && !(state->is_refused && state->decisions[i].fits);
}

/* The limit that X-RateLimit-* tell of, or -1. */
static int
most_pressing(const KsLimitsState *state)
{
	int found = -1;

	if (!state->is_open || state->is_blocked || state->is_exempt)
		return -1;
	for (int i = 0; i < state->count; i++)
	{
		if (!is_shown(state, i))
			continue;
		if (found < 0 || state->decisions[i].remaining < state->decisions[found].remaining ||
			(state->decisions[i].remaining == state->decisions[found].remaining && reset_us(state, i) > reset_us(state, found)))
			found = i;
	}
	return found;
}

/* Microseconds until the client can have more: in a refusal, what it asked for. */
static int64
reset_us(const KsLimitsState *state, int i)
{
	return state->decisions[i].fits ? state->decisions[i].more_us : state->decisions[i].retry_us;
}

/* Rounded up: who comes back then is not too early. */
static int64
seconds(int64 us)
{
	return (us + US_PER_SECOND - 1) / US_PER_SECOND;
}

static const char *
number_text(int64 number)
{
	char *text = palloc(MAXINT8LEN + 1);

	pg_lltoa(number, text);
	return text;
}

/* Write at a place that has room; return the place behind. */
static char *
put(char *at, const char *text)
{
	size_t len = strlen(text);

	memcpy(at, text, len);
	return at + len;
}

static char *
put_number(char *at, int64 number)
{
	return at + pg_lltoa(number, at);
}

/* In base64 with its two other signs; a length divisible by three needs no padding. */
static char *
put_partition_key(char *at, const uint8 *key)
{
	char *end;

	at = put(at, ";pk=:");
	end = at + ks_base64url_encode(key, KS_PARTITION_KEY_LENGTH, at);
	for (; at < end; at++)
		*at = *at == '-' ? '+' : *at == '_' ? '/'
											: *at;
	*at++ = ':';
	return at;
}

static const char *
limits_text(const KsLimitsState *state)
{
	char *text = palloc(state->count * ITEM_SIZE + 1);
	char *at = text;

	for (int i = 0; i < state->count; i++)
	{
		int64 until = seconds(reset_us(state, i));

		if (!is_shown(state, i))
			continue;
		at = put(at, at > text ? ", \"" : "\"");
		at = put(at, state->items[i].name);
		at = put(at, "\";r=");
		at = put_number(at, offered(&state->requests[i], &state->decisions[i], until));
		at = put(at, ";t=");
		at = put_number(at, until);
		at = put_partition_key(at, state->items[i].partition_key);
	}
	*at = '\0';
	return text;
}

static const char *
policies_text(const KsLimitsState *state)
{
	char *text = palloc(state->count * ITEM_SIZE + 1);
	char *at = text;

	for (int i = 0; i < state->count; i++)
	{
		if (!is_shown(state, i))
			continue;
		at = put(at, at > text ? ", \"" : "\"");
		at = put(at, state->items[i].name);
		at = put(at, "\";q=");
		at = put_number(at, state->requests[i].most);
		at = put(at, ";w=");
		at = put_number(at, seconds(state->requests[i].window_us));
		at = put(at, ";qu=\"requests\"");
		at = put_partition_key(at, state->items[i].partition_key);
	}
	*at = '\0';
	return text;
}

/*
 * What a client that spreads it evenly over the time until more comes may be
 * told to have: of a long window, not everything at once.
 */
static int64
offered(const KsLimitRequest *request, const KsLimitDecision *decision, int64 until)
{
	double rate = (double) request->most / request->window_us * US_PER_SECOND;

	if (request->window_us <= LONG_WINDOW_US || until == 0 || decision->remaining == 0)
		return decision->remaining;
	return Max(1, (int64) Min((double) decision->remaining, rate * until * BURST));
}

/*
 * How long the gateway may answer the same request of the same caller itself:
 * while a limit refuses it that does not depend on the request's body.
 */
static int64
hold_ms(const KsLimitsState *state)
{
	int64 most_ms = state->is_shed ? HOLD_BRIEF_MS : HOLD_MOST_MS;
	int64 us = 0;

	for (int i = 0; i < state->count; i++)
	{
		if (!is_shown(state, i) || (state->items[i].counted_by != KS_BY_CALLER && state->items[i].counted_by != KS_BY_IP))
			continue;
		us = Max(us, state->decisions[i].retry_us);
		if (state->items[i].rate_class == KS_RATE_AUTH)
			most_ms = HOLD_BRIEF_MS;
	}
	return Min(us / 1000, most_ms);
}
