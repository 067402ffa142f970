/*
 * courier.c
 *	  A courier: the background worker that sends deliveries.
 *
 * Its loop: take hints; in one transaction settle what has ended and claim what
 * there is room for; start those transfers; wait for the latch, a socket of
 * libcurl's, or the time. No transaction is open while anything is sent. A turn
 * that settles something is committed to disk before what it freed is used
 * again; one that only claims need not be: lost, it was never claimed.
 *
 * An error of the database ends the process; its claims are taken up by the
 * next one (claim.c), which sends again what could not be settled. Where that
 * ends with an error too, and so on, each waits for twice as long before it
 * begins: a receiver is not to get the same every second because our disk is
 * full. Told to stop, it claims no more, gives what is in flight a second,
 * settles that and gives the rest back untried.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "core/compat.h"
#include "core/guc.h"
#include "core/spi.h"
#include "core/worker.h"
#include "courier/claim.h"
#include "courier/courier.h"
#include "courier/fence.h"
#include "courier/flight.h"
#include "courier/http.h"
#include "courier/kinds.h"
#include "courier/lanes.h"
#include "courier/log.h"
#include "courier/multi.h"
#include "courier/sweep.h"
#include "courier/upstream.h"
#include "courier/wake.h"

#define LONGEST_WAIT_MS 5000
#define STOP_WITHIN_US (1 * USECS_PER_SEC)
#define TIDY_US (60 * USECS_PER_SEC)
#define NOTE_US (5 * USECS_PER_SEC)
#define COUNT_US (1 * USECS_PER_SEC)
#define MAX_HINTS 256
#define MAX_LOADED 256
#define LATER_MS 100
#define LONGEST_REST_S 60

/* All of this process; made when it begins. */
static int number;
static int64 life;
static int64 last_claim;
static Oid fence_table; /* that this courier has been let in by */
static int place_count;
static KsDelivery **claimed; /* of this turn, to be started */
static int claimed_count;
static bool is_more;      /* than was claimed in this turn */
static bool is_held;      /* the database is being migrated: turns wait, and nothing else does */
static bool is_uncounted; /* breakers have changed since lanes were counted */
static WaitEventSet *waits;
static KsCourierCounters *counters;

static const char *name_of(int courier);
static void begin(int slot);
static void fix_plans(void);
static void rest(int failed_lives);
static void open_gate(void);
static Oid find_table(void);
static void take_hints(void);
static bool is_turn_due(TimestampTz now, KsWanted *wanted, int *wanted_count, bool *settles);
static bool turn(const KsWanted *wanted, int wanted_count, bool settles);
static void claim(const KsWanted *wanted, int wanted_count, TimestampTz now);
static void see_present(void);
static void load_lanes(void);
static void start_claimed(void);
static void wait_for_something(TimestampTz until);
static void tidy(TimestampTz now);
static void stop(void);

void
ks_courier_init(void)
{
	ks_wake_init();
	ks_sweep_init();
	ks_delivery_log_init();
	ks_http_init();
	ks_upstream_init();
	for (int i = 0; i < ks_guc_courier_workers; i++)
		ks_worker_register(name_of(i), "ks_courier_main", KS_COURIER_SLOT(i));
}

void
ks_courier_main(Datum arg)
{
	MemoryContext cxt;
	KsWanted *wanted;

	begin(DatumGetInt32(arg));
	rest(ks_courier_failed_lives(number));
	open_gate();
	cxt = AllocSetContextCreate(TopMemoryContext, "keelson courier turn", ALLOCSET_DEFAULT_SIZES);
	wanted = palloc(place_count * sizeof(KsWanted));
	while (!ShutdownRequestPending)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz wake_at;
		int wanted_count = 0;
		bool settles = false;

		MemoryContextSwitchTo(cxt);
		take_hints();
		wake_at = ks_lanes_wake(now);
		if (is_turn_due(now, wanted, &wanted_count, &settles))
		{
			if (!turn(wanted, wanted_count, settles))
				open_gate();
			start_claimed();
		}
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(cxt);
		wait_for_something(wake_at);
		ks_multi_drive();
		ks_flight_take_ended();
		tidy(now);
	}
	stop();
}

/* What a courier is called among the server's processes; people count from 1. */
static const char *
name_of(int courier)
{
	return courier == 0 ? "courier" : psprintf("courier %d", courier + 1);
}

