/*
 * store.h
 *	  Where counters are kept: shared memory of fixed size, in partitions.
 *
 * For decide.c alone. Everything but ks_store_stats() is called with the
 * partition's lock held.
 */
#ifndef KS_LIMITS_STORE_H
#define KS_LIMITS_STORE_H

#include "postgres.h"

#include "storage/lwlock.h"

#include "limits/decide.h"

#define KS_BLOCK_ITEMS 15
#define KS_NO_BLOCK PG_UINT32_MAX

/*
 * Some of what was counted under a key, in the order of time: an item is a
 * time, in the entry's units, and how much was counted then.
 */
typedef struct KsLimitBlock
{
	uint32 next;
	uint32 unused;
	uint64 items[KS_BLOCK_ITEMS];
} KsLimitBlock;

/*
 * One counter. Its items stand in a chain of at least one block, from place
 * `head` of the first to before place `tail` of the last; the last may be empty.
 */
typedef struct KsLimitEntry
{
	KsLimitKey key;
	int64 latest;  /* time of the latest item ever, in units */
	int64 unit_us; /* microseconds of a unit */
	int64 window;  /* an item counts for so many units */
	uint32 used;   /* the sum of the items */
	uint32 first;
	uint32 last;
	uint8 head;
	uint8 tail;
	bool is_pinned; /* part of the decision that is being made */
} KsLimitEntry;

typedef struct KsLimitPartition
{
	LWLock lock;
	uint32 first_set; /* its sets of slots, */
	uint32 sets;
	uint32 first_block; /* and its blocks */
	uint32 blocks;
	uint32 untouched;  /* blocks from here on were never used */
	uint32 free_block; /* those given back, a list */
	uint32 hand;       /* where the search for something to reclaim goes on */
	uint32 entries;
	uint64 admitted; /* decisions whose first limit lies here */
	uint64 refused;
	uint64 evicted;   /* counters that went although something in them still counted */
	uint64 exhausted; /* refusals for want of memory */
} KsLimitPartition;

typedef struct KsLimitStats
{
	int64 entries;
	int64 capacity;
	int64 admitted;
	int64 refused;
	int64 evicted[2]; /* without and with protection */
	int64 exhausted;
} KsLimitStats;

extern void ks_store_init(void);

/* The number of the partition that the key belongs to. Locks are taken in this order. */
extern int ks_store_partition_of(const KsLimitKey *key, bool is_protected);
extern KsLimitPartition *ks_store_partition(int number);

/* The entry, or NULL. */
extern KsLimitEntry *ks_store_find(KsLimitPartition *partition, const KsLimitKey *key);

/*
 * A new empty entry, where need be at the cost of another: of one that has
 * expired, else of the oldest. NULL when memory is exhausted.
 */
extern KsLimitEntry *ks_store_add(KsLimitPartition *partition, const KsLimitKey *key, int64 unit_us, int64 window, int64 now_us);

/* Append an empty block to the entry; false when memory is exhausted. */
extern bool ks_store_extend(KsLimitPartition *partition, KsLimitEntry *entry, int64 now_us);

extern KsLimitBlock *ks_store_block(uint32 number);
extern void ks_store_free_block(KsLimitPartition *partition, uint32 number);

extern void ks_store_stats(KsLimitStats *stats);

#endif /* KS_LIMITS_STORE_H */
