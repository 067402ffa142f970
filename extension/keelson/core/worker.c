/*
 * worker.c
 *	  The frame that all background workers share.
 *
 * A worker's process goes through two lives. The first connects to no database
 * and waits until keelson.database exists and the workers may run; then it
 * exits, and the postmaster starts the next one, which connects. So a server
 * without the database, or one whose database was dropped, has quiet workers
 * instead of a FATAL line a second. `drop database ... with (force)` ends the
 * second life and the first begins again; keelson.workers_stop() does so for a
 * drop without force.
 *
 * Shared memory holds, per slot, the running process and whether the next life
 * may connect. It starts with "may", so that in a working installation there is
 * no delay at start. The spinlock guards the fields of WorkerShared; nothing
 * is done while it is held.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "core/compat.h"
#include "core/guc.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/worker.h"

#define RESTART_SECONDS 1
#define DATABASE_POLL_MS 2000

typedef struct WorkerShared
{
	slock_t lock;
	Oid stopped_in; /* the database, since keelson.workers_stop() there */
	bool may_connect[KS_MAX_WORKERS];
	Latch *latch[KS_MAX_WORKERS]; /* of the running process, or NULL */
	int pid[KS_MAX_WORKERS];
} WorkerShared;

/* Set when shared memory is made. */
static WorkerShared *shared;

/* This process's slot; -1 in any process that is not a worker. */
static int my_slot = -1;

static void init_shared(void *area, bool found);
static void take_signals(void);
static bool go_on(const char *activity);
static void leave(int code, Datum arg);
static void await_database(void);
static Oid find_database(void);
static bool is_migrated(void);
static void set_stopped(Oid database);

void
ks_worker_init(void)
{
	ks_shmem_register("keelson workers", sizeof(WorkerShared), init_shared, (void **) &shared);
}

static void
init_shared(void *area, bool found)
{
	WorkerShared *workers = area;

	if (found)
		return;
	memset(workers, 0, sizeof(*workers));
	SpinLockInit(&workers->lock);
	for (int i = 0; i < KS_MAX_WORKERS; i++)
		workers->may_connect[i] = true;
}

void
ks_worker_register(const char *name, const char *function, int slot)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress)
		return;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	worker.bgw_main_arg = Int32GetDatum(slot);
	strlcpy(worker.bgw_library_name, "keelson", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, function, sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "keelson %s", name);
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "keelson %s", name);
	RegisterBackgroundWorker(&worker);
}

void
ks_worker_begin(const char *name, int slot)
{
	bool connect;

	take_signals();
	my_slot = slot;
	on_shmem_exit(leave, (Datum) 0);
	SpinLockAcquire(&shared->lock);
	shared->latch[slot] = MyLatch;
	shared->pid[slot] = MyProcPid;
	connect = shared->may_connect[slot] && !OidIsValid(shared->stopped_in);
	shared->may_connect[slot] = false;
	SpinLockRelease(&shared->lock);

	if (!connect)
		await_database();
	BackgroundWorkerInitializeConnection(ks_guc_database, NULL, 0);

	/* It was there: a life that ends from now on is followed by one that connects. */
	SpinLockAcquire(&shared->lock);
	shared->may_connect[slot] = true;
	SpinLockRelease(&shared->lock);
	pgstat_report_appname(psprintf("keelson %s", name));
}

void
ks_worker_begin_apart(const char *name)
{
	take_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname(psprintf("keelson %s", name));
}

bool
ks_worker_wait(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return ks_worker_reload();
}

bool
ks_worker_reload(void)
{
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

bool
ks_worker_transaction_begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* Before the snapshot, which is to see what the migration has done. */
	(void) DirectFunctionCall1(pg_advisory_xact_lock_shared_int8, Int64GetDatum(KS_MIGRATION_LOCK));
	return go_on(activity);
}

bool
ks_worker_transaction_try(const char *activity, bool *is_migrating)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	*is_migrating = !DatumGetBool(DirectFunctionCall1(pg_try_advisory_xact_lock_shared_int8, Int64GetDatum(KS_MIGRATION_LOCK)));
	if (!*is_migrating)
		return go_on(activity);
	CommitTransactionCommand();
	return false;
}

