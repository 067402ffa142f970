/*
 * decide.c
 *	  Sliding-window limits: does this fit, and if so, count it.
 *
 * A counter is a queue of items in the order of time; an item is a time and how
 * much was counted then, packed into 64 bits. Where the limit is at most
 * KS_LIMITS_EXACT, time is in microseconds, and an item counts until exactly
 * one window later: no window ever holds more than the limit, and nothing that
 * fits is refused. Above that, time is in 64ths of the window (whole seconds are
 * divisible by that), and an item counts until every moment of its 64th is a
 * window ago: never more than the limit either, and something may be refused at
 * most 1/64 window early.
 *
 * Several limits are one decision. All their partitions are locked, in the
 * order of their numbers, and only then is the clock read: under each lock time
 * goes only forward. (A time given by a test that goes back is taken as the
 * latest the counter has seen.) First everything is looked at; then room is
 * made for what will be charged, the one step that can fail, which refuses;
 * then all is charged. No error can be raised while the locks are held.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/shmem.h"
#include "limits/store.h"

#define EXACT_BITS 11  /* of an item, for how much; KS_LIMITS_EXACT fits */
#define COARSE_BITS 30 /* KS_LIMITS_MOST fits */
#define BUCKETS 64

/* When to come back after a refusal for want of memory. */
#define RETRY_EXHAUSTED_US 1000000

/* A limit while it is being decided. */
typedef struct Candidate
{
	const KsLimitRequest *request;
	KsLimitDecision *decision;
	KsLimitPartition *partition;
	int number;          /* of the partition */
	KsLimitEntry *entry; /* NULL while nothing is counted under the key */
	int64 unit_us;
	int64 window; /* in units, how long an item counts */
	int64 now;    /* in units */
} Candidate;

static void prepare(Candidate *candidates, const KsLimitRequest *requests, int n, KsLimitDecision *decisions);
static void lock_partitions(const Candidate *candidates, int n);
static void unlock_partitions(const Candidate *candidates, int n);
static bool decide_locked(Candidate *candidates, int n, bool charge, int64 now_us);
static void look(Candidate *candidate, int64 now_us);
static bool make_room(Candidate *candidate, int64 now_us);
static void charge_one(Candidate *candidate, int64 now_us);
static int bits_of(const KsLimitRequest *request);
static int64 count_of(uint64 item, int bits);
static bool is_empty(const KsLimitEntry *entry);
static uint64 *latest_item(const KsLimitEntry *entry);
static void expire(Candidate *candidate);
static int64 time_until(const Candidate *candidate, int64 to_free, int64 now_us);
static int64 take_back(Candidate *candidate, int64 charged, int64 cost);
static void remove_item(KsLimitPartition *partition, KsLimitEntry *entry, uint32 number, uint8 place);

int64
ks_limits_clock(void)
{
	return ks_clock_ns(CLOCK_MONOTONIC) / 1000;
}

bool
ks_limits_decide(const KsLimitRequest *requests, int n, bool charge, KsLimitDecision *decisions)
{
	return ks_limits_decide_at(requests, n, charge, -1, decisions);
}

bool
ks_limits_decide_at(const KsLimitRequest *requests, int n, bool charge, int64 now_us, KsLimitDecision *decisions)
{
	Candidate candidates[KS_LIMITS_TOGETHER];
	bool admitted;

	if (n == 0)
		return true;
	if (n > KS_LIMITS_TOGETHER)
		elog(ERROR, "too many limits for one request: %d", n);
	ks_require_shmem();
	prepare(candidates, requests, n, decisions);
	lock_partitions(candidates, n);
	admitted = decide_locked(candidates, n, charge, now_us < 0 ? ks_limits_clock() : now_us);
	unlock_partitions(candidates, n);
	return admitted;
}

/* Fill in the candidates, in the order of their partitions. */
static void
prepare(Candidate *candidates, const KsLimitRequest *requests, int n, KsLimitDecision *decisions)
{
	for (int i = 0; i < n; i++)
	{
		int number = ks_store_partition_of(&requests[i].key, requests[i].is_protected);
		int at = i;

		for (; at > 0 && candidates[at - 1].number >= number; at--)
		{
			if (candidates[at - 1].request->key.a == requests[i].key.a && candidates[at - 1].request->key.b == requests[i].key.b)
				elog(ERROR, "a key is counted twice in one decision");
			candidates[at] = candidates[at - 1];
		}
		candidates[at] = (Candidate){
			.request = &requests[i],
			.decision = &decisions[i],
			.partition = ks_store_partition(number),
			.number = number,
			.unit_us = requests[i].is_coarse ? requests[i].window_us / BUCKETS : 1,
			.window = requests[i].is_coarse ? BUCKETS + 1 : requests[i].window_us,
		};
	}
}

