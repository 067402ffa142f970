/*
 * violations.c
 *	  Who was refused: counted in shared memory, written down by the keeper.
 *
 * A violation is a user, an address, a route and a limit; shared memory has
 * partitions of slots for them, each with a lock. One that finds no slot is
 * counted without user and address: a flood from many addresses costs no more
 * memory, and no more rows, than there are slots. The keeper empties the
 * partitions into keelson.rate_limit_violations and turns the addresses that
 * are to be blocked into rows of keelson.blocks.
 *
 * What was taken from shared memory is lost when the keeper's transaction
 * fails; the counts are statistics, the limits themselves do not depend on them.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/timestamp.h"

#include "core/keeper.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "limits/principal.h"
#include "limits/rules.h"
#include "limits/violations.h"

#define FLUSH_MS 5000
#define CLEANUP_MS 600000
#define PARTITIONS 16
#define SLOTS 128
#define PROBES 8
#define PENDING 64

/* The smallest unit of IPv6 that is counted, and blocked. */
#define IPV6_BITS 64

typedef struct Identity
{
	pg_uuid_t user_id; /* zeros: nobody */
	uint8 ip[16];      /* zeros: unknown */
	int32 route_id;
	char name[KS_LIMIT_NAME_LENGTH];
	bool is_shadow;
} Identity;

typedef struct Violation
{
	Identity who;
	int64 refusals; /* 0: free */
	TimestampTz first_at;
	TimestampTz last_at;
} Violation;

typedef struct Partition
{
	LWLock lock;
	int used;
	Violation slots[SLOTS];
} Partition;

typedef struct Pending
{
	uint8 ip[16];
	int reason;
} Pending;

