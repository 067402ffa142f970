/*
 * store.c
 *	  Where counters are kept: shared memory of fixed size, in partitions.
 *
 * A partition has slots for entries, in sets of 16, a lock, and a pool of
 * blocks for what the entries count. A key may lie in one of two sets of its
 * partition and goes where there is more room, so that a full set is rare
 * before the whole is nearly full; a look-up reads the tags of the two sets (one
 * cache line each) and then at most a wrong entry in a few millions. When
 * neither set has a free slot, or the pool has no free block, what has expired
 * makes room, and if there is nothing such, what was charged longest ago.
 *
 * Partitions 0 to OPEN_PARTITIONS - 1 are for everybody, those behind them for
 * protected keys, so that a flood of the former cannot push out the latter.
 *
 * Only the tags are cleared at start: a slot without a tag, and a block that is
 * untouched, are never read. Memory that was never used costs nothing.
 */
#include "postgres.h"

#include "storage/shmem.h"

#include "core/guc.h"
#include "core/shmem.h"
#include "limits/store.h"

#define OPEN_PARTITIONS 64
#define PROTECTED_PARTITIONS 16
#define PARTITIONS (OPEN_PARTITIONS + PROTECTED_PARTITIONS)
#define SET_SLOTS 16

/* Of four slots one is protected. */
#define PROTECTED_SHARE 4

/* Blocks of a partition: some for each slot, and enough for two full logs. */
#define BLOCKS_PER_SLOT 2
#define LOG_BLOCKS (KS_LIMITS_EXACT / KS_BLOCK_ITEMS + 2)
#define SPARE_BLOCKS (2 * LOG_BLOCKS)

/* How many slots are looked at for something to reclaim, at least. */
#define SWEEP_SLOTS 64

typedef union PaddedPartition
{
	KsLimitPartition partition;
	char padding[2 * PG_CACHE_LINE_SIZE];
} PaddedPartition;

typedef struct Store
{
	PaddedPartition partitions[PARTITIONS];
	/* then the tags, the entries and the blocks */
} Store;

/* Set when shared memory is made, together with the places in it. */
static Store *store;
static uint32 *tags;
static KsLimitEntry *entries;
static KsLimitBlock *blocks;

static uint32 open_sets(void);
static uint32 protected_sets(void);
static uint32 total_slots(void);
static uint32 blocks_of(uint32 sets);
static uint32 total_blocks(void);
static Size tags_size(void);
static Size entries_size(void);
static void init_store(void *area, bool found);
static void init_partition(KsLimitPartition *partition, uint32 sets, uint32 *next_set, uint32 *next_block);
static uint32 tag_of(const KsLimitKey *key);
static uint32 pick(uint32 random, uint32 count);
static uint32 set_of(const KsLimitPartition *partition, const KsLimitKey *key, int choice);
static uint32 free_slot(KsLimitPartition *partition, const KsLimitKey *key, int64 now_us);
static bool best_slot(const KsLimitPartition *partition, const KsLimitKey *key, bool (*test)(uint32 slot, int64 now_us), int64 now_us, uint32 *out);
static bool is_free(uint32 slot, int64 now_us);
static bool is_useless(uint32 slot, int64 now_us);
static uint32 oldest_slot(const KsLimitPartition *partition, const KsLimitKey *key);
static bool is_expired(const KsLimitEntry *entry, int64 now_us);
static int64 latest_us(const KsLimitEntry *entry);
static void drop(KsLimitPartition *partition, uint32 slot, int64 now_us);
static uint32 take_block(KsLimitPartition *partition, int64 now_us);
static bool reclaim(KsLimitPartition *partition, int64 now_us);

void
ks_store_init(void)
{
	Size size = sizeof(Store);

	size = add_size(size, tags_size());
	size = add_size(size, entries_size());
	size = add_size(size, mul_size(total_blocks(), sizeof(KsLimitBlock)));
	ks_shmem_register("keelson limits", size, init_store, (void **) &store);
}

/* Sets of each partition of either kind, at least one. */
static uint32
open_sets(void)
{
	uint32 slots = ks_guc_rate_limit_entries - ks_guc_rate_limit_entries / PROTECTED_SHARE;

	return Max(1, slots / (OPEN_PARTITIONS * SET_SLOTS));
}

static uint32
protected_sets(void)
{
	return Max(1, ks_guc_rate_limit_entries / PROTECTED_SHARE / (PROTECTED_PARTITIONS * SET_SLOTS));
}

static uint32
total_slots(void)
{
	return (OPEN_PARTITIONS * open_sets() + PROTECTED_PARTITIONS * protected_sets()) * SET_SLOTS;
}

/* The blocks of a partition with so many sets. */
static uint32
blocks_of(uint32 sets)
{
	return sets * SET_SLOTS * BLOCKS_PER_SLOT + SPARE_BLOCKS;
}

