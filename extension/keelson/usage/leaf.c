/*
 * leaf.c
 *	  Statements of single partitions; floor and ceiling of the days in use.
 *
 * Floor and ceiling live in shared memory and only rise. After a start of the
 * server both are unknown, and whoever needs them first reads the floor from
 * the watermark's row and looks for the latest partition with a row. An insert
 * is preceded by raising the ceiling, so a reader that sees the row sees the
 * ceiling too. A standby, whose memory nobody writes, looks up to today.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/keeper.h"
#include "core/partition.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/uuid.h"
#include "usage/fold.h"
#include "usage/leaf.h"

#define LEAVES_KEPT 8
#define MS_PER_DAY INT64CONST(86400000)
#define UNIX_EPOCH_DAY (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)

/* Of an event in a user's tail. */
#define TAIL_COLUMNS                                                                                    \
	"e.feature, pg_catalog.date_bin('15 minutes', e.occurred_at, '2000-01-01 00:00+00') as quarter_at," \
	" e.minutes, e.requests::bigint as requests"

/* So many events since the last time wake the keeper before its turn. */
#define EVENTS_TO_WAKE 8192

typedef struct UsageShared
{
	pg_atomic_uint32 floor;   /* 0: not known yet */
	pg_atomic_uint32 ceiling; /* 0: not known yet */
	pg_atomic_uint64 recorded;
	pg_atomic_uint64 duplicates;
	pg_atomic_uint64 folded;
} UsageShared;

/* Set when shared memory is made. */
static UsageShared *shared;

/* Statements of the days used last, by day modulo their number; written by ks_leaf(). */
static KsLeaf leaves[LEAVES_KEPT];

/* What a transaction, or one within it, has recorded and not committed; lives as long as the outermost one. */
typedef struct Tally
{
	struct Tally *outer;
	int level; /* of nesting: 1 is the outermost transaction */
	uint64 events;
	uint64 duplicates;
} Tally;

/* Of the innermost transaction that has recorded anything; NULL when none has. */
static Tally *tally;

static KsPlan days_plan = {"select floor_day, ceiling_day from keelson._usage_days_in_use()", 0, {0}};

static void init_shared(void *area, bool found);
static void at_end(XactEvent event, void *arg);
static void at_inner_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg);
static void load_days(void);
static void raise_to(pg_atomic_uint32 *value, uint32 wanted);
static void make_statements(KsLeaf *leaf, int32 day);
static void set_statement(KsPlan *plan, char *sql);

void
ks_leaf_init(void)
{
	ks_shmem_register("keelson usage", sizeof(UsageShared), init_shared, (void **) &shared);
	RegisterXactCallback(at_end, NULL);
	RegisterSubXactCallback(at_inner_end, NULL);
}

static void
init_shared(void *area, bool found)
{
	UsageShared *usage = area;

	if (found)
		return;
	pg_atomic_init_u32(&usage->floor, 0);
	pg_atomic_init_u32(&usage->ceiling, 0);
	pg_atomic_init_u64(&usage->recorded, 0);
	pg_atomic_init_u64(&usage->duplicates, 0);
	pg_atomic_init_u64(&usage->folded, 0);
}

uint64
ks_usage_recorded(void)
{
	return pg_atomic_read_u64(&shared->recorded);
}

void
ks_usage_count(int events, int duplicates)
{
	int level = GetCurrentTransactionNestLevel();

	if (tally == NULL || tally->level < level)
	{
		Tally *inner = MemoryContextAllocZero(TopTransactionContext, sizeof(Tally));

		inner->outer = tally;
		inner->level = level;
		tally = inner;
	}
	tally->events += events;
	tally->duplicates += duplicates;
}

void
ks_usage_count_folded(uint64 events)
{
	pg_atomic_fetch_add_u64(&shared->folded, events);
}

static void
at_end(XactEvent event, void *arg)
{
	uint64 before;

	if (tally == NULL || event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		before = pg_atomic_fetch_add_u64(&shared->recorded, tally->events);
		if (before / EVENTS_TO_WAKE != (before + tally->events) / EVENTS_TO_WAKE)
			ks_fold_wake();
		pg_atomic_fetch_add_u64(&shared->duplicates, tally->duplicates);
	}
	tally = NULL;
}

/* What was recorded since a savepoint goes with it, or to the transaction around it. */
static void
at_inner_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int level = GetCurrentTransactionNestLevel();
	Tally *outer;

	if (tally == NULL || tally->level < level || (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB))
		return;
	outer = tally->outer;
	if (event == SUBXACT_EVENT_COMMIT_SUB && (outer == NULL || outer->level < level - 1))
	{
		tally->level = level - 1;
		return;
	}
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		outer->events += tally->events;
		outer->duplicates += tally->duplicates;
	}
	tally = outer;
}

PG_FUNCTION_INFO_V1(ks_usage_counters);

