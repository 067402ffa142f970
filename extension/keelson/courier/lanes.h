/*
 * lanes.h
 *	  What a courier knows of its lanes: who has work, how much of it may be in
 *	  flight, whose breaker is open. In the courier's own memory.
 */
#ifndef KS_COURIER_LANES_H
#define KS_COURIER_LANES_H

#include "postgres.h"

#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "courier/breaker.h"
#include "courier/wake.h"

#define KS_MAX_SCHEDULE 32

typedef struct KsLaneUser KsLaneUser;

typedef struct KsLane
{
	pg_uuid_t id; /* the hash key */
	pg_uuid_t user_id;
	KsLaneUser *user;
	dlist_node node;       /* among the user's ready lanes, if is_ready */
	pairingheap_node wake; /* among the sleeping, if wake_at is set */
	bool is_ready;
	bool is_held;        /* it rested though it may have work: as much as may be is in flight */
	bool has_later;      /* it may have deliveries that are due later */
	bool is_loaded;      /* settings and breaker were read from keelson.courier_lanes */
	TimestampTz wake_at; /* when there may be work again; 0: nothing known */
	TimestampTz mark;    /* nothing that is due before it is waiting */
	int in_flight;
	double window; /* how much may be in flight now: grows with success, shrinks with failure */
	double tokens; /* of the rate limit */
	TimestampTz tokens_at;
	/* From keelson.courier_lanes. */
	bool is_paused;
	int max_in_flight;
	double rate;         /* deliveries a second; 0: no limit */
	int schedule_length; /* 0: the kind's own */
	int32 schedule[KS_MAX_SCHEDULE];
	KsBreaker breaker;
	TimestampTz failing_since; /* 0: the last attempt succeeded */
} KsLane;

/* What is to be claimed of a lane. */
typedef struct KsWanted
{
	KsLane *lane;
	int count;
} KsWanted;

extern void ks_lanes_create(int courier);

/* Take in what was hinted at. */
extern void ks_lanes_hint(const KsHint *hint);

/* Are its deliveries a user's? What a user's lane has is made and removed with what it belongs to. */
extern bool ks_lane_is_users(const KsLane *lane);

/* The lane, or NULL. */
extern KsLane *ks_lane_find(const pg_uuid_t *lane);

/* Lanes whose time has come become ready; returns when the next one's comes, 0 for never. */
extern TimestampTz ks_lanes_wake(TimestampTz now);

/* There may be work from then on. */
extern void ks_lane_expect(KsLane *lane, TimestampTz at);

/* Choose what to claim, at most `room` deliveries, fairly among users and then among each one's lanes. */
extern int ks_lanes_choose(int room, TimestampTz now, KsWanted *out, int most);

/* Lanes that are ready and not loaded yet, up to `most`. */
extern int ks_lanes_unloaded(KsLane **out, int most);

/* A lane was asked for `wanted` deliveries and gave `got`, the last due at `last`. */
extern void ks_lane_claimed(KsLane *lane, int wanted, int got, TimestampTz last);

/* One of its deliveries has ended, well or not; not counted when it was not tried. */
extern void ks_lane_ended(KsLane *lane);
extern void ks_lane_judge(KsLane *lane, bool success, bool is_timeout, TimestampTz now);

/* Is there a lane that something may be claimed of? */
extern bool ks_lanes_ready(void);

/* Forget lanes without work, now and then; and count. */
extern void ks_lanes_tidy(void);
extern void ks_lanes_count(int *lanes, int *open);

#endif /* KS_COURIER_LANES_H */
