/*
 * direct.c
 *	  The short way of a record into the partition of its day.
 *
 * Half of what an insert by SPI costs is the executor's: setting up, opening
 * and taking down what is the same for every event. Here what is known of the
 * day's partition is kept, and the row goes by the table's and the indexes'
 * access methods. Where there is anything that this does not do by itself (a
 * trigger, a check, an index other than a plain B-tree or BRIN, a column more, a
 * lock that would have to be waited for), it says so and the row goes by SPI.
 *
 * There is no subtransaction, so an error here ends the action's transaction:
 * see the README for what becomes of the action then.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "audit/direct.h"
#include "core/compat.h"
#include "core/invalidation.h"

#define MAX_INDEXES 8

/*
 * What is known of the partition last written to. Made by learn(), emptied
 * when the partition changes; everything in it lives in `cxt`.
 */
typedef struct Target
{
	MemoryContext cxt; /* NULL: nothing was learnt */
	Oid relation;      /* InvalidOid: to be learnt anew */
	char name[NAMEDATALEN];
	bool is_plain;
	TupleTableSlot *columns; /* what the indexes are computed from */
	TupleTableSlot *row;     /* of the table's kind, formed once: of any other it would be copied before */
	ExprContext *econtext;
	int index_count;
	Oid indexes[MAX_INDEXES];
	IndexInfo *infos[MAX_INDEXES];
} Target;

static Target target;

/* Rises with whatever may have changed `target`. */
static uint64 changes;

static Relation open_target(const char *name);
static void learn(Relation relation, const char *name);
static bool has_our_columns(TupleDesc desc);
static bool learn_index(Oid index);
static void insert(Relation relation, const Datum *values, const bool *nulls);
static void insert_into_index(int number, Relation relation);
static void forget(Datum arg, Oid changed);

bool
ks_audit_insert_directly(const char *partition, const Datum *values, const bool *nulls)
{
	Relation relation = open_target(partition);
	bool is_plain;

	if (relation == NULL)
		return false;
	is_plain = target.is_plain;
	if (is_plain)
		insert(relation, values, nulls);
	table_close(relation, NoLock);
	return is_plain;
}

/* The partition, locked for writing and learnt; NULL where there is none, or it is locked by somebody. */
static Relation
open_target(const char *name)
{
	static bool is_registered = false;
	Oid oid = target.relation;
	Relation relation;

	if (!is_registered)
	{
		ks_on_relation_change(forget, (Datum) 0);
		is_registered = true;
	}
	if (!OidIsValid(oid) || strcmp(target.name, name) != 0)
		oid = get_relname_relid(name, get_namespace_oid("keelson", false));
	if (!OidIsValid(oid) || !ConditionalLockRelationOid(oid, RowExclusiveLock))
		return NULL;
	/* What was learnt and still stands after the lock was given is there: that need not be looked up. */
	relation = target.relation == oid ? table_open(oid, NoLock) : try_table_open(oid, NoLock);
	if (relation == NULL)
	{
		UnlockRelationOid(oid, RowExclusiveLock);
		return NULL;
	}
	/* Asking for the lock may have told of a change. */
	if (target.relation != oid)
		learn(relation, name);
	return relation;
}

