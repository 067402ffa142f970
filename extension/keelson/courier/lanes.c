/*
 * lanes.c
 *	  Whose turn it is.
 *
 * Users with ready lanes stand in a ring, and so do each user's ready lanes.
 * A turn goes round both, giving each user the same share of what is free, so
 * that one with a million deliveries takes no more than its neighbours; caps
 * hold per user and per lane. A lane that has nothing due sleeps until a hint,
 * or until the time it is known to have work again.
 *
 * The mark of a lane is where the next claim begins to look in the index:
 * nothing that is due earlier waits there, since whoever adds such a delivery
 * says so in its hint. It keeps claims from walking over what was delivered
 * and cannot be vacuumed away while somebody holds an old snapshot.
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "core/guc.h"
#include "core/uuid.h"
#include "courier/courier.h"
#include "courier/lanes.h"

#define MAX_LANES 100000
#define FIRST_WINDOW 8
#define MAX_OWNERS 4

struct KsLaneUser
{
	pg_uuid_t id;    /* the hash key */
	dlist_node node; /* among the ready users, if it has ready lanes */
	dlist_head ready;
	bool is_ready;
	int in_flight;
	int lanes;
	const KsCourierOwner *owner; /* NULL: a user */
};

/* Filled while the library is loaded, fixed afterwards. */
static const KsCourierOwner *owners[MAX_OWNERS];
static int owner_count;

/* All of this process; made by ks_lanes_create(). */
static HTAB *lanes;
static HTAB *users;
static dlist_head ready_users;
static pairingheap sleeping;

static int compare_wake(const pairingheap_node *a, const pairingheap_node *b, void *arg);
static KsLane *get_lane(const pg_uuid_t *user_id, const pg_uuid_t *lane_id);
static KsLaneUser *get_user(const pg_uuid_t *id);
static void make_ready(KsLane *lane);
static void rest(KsLane *lane);
static void sleep_until(KsLane *lane, TimestampTz at);
static int lane_room(KsLane *lane, TimestampTz now);
static int rate_room(KsLane *lane, TimestampTz now);
static double rate_of(const KsLane *lane);
static int choose_of(KsLaneUser *user, int share, TimestampTz now, KsWanted *out, int most, int *count);

void
ks_courier_owner_register(const KsCourierOwner *owner)
{
	if (owner_count == MAX_OWNERS)
		elog(ERROR, "too many owners of deliveries");
	owners[owner_count++] = owner;
}

void
ks_lanes_create(int courier)
{
	HASHCTL control = {.keysize = sizeof(pg_uuid_t), .entrysize = sizeof(KsLane), .hcxt = TopMemoryContext};
	HASHCTL user_control = {.keysize = sizeof(pg_uuid_t), .entrysize = sizeof(KsLaneUser), .hcxt = TopMemoryContext};

	lanes = hash_create("keelson courier lanes", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	users = hash_create("keelson courier users", 256, &user_control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	dlist_init(&ready_users);
	sleeping.ph_compare = compare_wake;
	sleeping.ph_arg = NULL;
	sleeping.ph_root = NULL;
}

/* The earliest is the greatest: it comes first out of the heap. */
static int
compare_wake(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz at_a = pairingheap_const_container(KsLane, wake, a)->wake_at;
	TimestampTz at_b = pairingheap_const_container(KsLane, wake, b)->wake_at;

	return at_a < at_b ? 1 : at_a > at_b ? -1
										 : 0;
}

KsLane *
ks_lane_find(const pg_uuid_t *lane)
{
	return hash_search(lanes, lane, HASH_FIND, NULL);
}

void
ks_lanes_hint(const KsHint *hint)
{
	KsLane *lane = get_lane(&hint->user_id, &hint->lane);

	/* Too many: the keeper will tell of it again. */
	if (lane == NULL)
		return;
	if (hint->is_changed)
		lane->is_loaded = false;
	if (hint->due_at > GetCurrentTimestamp())
		lane->has_later = true;
	ks_lane_expect(lane, hint->due_at);
}

/* The lane, made if there is none; NULL when there are too many. */
static KsLane *
get_lane(const pg_uuid_t *user_id, const pg_uuid_t *lane_id)
{
	bool found;
	KsLane *lane = hash_search(lanes, lane_id, HASH_FIND, NULL);

	if (lane != NULL)
		return lane;
	if (hash_get_num_entries(lanes) >= MAX_LANES)
		return NULL;
	lane = hash_search(lanes, lane_id, HASH_ENTER, &found);
	memset((char *) lane + sizeof(pg_uuid_t), 0, sizeof(*lane) - sizeof(pg_uuid_t));
	lane->user_id = *user_id;
	lane->user = get_user(user_id);
	lane->user->lanes++;
	lane->mark = DT_NOEND;
	lane->window = FIRST_WINDOW;
	return lane;
}

static KsLaneUser *
get_user(const pg_uuid_t *id)
{
	bool found;
	KsLaneUser *user = hash_search(users, id, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) user + sizeof(pg_uuid_t), 0, sizeof(*user) - sizeof(pg_uuid_t));
		dlist_init(&user->ready);
		for (int i = 0; i < owner_count; i++)
			if (memcmp(&owners[i]->id, id, UUID_LEN) == 0)
				user->owner = owners[i];
	}
	return user;
}

