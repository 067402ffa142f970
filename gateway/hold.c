/*
 * hold.c
 *	  Refusals that are answered again without asking the database.
 *
 * A refusal is kept under what it depends on: the address alone, or route,
 * address and credential. What it says of time is counted down.
 */
#include "hold.h"

#include "gateway.h"
#include "hash.h"
#include "json.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>

#define SETS 256
#define WAYS 4

/* A larger refusal is not kept. */
#define TEXT_MAX 4096

struct GwHeld
{
	uint64_t key;
	int64_t since, until; /* monotonic; until 0: free */
	uint64_t repeated;
	int status;
	size_t headers_len, body_len;
	char *text; /* headers, then body */
};

struct GwHolds
{
	size_t used;
	struct GwHeld entries[SETS * WAYS];
};

static uint64_t address_key(const struct GwRequest *request);
static uint64_t route_key(const struct GwRequest *request);
static struct GwHeld *find(struct GwRequest *request, uint64_t key);
static void forget(struct GwHolds *holds, struct GwHeld *held);
static struct GwHeld *choose(struct GwHolds *holds, uint64_t key);
static void answer(struct GwRequest *request, struct GwHeld *held);
static void write_aged(struct GwText *out, const char *headers, size_t len, int64_t elapsed);
static void write_aged_number(struct GwText *out, const char **at, const char *end, int64_t elapsed);
static void write_aged_times(struct GwText *out, struct GwSlice value, int64_t elapsed);

bool
gw_hold_answers(struct GwRequest *request)
{
	struct GwHeld *held;

	if (request->loop->holds == NULL || request->loop->holds->used == 0)
		return false;
	held = find(request, address_key(request));
	if (held == NULL)
		held = find(request, route_key(request));
	if (held == NULL)
		return false;
	answer(request, held);
	return true;
}

void
gw_hold_remember(struct GwRequest *request, const struct GwRow *row)
{
	struct GwLoop *loop = request->loop;
	const struct GwNote *note = &request->note;
	uint64_t key = note->holds_address ? address_key(request) : route_key(request);
	size_t len = row->headers.len + row->body.len;
	struct GwHeld *held;

	if (len > TEXT_MAX)
		return;
	if (loop->holds == NULL && (loop->holds = calloc(1, sizeof(*loop->holds))) == NULL)
		return;
	held = choose(loop->holds, key);
	if (held->until != 0)
		forget(loop->holds, held);
	held->text = malloc(len + 1);
	if (held->text == NULL)
		return;
	memcpy(held->text, row->headers.data, row->headers.len);
	if (row->body.len > 0)
		memcpy(held->text + row->headers.len, row->body.data, row->body.len);
	held->key = key;
	held->since = loop->now;
	held->until = held->since + GW_MS(note->hold_ms);
	held->repeated = 0;
	held->status = row->status;
	held->headers_len = row->headers.len;
	held->body_len = row->body.len;
	loop->holds->used++;
}

void
gw_holds_free(struct GwLoop *loop)
{
	for (size_t i = 0; loop->holds != NULL && i < SETS * WAYS; i++)
		free(loop->holds->entries[i].text);
	free(loop->holds);
	loop->holds = NULL;
}

static uint64_t
address_key(const struct GwRequest *request)
{
	return gw_hash(request->client.ip, strlen(request->client.ip));
}

/* Limits count an IPv6 address with its /64. */
static uint64_t
route_key(const struct GwRequest *request)
{
	struct
	{
		unsigned char address[16];
		uint64_t credential;
		int64_t route;
	} parts = {0};

	if (inet_pton(AF_INET6, request->client.ip, parts.address) == 1)
		memset(parts.address + 8, 0, 8);
	else
		(void) inet_pton(AF_INET, request->client.ip, parts.address);
	if (request->head.via != NULL)
		parts.credential = gw_hash(request->head.credential.data, request->head.credential.len);
	parts.route = request->route->id;
	return gw_hash((const char *) &parts, sizeof(parts));
}

/*
 * The refusal that holds under the key, or NULL. One whose time is over goes,
 * and the database is told with the request how often it was repeated.
 */
