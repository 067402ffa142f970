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
 * next one (claim.c). Told to stop, it claims no more, gives what is in flight
 * a second, settles that and gives the rest back untried.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "lib/ilist.h"
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
#include "courier/http.h"
#include "courier/kinds.h"
#include "courier/lanes.h"
#include "courier/log.h"
#include "courier/multi.h"
#include "courier/settle.h"
#include "courier/sweep.h"
#include "courier/upstream.h"
#include "courier/wake.h"

#define LONGEST_WAIT_MS 5000
#define SETTLE_WITHIN_US 1000
#define BUSY_FROM 4
#define STOP_WITHIN_US (1 * USECS_PER_SEC)
#define TIDY_US (60 * USECS_PER_SEC)
#define NOTE_US (5 * USECS_PER_SEC)
#define COUNT_US (1 * USECS_PER_SEC)
#define MAX_HINTS 256
#define MAX_LOADED 256

typedef struct Place
{
	KsDelivery delivery;
	KsTransfer *transfer; /* made on first use, used again */
	dlist_node node;      /* among the free */
} Place;

/* All of this process; made when it begins. */
static int number;
static int64 life;
static int64 last_claim;
static Oid fence_table; /* that this courier has been let in by */
static Place *places;
static int place_count;
static int in_flight;
static dlist_head free_places;
static KsDelivery **ended; /* to be settled */
static int ended_count;
static TimestampTz first_ended_at;
static KsDelivery **claimed; /* of this turn, to be started */
static int claimed_count;
static bool is_more;      /* than was claimed in this turn */
static bool is_uncounted; /* breakers have changed since lanes were counted */
static bool is_busy;      /* several had ended when they were settled last */
static WaitEventSet *waits;
static KsCourierCounters *counters;

static void begin(int slot);
static void fix_plans(void);
static void open_gate(void);
static Oid find_table(void);
static void take_hints(void);
static bool is_turn_due(TimestampTz now, KsWanted *wanted, int *wanted_count, bool *settles);
static bool turn(const KsWanted *wanted, int wanted_count, bool settles);
static void claim(const KsWanted *wanted, int wanted_count, TimestampTz now);
static void see_present(void);
static void load_lanes(void);
static KsDelivery *give_place(void);
static void take_back(KsDelivery *delivery);
static void start_claimed(void);
static void start(Place *place);
static void take_ended(void);
static void end_attempt(KsDelivery *delivery);
static void settle_ended(TimestampTz now);
static void count_verdict(const KsDelivery *delivery);
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
		ks_worker_register(i == 0 ? "courier" : psprintf("courier %d", i + 1), "ks_courier_main", KS_COURIER_SLOT(i));
}

void
ks_courier_main(Datum arg)
{
	MemoryContext cxt;
	KsWanted *wanted;

	begin(DatumGetInt32(arg));
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
		take_ended();
		tidy(now);
	}
	stop();
}