bool
ks_lane_is_users(const KsLane *lane)
{
	return lane->user->owner == NULL && !ks_uuid_is_nil(&lane->user_id);
}

void
ks_lane_expect(KsLane *lane, TimestampTz at)
{
	lane->mark = Min(lane->mark, at);
	if (at <= GetCurrentTimestamp())
		make_ready(lane);
	else if (!lane->is_ready && (lane->wake_at == 0 || at < lane->wake_at))
		sleep_until(lane, at);
	else if (lane->is_ready && (lane->wake_at == 0 || at < lane->wake_at))
		lane->wake_at = at;
}

/* A ready lane is not in the heap; its wake_at is remembered for when it rests. */
static void
make_ready(KsLane *lane)
{
	if (lane->is_ready)
		return;
	if (lane->wake_at != 0)
		pairingheap_remove(&sleeping, &lane->wake);
	if (lane->wake_at <= GetCurrentTimestamp())
		lane->wake_at = 0;
	lane->is_held = false;
	lane->is_ready = true;
	dlist_push_tail(&lane->user->ready, &lane->node);
	if (!lane->user->is_ready)
	{
		lane->user->is_ready = true;
		dlist_push_tail(&ready_users, &lane->user->node);
	}
}

/* The lane has nothing due, or may have nothing more in flight. */
static void
rest(KsLane *lane)
{
	TimestampTz wake_at = lane->wake_at;

	if (!lane->is_ready)
		return;
	dlist_delete(&lane->node);
	lane->is_ready = false;
	lane->wake_at = 0;
	if (dlist_is_empty(&lane->user->ready))
	{
		dlist_delete(&lane->user->node);
		lane->user->is_ready = false;
	}
	if (wake_at != 0)
		sleep_until(lane, wake_at);
}

static void
sleep_until(KsLane *lane, TimestampTz at)
{
	if (lane->wake_at != 0)
		pairingheap_remove(&sleeping, &lane->wake);
	lane->wake_at = at;
	pairingheap_add(&sleeping, &lane->wake);
}

TimestampTz
ks_lanes_wake(TimestampTz now)
{
	while (!pairingheap_is_empty(&sleeping))
	{
		KsLane *lane = pairingheap_container(KsLane, wake, pairingheap_first(&sleeping));

		if (lane->wake_at > now)
			return lane->wake_at;
		make_ready(lane);
	}
	return 0;
}

bool
ks_lanes_ready(void)
{
	return !dlist_is_empty(&ready_users);
}

int
ks_lanes_unloaded(KsLane **out, int most)
{
	dlist_iter user_iter;
	int count = 0;

	dlist_foreach (user_iter, &ready_users)
	{
		KsLaneUser *user = dlist_container(KsLaneUser, node, user_iter.cur);
		dlist_iter iter;

		dlist_foreach (iter, &user->ready)
		{
			KsLane *lane = dlist_container(KsLane, node, iter.cur);

			if (lane->is_loaded)
				continue;
			out[count++] = lane;
			if (count == most)
				return count;
		}
	}
	return count;
}

int
ks_lanes_choose(int room, TimestampTz now, KsWanted *out, int most)
{
	int chosen = 0;
	int waiting = 0;
	int share;
	dlist_iter iter;

	dlist_foreach (iter, &ready_users)
		waiting++;
	share = Max(room / Max(waiting, 1), 1);
	/* Each user once; who was served goes to the end of the ring. */
	while (waiting-- > 0 && room > 0 && chosen < most && !dlist_is_empty(&ready_users))
	{
		KsLaneUser *user = dlist_head_element(KsLaneUser, node, &ready_users);
		int count = 0;

		dlist_delete(&user->node);
		dlist_push_tail(&ready_users, &user->node);
		chosen += choose_of(user, Min(share, room), now, out + chosen, most - chosen, &count);
		room -= count;
	}
	return chosen;
}

