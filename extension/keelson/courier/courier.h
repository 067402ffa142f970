/*
 * courier.h
 *	  What capabilities hand to the courier, and how they hear of the outcome.
 *
 * A delivery is a row of keelson.deliveries. A courier claims it, commits,
 * sends what the delivery's kind makes of it, and settles it in a later
 * transaction: at least once, and what was in flight at a crash once more.
 * How, and in which order, stands in README.md.
 */
#ifndef KS_COURIER_H
#define KS_COURIER_H

#include "postgres.h"

#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "courier/transfer.h"

struct KsCourierKind;

typedef enum KsVerdict
{
	KS_DELIVERED, /* done; the row goes to the log */
	KS_RETRY,     /* again at retry_at, having cost an attempt */
	KS_EXHAUSTED, /* no more by itself; goes to the log, can be replayed */
	KS_CANCELLED, /* nobody wants it any more; goes to the log */
	KS_RELEASED   /* not tried: as if it had not been claimed */
} KsVerdict;

/* A claimed delivery, and its one attempt. Lives until it is settled. */
typedef struct KsDelivery
{
	pg_uuid_t user_id;
	pg_uuid_t id;
	pg_uuid_t lane; /* whose deliveries share caps, breaker and rate: an endpoint */
	pg_uuid_t ref;  /* what the kind sends, such as an event; zeros for nothing */
	int64 claim_id;
	TimestampTz due_at;
	int attempts; /* made before this one, since it was asked for or replayed */
	bool is_ordered;
	const struct KsCourierKind *kind;
	const struct KsLane *lane_state; /* the courier's own */
	MemoryContext cxt;               /* reset once the delivery is settled */
	KsRequest request;               /* filled by the kind, its memory in cxt */
	KsAnswer outcome;
	KsVerdict verdict;
	bool is_lane_well; /* a failure that says nothing against the lane: its breaker does not count it */
	TimestampTz retry_at;
	void *kind_data; /* the kind's own, in cxt */
} KsDelivery;

/*
 * A kind of delivery: a few callbacks, registered under the name that stands
 * in keelson.deliveries.kind. All are called in a courier, build and settled
 * inside its transaction as keelson_system; an error fails that delivery alone.
 *
 * build	 fills the request of each, or says in request.refusal why there is
 *			 none, and sets the verdict of that (KS_RETRY unless it says otherwise).
 * judge	 after the attempt; starts from the courier's own verdict (2xx is
 *			 delivered, else again by the schedule, or exhausted), may change it.
 *			 No database. May be NULL.
 * settled	 the row is where the verdict says; for what else is to be written.
 *			 May be NULL.
 */
typedef struct KsCourierKind
{
	const char *name;
	void (*build)(KsDelivery **deliveries, int count);
	void (*judge)(KsDelivery *delivery);
	void (*settled)(KsDelivery **deliveries, int count);
	const int32 *schedule; /* seconds to wait after each failure; then it is exhausted */
	int schedule_length;
} KsCourierKind;

/* Register a kind, from a capability's init function; the struct lives for ever. */
extern void ks_courier_kind_register(const KsCourierKind *kind);

/*
 * Whose deliveries are no user's: of mails, all of them. Such an owner has
 * limits of its own, settings that are read at each turn.
 */
typedef struct KsCourierOwner
{
	pg_uuid_t id;
	const int *most_in_flight;
	const double *lane_rate; /* deliveries a second of each lane that has no rate of its own; 0: no limit */
} KsCourierOwner;

extern void ks_courier_owner_register(const KsCourierOwner *owner);

/*
 * Tell the courier, when this transaction commits, that the lane has a
 * delivery that is due from then on (once per lane is enough). No error, no
 * cost to speak of, and nothing when it rolls back.
 */
extern void ks_courier_hint(const pg_uuid_t *user_id, const pg_uuid_t *lane, TimestampTz due_at);

/* The same for a lane whose row of keelson.courier_lanes has changed. */
extern void ks_courier_lane_changed(const pg_uuid_t *user_id, const pg_uuid_t *lane);

extern void ks_courier_init(void);
extern PGDLLEXPORT void ks_courier_main(Datum arg);

#endif /* KS_COURIER_H */