static struct GwHeld *
find(struct GwRequest *request, uint64_t key)
{
	struct GwHolds *holds = request->loop->holds;
	struct GwHeld *set = holds->entries + key % SETS * WAYS;

	for (int i = 0; i < WAYS; i++)
	{
		if (set[i].until == 0 || set[i].key != key)
			continue;
		if (request->loop->now < set[i].until)
			return &set[i];
		request->held += set[i].repeated;
		forget(holds, &set[i]);
	}
	return NULL;
}

static void
forget(struct GwHolds *holds, struct GwHeld *held)
{
	free(held->text);
	*held = (struct GwHeld){0};
	holds->used--;
}

/* The place for the key: its own, a free one, or that of the refusal that ends first. */
static struct GwHeld *
choose(struct GwHolds *holds, uint64_t key)
{
	struct GwHeld *set = holds->entries + key % SETS * WAYS;
	struct GwHeld *chosen = set;

	for (int i = 0; i < WAYS; i++)
	{
		if (set[i].until != 0 && set[i].key == key)
			return &set[i];
		if (set[i].until < chosen->until)
			chosen = &set[i];
	}
	return chosen;
}

static void
answer(struct GwRequest *request, struct GwHeld *held)
{
	int64_t elapsed = (request->loop->now - held->since) / GW_SECONDS(1);
	struct GwText headers = {0};
	struct MHD_Response *response = NULL;

	held->repeated++;
	gw_metrics_add(&request->loop->metrics, GW_COUNT_REPEATED_REFUSALS, 1);
	write_aged(&headers, held->text, held->headers_len, elapsed);
	if (!headers.failed)
		response = gw_reply_row(&request->ask, held->status, headers.data, headers.len, held->text + held->headers_len,
								held->body_len, &request->note);
	gw_text_free(&headers);
	gw_request_answer(request, response);
}

/* Writes the reply headers of a refusal that is so many seconds old. */
static void
write_aged(struct GwText *out, const char *headers, size_t len, int64_t elapsed)
{
	struct GwJsonCursor cursor;
	struct GwJsonMember member;
	enum GwJsonType type;

	gw_text_reserve(out, len + 2);
	gw_text_lit(out, "{");
	gw_json_open(&cursor, headers, len);
	while ((type = gw_json_next(&cursor, &member)) != GW_JSON_END && type != GW_JSON_BROKEN)
	{
		const char *at = member.raw.data;

		if (type != GW_JSON_STRING)
			continue;
		gw_text_puts(out, out->len > 1 ? ",\"" : "\"");
		gw_text_add(out, member.name.data, member.name.len);
		gw_text_lit(out, "\":\"");
		if (gw_slice_is(member.name, "Retry-After"))
			write_aged_number(out, &at, at + member.raw.len, elapsed);
		else if (gw_slice_is(member.name, "RateLimit"))
			write_aged_times(out, member.raw, elapsed);
		else
			gw_text_add(out, member.raw.data, member.raw.len);
		gw_text_lit(out, "\"");
	}
	gw_text_lit(out, "}");
}

/* Writes the number at a place less the seconds, at least 1; moves behind it. */
static void
write_aged_number(struct GwText *out, const char **at, const char *end, int64_t elapsed)
{
	int64_t number = 0;

	for (; *at < end && isdigit((unsigned char) **at) && number < INT32_MAX; (*at)++)
		number = number * 10 + (**at - '0');
	gw_text_int(out, number > elapsed ? number - elapsed : 1);
}

/* Writes the value of RateLimit with each of its times, ";t=59", counted down. */
static void
write_aged_times(struct GwText *out, struct GwSlice value, int64_t elapsed)
{
	const char *at = value.data;
	const char *end = value.data + value.len;

	while (at < end)
	{
		if (end - at > 3 && memcmp(at, ";t=", 3) == 0)
		{
			gw_text_add(out, at, 3);
			at += 3;
			write_aged_number(out, &at, end, elapsed);
		}
		else
			gw_text_add(out, at++, 1);
	}
}