static void
begin(int slot)
{
	number = slot - KS_COURIER_SLOT(0);
	ks_worker_begin(name_of(number), slot);
	/* What has been sent is to be settled: the flag is looked at where that can be done. */
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	SetConfigOption("lock_timeout", "500ms", PGC_SUSET, PGC_S_OVERRIDE);
	fix_plans();
	place_count = ks_multi_create(ks_guc_courier_in_flight);
	if (place_count < ks_guc_courier_in_flight)
		ereport(LOG,
				(errmsg("a courier has file descriptors for %d requests at once, not for %d", place_count, ks_guc_courier_in_flight),
				 errhint("Raise max_files_per_process, or lower keelson.courier_in_flight.")));
	claimed = palloc(place_count * sizeof(KsDelivery *));
	ks_lanes_create(number);
	counters = ks_courier_counters(number);
	ks_flight_create(place_count, counters);
	life = GetCurrentTimestamp();
	ks_courier_life_begin(number, life);
	waits = ks_create_wait_event_set(3);
	AddWaitEventToSet(waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(waits, WL_SOCKET_READABLE, ks_multi_descriptor(), NULL, NULL);
}

/*
 * Each statement sees what is committed, and goes by index from a handful of rows to their like, whatever
 * the statistics say of a table that was empty a moment ago; planning it again
 * for each turn would find the same.
 */
static void
fix_plans(void)
{
	static const char *const settings[][2] = {
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"default_transaction_isolation", "read committed"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* The first after an error begins at once. */
static void
rest(int failed_lives)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz until;
	int seconds;

	if (failed_lives < 2)
		return;
	seconds = Min(1 << Min(failed_lives - 2, 10), LONGEST_REST_S);
	until = began + seconds * USECS_PER_SEC;
	ereport(LOG,
			(errmsg("a courier has ended with an error %d times in a row: the next begins in %d s", failed_lives, seconds)));
	for (TimestampTz now = began; now >= began && now < until && !ShutdownRequestPending; now = GetCurrentTimestamp())
		(void) ks_worker_wait(TimestampDifferenceMilliseconds(now, until));
}

/*
 * Wait until deliveries may be sent: the tables are there, and the first
 * courier has seen that they are no copy from a backup.
 */
static void
open_gate(void)
{
	while (!ShutdownRequestPending)
	{
		bool is_open = false;
		bool is_migrating;
		Oid table = InvalidOid;

		if (ks_worker_transaction_try("begin", &is_migrating))
		{
			table = find_table();
			if (OidIsValid(table))
				is_open = ks_courier_is_fenced(table) || (number == 0 && ks_fence_raise(table));
			ks_worker_transaction_end();
		}
		if (is_open)
		{
			if (number == 0)
			{
				ks_fence_note();
				ks_courier_set_fenced(table);
			}
			fence_table = table;
			ks_sweep_soon();
			return;
		}
		(void) ks_worker_wait(1000);
	}
	stop();
}

/*
 * keelson.courier_fence, once the tables were made: code that is newer than
 * they are waits for keelson.migrate(). While a dump is being restored they
 * have rows before they have indexes; it is over for them when these are there.
 */
static Oid
find_table(void)
{
	Oid schema = get_namespace_oid("keelson", true);

	if (!OidIsValid(schema) || !OidIsValid(get_relname_relid("deliveries_pkey", schema)) ||
		!OidIsValid(get_relname_relid("deliveries_lane_due_at_id_idx", schema)) ||
		!OidIsValid(get_relname_relid("courier_fence_pkey", schema)))
		return InvalidOid;
	return get_relname_relid("courier_fence", schema);
}

static void
take_hints(void)
{
	KsHint hints[MAX_HINTS];
	int count;

	do
	{
		count = ks_hints_take(number, hints, MAX_HINTS);
		for (int i = 0; i < count; i++)
			ks_lanes_hint(&hints[i]);
	} while (count == MAX_HINTS);
}

/* Is there anything to settle or to claim now? What is new does not wait for what ends together to be settled. */
static bool
is_turn_due(TimestampTz now, KsWanted *wanted, int *wanted_count, bool *settles)
{
	KsLane *unloaded[1];

	*settles = ks_flight_is_due(now);
	if (*settles)
		return true;
	if (!ks_lanes_ready())
		return false;
	if (ks_lanes_unloaded(unloaded, 1) > 0)
		return true;
	*wanted_count = ks_lanes_choose(ks_flight_room(), now, wanted, place_count);
	return *wanted_count > 0;
}

/* Settle, if it is time to, and claim, but not during a migration; false when the tables are gone. */
static bool
turn(const KsWanted *wanted, int wanted_count, bool settles)
{
	TimestampTz now = GetCurrentTimestamp();
	int saved_commit = synchronous_commit;

	if (!ks_worker_transaction_try("deliver", &is_held))
		return is_held;
	/* They may have been dropped, and brought back from a dump. */
	if (find_table() != fence_table)
	{
		ks_worker_transaction_end();
		return false;
	}
	ks_spi_connect();
	if (settles)
	{
		is_uncounted |= ks_flight_settle(now);
		see_present();
	}
	load_lanes();
	/* What settling has just made due, such as the next of an ordering key, is due now. */
	now = GetCurrentTimestamp();
	/* Unless that was done: choosing once more would pass those by who were chosen. */
	if (wanted_count == 0)
	{
		KsWanted *chosen = palloc(place_count * sizeof(KsWanted));

		wanted_count = ks_lanes_choose(ks_flight_room(), now, chosen, place_count);
		wanted = chosen;
	}
	last_claim = Max(now, last_claim + 1);
	claim(wanted, wanted_count, now);
	see_present();
	ks_kinds_build(claimed, claimed_count);
	ks_spi_finish();
	if (!settles)
		synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	ks_worker_transaction_end();
	synchronous_commit = saved_commit;
	return true;
}

/*
 * Let statements that only read see what was committed since the transaction
 * began: a delivery that was claimed is newer than that, perhaps, and so is
 * what it sends.
 */
static void
see_present(void)
{
	CommandCounterIncrement();
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* Claim, and count how much and how long. */
static void
claim(const KsWanted *wanted, int wanted_count, TimestampTz now)
{
	TimestampTz began = GetCurrentTimestamp();

	claimed_count = ks_claim(wanted, wanted_count, last_claim, life, now, ks_flight_take, claimed);
	pg_atomic_fetch_add_u64(&counters->claimed, claimed_count);
	pg_atomic_fetch_add_u64(&counters->claim_us, Max(GetCurrentTimestamp() - began, 0));
}

static void
load_lanes(void)
{
	KsLane *unloaded[MAX_LOADED];
	int count;

	do
	{
		count = ks_lanes_unloaded(unloaded, MAX_LOADED);
		ks_claim_load_lanes(unloaded, count);
		is_uncounted |= count > 0;
	} while (count == MAX_LOADED);
}

/* The claims are committed: send. */
static void
start_claimed(void)
{
	ks_flight_start(claimed, claimed_count);
	/* Where something was found there may be more. */
	is_more = claimed_count > 0;
	claimed_count = 0;
}

/* Until the latch is set, libcurl has something to do, or the time has come. */
static void
wait_for_something(TimestampTz until)
{
	WaitEvent events[3];
	TimestampTz now = GetCurrentTimestamp();
	long timeout = LONGEST_WAIT_MS;
	long curl_timeout = ks_multi_timeout();
	int count;

	if (is_more && ks_flight_room() > 0)
		timeout = 0;
	is_more = false;
	if (curl_timeout >= 0)
		timeout = Min(timeout, curl_timeout);
	if (is_held)
		timeout = Min(timeout, LATER_MS);
	else if (ks_flight_ended() > 0)
		timeout = Min(timeout, 1);
	if (until != 0)
		timeout = Min(timeout, TimestampDifferenceMilliseconds(now, until));
	if (ks_flight_count() == 0)
		pgstat_report_activity(STATE_IDLE, NULL);
	count = WaitEventSetWait(waits, timeout, events, lengthof(events), PG_WAIT_EXTENSION);
	for (int i = 0; i < count; i++)
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static void
tidy(TimestampTz now)
{
	static TimestampTz tidied_at = 0;
	static TimestampTz noted_at = 0;
	static TimestampTz counted_at = 0;

	if (number == 0 && (now - noted_at >= NOTE_US || now < noted_at))
	{
		noted_at = now;
		ks_fence_note();
	}
	if (now - tidied_at >= TIDY_US || now < tidied_at)
	{
		tidied_at = now;
		if (now - life >= TIDY_US)
			ks_courier_goes_well(number);
		ks_lanes_tidy();
		is_uncounted = true;
	}
	if (is_uncounted && (now - counted_at >= COUNT_US || now < counted_at))
	{
		int lanes;
		int open;

		counted_at = now;
		is_uncounted = false;
		ks_lanes_count(&lanes, &open);
		pg_atomic_write_u32(&counters->lanes, lanes);
		pg_atomic_write_u32(&counters->open_lanes, open);
	}
}

/* Settle what ends soon, give back the rest, and end. Never returns. */
static void
stop(void)
{
	TimestampTz until = GetCurrentTimestamp() + STOP_WITHIN_US;

	ks_courier_goes_well(number);
	while (ks_flight_count() > ks_flight_ended() && GetCurrentTimestamp() < until)
	{
		wait_for_something(until);
		ks_multi_drive();
		ks_flight_take_ended();
	}
	if (ks_flight_count() > 0 && ks_worker_transaction_begin("stop"))
	{
		ks_flight_release();
		ks_spi_connect();
		(void) ks_flight_settle(GetCurrentTimestamp());
		ks_spi_finish();
		ks_worker_transaction_end();
	}
	if (number == 0 && OidIsValid(fence_table))
		ks_fence_note();
	proc_exit(1);
}