static void
learn(Relation relation, const char *name)
{
	MemoryContext old;
	TupleDesc desc;
	List *indexes;
	ListCell *each;
	bool is_plain;
	uint64 before = changes;

	target.relation = InvalidOid;
	if (target.cxt == NULL)
		target.cxt = AllocSetContextCreate(TopMemoryContext, "keelson audit partition", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(target.cxt);
	old = MemoryContextSwitchTo(target.cxt);
	strlcpy(target.name, name, sizeof(target.name));
	desc = CreateTupleDescCopyConstr(RelationGetDescr(relation));
	target.columns = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	target.row = MakeSingleTupleTableSlot(desc, table_slot_callbacks(relation));
	target.econtext = CreateStandaloneExprContext();
	target.econtext->ecxt_scantuple = target.columns;
	target.index_count = 0;
	indexes = RelationGetIndexList(relation);
	is_plain = relation->rd_rel->relkind == RELKIND_RELATION && relation->trigdesc == NULL &&
			   has_our_columns(RelationGetDescr(relation)) && list_length(indexes) <= MAX_INDEXES;
	foreach (each, indexes)
		is_plain = is_plain && learn_index(lfirst_oid(each));
	MemoryContextSwitchTo(old);
	/* What changed meanwhile may be missing here. */
	target.is_plain = is_plain && before == changes;
	if (before == changes)
		target.relation = RelationGetRelid(relation);
}

/* Are the columns those that a record is written to, in their order, of its values' types, with nothing to check or to compute? */
static bool
has_our_columns(TupleDesc desc)
{
	static const char *const columns[] = {KS_AUDIT_COLUMN_NAMES};
	static const Oid types[] = {KS_AUDIT_COLUMN_TYPES};

	if (desc->natts != lengthof(columns) || (desc->constr != NULL && (desc->constr->num_check > 0 || desc->constr->has_generated_stored)))
		return false;
	for (int i = 0; i < lengthof(columns); i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (column->attisdropped || strcmp(NameStr(column->attname), columns[i]) != 0 || column->atttypid != types[i] ||
			(column->attnotnull && i >= KS_AUDIT_COLUMNS_FILLED))
			return false;
	}
	return true;
}

/* Learn an index; false for one that is more than a B-tree or BRIN over columns. */
static bool
learn_index(Oid oid)
{
	Relation index = index_open(oid, RowExclusiveLock);
	IndexInfo *info = BuildIndexInfo(index);
	bool is_plain = (index->rd_rel->relam == BTREE_AM_OID || index->rd_rel->relam == BRIN_AM_OID) &&
					info->ii_Expressions == NIL && info->ii_ExclusionOps == NULL && index->rd_index->indimmediate;

	if (info->ii_Predicate != NIL)
		info->ii_PredicateState = ExecInitQual(info->ii_Predicate, NULL);
	if (info->ii_ReadyForInserts)
	{
		target.indexes[target.index_count] = oid;
		target.infos[target.index_count++] = info;
	}
	index_close(index, NoLock);
	return is_plain;
}

static void
insert(Relation relation, const Datum *values, const bool *nulls)
{
	TupleTableSlot *columns = target.columns;
	int count = columns->tts_tupleDescriptor->natts;

	ExecClearTuple(columns);
	memcpy(columns->tts_values, values, count * sizeof(Datum));
	memcpy(columns->tts_isnull, nulls, count * sizeof(bool));
	ExecStoreVirtualTuple(columns);
	ExecCopySlot(target.row, columns);
	table_tuple_insert(relation, target.row, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < target.index_count; i++)
		insert_into_index(i, relation);
	ExecClearTuple(target.row);
	/* The values are the caller's and go with its memory. */
	ExecClearTuple(columns);
	ResetExprContext(target.econtext);
	/* As after any statement: the next one sees the event. */
	CommandCounterIncrement();
}

static void
insert_into_index(int number, Relation relation)
{
	IndexInfo *info = target.infos[number];
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];
	Relation index;

	if (info->ii_PredicateState != NULL && !ExecQual(info->ii_PredicateState, target.econtext))
		return;
	index = index_open(target.indexes[number], RowExclusiveLock);
	FormIndexDatum(info, target.columns, NULL, values, nulls);
	/* What a BRIN keeps there from one row to the next (pointers to the open index, from 17 on a pinned page) lasts for this one. */
	info->ii_AmCache = NULL;
	info->ii_Context = target.econtext->ecxt_per_tuple_memory;
	(void) index_insert(index, values, nulls, &target.row->tts_tid, relation,
						info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, info);
	ks_index_insert_cleanup(index, info);
	index_close(index, NoLock);
}

/* The partition or one of its indexes has changed, or anything may have. */
static void
forget(Datum arg, Oid changed)
{
	bool is_ours = changed == InvalidOid || changed == target.relation || !OidIsValid(target.relation);

	for (int i = 0; i < target.index_count; i++)
		is_ours |= changed == target.indexes[i];
	if (!is_ours)
		return;
	target.relation = InvalidOid;
	changes++;
}
