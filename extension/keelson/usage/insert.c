/*
 * insert.c
 *	  Insert usage events into their partitions.
 *
 * This is the one place that writes events, and it writes them to the heap
 * itself. By SPI, a single event cost a quarter of all that recording it costs:
 * planning is kept, but executor, snapshot, search path and the check of the
 * partition's bounds are set up each time; and a batch was written row by row.
 * All that an insert has to do is done: lock, rows, every index, the command
 * counter. There is nothing else to do for these tables: they have no triggers,
 * defaults or checks, whoever may record what is decided before (event.c), and
 * ids are made for the partition (leaf.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "core/compat.h"
#include "core/era.h"
#include "usage/insert.h"
#include "usage/leaf.h"

/* So many rows go into their pages at once. */
#define ROWS_AT_ONCE 128

/* The columns, in the table's order. */
enum
{
	USER_ID,
	ID,
	ERA,
	XID,
	FEATURE,
	MINUTES,
	REQUESTS,
	OCCURRED_AT,
	COLUMNS
};

static Relation open_partition(int32 day);
static void insert_rows(ResultRelInfo *target, EState *estate, KsUsageEvent *const *events, int count, TupleTableSlot **slots);
static void fill_slot(TupleTableSlot *slot, const KsUsageEvent *event);

void
ks_usage_insert(KsUsageEvent *const *events, int count)
{
	Relation partition;
	EState *estate;
	ResultRelInfo *target;
	TupleTableSlot *slots[ROWS_AT_ONCE];
	int slot_count = Min(count, ROWS_AT_ONCE);

	PreventCommandIfReadOnly("keelson.usage_record()");
	partition = open_partition(events[0]->day);
	estate = CreateExecutorState();
	target = makeNode(ResultRelInfo);
	InitResultRelInfo(target, partition, 1, NULL, 0);
	ExecOpenIndices(target, false);
	for (int i = 0; i < slot_count; i++)
		slots[i] = table_slot_create(partition, NULL);
	for (int from = 0; from < count; from += ROWS_AT_ONCE)
		insert_rows(target, estate, events + from, Min(count - from, ROWS_AT_ONCE), slots);
	for (int i = 0; i < slot_count; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	ExecCloseIndices(target);
	FreeExecutorState(estate);
	/* The lock is the transaction's. */
	table_close(partition, NoLock);
	CommandCounterIncrement();
}

static Relation
open_partition(int32 day)
{
	Oid oid = ks_leaf_oid(day);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("there is no partition for the usage of the day"),
				 errhint("The keeper makes partitions ahead; now: select keelson.usage_partitions_make().")));
	return table_open(oid, RowExclusiveLock);
}

static void
insert_rows(ResultRelInfo *target, EState *estate, KsUsageEvent *const *events, int count, TupleTableSlot **slots)
{
	for (int i = 0; i < count; i++)
		fill_slot(slots[i], events[i]);
	if (count == 1)
		table_tuple_insert(target->ri_RelationDesc, slots[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(target->ri_RelationDesc, slots, count, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < count; i++)
		ks_insert_index_tuples(target, slots[i], estate);
	ResetPerTupleExprContext(estate);
}

static void
fill_slot(TupleTableSlot *slot, const KsUsageEvent *event)
{
	ExecClearTuple(slot);
	memset(slot->tts_isnull, false, COLUMNS * sizeof(bool));
	slot->tts_values[USER_ID] = UUIDPGetDatum(&event->user_id);
	slot->tts_values[ID] = UUIDPGetDatum(&event->id);
	slot->tts_values[ERA] = Int32GetDatum(ks_era());
	slot->tts_values[XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	slot->tts_values[FEATURE] = event->feature;
	slot->tts_values[MINUTES] = event->minutes;
	slot->tts_values[REQUESTS] = Int32GetDatum(event->requests);
	slot->tts_values[OCCURRED_AT] = TimestampTzGetDatum(event->occurred_at);
	ExecStoreVirtualTuple(slot);
}