typedef struct Shared
{
	Partition partitions[PARTITIONS];
	pg_atomic_uint64 merged;
	pg_atomic_uint64 exempted;
	pg_atomic_uint32 used; /* slots of all partitions, and addresses to block */
	LWLock pending_lock;
	int pending_count;
	Pending pending[PENDING];
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

/* The keeper's duty, by number; set while the library is preloaded. */
static int flush_duty;

static void init_shared(void *area, bool found);
static void anonymise(const uint8 ip[16], uint8 out[16]);
static Violation *find_slot(Partition *partition, const Identity *who, uint32 hash);
static void flush(void);
static void write_down(void);
static int take(Partition *partition, Violation *out);
static int find_room(void);
static void write_violation(const Violation *violation, int *room);
static void flush_blocks(void);
static void clean_up(void);
static Datum network_datum(const uint8 ip[16]);

void
ks_violations_init(void)
{
	ks_shmem_register("keelson limits violations", sizeof(Shared), init_shared, (void **) &shared);
	flush_duty = ks_keeper_register("limits: write down violations", FLUSH_MS, false, flush);
	ks_keeper_register("limits: remove what has expired", CLEANUP_MS, true, clean_up);
}

static void
init_shared(void *area, bool found)
{
	Shared *violations = area;
	int tranche = LWLockNewTrancheId();

	LWLockRegisterTranche(tranche, "KeelsonViolations");
	memset(violations, 0, sizeof(*violations));
	for (int i = 0; i < PARTITIONS; i++)
		LWLockInitialize(&violations->partitions[i].lock, tranche);
	LWLockInitialize(&violations->pending_lock, tranche);
	pg_atomic_init_u64(&violations->merged, 0);
	pg_atomic_init_u64(&violations->exempted, 0);
	pg_atomic_init_u32(&violations->used, 0);
}

void
ks_violation_add(const pg_uuid_t *user_id, const uint8 ip[16], int32 route_id, const char *name, bool is_shadow, int64 count)
{
	Identity who;
	uint32 hash;
	Partition *partition;
	Violation *slot;
	TimestampTz now = GetCurrentTimestamp();

	memset(&who, 0, sizeof(who));
	if (user_id != NULL)
		who.user_id = *user_id;
	if (ip != NULL)
		anonymise(ip, who.ip);
	who.route_id = route_id;
	strlcpy(who.name, name, sizeof(who.name));
	who.is_shadow = is_shadow;
	hash = hash_bytes((unsigned char *) &who, sizeof(who));

	partition = &shared->partitions[hash % PARTITIONS];
	LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
	slot = find_slot(partition, &who, hash / PARTITIONS);
	if (slot == NULL)
	{
		pg_atomic_fetch_add_u64(&shared->merged, 1);
		memset(&who.user_id, 0, sizeof(who.user_id));
		memset(who.ip, 0, sizeof(who.ip));
		/* The last slot is for these, whatever their route and limit. */
		slot = &partition->slots[SLOTS - 1];
		if (slot->refusals == 0)
			slot->who = who;
	}
	if (slot->refusals == 0)
	{
		slot->first_at = now;
		partition->used++;
		pg_atomic_fetch_add_u32(&shared->used, 1);
	}
	slot->refusals += count;
	slot->last_at = now;
	LWLockRelease(&partition->lock);
}

/* What stands for the address: IPv6 by /64. */
static void
anonymise(const uint8 ip[16], uint8 out[16])
{
	memcpy(out, ip, 16);
	if (!ks_ip_is_v4(ip))
		memset(out + IPV6_BITS / 8, 0, 16 - IPV6_BITS / 8);
}

/* The violation's slot, or a free one, which is then its; NULL when there is none near. */
static Violation *
find_slot(Partition *partition, const Identity *who, uint32 hash)
{
	for (int i = 0; i < PROBES; i++)
	{
		Violation *slot = &partition->slots[(hash + i) % (SLOTS - 1)];

		if (slot->refusals == 0)
			slot->who = *who;
		else if (memcmp(&slot->who, who, sizeof(*who)) != 0)
			continue;
		return slot;
	}
	return NULL;
}

void
ks_block_request(const uint8 ip[16], int reason)
{
	uint8 network[16];
	bool is_new = true;

	anonymise(ip, network);
	LWLockAcquire(&shared->pending_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->pending_count && is_new; i++)
		is_new = memcmp(shared->pending[i].ip, network, 16) != 0;
	is_new = is_new && shared->pending_count < PENDING;
	if (is_new)
	{
		memcpy(shared->pending[shared->pending_count].ip, network, 16);
		shared->pending[shared->pending_count++].reason = reason;
		pg_atomic_fetch_add_u32(&shared->used, 1);
	}
	LWLockRelease(&shared->pending_lock);
	if (is_new)
		ks_keeper_wake_duty(flush_duty);
}

void
ks_violation_exempt(void)
{
	pg_atomic_fetch_add_u64(&shared->exempted, 1);
}

int64
ks_violations_exempted(void)
{
	return (int64) pg_atomic_read_u64(&shared->exempted);
}

int64
ks_violations_merged(void)
{
	return (int64) pg_atomic_read_u64(&shared->merged);
}

/* The keeper's duty; where nobody was refused it costs nothing. */
static void
flush(void)
{
	if (pg_atomic_read_u32(&shared->used) == 0)
		return;
	if (!ks_worker_transaction_begin("limits: write down violations"))
		return;
	write_down();
	ks_worker_transaction_end();
}

/* Move all that shared memory holds into the tables. */
static void
write_down(void)
{
	Violation *taken = palloc(SLOTS * sizeof(Violation));
	int room;

	pg_atomic_write_u32(&shared->used, 0);
	ks_spi_connect();
	flush_blocks();
	room = find_room();
	for (int i = 0; i < PARTITIONS; i++)
	{
		int count = take(&shared->partitions[i], taken);

		for (int j = 0; j < count; j++)
			write_violation(&taken[j], &room);
	}
	ks_spi_finish();
}

/* How many rows this hour may still get. */
static int
find_room(void)
{
	static KsPlan plan = {.sql = "select keelson._violation_room()"};
	bool is_null;

	(void) ks_spi_execute(&plan, NULL, NULL, false, 1);
	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

/* Move what the partition holds to `out`, which has room for all slots. */
static int
take(Partition *partition, Violation *out)
{
	int count = 0;

	LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SLOTS && partition->used > 0; i++)
	{
		Violation *slot = &partition->slots[i];

		if (slot->refusals == 0)
			continue;
		out[count++] = *slot;
		slot->refusals = 0;
		partition->used--;
	}
	LWLockRelease(&partition->lock);
	return count;
}

/* Write the violation down; when the hour has no room for more rows, without user and address. */
static void
write_violation(const Violation *violation, int *room)
{
	static const Identity nobody = {0};
	static KsPlan plan = {
		.sql = "select keelson._violation_record($1, $2, $3, $4, $5, $6, $7, $8)",
		.nargs = 8,
		.argtypes = {UUIDOID, INETOID, INT4OID, TEXTOID, BOOLOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	const Identity *who = *room > 0 ? &violation->who : &nobody;
	Datum values[] = {
		UUIDPGetDatum(&who->user_id),
		network_datum(who->ip),
		Int32GetDatum(who->route_id),
		CStringGetTextDatum(violation->who.name),
		BoolGetDatum(violation->who.is_shadow),
		Int64GetDatum(violation->refusals),
		TimestampTzGetDatum(violation->first_at),
		TimestampTzGetDatum(violation->last_at),
	};
	bool is_null;

	(void) ks_spi_execute(&plan, values, NULL, false, 0);
	*room -= DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

/* Block the addresses that asked for it. */
static void
flush_blocks(void)
{
	static KsPlan plan = {
		.sql = "select keelson._block_automatic($1, $2)",
		.nargs = 2,
		.argtypes = {INETOID, TEXTOID}};
	Pending taken[PENDING];
	int count;

	LWLockAcquire(&shared->pending_lock, LW_EXCLUSIVE);
	count = shared->pending_count;
	memcpy(taken, shared->pending, count * sizeof(Pending));
	shared->pending_count = 0;
	LWLockRelease(&shared->pending_lock);
	for (int i = 0; i < count; i++)
	{
		Datum values[] = {network_datum(taken[i].ip), CStringGetTextDatum(ks_block_signals[taken[i].reason])};

		(void) ks_spi_execute(&plan, values, NULL, false, 0);
	}
}

/* The keeper's other duty. */
static void
clean_up(void)
{
	static KsPlan plan = {.sql = "select keelson._limits_cleanup()"};

	ks_spi_run(&plan, NULL);
}

/* The address, the /64 of an IPv6 address, or for zeros ::/0, as inet. */
static Datum
network_datum(const uint8 ip[16])
{
	static const uint8 unknown[16] = {0};
	bool is_v4 = ks_ip_is_v4(ip);
	inet *network = palloc0(sizeof(inet));

	ip_family(network) = is_v4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(network) = is_v4 ? 32 : memcmp(ip, unknown, 16) == 0 ? 0
																 : IPV6_BITS;
	memcpy(ip_addr(network), ip + (is_v4 ? 12 : 0), is_v4 ? 4 : 16);
	SET_INET_VARSIZE(network);
	return InetPGetDatum(network);
}

PG_FUNCTION_INFO_V1(ks_limits_write_down);

/* keelson._limits_write_down() */
Datum
ks_limits_write_down(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	write_down();
	PG_RETURN_VOID();
}
