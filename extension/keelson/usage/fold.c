/*
 * fold.c
 *	  Fold events into the rollups, up to the horizon of transactions.
 *
 * The order of events is (era, xid, id). Folded is what stands up to the
 * watermark; a turn takes what comes after it and whose transactions, and all
 * before them, have ended: xid below the snapshot's xmin. Whatever commits
 * later has a higher transaction id and comes later in that order, so nothing
 * is passed over and nothing counted twice. Events of an older era are settled
 * all. Rollups and watermark change in one transaction: whoever reads both with
 * one snapshot, and the events after the watermark besides, reads each event
 * once.
 *
 * The floor. Readers look for events after the watermark in the partitions from
 * tail_from on. To move it to a new day: first no more ids are made for earlier
 * ones (ks_leaf_raise_floor), then the next transaction id is noted. Any
 * transaction that could still record for an earlier day was given its id
 * before, so when all below the one noted are folded, earlier days are done.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "core/era.h"
#include "core/error.h"
#include "core/keeper.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "usage/fold.h"
#include "usage/leaf.h"

#define FOLD_INTERVAL_MS 2000
#define FOLD_BATCH 20000
#define PARTITIONS_INTERVAL_MS (3600 * 1000)

/* With nothing recorded the tables are looked at all the same, after so many turns. */
#define IDLE_TURNS 30

static KsPlan lock_plan = {"select pg_catalog.pg_advisory_xact_lock($1)", 1, {INT8OID}};
static KsPlan fold_plan = {"select folded, horizon, is_all, tail_from, next_from, next_era, next_xid from keelson._usage_fold($1, $2)", 2, {INT4OID, INT4OID}};
static KsPlan floor_plan = {
	"update keelson.usage_watermark set tail_from = next_from, next_from = null, next_era = null, next_xid = null", 0, {0}};
static KsPlan next_plan = {
	"update keelson.usage_watermark set next_from = $1, next_era = $2, next_xid = $3", 3, {DATEOID, INT4OID, XID8OID}};
static KsPlan partitions_plan = {"select keelson.usage_partitions_make(), keelson._usage_partitions_settle(), keelson.usage_expire()", 0, {0}};

/* What the fold of a batch says. Days are numbers since 1970; next_from 0 for none. */
typedef struct Folded
{
	int64 events;
	FullTransactionId horizon;
	bool is_all; /* that is committed */
	int32 tail_from;
	int32 next_from;
	int32 next_era;
	FullTransactionId next_xid;
} Folded;

/* The duty's number, from the library's loading on. */
static int duty;

/*
 * How many events were recorded when the keeper last found nothing to fold, and
 * the turns since; written and read by the keeper alone.
 */
static uint64 settled_count;
static bool is_settled;
static int32 settled_day;
static int idle_turns;

static void run_duty(void);
static void make_partitions(void);
static Folded fold_batch(int limit);
static Folded read_folded(void);
static int32 day_number(Datum date);
static void move_floor(const Folded *folded);

void
ks_fold_init(void)
{
	duty = ks_keeper_register("usage fold", FOLD_INTERVAL_MS, false, run_duty);
	(void) ks_keeper_register("usage partitions", PARTITIONS_INTERVAL_MS, true, make_partitions);
}

void
ks_fold_wake(void)
{
	ks_keeper_wake_duty(duty);
}

/* The keeper's duty: fold until nothing is left, without touching the database when nothing was recorded. */
static void
run_duty(void)
{
	uint64 recorded = ks_usage_recorded();
	Folded folded = {0};

	if (is_settled && settled_count == recorded && settled_day == ks_leaf_today() && ++idle_turns < IDLE_TURNS)
		return;
	idle_turns = 0;
	do
	{
		if (!ks_worker_transaction_begin("usage fold"))
			return;
		folded = fold_batch(FOLD_BATCH);
		ks_worker_transaction_end();
		ks_usage_count_folded(folded.events);
		CHECK_FOR_INTERRUPTS();
	} while (folded.events == FOLD_BATCH);
	/* A floor on its way is moved in the turns that follow. */
	is_settled = folded.is_all && folded.tail_from == ks_leaf_today();
	settled_day = folded.tail_from;
	settled_count = recorded;
}

/* The keeper's duty: partitions ahead, an index for those that are settled, and away with what is over. */
static void
make_partitions(void)
{
	ks_spi_run(&partitions_plan, NULL);
}

/* Fold up to so many events, and move the floor where that is due. */
static Folded
fold_batch(int limit)
{
	KsRoleSwitch save;
	Datum values[2] = {Int64GetDatum(KS_USAGE_LOCK)};
	Folded folded;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&lock_plan, values, NULL, false, 0);
	values[0] = Int32GetDatum(ks_era());
	values[1] = Int32GetDatum(limit);
	(void) ks_spi_execute(&fold_plan, values, NULL, false, 1);
	folded = read_folded();
	if (folded.events < limit)
		move_floor(&folded);
	ks_role_leave(&save);
	ks_spi_finish();
	return folded;
}

static Folded
read_folded(void)
{
	HeapTuple row = SPI_tuptable->vals[0];
	TupleDesc desc = SPI_tuptable->tupdesc;
	Folded folded = {0};
	bool is_null;

	folded.events = DatumGetInt64(SPI_getbinval(row, desc, 1, &is_null));
	folded.horizon = DatumGetFullTransactionId(SPI_getbinval(row, desc, 2, &is_null));
	folded.is_all = DatumGetBool(SPI_getbinval(row, desc, 3, &is_null));
	folded.tail_from = day_number(SPI_getbinval(row, desc, 4, &is_null));
	folded.next_from = day_number(SPI_getbinval(row, desc, 5, &is_null));
	if (is_null)
	{
		folded.next_from = 0;
		return folded;
	}
	folded.next_era = DatumGetInt32(SPI_getbinval(row, desc, 6, &is_null));
	folded.next_xid = DatumGetFullTransactionId(SPI_getbinval(row, desc, 7, &is_null));
	return folded;
}

static int32
day_number(Datum date)
{
	return DatumGetDateADT(date) + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE);
}

/* All below the horizon is folded: end the move of the floor that was begun, or begin one to a new day. */
static void
move_floor(const Folded *folded)
{
	int32 today = ks_leaf_today();
	Datum values[3];

	if (folded->next_from != 0)
	{
		if (folded->next_era == ks_era() && FullTransactionIdPrecedes(folded->horizon, folded->next_xid))
			return;
		(void) ks_spi_execute(&floor_plan, NULL, NULL, false, 0);
	}
	/* A clock that is far ahead for a moment names a day that nobody could record for. */
	else if (today > folded->tail_from && OidIsValid(ks_leaf_oid(today)))
	{
		/* Whoever finds a floor takes it that there is a ceiling. */
		(void) ks_leaf_ceiling();
		ks_leaf_raise_floor(today);
		values[0] = DateADTGetDatum(today - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE));
		values[1] = Int32GetDatum(ks_era());
		values[2] = FullTransactionIdGetDatum(ReadNextFullTransactionId());
		(void) ks_spi_execute(&next_plan, values, NULL, false, 0);
	}
}

PG_FUNCTION_INFO_V1(ks_usage_fold);

/* keelson.usage_fold(batch integer) */
Datum
ks_usage_fold(PG_FUNCTION_ARGS)
{
	int32 batch = PG_GETARG_INT32(0);

	ks_require_shmem();
	if (batch < 1 || batch > 1000000)
		ks_raise_field(400, "VALIDATION_FAILED", "batch", NULL, "a batch is 1 to 1,000,000 events");
	PG_RETURN_INT64(fold_batch(batch).events);
}