/* The transaction has begun and keeps migrations out: take a snapshot, and become keelson_system. */
static bool
go_on(const char *activity)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!is_migrated())
	{
		PopActiveSnapshot();
		CommitTransactionCommand();
		return false;
	}
	SetUserIdAndSecContext(ks_role_oid(KS_ROLE_SYSTEM), SECURITY_LOCAL_USERID_CHANGE);
	pgstat_report_activity(STATE_RUNNING, activity);
	return true;
}

void
ks_worker_transaction_end(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
ks_worker_wake(int slot)
{
	Latch *latch;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->lock);
	latch = shared->latch[slot];
	SpinLockRelease(&shared->lock);
	/* A latch of shared memory outlives its process, so a late call does no harm. */
	if (latch != NULL)
		SetLatch(latch);
}

static void
take_signals(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
}

/* Tell that the slot's process is gone. */
static void
leave(int code, Datum arg)
{
	SpinLockAcquire(&shared->lock);
	shared->latch[my_slot] = NULL;
	shared->pid[my_slot] = 0;
	SpinLockRelease(&shared->lock);
}

/*
 * The first life: connected to nothing, look for the database now and then;
 * once it is there, end, for the next life to connect to it.
 */
static void
await_database(void)
{
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	for (;;)
	{
		Oid database = find_database();
		Oid stopped_in;

		SpinLockAcquire(&shared->lock);
		stopped_in = shared->stopped_in;
		SpinLockRelease(&shared->lock);
		/* A database made anew has another OID: it was not told to stop there. */
		if (OidIsValid(database) && database != stopped_in)
			break;
		(void) ks_worker_wait(DATABASE_POLL_MS);
	}
	set_stopped(InvalidOid);
	SpinLockAcquire(&shared->lock);
	shared->may_connect[my_slot] = true;
	SpinLockRelease(&shared->lock);
	proc_exit(1);
}

/*
 * The OID of keelson.database, or InvalidOid.  Until some session has been in a
 * database since the server's start, the caches do not know the index.
 */
static Oid
find_database(void)
{
	Oid database = InvalidOid;
	ScanKeyData key;
	Relation databases;
	SysScanDesc scan;
	HeapTuple row;

	StartTransactionCommand();
	ScanKeyInit(&key, Anum_pg_database_datname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(ks_guc_database));
	databases = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(databases, DatabaseNameIndexId, criticalSharedRelcachesBuilt, NULL, 1, &key);
	row = systable_getnext(scan);
	if (HeapTupleIsValid(row))
		database = ((Form_pg_database) GETSTRUCT(row))->oid;
	systable_endscan(scan);
	table_close(databases, AccessShareLock);
	CommitTransactionCommand();
	return database;
}

/* Is the extension installed, and were its tables made? */
static bool
is_migrated(void)
{
	Oid schema;

	if (!OidIsValid(get_extension_oid("keelson", true)))
		return false;
	schema = get_namespace_oid("keelson", true);
	return OidIsValid(schema) && OidIsValid(get_relname_relid("installation", schema));
}

/* Keep the workers from the database; InvalidOid: from none. */
static void
set_stopped(Oid database)
{
	SpinLockAcquire(&shared->lock);
	shared->stopped_in = database;
	SpinLockRelease(&shared->lock);
}

PG_FUNCTION_INFO_V1(ks_workers_stop);

/* keelson.workers_stop() */
Datum
ks_workers_stop(PG_FUNCTION_ARGS)
{
	int pids[KS_MAX_WORKERS];
	int stopped = 0;

	ks_require_shmem();
	set_stopped(MyDatabaseId);
	SpinLockAcquire(&shared->lock);
	memcpy(pids, shared->pid, sizeof(pids));
	SpinLockRelease(&shared->lock);
	for (int i = 0; i < KS_MAX_WORKERS; i++)
		if (pids[i] != 0 && kill(pids[i], SIGTERM) == 0)
			stopped++;
	PG_RETURN_INT32(stopped);
}

PG_FUNCTION_INFO_V1(ks_workers_start);

/* keelson.workers_start() */
Datum
ks_workers_start(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	set_stopped(InvalidOid);
	for (int i = 0; i < KS_MAX_WORKERS; i++)
		ks_worker_wake(i);
	PG_RETURN_VOID();
}