static uint32
total_blocks(void)
{
	return OPEN_PARTITIONS * blocks_of(open_sets()) + PROTECTED_PARTITIONS * blocks_of(protected_sets());
}

static Size
tags_size(void)
{
	return CACHELINEALIGN(mul_size(total_slots(), sizeof(uint32)));
}

static Size
entries_size(void)
{
	return CACHELINEALIGN(mul_size(total_slots(), sizeof(KsLimitEntry)));
}

/* Run in the postmaster: the places are inherited by all processes. */
static void
init_store(void *area, bool found)
{
	char *place = (char *) area + sizeof(Store);
	uint32 next_set = 0;
	uint32 next_block = 0;
	int tranche;

	tags = (uint32 *) place;
	place += tags_size();
	entries = (KsLimitEntry *) place;
	place += entries_size();
	blocks = (KsLimitBlock *) place;

	tranche = LWLockNewTrancheId();
	LWLockRegisterTranche(tranche, "KeelsonLimits");
	memset(area, 0, sizeof(Store));
	memset(tags, 0, tags_size());
	for (int i = 0; i < PARTITIONS; i++)
	{
		KsLimitPartition *partition = ks_store_partition(i);

		LWLockInitialize(&partition->lock, tranche);
		init_partition(partition, i < OPEN_PARTITIONS ? open_sets() : protected_sets(), &next_set, &next_block);
	}
}

static void
init_partition(KsLimitPartition *partition, uint32 sets, uint32 *next_set, uint32 *next_block)
{
	partition->first_set = *next_set;
	partition->sets = sets;
	partition->first_block = *next_block;
	partition->blocks = blocks_of(sets);
	partition->untouched = *next_block;
	partition->free_block = KS_NO_BLOCK;
	*next_set += sets;
	*next_block += partition->blocks;
}

int
ks_store_partition_of(const KsLimitKey *key, bool is_protected)
{
	return is_protected ? OPEN_PARTITIONS + pick((uint32) key->a, PROTECTED_PARTITIONS)
						: pick((uint32) key->a, OPEN_PARTITIONS);
}

KsLimitPartition *
ks_store_partition(int number)
{
	return &store->partitions[number].partition;
}

/* What stands for the key in its slot; 0 is an empty slot. */
static uint32
tag_of(const KsLimitKey *key)
{
	return (uint32) (key->a >> 32) | 1;
}

/* One of `count`, all alike likely. */
static uint32
pick(uint32 random, uint32 count)
{
	return (uint32) (((uint64) random * count) >> 32);
}

/* The first slot of one of the two sets that the key may lie in. */
static uint32
set_of(const KsLimitPartition *partition, const KsLimitKey *key, int choice)
{
	uint32 random = choice == 0 ? (uint32) key->b : (uint32) (key->b >> 32);

	return (partition->first_set + pick(random, partition->sets)) * SET_SLOTS;
}

KsLimitEntry *
ks_store_find(KsLimitPartition *partition, const KsLimitKey *key)
{
	uint32 tag = tag_of(key);

	for (int choice = 0; choice < 2; choice++)
	{
		uint32 slot = set_of(partition, key, choice);

		for (uint32 end = slot + SET_SLOTS; slot < end; slot++)
		{
			if (tags[slot] == tag && entries[slot].key.a == key->a && entries[slot].key.b == key->b)
				return &entries[slot];
		}
	}
	return NULL;
}

KsLimitEntry *
ks_store_add(KsLimitPartition *partition, const KsLimitKey *key, int64 unit_us, int64 window, int64 now_us)
{
	uint32 slot = free_slot(partition, key, now_us);
	uint32 block = take_block(partition, now_us);
	KsLimitEntry *entry = &entries[slot];

	if (block == KS_NO_BLOCK)
		return NULL;
	blocks[block].next = KS_NO_BLOCK;
	*entry = (KsLimitEntry){
		.key = *key,
		.latest = now_us / unit_us,
		.unit_us = unit_us,
		.window = window,
		.first = block,
		.last = block,
	};
	tags[slot] = tag_of(key);
	partition->entries++;
	return entry;
}

/*
 * An empty slot for the key, in the emptier of its sets. Where there is none
 * one is made empty: in the set with the more that has expired, or else the
 * one charged longest ago. There is one, since a decision pins fewer than a set.
 */
static uint32
free_slot(KsLimitPartition *partition, const KsLimitKey *key, int64 now_us)
{
	uint32 slot;

	if (!best_slot(partition, key, is_free, now_us, &slot))
	{
		if (!best_slot(partition, key, is_useless, now_us, &slot))
			slot = oldest_slot(partition, key);
		drop(partition, slot, now_us);
	}
	return slot;
}

