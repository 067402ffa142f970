/*
 * jobs.c
 *	  Calling a job's steps, and running a whole job in a process of its own.
 *
 * A run commits many times: its beginning, each batch, its end. A request is
 * one transaction, so it has a background worker do the run and waits for it.
 * Should the request be given up meanwhile (its time is over, the client's
 * connection is lost), the run goes on. The worker is not started again when
 * it fails: its row says running, and its lock is gone, which is how a crash
 * shows.
 *
 * The worker is told job and run in bgw_extra, which postmaster and worker
 * alone read.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/guest.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "jobs/jobs.h"

/* What the worker is to do; it fits bgw_extra. */
typedef struct Order
{
	pg_uuid_t run_id;
	char job[BGW_EXTRALEN - sizeof(pg_uuid_t)];
} Order;

static bool begin_run(const Order *order);
static bool advance_run(const Order *order);
static bool answer(KsPlan *plan, Datum *values);

PG_FUNCTION_INFO_V1(ks_job_call);

/* keelson._job_call(function text, role name, batch integer) */
Datum
ks_job_call(PG_FUNCTION_ARGS)
{
	Oid types[] = {INT4OID};
	Datum values[] = {PG_GETARG_DATUM(2)};
	KsGuestQuery query = {.nargs = lengthof(types), .types = types, .values = values};
	Oid role = PG_ARGISNULL(1) ? InvalidOid : get_role_oid(NameStr(*PG_GETARG_NAME(1)), false);
	bool is_null;
	Datum taken;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		elog(ERROR, "a step has a function and a batch");
	query.text = psprintf("select (%s($1))::bigint", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	taken = ks_guest_call(&query, role, &is_null);
	if (is_null)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(taken);
}

PG_FUNCTION_INFO_V1(ks_job_execute);

/* keelson._job_execute(job text, run_id uuid) */
Datum
ks_job_execute(PG_FUNCTION_ARGS)
{
	char *job = text_to_cstring(PG_GETARG_TEXT_PP(0));
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_notify_pid = MyProcPid};
	BackgroundWorkerHandle *handle;
	Order order;

	ks_require_shmem();
	memset(&order, 0, sizeof(order));
	order.run_id = *PG_GETARG_UUID_P(1);
	strlcpy(order.job, job, sizeof(order.job));
	memcpy(worker.bgw_extra, &order, sizeof(order));
	strlcpy(worker.bgw_library_name, "keelson", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "ks_job_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "keelson job %s", job);
	strlcpy(worker.bgw_type, "keelson job", sizeof(worker.bgw_type));
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ks_raise(503, "UNAVAILABLE", "Raise max_worker_processes, or try again later.", "there is no process free to run the job");
	if (WaitForBackgroundWorkerShutdown(handle) == BGWH_POSTMASTER_DIED)
		ereport(FATAL,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("the server has gone")));
	PG_RETURN_VOID();
}

void
ks_job_main(Datum arg)
{
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "keelson job", ALLOCSET_DEFAULT_SIZES);
	Order order;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	BackgroundWorkerInitializeConnection(ks_guc_database, NULL, 0);
	pgstat_report_appname(psprintf("keelson job %s", order.job));
	MemoryContextSwitchTo(cxt);
	if (!begin_run(&order))
		proc_exit(0);
	do
	{
		MemoryContextReset(cxt);
		CHECK_FOR_INTERRUPTS();
	} while (advance_run(&order));
	/* The lock of the run ends with the process. */
	proc_exit(0);
}

/* Write down that the run begins; false when one is going on. */
static bool
begin_run(const Order *order)
{
	static KsPlan plan = {
		.sql = "select keelson._job_begin($1, 'request', $2) is not null",
		.nargs = 2,
		.argtypes = {TEXTOID, UUIDOID}};
	Datum values[2];

	if (!ks_worker_transaction_begin("job: begin"))
		return false;
	values[0] = CStringGetTextDatum(order->job);
	values[1] = UUIDPGetDatum(&order->run_id);
	return answer(&plan, values);
}

/* Do the next batch; false when the run has ended. */
static bool
advance_run(const Order *order)
{
	static KsPlan plan = {.sql = "select keelson._job_advance($1)", .nargs = 1, .argtypes = {UUIDOID}};
	Datum values[] = {UUIDPGetDatum(&order->run_id)};

	if (!ks_worker_transaction_begin(order->job))
		return false;
	return answer(&plan, values);
}

/* What the statement says, in a transaction that ends with it. */
static bool
answer(KsPlan *plan, Datum *values)
{
	MemoryContext cxt = CurrentMemoryContext;
	bool is_null;
	bool said;

	said = DatumGetBool(ks_spi_value(plan, values, &is_null)) && !is_null;
	ks_worker_transaction_end();
	MemoryContextSwitchTo(cxt);
	return said;
}