/* The same among one user's lanes; *count gets the sum of what was chosen. */
static int
choose_of(KsLaneUser *user, int share, TimestampTz now, KsWanted *out, int most, int *count)
{
	int most_in_flight = user->owner != NULL ? *user->owner->most_in_flight : ks_guc_courier_in_flight_user;
	int room = Min(share, most_in_flight - user->in_flight);
	int chosen = 0;
	int waiting = 0;
	int each;
	dlist_iter iter;

	dlist_foreach (iter, &user->ready)
		waiting++;
	each = Max(room / Max(waiting, 1), 1);
	while (waiting-- > 0 && room > 0 && chosen < most && !dlist_is_empty(&user->ready))
	{
		KsLane *lane = dlist_head_element(KsLane, node, &user->ready);
		int wanted = lane->is_loaded ? lane_room(lane, now) : 0;

		dlist_delete(&lane->node);
		dlist_push_tail(&user->ready, &lane->node);
		if (!lane->is_loaded)
			continue;
		if (wanted <= 0)
		{
			/* It becomes ready again when one of its own ends, or the time has come. */
			rest(lane);
			lane->is_held = true;
			continue;
		}
		wanted = Min(wanted, Min(each, room));
		out[chosen++] = (KsWanted){lane, wanted};
		room -= wanted;
		*count += wanted;
	}
	return chosen;
}

/* How many more of the lane may be in flight; where that is none, when to look again. */
static int
lane_room(KsLane *lane, TimestampTz now)
{
	int most = lane->max_in_flight > 0 ? lane->max_in_flight : ks_guc_courier_in_flight_lane;
	int room;

	if (lane->is_paused)
		return 0;
	room = Min(Min(most, (int) lane->window), ks_breaker_room(&lane->breaker, now));
	if (lane->breaker.state == KS_BREAKER_OPEN)
		ks_lane_expect(lane, lane->breaker.open_until);
	room -= lane->in_flight;
	return room > 0 ? Min(room, rate_room(lane, now)) : room;
}

/* The tokens that there are; a second's worth at most is saved up. */
static int
rate_room(KsLane *lane, TimestampTz now)
{
	double rate = rate_of(lane);

	if (rate <= 0)
		return PG_INT32_MAX;
	if (lane->tokens_at == 0 || now < lane->tokens_at)
		lane->tokens = Max(rate, 1);
	else
		lane->tokens = Min(lane->tokens + rate * (now - lane->tokens_at) / USECS_PER_SEC, Max(rate, 1));
	lane->tokens_at = now;
	if (lane->tokens < 1)
		ks_lane_expect(lane, now + (TimestampTz) ((1 - lane->tokens) / rate * USECS_PER_SEC) + 1000);
	return (int) lane->tokens;
}

/* The lane's own, else its owner's; 0: no limit. */
static double
rate_of(const KsLane *lane)
{
	if (lane->rate > 0)
		return lane->rate;
	return lane->user->owner != NULL ? *lane->user->owner->lane_rate : 0;
}

void
ks_lane_claimed(KsLane *lane, int wanted, int got, TimestampTz last)
{
	lane->in_flight += got;
	lane->user->in_flight += got;
	if (rate_of(lane) > 0)
		lane->tokens -= got;
	if (got > 0)
		lane->mark = last;
	/* Somebody may have it locked, or it is not due yet: the next hint or the keeper tells. */
	if (got < wanted)
	{
		if (got == 0)
			lane->mark = DT_NOEND;
		rest(lane);
	}
}

void
ks_lane_ended(KsLane *lane)
{
	lane->in_flight--;
	lane->user->in_flight--;
	if (lane->is_held)
		make_ready(lane);
}

void
ks_lane_judge(KsLane *lane, bool success, bool is_timeout, TimestampTz now)
{
	if (success)
		lane->window = Min(lane->window + 1, ks_guc_courier_in_flight);
	else if (is_timeout)
		lane->window = Max(lane->window / 2, 1);
	ks_breaker_judge(&lane->breaker, success, is_timeout, now);
}

void
ks_lanes_tidy(void)
{
	HASH_SEQ_STATUS scan;
	KsLane *lane;
	KsLaneUser *user;

	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
		if (!lane->is_ready && lane->wake_at == 0 && lane->in_flight == 0 && lane->breaker.state == KS_BREAKER_CLOSED && !lane->breaker.is_changed)
		{
			lane->user->lanes--;
			hash_search(lanes, &lane->id, HASH_REMOVE, NULL);
		}
	hash_seq_init(&scan, users);
	while ((user = hash_seq_search(&scan)) != NULL)
		if (user->lanes == 0)
			hash_search(users, &user->id, HASH_REMOVE, NULL);
}

void
ks_lanes_count(int *count, int *open)
{
	HASH_SEQ_STATUS scan;
	KsLane *lane;

	*count = 0;
	*open = 0;
	hash_seq_init(&scan, lanes);
	while ((lane = hash_seq_search(&scan)) != NULL)
	{
		(*count)++;
		if (lane->breaker.state == KS_BREAKER_OPEN || lane->breaker.state == KS_BREAKER_FORCED_OPEN)
			(*open)++;
	}
}
