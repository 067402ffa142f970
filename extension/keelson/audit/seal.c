/*
 * seal.c
 *	  Sealing: events whose transactions have ended become leaves of the tree.
 *
 * Events are sealed in the order (era, xid, id), each transaction's once no
 * transaction up to its own is running any more (the snapshot's xmin). So
 * whatever commits late has a higher transaction id than all that is sealed,
 * and comes later in that order: nothing is passed over, and the last sealed
 * event, which stands in the newest checkpoint, says all there is to know
 * about where to go on (days.c: in which partitions). Events of an older era
 * (a cluster that this database was dumped from) are settled all.
 *
 * One at a time seals, by an advisory lock. A batch, its tiles, totals and the
 * signed checkpoint are one transaction, so that a crash leaves nothing half
 * done. The open tile at the right edge of each level is written again as it
 * grows.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "audit/leaf.h"
#include "audit/ring.h"
#include "audit/seal.h"
#include "audit/tiles.h"
#include "core/era.h"
#include "core/keeper.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "secrets/keyring.h"

#define SEAL_INTERVAL_MS 5000
#define SEAL_BATCH 4096
#define RANGES_MS 1000
#define SEAL_LOCK INT64CONST(0x4b656c736f6e4131)

/* The place after which to go on, and the tree's right edge. */
typedef struct Edge
{
	int64 size;
	int32 era; /* of the last sealed event, as the next two; 0 at the beginning */
	FullTransactionId xid;
	pg_uuid_t event_id;
	int counts[KS_MAX_LEVELS]; /* hashes in the open tile of each level */
	KsHash hashes[KS_MAX_LEVELS][KS_TILE_WIDTH];
	pg_uuid_t ids[KS_TILE_WIDTH];
} Edge;

static KsPlan lock_plan = {"select pg_catalog.pg_advisory_xact_lock($1)", 1, {INT8OID}};
static KsPlan head_plan = {
	"select size, era, xid, event_id from keelson.audit_checkpoints order by size desc limit 1", 0, {0}};
static KsPlan rows_plan = {
	"select " KS_LEAF_COLUMNS " from keelson._audit_unsealed($1, $2, $3, $4, $5, $6) as e",
	6,
	{INT8OID, INT4OID, XID8OID, UUIDOID, INT4OID, INT4OID}};
static KsPlan more_plan = {
	"select where keelson._audit_has_unsealed(keelson._audit_unsettled($1), $2, $3, $4)",
	4,
	{INT8OID, INT4OID, XID8OID, UUIDOID}};
static KsPlan ranges_plan = {"select keelson._audit_ranges_catch_up()", 0, {0}};
static KsPlan summarise_plan = {"select keelson._audit_days_summarise()", 0, {0}};
static KsPlan settle_plan = {"select keelson._audit_days_settle()", 0, {0}};
static KsPlan totals_plan = {
	"insert into keelson.audit_totals as t (hour, event_type, outcome, events)"
	" select pg_catalog.date_trunc('hour', keelson._uuid7_time(e.id), 'UTC'), e.event_type, e.outcome, pg_catalog.count(*)"
	" from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) as e (id, event_type, outcome)"
	" group by 1, 2, 3"
	" on conflict (hour, event_type, outcome) do update set events = t.events + excluded.events",
	3,
	{UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID}};
static KsPlan checkpoint_plan = {
	"select keelson._audit_checkpoint_add($1, $2, $3, $4, $5)", 5, {INT8OID, BYTEAOID, INT4OID, XID8OID, UUIDOID}};

/*
 * How many events were committed when the keeper last found nothing unsealed;
 * written by the keeper, which is the only one to read it.
 */
static uint64 settled_count;
static bool is_settled;

static void run_duty(void);
static bool make_ranges(void);
static int64 seal_batch(int limit, bool *is_all);
static void settle_days(void);
static void name_edge(const Edge *edge, Datum *values);
static void find_edge(Edge *edge);
static void append_rows(Edge *edge);
static void append_leaf(Edge *edge, const KsHash *hash, const pg_uuid_t *id);
static void append_node(Edge *edge, int level, const KsHash *hash, int64 index);
static void write_open_tiles(Edge *edge);
static void add_totals(void);
static void add_checkpoint(Edge *edge);

void
ks_seal_init(void)
{
	(void) ks_keeper_register("audit seal", SEAL_INTERVAL_MS, false, run_duty);
}