static void
lock_partitions(const Candidate *candidates, int n)
{
	for (int i = 0; i < n; i++)
		if (i == 0 || candidates[i].number != candidates[i - 1].number)
			LWLockAcquire(&candidates[i].partition->lock, LW_EXCLUSIVE);
}

static void
unlock_partitions(const Candidate *candidates, int n)
{
	for (int i = n - 1; i >= 0; i--)
		if (i == 0 || candidates[i].number != candidates[i - 1].number)
			LWLockRelease(&candidates[i].partition->lock);
}

static bool
decide_locked(Candidate *candidates, int n, bool charge, int64 now_us)
{
	bool admitted = true;

	for (int i = 0; i < n; i++)
	{
		look(&candidates[i], now_us);
		admitted &= candidates[i].decision->fits || candidates[i].request->is_shadow;
	}
	if (admitted && charge)
	{
		for (int i = 0; i < n && admitted; i++)
			if (candidates[i].decision->fits)
				admitted = make_room(&candidates[i], now_us);
		for (int i = 0; i < n && admitted; i++)
			if (candidates[i].decision->fits)
				charge_one(&candidates[i], now_us);
	}
	for (int i = 0; i < n; i++)
		if (candidates[i].entry != NULL)
			candidates[i].entry->is_pinned = false;
	if (admitted && charge)
		candidates[0].partition->admitted++;
	else if (!admitted)
		candidates[0].partition->refused++;
	return admitted;
}

/* Decide one limit by what is counted under its key. */
static void
look(Candidate *candidate, int64 now_us)
{
	const KsLimitRequest *request = candidate->request;
	KsLimitDecision *decision = candidate->decision;
	KsLimitEntry *entry = ks_store_find(candidate->partition, &request->key);
	int64 used = 0;

	candidate->now = now_us / candidate->unit_us;
	candidate->entry = entry;
	if (entry != NULL)
	{
		entry->is_pinned = true;
		candidate->now = Max(candidate->now, entry->latest);
		expire(candidate);
		used = entry->used;
	}
	decision->fits = used + request->cost <= request->most;
	decision->used = used;
	decision->remaining = Max(request->most - used, 0);
	decision->more_us = used > 0 ? time_until(candidate, 1, now_us) : 0;
	decision->retry_us = 0;
	decision->charged = -1;
	if (!decision->fits)
		decision->retry_us = time_until(candidate, used + request->cost - request->most, now_us);
}

/* See to it that the counter exists and can take one more item. */
static bool
make_room(Candidate *candidate, int64 now_us)
{
	KsLimitPartition *partition = candidate->partition;
	bool has_room = true;

	if (candidate->entry == NULL)
	{
		candidate->entry = ks_store_add(partition, &candidate->request->key, candidate->unit_us, candidate->window, now_us);
		has_room = candidate->entry != NULL;
		if (has_room)
			candidate->entry->is_pinned = true;
	}
	else if (candidate->entry->tail == KS_BLOCK_ITEMS)
		has_room = ks_store_extend(partition, candidate->entry, now_us);
	if (!has_room)
	{
		partition->exhausted++;
		candidate->decision->fits = false;
		candidate->decision->retry_us = RETRY_EXHAUSTED_US;
	}
	return has_room;
}

/* Count the cost, in the latest item if that has the same time. */
static void
charge_one(Candidate *candidate, int64 now_us)
{
	const KsLimitRequest *request = candidate->request;
	KsLimitDecision *decision = candidate->decision;
	KsLimitEntry *entry = candidate->entry;
	uint64 *latest = latest_item(entry);
	int bits = bits_of(request);

	if (latest != NULL && (int64) (*latest >> bits) == candidate->now)
		*latest += request->cost;
	else
		ks_store_block(entry->last)->items[entry->tail++] = (uint64) candidate->now << bits | request->cost;
	entry->latest = candidate->now;
	entry->used += request->cost;
	decision->charged = candidate->now;
	decision->remaining -= request->cost;
	if (decision->more_us == 0)
		decision->more_us = time_until(candidate, 1, now_us);
}

/* The low bits of an item, which say how much. */
static int
bits_of(const KsLimitRequest *request)
{
	return request->is_coarse ? COARSE_BITS : EXACT_BITS;
}

static int64
count_of(uint64 item, int bits)
{
	return item & ((UINT64CONST(1) << bits) - 1);
}

static bool
is_empty(const KsLimitEntry *entry)
{
	return entry->first == entry->last && entry->head == entry->tail;
}

/* The latest item, or NULL where the last block holds none. */
static uint64 *
latest_item(const KsLimitEntry *entry)
{
	if (is_empty(entry) || entry->tail == 0)
		return NULL;
	return &ks_store_block(entry->last)->items[entry->tail - 1];
}