static void
begin(int slot)
{
	bool is_first = slot == KS_COURIER_SLOT(0);
	const char *name = is_first ? "courier" : psprintf("courier %d", slot);

	number = slot - KS_COURIER_SLOT(0);
	ks_worker_begin(name, slot);
	/* What has been sent is to be settled: the flag is looked at where that can be done. */
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	SetConfigOption("lock_timeout", "500ms", PGC_SUSET, PGC_S_OVERRIDE);
	fix_plans();
	place_count = ks_multi_create(ks_guc_courier_in_flight);
	if (place_count < ks_guc_courier_in_flight)
		ereport(LOG,
				(errmsg("a courier has file descriptors for %d requests at once, not for %d", place_count, ks_guc_courier_in_flight),
				 errhint("Raise max_files_per_process, or lower keelson.courier_in_flight.")));
	places = palloc0(place_count * sizeof(Place));
	ended = palloc(place_count * sizeof(KsDelivery *));
	claimed = palloc(place_count * sizeof(KsDelivery *));
	dlist_init(&free_places);
	for (int i = 0; i < place_count; i++)
	{
		places[i].delivery.cxt = AllocSetContextCreate(TopMemoryContext, "keelson delivery", ALLOCSET_SMALL_SIZES);
		dlist_push_tail(&free_places, &places[i].node);
	}
	ks_lanes_create(number);
	counters = ks_courier_counters(number);
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
		Oid table = InvalidOid;

		if (ks_worker_transaction_begin("begin"))
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

/*
 * Is there anything to settle or to claim now? Where much is going on many
 * have ended a moment after the first of them: they are settled together,
 * unless nothing else is under way that could end. What is new does not wait
 * for that.
 */
static bool
is_turn_due(TimestampTz now, KsWanted *wanted, int *wanted_count, bool *settles)
{
	KsLane *unloaded[1];

	*settles = ended_count > 0 && (!is_busy || ended_count * 2 >= in_flight || now - first_ended_at >= SETTLE_WITHIN_US || now < first_ended_at);
	if (*settles)
		return true;
	if (!ks_lanes_ready())
		return false;
	if (ks_lanes_unloaded(unloaded, 1) > 0)
		return true;
	*wanted_count = ks_lanes_choose(place_count - in_flight, now, wanted, place_count);
	return *wanted_count > 0;
}

/* Settle, if it is time to, and claim; false when the tables are gone. */
static bool
turn(const KsWanted *wanted, int wanted_count, bool settles)
{
	TimestampTz now = GetCurrentTimestamp();
	int saved_commit = synchronous_commit;

	if (!ks_worker_transaction_begin("deliver"))
		return false;
	/* They may have been dropped, and brought back from a dump. */
	if (find_table() != fence_table)
	{
		ks_worker_transaction_end();
		return false;
	}
	ks_spi_connect();
	if (settles)
	{
		is_busy = ended_count >= BUSY_FROM;
		settle_ended(now);
		see_present();
	}
	load_lanes();
	/* What settling has just made due, such as the next of an ordering key, is due now. */
	now = GetCurrentTimestamp();
	/* Unless that was done: choosing once more would pass those by who were chosen. */
	if (wanted_count == 0)
	{
		KsWanted *chosen = palloc(place_count * sizeof(KsWanted));

		wanted_count = ks_lanes_choose(place_count - in_flight, now, chosen, place_count);
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

	claimed_count = ks_claim(wanted, wanted_count, last_claim, life, now, give_place, claimed);
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

/* A place for a delivery that has just been claimed; there is one, since no more were asked for. */
static KsDelivery *
give_place(void)
{
	Place *place = dlist_container(Place, node, dlist_pop_head_node(&free_places));
	MemoryContext cxt = place->delivery.cxt;

	memset(&place->delivery, 0, sizeof(place->delivery));
	place->delivery.cxt = cxt;
	place->delivery.verdict = KS_RETRY;
	in_flight++;
	return &place->delivery;
}

static void
take_back(KsDelivery *delivery)
{
	Place *place = (Place *) delivery;

	MemoryContextReset(delivery->cxt);
	delivery->claim_id = 0;
	dlist_push_head(&free_places, &place->node);
	in_flight--;
}

void
ks_courier_give_back(KsDelivery *delivery)
{
	ks_lane_ended((KsLane *) delivery->lane_state);
	take_back(delivery);
}

/* The claims are committed: send. */
static void
start_claimed(void)
{
	for (int i = 0; i < claimed_count; i++)
		start((Place *) claimed[i]);
	pg_atomic_write_u32(&counters->in_flight, in_flight);
	/* Where something was found there may be more. */
	is_more = claimed_count > 0;
	claimed_count = 0;
}

static void
start(Place *place)
{
	KsDelivery *delivery = &place->delivery;
	KsRequest *request = &delivery->request;

	if (request->refusal == NULL && place->transfer == NULL)
		place->transfer = ks_transfer_create();
	if (request->refusal == NULL && (place->transfer == NULL || !ks_transfer_prepare(place->transfer, request)))
		request->refusal = "there was no memory for the request";
	if (request->refusal != NULL)
	{
		KsVerdict given = delivery->verdict;

		delivery->outcome.error = request->refusal;
		delivery->outcome.code = "refused";
		if (given == KS_RETRY)
		{
			delivery->outcome.started_at = GetCurrentTimestamp();
			ks_settle_judge(delivery, delivery->outcome.started_at);
		}
		end_attempt(delivery);
		return;
	}
	delivery->outcome.started_at = GetCurrentTimestamp();
	place->transfer->owner = place;
	pg_atomic_fetch_add_u64(&counters->attempts, 1);
	ks_multi_start(place->transfer, request->url);
}

/* Transfers that have ended: judge them, and let their lanes know. */
static void
take_ended(void)
{
	KsTransfer *transfer;
	TimestampTz now = 0;
	CURLcode code;

	while ((transfer = ks_multi_ended(&code)) != NULL)
	{
		Place *place = transfer->owner;
		KsDelivery *delivery = &place->delivery;
		KsLane *lane = (KsLane *) delivery->lane_state;
		const KsAnswer *outcome = &delivery->outcome;

		if (now == 0)
			now = GetCurrentTimestamp();
		ks_transfer_finish(transfer, code, &delivery->outcome);
		ks_settle_judge(delivery, now);
		ks_lane_judge(lane, delivery->verdict == KS_DELIVERED || delivery->is_lane_well, outcome->is_timeout || outcome->is_unreachable, now);
		if (transfer->is_blocked)
			pg_atomic_fetch_add_u64(&counters->blocked, 1);
		end_attempt(delivery);
	}
}

static void
end_attempt(KsDelivery *delivery)
{
	if (ended_count == 0)
		first_ended_at = GetCurrentTimestamp();
	ended[ended_count++] = delivery;
}

/* Write down all that has ended, and free its places. */
static void
settle_ended(TimestampTz now)
{
	KsLane **changed = palloc(Max(ended_count, 1) * sizeof(KsLane *));
	int changed_count = 0;

	if (ended_count == 0)
		return;
	for (int i = 0; i < ended_count; i++)
	{
		KsLane *lane = (KsLane *) ended[i]->lane_state;
		bool is_success = ended[i]->verdict == KS_DELIVERED || ended[i]->is_lane_well;
		bool is_failure = !is_success && (ended[i]->verdict == KS_RETRY || ended[i]->verdict == KS_EXHAUSTED);

		if ((is_success && lane->failing_since != 0) || (is_failure && lane->failing_since == 0))
		{
			lane->failing_since = is_success ? 0 : now;
			lane->breaker.is_changed = true;
		}
	}
	ks_settle(ended, ended_count, now);
	ks_kinds_settled(ended, ended_count);
	for (int i = 0; i < ended_count; i++)
	{
		KsDelivery *delivery = ended[i];
		KsLane *lane = (KsLane *) delivery->lane_state;

		if (lane->breaker.is_changed)
		{
			changed[changed_count++] = lane;
			lane->breaker.is_changed = false;
		}
		count_verdict(delivery);
		ks_lane_ended(lane);
		if (delivery->verdict == KS_RETRY)
		{
			lane->has_later = true;
			ks_lane_expect(lane, delivery->retry_at);
		}
		else if (delivery->is_ordered || delivery->verdict == KS_RELEASED)
			ks_lane_expect(lane, Min(delivery->due_at, now));
		take_back(delivery);
	}
	ks_settle_lanes(changed, changed_count);
	is_uncounted |= changed_count > 0;
	ended_count = 0;
}

static void
count_verdict(const KsDelivery *delivery)
{
	pg_atomic_uint64 *counter[] = {
		[KS_DELIVERED] = &counters->delivered,
		[KS_RETRY] = &counters->retried,
		[KS_EXHAUSTED] = &counters->exhausted,
		[KS_CANCELLED] = &counters->cancelled,
		[KS_RELEASED] = NULL,
	};

	if (counter[delivery->verdict] != NULL)
		pg_atomic_fetch_add_u64(counter[delivery->verdict], 1);
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

	if (is_more && in_flight < place_count)
		timeout = 0;
	is_more = false;
	if (curl_timeout >= 0)
		timeout = Min(timeout, curl_timeout);
	if (ended_count > 0)
		timeout = Min(timeout, 1);
	if (until != 0)
		timeout = Min(timeout, TimestampDifferenceMilliseconds(now, until));
	if (in_flight == 0)
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

	while (in_flight > ended_count && GetCurrentTimestamp() < until)
	{
		wait_for_something(until);
		ks_multi_drive();
		take_ended();
	}
	if (in_flight > 0 && ks_worker_transaction_begin("stop"))
	{
		for (int i = 0; i < place_count; i++)
		{
			KsDelivery *delivery = &places[i].delivery;
			bool is_ended = delivery->claim_id == 0;

			for (int j = 0; j < ended_count && !is_ended; j++)
				is_ended = ended[j] == delivery;
			if (is_ended)
				continue;
			delivery->verdict = KS_RELEASED;
			end_attempt(delivery);
		}
		ks_spi_connect();
		settle_ended(GetCurrentTimestamp());
		ks_spi_finish();
		ks_worker_transaction_end();
	}
	if (number == 0 && OidIsValid(fence_table))
		ks_fence_note();
	proc_exit(1);
}
