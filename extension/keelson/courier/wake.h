/*
 * wake.h
 *	  How sessions tell the couriers that there is work, and what the couriers
 *	  tell of themselves: the part of shared memory between them.
 */
#ifndef KS_COURIER_WAKE_H
#define KS_COURIER_WAKE_H

#include "postgres.h"

#include "port/atomics.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#define KS_MAX_COURIERS 8

/* Couriers' slots among the workers come after the keeper's. */
#define KS_COURIER_SLOT(number) (1 + (number))

typedef struct KsHint
{
	pg_uuid_t user_id;
	pg_uuid_t lane;
	TimestampTz due_at; /* of a delivery that may be new */
	bool is_changed;    /* the lane's settings are to be read anew */
} KsHint;

/* What a courier counts, since the server started. */
typedef struct KsCourierCounters
{
	pg_atomic_uint64 attempts;
	pg_atomic_uint64 delivered;
	pg_atomic_uint64 retried;
	pg_atomic_uint64 exhausted;
	pg_atomic_uint64 cancelled;
	pg_atomic_uint64 blocked;  /* refused by the guard */
	pg_atomic_uint64 claimed;  /* deliveries, … */
	pg_atomic_uint64 claim_us; /* … and the microseconds that took */
	pg_atomic_uint32 in_flight;
	pg_atomic_uint32 lanes;      /* with work that is known */
	pg_atomic_uint32 open_lanes; /* of these, those whose breaker is open */
} KsCourierCounters;

/* Put a hint for its courier, without waking it; false when there is no room. */
extern bool ks_hint_put(const KsHint *hint);
extern void ks_courier_wake_all(void);

/* Take all hints of a courier, up to `most`. */
extern int ks_hints_take(int courier, KsHint *out, int most);

/* A courier begins its life: claims from before it are nobody's. */
extern void ks_courier_life_begin(int courier, int64 life);
extern int64 ks_courier_oldest_life(void);

/* How many lives of the courier in a row have ended with an error; the one that asks counts as one until it has gone well. */
extern int ks_courier_failed_lives(int courier);
extern void ks_courier_goes_well(int courier);

extern KsCourierCounters *ks_courier_counters(int courier);

/* Has keelson.courier_fence, this very table, been raised since the server started (fence.c)? The first courier says so. */
extern bool ks_courier_is_fenced(Oid table);
extern void ks_courier_set_fenced(Oid table);

extern void ks_wake_init(void);

#endif /* KS_COURIER_WAKE_H */