/* The keeper's duty: seal until nothing is left, without touching the database when nothing was written. */
static void
run_duty(void)
{
	uint64 written = ks_audit_counted(KS_COUNT_WRITTEN) + ks_audit_counted(KS_COUNT_DRAINED);
	int64 sealed;
	bool is_all = false;

	if (is_settled && settled_count == written)
		return;
	/* Without them every span would be looked for in whole days. */
	if (make_ranges())
		return;
	do
	{
		if (!ks_worker_transaction_begin("audit seal"))
			return;
		/* Without the right keyring nothing can be signed. */
		sealed = ks_keyring_ready(NULL) ? seal_batch(SEAL_BATCH, &is_all) : 0;
		ks_worker_transaction_end();
		CHECK_FOR_INTERRUPTS();
	} while (sealed == SEAL_BATCH);
	/* What a prepared transaction wrote was counted when it was prepared, and is there when it commits. */
	is_settled = is_all && max_prepared_xacts == 0;
	settled_count = written;
	settle_days();
}

/*
 * Give days the index of ranges that lack it, as all do but for today's and
 * those to come where the extension was made anew: one a transaction, and after
 * a second it is the other duties' turn. Is there still one?
 */
static bool
make_ranges(void)
{
	TimestampTz began = GetCurrentTimestamp();
	bool is_made, is_null;

	do
	{
		if (!ks_worker_transaction_begin("audit index of ranges"))
			return false;
		is_made = DatumGetBool(ks_spi_value(&ranges_plan, NULL, &is_null));
		ks_worker_transaction_end();
		CHECK_FOR_INTERRUPTS();
	} while (is_made && !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), RANGES_MS));
	return is_made;
}

/* Find out of which days nothing is left; apart from the sealing, since that counts once it has committed. */
static void
settle_days(void)
{
	if (!ks_worker_transaction_begin("audit days"))
		return;
	ks_spi_run(&settle_plan, NULL);
	ks_worker_transaction_end();
}

/* Seal up to so many events; returns how many, and tells whether none is left that is committed. */
static int64
seal_batch(int limit, bool *is_all)
{
	Edge *edge = palloc0(sizeof(Edge));
	KsRoleSwitch save;
	Datum values[6];
	int64 sealed;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	values[0] = Int64GetDatum(SEAL_LOCK);
	(void) ks_spi_execute(&lock_plan, values, NULL, false, 0);
	/* Else what was written since would be read for every span that is looked for. */
	(void) ks_spi_execute(&summarise_plan, NULL, NULL, false, 0);
	find_edge(edge);
	name_edge(edge, values);
	values[4] = Int32GetDatum(ks_era());
	values[5] = Int32GetDatum(limit);
	(void) ks_spi_execute(&rows_plan, values, NULL, false, 0);
	sealed = SPI_processed;
	if (sealed > 0)
	{
		append_rows(edge);
		add_totals();
		write_open_tiles(edge);
		add_checkpoint(edge);
	}
	name_edge(edge, values);
	(void) ks_spi_execute(&more_plan, values, NULL, false, 1);
	*is_all = SPI_processed == 0;
	ks_role_leave(&save);
	ks_spi_finish();
	ks_audit_count(KS_COUNT_SEALED, sealed);
	return sealed;
}

/* The edge as the first four parameters of a statement. */
static void
name_edge(const Edge *edge, Datum *values)
{
	values[0] = Int64GetDatum(edge->size);
	values[1] = Int32GetDatum(edge->era);
	values[2] = FullTransactionIdGetDatum(edge->xid);
	values[3] = UUIDPGetDatum(&edge->event_id);
}

/* Read where the tree ends. */
static void
find_edge(Edge *edge)
{
	bool is_null;
	HeapTuple row;
	TupleDesc desc;
	KsTree *tree;
	const KsHash *hashes;
	const pg_uuid_t *ids;
	int count;

	(void) ks_spi_execute(&head_plan, NULL, NULL, false, 1);
	if (SPI_processed == 0)
		return;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	edge->size = DatumGetInt64(SPI_getbinval(row, desc, 1, &is_null));
	edge->era = DatumGetInt32(SPI_getbinval(row, desc, 2, &is_null));
	edge->xid = DatumGetFullTransactionId(SPI_getbinval(row, desc, 3, &is_null));
	edge->event_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 4, &is_null));
	tree = ks_tiles_tree(edge->size);
	for (int level = 0; level < KS_MAX_LEVELS; level++)
	{
		int64 total = edge->size >> (KS_TILE_HEIGHT * level);

		edge->counts[level] = total % KS_TILE_WIDTH;
		if (edge->counts[level] == 0)
			continue;
		hashes = tree->read(tree->source, level, total / KS_TILE_WIDTH, edge->counts[level]);
		if (hashes == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the audit trail's tree lacks a tile"),
					 errhint("keelson.audit_verify() tells what is missing; nothing is sealed until it is restored.")));
		memcpy(edge->hashes[level], hashes, edge->counts[level] * sizeof(KsHash));
	}
	if (edge->counts[0] > 0 && ks_tiles_leaves(edge->size / KS_TILE_WIDTH, &hashes, &ids, &count))
		memcpy(edge->ids, ids, Min(count, edge->counts[0]) * sizeof(pg_uuid_t));
}

