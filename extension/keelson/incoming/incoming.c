/*
 * incoming.c
 *	  The worker that handles webhooks once they have been acknowledged.
 *
 * A request stores the event and answers; its commit wakes the worker. The
 * worker takes one event at a time in two transactions: the first writes down
 * that it is about to be handled, the second has the handlers called and says
 * that it is done, both or neither. So an effect happens exactly once, and an
 * event that takes the server down is noticed when that has happened thrice.
 *
 * Handlers are a product's functions: they may be slow, which is why this is
 * a process of its own and not a duty of the keeper.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "audit/sanitise.h"
#include "core/compat.h"
#include "core/guc.h"
#include "core/guest.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "dispatch/timeout.h"
#include "incoming/incoming.h"
#include "incoming/rejections.h"

#define POLL_MS 5000
#define LOOK_MS 30000
#define TOO_LONG "the handler took longer than keelson.webhook_handler_timeout"

typedef struct Shared
{
	pg_atomic_uint64 earliest; /* since when events may be due that the worker has not looked for; DT_NOEND: none */
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

/* Whether this transaction has an event for the worker; set by _incoming_wake(), cleared at its end. */
static bool is_wanted;

/*
 * The worker looks for events from here on: from when the last was due, or one
 * that was told of since. What lies before may still have entries in the index,
 * as many as were handled while somebody held a snapshot. Now and then it looks
 * at all, for what nobody has told of.
 */
static TimestampTz mark = DT_NOBEGIN;

static void init_shared(void *area, bool found);
static void at_end(XactEvent event, void *unused);
static void tell(TimestampTz due_at);
static bool handle_next(void);
static void move_mark(void);
static bool claim(pg_uuid_t *id);
static void run(const pg_uuid_t *id);

void
ks_incoming_init(void)
{
	ks_rejections_init();
	ks_shmem_register("keelson incoming", sizeof(Shared), init_shared, (void **) &shared);
	ks_worker_register("incoming", "ks_incoming_main", KS_INCOMING_SLOT);
	RegisterXactCallback(at_end, NULL);
}

static void
init_shared(void *area, bool found)
{
	if (!found)
		pg_atomic_init_u64(&((Shared *) area)->earliest, (uint64) DT_NOEND);
}

PG_FUNCTION_INFO_V1(ks__incoming_wake);

/* keelson._incoming_wake() */
Datum
ks__incoming_wake(PG_FUNCTION_ARGS)
{
	is_wanted = true;
	PG_RETURN_VOID();
}

static void
at_end(XactEvent event, void *unused)
{
	if (!is_wanted || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	is_wanted = false;
	if (event != XACT_EVENT_COMMIT || shared == NULL)
		return;
	/* Due since now(), which is when the transaction began. */
	tell(GetCurrentTransactionStartTimestamp());
	ks_worker_wake(KS_INCOMING_SLOT);
}

static void
tell(TimestampTz due_at)
{
	uint64 earliest = pg_atomic_read_u64(&shared->earliest);

	while (due_at < (TimestampTz) earliest && !pg_atomic_compare_exchange_u64(&shared->earliest, &earliest, (uint64) due_at))
		;
}

void
ks_incoming_main(Datum arg)
{
	MemoryContext turn;

	ks_worker_begin("incoming", DatumGetInt32(arg));
	turn = AllocSetContextCreate(TopMemoryContext, "keelson incoming turn", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		do
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextSwitchTo(turn);
			MemoryContextReset(turn);
		} while (handle_next());
		ks_rejections_flush();
		(void) ks_worker_wait(POLL_MS);
	}
}

/* Handle the event that is due first; false when none is. */
static bool
handle_next(void)
{
	pg_uuid_t id;
	bool found;

	if (!ks_worker_transaction_begin("incoming: claim"))
		return false;
	move_mark();
	found = claim(&id);
	ks_worker_transaction_end();
	if (!found || !ks_worker_transaction_begin("incoming: event"))
		return false;
	run(&id);
	/* The session's advisory locks: it can have none but what a handler left. */
	LockReleaseSession(USER_LOCKMETHOD);
	ks_worker_transaction_end();
	return true;
}

static void
move_mark(void)
{
	static TimestampTz looked_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz earliest = (TimestampTz) pg_atomic_exchange_u64(&shared->earliest, (uint64) DT_NOEND);

	mark = Min(mark, earliest);
	if (now < looked_at || now - looked_at >= LOOK_MS * INT64CONST(1000))
	{
		mark = DT_NOBEGIN;
		looked_at = now;
	}
}

static bool
claim(pg_uuid_t *id)
{
	static KsPlan plan = {"select c.id, c.due_at from keelson._incoming_claim($1) as c", 1, {TIMESTAMPTZOID}};
	Datum values[] = {TimestampTzGetDatum(mark)};
	bool is_null;
	Datum found;

	ks_spi_connect();
	(void) ks_spi_execute(&plan, values, NULL, false, 1);
	found = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
	if (!is_null)
	{
		*id = *DatumGetUUIDP(found);
		mark = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));
	}
	ks_spi_finish();
	return !is_null;
}

static void
run(const pg_uuid_t *id)
{
	static KsPlan plan = {"select keelson._incoming_run($1)", 1, {UUIDOID}};
	Datum values[] = {UUIDPGetDatum(id)};

	ks_spi_run(&plan, values);
}

PG_FUNCTION_INFO_V1(ks__webhook_handler_call);

/* keelson._webhook_handler_call(function text, role name, event keelson.incoming_event) */
Datum
ks__webhook_handler_call(PG_FUNCTION_ARGS)
{
	Oid types[] = {get_fn_expr_argtype(fcinfo->flinfo, 2)};
	Datum values[] = {PG_GETARG_DATUM(2)};
	KsGuestQuery query = {.nargs = lengthof(types), .types = types, .values = values};
	Oid role = PG_ARGISNULL(1) ? InvalidOid : get_role_oid(NameStr(*PG_GETARG_NAME(1)), false);
	bool is_null;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		elog(ERROR, "a handler has a name and an event");
	/* Whatever it returns. */
	query.text = psprintf("select %s($1) is null", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	ks_timeout_begin(ks_guc_webhook_handler_timeout * 1000);
	(void) ks_guest_call(&query, role, &is_null);
	if (ks_timeout_end())
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg(TOO_LONG)));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks__webhook_handler_end);

/* keelson._webhook_handler_end() */
Datum
ks__webhook_handler_end(PG_FUNCTION_ARGS)
{
	if (!ks_timeout_end())
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(TOO_LONG));
}

PG_FUNCTION_INFO_V1(ks__webhook_error_clean);

/* keelson._webhook_error_clean(data jsonb) */
Datum
ks__webhook_error_clean(PG_FUNCTION_ARGS)
{
	Jsonb *open = NULL;
	Jsonb *personal = NULL;

	ks_audit_sanitise(PG_GETARG_JSONB_P(0), &open, &personal);
	if (open == NULL && personal == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(open != NULL ? open : personal);
}
