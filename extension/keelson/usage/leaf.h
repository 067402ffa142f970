/*
 * leaf.h
 *	  The partitions of keelson.usage_events, a day each, addressed one by one.
 *
 * A statement on the partitioned table locks every partition, a year's worth,
 * before it looks at the one it needs. Recording goes into one partition, the
 * tail of a user lies in one or two: so each has statements of its own, kept in
 * the backend for the days in use.
 *
 * Which partitions may hold a tail is known exactly, and does not rest on the
 * clock: ids are never made for a day before the floor, whatever the clock
 * says, and the ceiling is the latest day for which one was made.
 */
#ifndef KS_USAGE_LEAF_H
#define KS_USAGE_LEAF_H

#include "postgres.h"

#include "utils/uuid.h"

#include "core/spi.h"

/* A user's tail has fewer events than this, nearly always. */
#define KS_TAIL_SHORT 250

/* A longer one is read so many events at a time. */
#define KS_TAIL_PAGE 5000

/* A day is the number of days since 1970, UTC. */
typedef struct KsLeaf
{
	int32 day;
	KsPlan read_tail; /* user, era, xid, id → feature, quarter_at, minutes, requests: what comes after that place, up to KS_TAIL_SHORT rows */
	KsPlan sum_tail;  /* the same of up to KS_TAIL_PAGE rows, added up by feature and quarter */
	KsPlan page_tail; /* the same → era, xid, id: the last of those rows, if there are so many */
} KsLeaf;

/* The day's statements; good until the next call. */
extern KsLeaf *ks_leaf(int32 day);

/* The partition of the day, or InvalidOid. */
extern Oid ks_leaf_oid(int32 day);

/*
 * A new id for an event of the current transaction, which must have been given
 * its transaction id before; returns its day, not before the floor.
 */
extern int32 ks_leaf_new_id(pg_uuid_t *id);

/* The latest day that holds an event, or could. */
extern int32 ks_leaf_ceiling(void);

/*
 * Let no id be made any more for days before this one. Transactions that are
 * given their ids after this returns keep to it.
 */
extern void ks_leaf_raise_floor(int32 day);

extern int32 ks_leaf_today(void);

/* Events that have been committed since the server's start. */
extern uint64 ks_usage_recorded(void);

/* Count events, and duplicates that were none, when the transaction commits; wakes the keeper where they are many. */
extern void ks_usage_count(int events, int duplicates);

/* Count events that were folded, in a transaction that has committed. */
extern void ks_usage_count_folded(uint64 events);

/* The duty to wake. */
extern void ks_leaf_init(void);

#endif /* KS_USAGE_LEAF_H */
