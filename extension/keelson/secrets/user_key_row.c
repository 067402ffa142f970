/*
 * user_key_row.c
 *	  Read one row of keelson.user_keys through its primary key.
 *
 * Rows of many users, each with a key of its own, cost one such read each. By
 * SPI that is 5.6 of the 7.9 microseconds that sealing takes then (measured),
 * most of them for starting and ending an executor; so this goes past it, as
 * the dispatcher's probe of sessions does. Nothing is remembered but where the
 * columns are, found by name, once, and again after the table has changed.
 * Whoever calls decides who may read: row-level security is not asked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "executor/tuptable.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "core/invalidation.h"
#include "secrets/user_key_row.h"

/* Filled by the first read, emptied when the table changes. */
static struct
{
	Oid relation; /* InvalidOid: look again */
	Oid index;
	AttrNumber key_no;
	AttrNumber uses;
	AttrNumber wrapped;
} table;

static Relation open_table(void);
static AttrNumber column(Oid relation, const char *name);
static void take(TupleTableSlot *slot, KsUserKeyRow *row);
static void forget(Datum arg, Oid relation);

bool
ks_user_key_row_read(const pg_uuid_t *user_id, uint32 key_no, Snapshot snapshot, KsUserKeyRow *row)
{
	Relation relation = open_table();
	Relation index = index_open(table.index, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	int count = key_no != 0 ? 2 : 1;
	IndexScanDesc scan = ks_index_beginscan(relation, index, snapshot, count);
	ScanKeyData keys[2];
	bool found;

	/* Keys are numbered as the columns of the index are. */
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(user_id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum((int32) key_no));
	index_rescan(scan, keys, count, NULL, 0);
	/* From behind: of all numbers the highest comes first. */
	found = index_getnext_slot(scan, BackwardScanDirection, slot);
	if (found)
		take(slot, row);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(relation, AccessShareLock);
	return found;
}

/* Open the table, knowing its columns. */
static Relation
open_table(void)
{
	static bool registered = false;
	Relation relation;
	Oid oid;

	if (OidIsValid(table.relation))
	{
		/* Taking the lock may bring the news that the table has changed. */
		relation = table_open(table.relation, AccessShareLock);
		if (OidIsValid(table.relation))
			return relation;
		table_close(relation, AccessShareLock);
	}
	if (!registered)
	{
		ks_on_relation_change(forget, (Datum) 0);
		registered = true;
	}
	oid = get_relname_relid("user_keys", get_namespace_oid("keelson", false));
	if (!OidIsValid(oid))
		elog(ERROR, "table keelson.user_keys does not exist");
	relation = table_open(oid, AccessShareLock);
	table.key_no = column(oid, "key_no");
	table.uses = column(oid, "uses");
	table.wrapped = column(oid, "wrapped");
	table.index = ks_primary_key_index(relation);
	table.relation = oid;
	return relation;
}

static AttrNumber
column(Oid relation, const char *name)
{
	AttrNumber number = get_attnum(relation, name);

	if (number == InvalidAttrNumber)
		elog(ERROR, "table keelson.user_keys has no column \"%s\"", name);
	return number;
}

static void
take(TupleTableSlot *slot, KsUserKeyRow *row)
{
	bool is_null;
	bytea *wrapped = DatumGetByteaPP(slot_getattr(slot, table.wrapped, &is_null));

	row->key_no = (uint32) DatumGetInt32(slot_getattr(slot, table.key_no, &is_null));
	row->uses = DatumGetInt64(slot_getattr(slot, table.uses, &is_null));
	row->length = VARSIZE_ANY_EXHDR(wrapped);
	if (row->length > KS_WRAPPED_LENGTH)
		row->length = 0;
	memcpy(row->wrapped, VARDATA_ANY(wrapped), row->length);
}

static void
forget(Datum arg, Oid relation)
{
	if (!OidIsValid(relation) || relation == table.relation || relation == table.index)
		table.relation = InvalidOid;
}