/*
 * Take from the front what does not count any more. Then it is as late as that
 * for the counter, whatever the next who looks takes the time to be.
 */
static void
expire(Candidate *candidate)
{
	KsLimitEntry *entry = candidate->entry;
	int bits = bits_of(candidate->request);

	while (!is_empty(entry))
	{
		KsLimitBlock *block = ks_store_block(entry->first);
		uint64 item = block->items[entry->head];

		if (candidate->now - (int64) (item >> bits) < entry->window)
			return;
		entry->used -= count_of(item, bits);
		entry->latest = candidate->now;
		entry->head++;
		if (entry->head == KS_BLOCK_ITEMS && entry->first != entry->last)
		{
			uint32 emptied = entry->first;

			entry->first = block->next;
			entry->head = 0;
			ks_store_free_block(candidate->partition, emptied);
		}
	}
	entry->head = 0;
	entry->tail = 0;
}

/*
 * Microseconds until so much of what is counted will count no more. Where that
 * is never, since the cost is above the limit, a window.
 */
static int64
time_until(const Candidate *candidate, int64 to_free, int64 now_us)
{
	const KsLimitEntry *entry = candidate->entry;
	int bits = bits_of(candidate->request);
	uint32 number = entry ? entry->first : KS_NO_BLOCK;
	uint8 place = entry ? entry->head : 0;

	while (number != KS_NO_BLOCK)
	{
		const KsLimitBlock *block = ks_store_block(number);
		uint8 end = number == entry->last ? entry->tail : KS_BLOCK_ITEMS;

		for (; place < end; place++)
		{
			to_free -= count_of(block->items[place], bits);
			if (to_free <= 0)
				return ((int64) (block->items[place] >> bits) + entry->window) * entry->unit_us - now_us;
		}
		number = number == entry->last ? KS_NO_BLOCK : block->next;
		place = 0;
	}
	return candidate->request->window_us;
}

void
ks_limits_refund(const KsLimitRequest *request, const KsLimitDecision *decision)
{
	int64 left = request->cost;
	int64 taken = 1;
	KsLimitDecision ignored;
	Candidate candidate;

	if (decision->charged < 0)
		return;
	prepare(&candidate, request, 1, &ignored);
	lock_partitions(&candidate, 1);
	candidate.entry = ks_store_find(candidate.partition, &request->key);
	for (; candidate.entry != NULL && left > 0 && taken > 0; left -= taken)
		taken = take_back(&candidate, decision->charged, left);
	unlock_partitions(&candidate, 1);
}

/*
 * Take so much from an item of that time, or less if it counts less; how much.
 * A time may have two items, where a new block was begun between them.
 */
static int64
take_back(Candidate *candidate, int64 charged, int64 cost)
{
	KsLimitEntry *entry = candidate->entry;
	int bits = bits_of(candidate->request);
	uint32 number = entry->first;
	uint8 place = entry->head;

	for (;;)
	{
		KsLimitBlock *block = ks_store_block(number);
		uint8 end = number == entry->last ? entry->tail : KS_BLOCK_ITEMS;

		for (; place < end; place++)
		{
			uint64 *item = &block->items[place];
			int64 taken = Min(count_of(*item, bits), cost);

			if ((int64) (*item >> bits) != charged)
				continue;
			*item -= taken;
			entry->used -= taken;
			if (count_of(*item, bits) == 0)
				remove_item(candidate->partition, entry, number, place);
			return taken;
		}
		if (number == entry->last)
			return 0;
		number = block->next;
		place = 0;
	}
}

/* Close the gap that an item of no count leaves: those behind it move up. */
static void
remove_item(KsLimitPartition *partition, KsLimitEntry *entry, uint32 number, uint8 place)
{
	KsLimitBlock *block = ks_store_block(number);

	while (number != entry->last)
	{
		KsLimitBlock *next = ks_store_block(block->next);

		memmove(&block->items[place], &block->items[place + 1], (KS_BLOCK_ITEMS - 1 - place) * sizeof(uint64));
		if (block->next == entry->last && entry->tail <= 1)
		{
			/* The last block's only item moves, and the block is free. */
			ks_store_free_block(partition, entry->last);
			entry->last = number;
			if (entry->tail == 1)
				block->items[KS_BLOCK_ITEMS - 1] = next->items[0];
			entry->tail = entry->tail == 1 ? KS_BLOCK_ITEMS : KS_BLOCK_ITEMS - 1;
			return;
		}
		block->items[KS_BLOCK_ITEMS - 1] = next->items[0];
		number = block->next;
		block = next;
		place = 0;
	}
	memmove(&block->items[place], &block->items[place + 1], (entry->tail - 1 - place) * sizeof(uint64));
	entry->tail--;
}