/* keelson._usage_counters(out recorded, out duplicates, out folded) */
Datum
ks_usage_counters(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {false};

	ks_require_shmem();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson._usage_counters() returns a row");
	values[0] = Int64GetDatum(pg_atomic_read_u64(&shared->recorded));
	values[1] = Int64GetDatum(pg_atomic_read_u64(&shared->duplicates));
	values[2] = Int64GetDatum(pg_atomic_read_u64(&shared->folded));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

int32
ks_leaf_today(void)
{
	return GetCurrentTimestamp() / USECS_PER_DAY + UNIX_EPOCH_DAY;
}

int32
ks_leaf_new_id(pg_uuid_t *id)
{
	int32 floor, day;

	Assert(FullTransactionIdIsValid(GetTopFullTransactionIdIfAny()));
	if (unlikely(pg_atomic_read_u32(&shared->floor) == 0))
		load_days();
	/* The floor as it is after the transaction has its id: what the keeper relies on. */
	pg_memory_barrier();
	floor = pg_atomic_read_u32(&shared->floor);
	ks_uuid7(id);
	day = ks_uuid7_day(id);
	if (unlikely(day < floor))
	{
		int64 milliseconds = floor * MS_PER_DAY;

		day = floor;
		for (int i = 0; i < 6; i++)
			id->data[i] = milliseconds >> (8 * (5 - i));
	}
	if (unlikely(day > pg_atomic_read_u32(&shared->ceiling)))
		raise_to(&shared->ceiling, day);
	return day;
}

int32
ks_leaf_ceiling(void)
{
	if (unlikely(pg_atomic_read_u32(&shared->floor) == 0))
		load_days();
	return Max((int32) pg_atomic_read_u32(&shared->ceiling), ks_leaf_today());
}

void
ks_leaf_raise_floor(int32 day)
{
	raise_to(&shared->floor, day);
	pg_memory_barrier();
}

/* Read floor and ceiling from the tables; the ceiling first, since a known floor says that both are. */
static void
load_days(void)
{
	KsRoleSwitch save;
	HeapTuple row;
	TupleDesc desc;
	bool is_null;

	ks_require_shmem();
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&days_plan, NULL, NULL, true, 1);
	ks_role_leave(&save);
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	raise_to(&shared->ceiling, DatumGetInt32(SPI_getbinval(row, desc, 2, &is_null)));
	pg_write_barrier();
	raise_to(&shared->floor, DatumGetInt32(SPI_getbinval(row, desc, 1, &is_null)));
	ks_spi_finish();
}

static void
raise_to(pg_atomic_uint32 *value, uint32 wanted)
{
	uint32 present = pg_atomic_read_u32(value);

	while (present < wanted && !pg_atomic_compare_exchange_u32(value, &present, wanted))
		;
}

Oid
ks_leaf_oid(int32 day)
{
	return ks_partition_oid("usage_events", day);
}

KsLeaf *
ks_leaf(int32 day)
{
	KsLeaf *leaf = &leaves[(uint32) day % LEAVES_KEPT];

	if (unlikely(leaf->day != day))
	{
		leaf->day = 0;
		make_statements(leaf, day);
		leaf->day = day;
	}
	return leaf;
}

static void
make_statements(KsLeaf *leaf, int32 day)
{
	char name[NAMEDATALEN];
	char *place;

	ks_partition_name("usage_events", day, name);
	/*
	 * In the primary key's order, only so many, and without "user_id = $1",
	 * which would make the order that of the index of all users' events: so
	 * one plan is good for all partitions, whatever statistics say of them.
	 */
	place = psprintf("keelson.%s as e where (e.user_id, e.era, e.xid, e.id) > ($1, $2, $3, $4) and e.user_id <= $1"
					 " order by e.user_id, e.era, e.xid, e.id",
					 name);
	set_statement(&leaf->read_tail, psprintf("select " TAIL_COLUMNS " from %s limit %d", place, KS_TAIL_SHORT));
	set_statement(&leaf->sum_tail,
				  psprintf("select t.feature, t.quarter_at, pg_catalog.sum(t.minutes), pg_catalog.sum(t.requests)::bigint"
						   " from (select " TAIL_COLUMNS " from %s limit %d) as t group by 1, 2",
						   place, KS_TAIL_PAGE));
	set_statement(&leaf->page_tail, psprintf("select e.era, e.xid, e.id from %s offset %d limit 1", place, KS_TAIL_PAGE - 1));
}

/* Give the plan another statement, for the life of the backend. */
static void
set_statement(KsPlan *plan, char *sql)
{
	static const Oid types[] = {UUIDOID, INT4OID, XID8OID, UUIDOID};

	if (plan->plan != NULL)
		SPI_freeplan(plan->plan);
	plan->plan = NULL;
	if (plan->sql != NULL)
		pfree(unconstify(char *, plan->sql));
	plan->sql = MemoryContextStrdup(TopMemoryContext, sql);
	plan->nargs = lengthof(types);
	plan->options = CURSOR_OPT_GENERIC_PLAN;
	memcpy(plan->argtypes, types, sizeof(types));
}
