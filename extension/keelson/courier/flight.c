/*
 * flight.c
 *	  The deliveries that a courier holds, from claim to settling.
 *
 * A place is free, or its delivery is being sent, or has ended and waits to be
 * settled. Places are made once and used again, their transfers too.
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "courier/flight.h"
#include "courier/kinds.h"
#include "courier/lanes.h"
#include "courier/multi.h"
#include "courier/settle.h"

#define SETTLE_WITHIN_US 1000
#define BUSY_FROM 4

typedef struct Place
{
	KsDelivery delivery;
	KsTransfer *transfer; /* made on first use, used again */
	dlist_node node;      /* among the free */
} Place;

/* All of this process; made when it begins. */
static Place *places;
static int place_count;
static int in_flight; /* taken places, those that have ended included */
static dlist_head free_places;
static KsDelivery **ended; /* to be settled */
static int ended_count;
static TimestampTz first_ended_at;
static bool is_busy; /* several had ended when they were settled last */
static KsCourierCounters *counters;

static void take_back(KsDelivery *delivery);
static void start(Place *place);
static void end_attempt(KsDelivery *delivery);
static bool is_ended(const KsDelivery *delivery);
static bool speaks_well(const KsDelivery *delivery);
static void note_failing(const KsDelivery *delivery, TimestampTz now);
static void leave_lane(const KsDelivery *delivery, TimestampTz now);
static void count_verdict(const KsDelivery *delivery);

void
ks_flight_create(int count, KsCourierCounters *shared)
{
	counters = shared;
	place_count = count;
	places = palloc0(place_count * sizeof(Place));
	ended = palloc(place_count * sizeof(KsDelivery *));
	dlist_init(&free_places);
	for (int i = 0; i < place_count; i++)
	{
		places[i].delivery.cxt = AllocSetContextCreate(TopMemoryContext, "keelson delivery", ALLOCSET_SMALL_SIZES);
		dlist_push_tail(&free_places, &places[i].node);
	}
}

int
ks_flight_count(void)
{
	return in_flight;
}

int
ks_flight_room(void)
{
	return place_count - in_flight;
}

int
ks_flight_ended(void)
{
	return ended_count;
}

bool
ks_flight_is_due(TimestampTz now)
{
	return ended_count > 0 && (!is_busy || ended_count * 2 >= in_flight || now - first_ended_at >= SETTLE_WITHIN_US || now < first_ended_at);
}

KsDelivery *
ks_flight_take(void)
{
	Place *place = dlist_container(Place, node, dlist_pop_head_node(&free_places));
	MemoryContext cxt = place->delivery.cxt;

	memset(&place->delivery, 0, sizeof(place->delivery));
	place->delivery.cxt = cxt;
	place->delivery.verdict = KS_RETRY;
	in_flight++;
	return &place->delivery;
}

void
ks_flight_give_back(KsDelivery *delivery)
{
	ks_lane_ended((KsLane *) delivery->lane_state);
	take_back(delivery);
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
ks_flight_start(KsDelivery **claimed, int count)
{
	for (int i = 0; i < count; i++)
		start((Place *) claimed[i]);
	pg_atomic_write_u32(&counters->in_flight, in_flight);
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

void
ks_flight_take_ended(void)
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
		ks_lane_judge(lane, speaks_well(delivery), outcome->is_timeout || outcome->is_unreachable, now);
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

bool
ks_flight_settle(TimestampTz now)
{
	KsLane **changed = palloc(Max(ended_count, 1) * sizeof(KsLane *));
	int changed_count = 0;

	is_busy = ended_count >= BUSY_FROM;
	if (ended_count == 0)
		return false;
	for (int i = 0; i < ended_count; i++)
		note_failing(ended[i], now);
	ks_settle(ended, ended_count, now);
	ks_kinds_settled(ended, ended_count);
	for (int i = 0; i < ended_count; i++)
	{
		KsLane *lane = (KsLane *) ended[i]->lane_state;

		if (lane->breaker.is_changed)
		{
			changed[changed_count++] = lane;
			lane->breaker.is_changed = false;
		}
		count_verdict(ended[i]);
		leave_lane(ended[i], now);
		take_back(ended[i]);
	}
	ks_settle_lanes(changed, changed_count);
	ended_count = 0;
	return changed_count > 0;
}

void
ks_flight_claims(int64 *out)
{
	for (int i = 0; i < place_count; i++)
		if (places[i].delivery.claim_id != 0)
			*out++ = places[i].delivery.claim_id;
}

void
ks_flight_release(void)
{
	for (int i = 0; i < place_count; i++)
	{
		KsDelivery *delivery = &places[i].delivery;

		if (delivery->claim_id == 0 || is_ended(delivery))
			continue;
		delivery->verdict = KS_RELEASED;
		end_attempt(delivery);
	}
}

static bool
is_ended(const KsDelivery *delivery)
{
	for (int i = 0; i < ended_count; i++)
		if (ended[i] == delivery)
			return true;
	return false;
}

static bool
speaks_well(const KsDelivery *delivery)
{
	return delivery->verdict == KS_DELIVERED || delivery->is_lane_well;
}

/* Since when the lane has been failing: from its first failure to its next success. */
static void
note_failing(const KsDelivery *delivery, TimestampTz now)
{
	KsLane *lane = (KsLane *) delivery->lane_state;
	bool is_success = speaks_well(delivery);
	bool is_failure = !is_success && (delivery->verdict == KS_RETRY || delivery->verdict == KS_EXHAUSTED);

	if ((is_success && lane->failing_since != 0) || (is_failure && lane->failing_since == 0))
	{
		lane->failing_since = is_success ? 0 : now;
		lane->breaker.is_changed = true;
	}
}

/* The lane has one less in flight, and may have one that is due, now or later. */
static void
leave_lane(const KsDelivery *delivery, TimestampTz now)
{
	KsLane *lane = (KsLane *) delivery->lane_state;

	ks_lane_ended(lane);
	if (delivery->verdict == KS_RETRY)
	{
		lane->has_later = true;
		ks_lane_expect(lane, delivery->retry_at);
	}
	else if (delivery->is_ordered || delivery->verdict == KS_RELEASED)
		ks_lane_expect(lane, Min(delivery->due_at, now));
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