/* Make leaves of the rows in SPI_tuptable. */
static void
append_rows(Edge *edge)
{
	SPITupleTable *rows = SPI_tuptable;
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext, "keelson audit leaf", ALLOCSET_DEFAULT_SIZES);
	MemoryContext cxt = CurrentMemoryContext;
	StringInfoData leaf;

	initStringInfo(&leaf);
	for (uint64 i = 0; i < rows->numvals; i++)
	{
		HeapTuple row = rows->vals[i];
		bool is_null;
		KsHash hash;

		MemoryContextSwitchTo(row_cxt);
		ks_leaf_write(&leaf, row, rows->tupdesc);
		hash = ks_leaf_hash(leaf.data, leaf.len);
		edge->event_id = *DatumGetUUIDP(SPI_getbinval(row, rows->tupdesc, 1, &is_null));
		edge->era = DatumGetInt32(SPI_getbinval(row, rows->tupdesc, 3, &is_null));
		edge->xid = DatumGetFullTransactionId(SPI_getbinval(row, rows->tupdesc, 4, &is_null));
		MemoryContextReset(row_cxt);
		MemoryContextSwitchTo(cxt);
		append_leaf(edge, &hash, &edge->event_id);
	}
	MemoryContextDelete(row_cxt);
	SPI_tuptable = rows;
}

static void
append_leaf(Edge *edge, const KsHash *hash, const pg_uuid_t *id)
{
	edge->ids[edge->counts[0]] = *id;
	append_node(edge, 0, hash, edge->size);
	edge->size++;
}

/* Append to the open tile of the level; a full one is written, and its root goes one level up. */
static void
append_node(Edge *edge, int level, const KsHash *hash, int64 index)
{
	KsHash root;

	if (level == KS_MAX_LEVELS)
		elog(ERROR, "the audit trail's tree is full");
	edge->hashes[level][edge->counts[level]++] = *hash;
	if (edge->counts[level] < KS_TILE_WIDTH)
		return;
	ks_tiles_write(level, index / KS_TILE_WIDTH, edge->hashes[level], edge->ids, KS_TILE_WIDTH);
	root = ks_row_root(edge->hashes[level], KS_TILE_WIDTH);
	edge->counts[level] = 0;
	append_node(edge, level + 1, &root, index / KS_TILE_WIDTH);
}

static void
write_open_tiles(Edge *edge)
{
	for (int level = 0; level < KS_MAX_LEVELS; level++)
		if (edge->counts[level] > 0)
			ks_tiles_write(level, edge->size >> (KS_TILE_HEIGHT * (level + 1)), edge->hashes[level], edge->ids, edge->counts[level]);
}

/* Count the rows in SPI_tuptable by hour, type and outcome. */
static void
add_totals(void)
{
	SPITupleTable *rows = SPI_tuptable;
	int count = rows->numvals;
	Datum *columns[3];
	Datum values[3];
	static const int numbers[3] = {1, 5, 6};
	bool is_null;

	for (int c = 0; c < 3; c++)
	{
		columns[c] = palloc(count * sizeof(Datum));
		for (int i = 0; i < count; i++)
			columns[c][i] = SPI_getbinval(rows->vals[i], rows->tupdesc, numbers[c], &is_null);
	}
	values[0] = PointerGetDatum(construct_array(columns[0], count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[1] = PointerGetDatum(construct_array(columns[1], count, TEXTOID, -1, false, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(columns[2], count, TEXTOID, -1, false, TYPALIGN_INT));
	(void) ks_spi_execute(&totals_plan, values, NULL, false, 0);
}

static void
add_checkpoint(Edge *edge)
{
	KsTree *tree = ks_tiles_tree(edge->size);
	KsHash root = ks_tree_root(tree, edge->size);
	bytea *bytes = palloc(VARHDRSZ + KS_HASH_LENGTH);
	Datum values[5];

	if (tree->is_broken)
		elog(ERROR, "the audit trail's tree lacks a tile");
	SET_VARSIZE(bytes, VARHDRSZ + KS_HASH_LENGTH);
	memcpy(VARDATA(bytes), root.bytes, KS_HASH_LENGTH);
	values[0] = Int64GetDatum(edge->size);
	values[1] = PointerGetDatum(bytes);
	values[2] = Int32GetDatum(edge->era);
	values[3] = FullTransactionIdGetDatum(edge->xid);
	values[4] = UUIDPGetDatum(&edge->event_id);
	(void) ks_spi_execute(&checkpoint_plan, values, NULL, false, 0);
}

PG_FUNCTION_INFO_V1(ks_audit_seal);

/* keelson.audit_seal(batch integer) */
Datum
ks_audit_seal(PG_FUNCTION_ARGS)
{
	bool is_all;

	ks_require_shmem();
	PG_RETURN_INT64(seal_batch(PG_GETARG_INT32(0), &is_all));
}
