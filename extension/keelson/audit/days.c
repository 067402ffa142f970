/*
 * days.c
 *	  Which days' partitions may hold events that are not sealed, and how much
 *	  of each its index of ranges (BRIN) knows.
 *
 * Any day may be written to late: by a long transaction, from the ring, by a
 * clock that was set back. To look for that through all days would cost the
 * more the longer events are kept. So every insert counts for its day, and a
 * day is settled, with nothing in it to be sealed, as long as its count is
 * what it was when the keeper saw that. The argument:
 *
 * - an insert counts after it has its transaction id and before it commits;
 * - the keeper first notes the count and, after it, the next transaction id.
 *   Whoever is in that count has a lower id;
 * - once the snapshot's xmin has come up to the noted id, all of them have
 *   ended, and the keeper, looking with such a snapshot, sees what they wrote.
 *   Finds it nothing that is not sealed, the day is settled at that count;
 * - a reader first takes its snapshot, then compares the counts. Whatever
 *   committed before the snapshot has counted before the comparison. And it
 *   believes only what was settled at a size of the tree that it sees.
 *
 * What is written around all this (a restored dump, a superuser's hand) counts
 * for nothing; a day whose file has grown is not settled for that, nor one whose
 * partition is another than it was. Two days may share a place: then both are
 * looked through.
 *
 * All of it is forgotten when the server starts, and found anew.
 */
#include "postgres.h"

#include "access/transam.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/spin.h"
#include "utils/xid8.h"

#include "audit/days.h"
#include "core/shmem.h"

/* Of 11 years. */
#define PLACES 4096

typedef struct Day
{
	pg_atomic_uint64 written; /* inserts of all who share the place */
	slock_t lock;             /* for what follows */
	Oid partition;            /* whose the rest is */
	uint64 noted;             /* `written`, when it was noted */
	int64 bytes;              /* of the heap, then */
	FullTransactionId next;   /* then, or later */
	int64 settled_size;       /* leaves of the tree when the day was settled at `noted`; 0: it is not */
	int64 summarised;         /* ranges that the index knows, of those full */
} Day;

/* Set when shared memory is made. */
static Day *days;

static void init_shared(void *area, bool found);
static Day *place_of(int32 day);
static void take_place(Day *place, Oid partition);

void
ks_audit_days_init(void)
{
	ks_shmem_register("keelson audit days", PLACES * sizeof(Day), init_shared, (void **) &days);
}

static void
init_shared(void *area, bool found)
{
	if (found)
		return;
	memset(area, 0, PLACES * sizeof(Day));
	for (Day *day = area; day < (Day *) area + PLACES; day++)
	{
		pg_atomic_init_u64(&day->written, 0);
		SpinLockInit(&day->lock);
	}
}

static Day *
place_of(int32 day)
{
	return &days[(uint32) day % PLACES];
}

/* Have the place, which is locked, be the partition's. */
static void
take_place(Day *place, Oid partition)
{
	if (place->partition == partition)
		return;
	place->partition = partition;
	place->next = InvalidFullTransactionId;
	place->settled_size = 0;
	place->summarised = 0;
}

void
ks_audit_day_written(int64 day)
{
	pg_atomic_fetch_add_u64(&place_of((int32) day)->written, 1);
}

PG_FUNCTION_INFO_V1(ks__audit_day_is_settled);

/* keelson._audit_day_is_settled(partition regclass, day integer, bytes bigint, size bigint) */
Datum
ks__audit_day_is_settled(PG_FUNCTION_ARGS)
{
	Oid partition = PG_GETARG_OID(0);
	int32 number = PG_GETARG_INT32(1);
	int64 bytes = PG_GETARG_INT64(2), size = PG_GETARG_INT64(3);
	Day *day;
	bool is_settled;

	ks_require_shmem();
	day = place_of(number);
	SpinLockAcquire(&day->lock);
	is_settled = day->partition == partition && day->settled_size > 0 && day->settled_size <= size && day->bytes == bytes &&
				 day->noted == pg_atomic_read_u64(&day->written);
	SpinLockRelease(&day->lock);
	PG_RETURN_BOOL(is_settled);
}

PG_FUNCTION_INFO_V1(ks__audit_day_note);

/* keelson._audit_day_note(partition regclass, day integer, bytes bigint) : who counts for the day has a lower transaction id than this */
Datum
ks__audit_day_note(PG_FUNCTION_ARGS)
{
	Oid partition = PG_GETARG_OID(0);
	int32 number = PG_GETARG_INT32(1);
	int64 bytes = PG_GETARG_INT64(2);
	Day *day;
	uint64 written;
	FullTransactionId next;

	ks_require_shmem();
	day = place_of(number);
	written = pg_atomic_read_u64(&day->written);
	/* After the count: else somebody between the two would be in it, and not below. */
	pg_memory_barrier();
	next = ReadNextFullTransactionId();
	SpinLockAcquire(&day->lock);
	take_place(day, partition);
	if (day->noted != written || day->bytes != bytes || !FullTransactionIdIsValid(day->next))
	{
		day->noted = written;
		day->bytes = bytes;
		day->next = next;
		day->settled_size = 0;
	}
	next = day->next;
	SpinLockRelease(&day->lock);
	PG_RETURN_FULLTRANSACTIONID(next);
}

PG_FUNCTION_INFO_V1(ks__audit_day_settle);

/* keelson._audit_day_settle(partition regclass, day integer, next xid8, size bigint) : all that has counted is below `next`, has ended and is sealed */
Datum
ks__audit_day_settle(PG_FUNCTION_ARGS)
{
	Oid partition = PG_GETARG_OID(0);
	int32 number = PG_GETARG_INT32(1);
	FullTransactionId next = PG_GETARG_FULLTRANSACTIONID(2);
	int64 size = PG_GETARG_INT64(3);
	Day *day;

	ks_require_shmem();
	day = place_of(number);
	SpinLockAcquire(&day->lock);
	if (day->partition == partition && FullTransactionIdEquals(day->next, next))
		day->settled_size = size;
	SpinLockRelease(&day->lock);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks__audit_day_summarised);

/* keelson._audit_day_summarised(partition regclass, day integer) : how many the index knows */
Datum
ks__audit_day_summarised(PG_FUNCTION_ARGS)
{
	Oid partition = PG_GETARG_OID(0);
	int32 number = PG_GETARG_INT32(1);
	int64 ranges;
	Day *day;

	ks_require_shmem();
	day = place_of(number);
	SpinLockAcquire(&day->lock);
	ranges = day->partition == partition ? day->summarised : 0;
	SpinLockRelease(&day->lock);
	PG_RETURN_INT64(ranges);
}

PG_FUNCTION_INFO_V1(ks__audit_day_summarise);

/* keelson._audit_day_summarise(partition regclass, day integer, ranges bigint) : the index now knows so many */
Datum
ks__audit_day_summarise(PG_FUNCTION_ARGS)
{
	Oid partition = PG_GETARG_OID(0);
	int32 number = PG_GETARG_INT32(1);
	int64 ranges = PG_GETARG_INT64(2);
	Day *day;

	ks_require_shmem();
	day = place_of(number);
	SpinLockAcquire(&day->lock);
	take_place(day, partition);
	day->summarised = ranges;
	SpinLockRelease(&day->lock);
	PG_RETURN_VOID();
}