/* Find a slot that passes the test, in that set of the two where more do. */
static bool
best_slot(const KsLimitPartition *partition, const KsLimitKey *key, bool (*test)(uint32 slot, int64 now_us), int64 now_us, uint32 *out)
{
	int most = 0;

	for (int choice = 0; choice < 2; choice++)
	{
		uint32 first = set_of(partition, key, choice);
		uint32 found = first;
		int count = 0;

		for (uint32 slot = first; slot < first + SET_SLOTS; slot++)
		{
			if (test(slot, now_us))
			{
				found = slot;
				count++;
			}
		}
		if (count > most)
		{
			most = count;
			*out = found;
		}
	}
	return most > 0;
}

static bool
is_free(uint32 slot, int64 now_us)
{
	return tags[slot] == 0;
}

static bool
is_useless(uint32 slot, int64 now_us)
{
	return !entries[slot].is_pinned && is_expired(&entries[slot], now_us);
}

static uint32
oldest_slot(const KsLimitPartition *partition, const KsLimitKey *key)
{
	uint32 oldest = PG_UINT32_MAX;

	for (int choice = 0; choice < 2; choice++)
	{
		uint32 first = set_of(partition, key, choice);

		for (uint32 slot = first; slot < first + SET_SLOTS; slot++)
			if (!entries[slot].is_pinned && (oldest == PG_UINT32_MAX || latest_us(&entries[slot]) < latest_us(&entries[oldest])))
				oldest = slot;
	}
	return oldest;
}

/* Does nothing that the entry holds count any more? */
static bool
is_expired(const KsLimitEntry *entry, int64 now_us)
{
	return entry->used == 0 || now_us / entry->unit_us - entry->latest >= entry->window;
}

static int64
latest_us(const KsLimitEntry *entry)
{
	return entry->latest * entry->unit_us;
}

/* Empty the slot and give its blocks back. */
static void
drop(KsLimitPartition *partition, uint32 slot, int64 now_us)
{
	KsLimitEntry *entry = &entries[slot];

	if (!is_expired(entry, now_us))
		partition->evicted++;
	blocks[entry->last].next = partition->free_block;
	partition->free_block = entry->first;
	tags[slot] = 0;
	partition->entries--;
}

bool
ks_store_extend(KsLimitPartition *partition, KsLimitEntry *entry, int64 now_us)
{
	uint32 block = take_block(partition, now_us);

	if (block == KS_NO_BLOCK)
		return false;
	blocks[block].next = KS_NO_BLOCK;
	blocks[entry->last].next = block;
	entry->last = block;
	entry->tail = 0;
	return true;
}

KsLimitBlock *
ks_store_block(uint32 number)
{
	return &blocks[number];
}

void
ks_store_free_block(KsLimitPartition *partition, uint32 number)
{
	blocks[number].next = partition->free_block;
	partition->free_block = number;
}

/* A block for use, or KS_NO_BLOCK. */
static uint32
take_block(KsLimitPartition *partition, int64 now_us)
{
	for (;;)
	{
		uint32 block = partition->free_block;

		if (block != KS_NO_BLOCK)
		{
			partition->free_block = blocks[block].next;
			return block;
		}
		if (partition->untouched < partition->first_block + partition->blocks)
			return partition->untouched++;
		if (!reclaim(partition, now_us))
			return KS_NO_BLOCK;
	}
}

/*
 * Empty a slot for the sake of its blocks: going on from the last time, the
 * first that has expired, or else the one charged longest ago among at least
 * SWEEP_SLOTS. False when all are part of the decision being made.
 */
static bool
reclaim(KsLimitPartition *partition, int64 now_us)
{
	uint32 slots = partition->sets * SET_SLOTS;
	uint32 victim = PG_UINT32_MAX;

	for (uint32 i = 0; i < slots && (i < SWEEP_SLOTS || victim == PG_UINT32_MAX); i++)
	{
		uint32 slot = partition->first_set * SET_SLOTS + partition->hand;

		partition->hand = (partition->hand + 1) % slots;
		if (tags[slot] == 0 || entries[slot].is_pinned)
			continue;
		if (is_expired(&entries[slot], now_us))
		{
			victim = slot;
			break;
		}
		if (victim == PG_UINT32_MAX || latest_us(&entries[slot]) < latest_us(&entries[victim]))
			victim = slot;
	}
	if (victim == PG_UINT32_MAX)
		return false;
	drop(partition, victim, now_us);
	return true;
}

void
ks_store_stats(KsLimitStats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (int i = 0; i < PARTITIONS; i++)
	{
		KsLimitPartition *partition = ks_store_partition(i);

		LWLockAcquire(&partition->lock, LW_SHARED);
		stats->entries += partition->entries;
		stats->capacity += partition->sets * SET_SLOTS;
		stats->admitted += partition->admitted;
		stats->refused += partition->refused;
		stats->evicted[i >= OPEN_PARTITIONS] += partition->evicted;
		stats->exhausted += partition->exhausted;
		LWLockRelease(&partition->lock);
	}
}
