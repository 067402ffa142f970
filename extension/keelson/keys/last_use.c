/*
 * last_use.c
 *	  When access keys were last used: noted in shared memory, written down by
 *	  the keeper in batches.
 *
 * A backend notes a key once in NOTE_SECONDS and remembers that it has, so that
 * a busy key costs it a comparison. Shared memory has partitions of slots, each
 * with a lock; where there is no slot near, the keeper is told to make room and
 * the next request tries again. A use that cannot be written now, since somebody
 * has locked the row, goes back; a crash of the server, or a transaction of the
 * keeper that fails, loses a minute of them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "core/keeper.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "keys/last_use.h"

#define FLUSH_MS 60000
#define CLEANUP_MS 600000
#define CLEANUP_BATCH 10000
#define NOTE_SECONDS 10
#define PARTITIONS 16
#define SLOTS 256
#define PROBES 8
#define REMEMBERED 256

typedef struct Use
{
	pg_uuid_t user_id;
	pg_uuid_t id;
	TimestampTz used_at; /* 0: free */
} Use;

typedef struct Partition
{
	LWLock lock;
	int used;
	Use slots[SLOTS];
} Partition;

typedef struct Shared
{
	Partition partitions[PARTITIONS];
	pg_atomic_uint32 used; /* slots of all partitions since the keeper came */
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

/* What this backend has noted; a key has one place, by its id, which it may lose to another. */
static Use noted[REMEMBERED];

/* The keeper's duties, by number; set while the library is preloaded. */
static int flush_duty;
static int cleanup_duty;

static void init_shared(void *area, bool found);
static uint32 number_of(const pg_uuid_t *id);
static bool note(const Use *use);
static void flush(void);
static void write_down(void);
static int take(Partition *partition, Use *out);
static void write_uses(const Use *uses, int count);
static Datum array_of(Datum *elements, int count, Oid type);
static void clean_up(void);

void
ks_last_use_init(void)
{
	ks_shmem_register("keelson access keys", sizeof(Shared), init_shared, (void **) &shared);
	flush_duty = ks_keeper_register("keys: write down last uses", FLUSH_MS, false, flush);
	cleanup_duty = ks_keeper_register("keys: remove what has ended", CLEANUP_MS, true, clean_up);
}

static void
init_shared(void *area, bool found)
{
	Shared *uses = area;
	int tranche = LWLockNewTrancheId();

	LWLockRegisterTranche(tranche, "KeelsonAccessKeys");
	memset(uses, 0, sizeof(*uses));
	for (int i = 0; i < PARTITIONS; i++)
		LWLockInitialize(&uses->partitions[i].lock, tranche);
	pg_atomic_init_u32(&uses->used, 0);
}

void
ks_key_used(const pg_uuid_t *user_id, const pg_uuid_t *id)
{
	Use *mine = &noted[number_of(id) % REMEMBERED];
	Use use = {*user_id, *id, GetCurrentTimestamp()};

	if (memcmp(&mine->id, id, UUID_LEN) == 0 && mine->used_at <= use.used_at &&
		use.used_at - mine->used_at < NOTE_SECONDS * USECS_PER_SEC)
		return;
	ks_require_shmem();
	if (note(&use))
		*mine = use;
	else
		ks_keeper_wake_duty(flush_duty);
}

/* The last bytes of an id are random. */
static uint32
number_of(const pg_uuid_t *id)
{
	uint32 number;

	memcpy(&number, id->data + UUID_LEN - sizeof(number), sizeof(number));
	return number;
}

/* Note the use in shared memory; false when there is no room. */
static bool
note(const Use *use)
{
	uint32 number = number_of(&use->id) / REMEMBERED;
	Partition *partition = &shared->partitions[number % PARTITIONS];
	bool is_noted = false;

	number /= PARTITIONS;
	LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PROBES && !is_noted; i++)
	{
		Use *slot = &partition->slots[(number + i) % SLOTS];

		if (slot->used_at == 0)
			partition->used++;
		else if (memcmp(&slot->id, &use->id, UUID_LEN) != 0)
			continue;
		*slot = *use;
		is_noted = true;
	}
	LWLockRelease(&partition->lock);
	if (is_noted)
		(void) pg_atomic_fetch_add_u32(&shared->used, 1);
	return is_noted;
}

/* The keeper's duty; where no key was used it costs nothing. */
static void
flush(void)
{
	if (pg_atomic_read_u32(&shared->used) == 0 || !ks_worker_transaction_begin("keys: write down last uses"))
		return;
	write_down();
	ks_worker_transaction_end();
}

/* Move all that shared memory holds into the table. */
static void
write_down(void)
{
	Use *taken = palloc(SLOTS * sizeof(Use));

	pg_atomic_write_u32(&shared->used, 0);
	ks_spi_connect();
	for (int i = 0; i < PARTITIONS; i++)
		write_uses(taken, take(&shared->partitions[i], taken));
	ks_spi_finish();
}

/* Move what the partition holds to `out`, which has room for all slots. */
static int
take(Partition *partition, Use *out)
{
	int count = 0;

	LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SLOTS && partition->used > 0; i++)
	{
		Use *slot = &partition->slots[i];

		if (slot->used_at == 0)
			continue;
		out[count++] = *slot;
		slot->used_at = 0;
		partition->used--;
	}
	LWLockRelease(&partition->lock);
	return count;
}

static void
write_uses(const Use *uses, int count)
{
	static KsPlan plan = {
		.sql = "select * from keelson._access_keys_used($1, $2, $3)",
		.nargs = 3,
		.argtypes = {UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID}};
	Datum user_ids[SLOTS];
	Datum ids[SLOTS];
	Datum times[SLOTS];
	Datum values[3];

	if (count == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		user_ids[i] = UUIDPGetDatum(&uses[i].user_id);
		ids[i] = UUIDPGetDatum(&uses[i].id);
		times[i] = TimestampTzGetDatum(uses[i].used_at);
	}
	values[0] = array_of(user_ids, count, UUIDOID);
	values[1] = array_of(ids, count, UUIDOID);
	values[2] = array_of(times, count, TIMESTAMPTZOID);
	(void) ks_spi_execute(&plan, values, NULL, false, 0);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool is_null;
		int32 place = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &is_null));

		(void) note(&uses[place - 1]);
	}
}

/* An array of uuids or of times. */
static Datum
array_of(Datum *elements, int count, Oid type)
{
	if (type == UUIDOID)
		return PointerGetDatum(construct_array(elements, count, type, UUID_LEN, false, TYPALIGN_CHAR));
	return PointerGetDatum(construct_array(elements, count, type, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* The keeper's other duty. */
static void
clean_up(void)
{
	static KsPlan plan = {
		.sql = "select keelson._access_keys_purge($1)",
		.nargs = 1,
		.argtypes = {INT4OID}};

	ks_keeper_purge(cleanup_duty, &plan, CLEANUP_BATCH);
}

PG_FUNCTION_INFO_V1(ks__key_used);

/* keelson._key_used(user_id uuid, id uuid) */
Datum
ks__key_used(PG_FUNCTION_ARGS)
{
	ks_key_used(PG_GETARG_UUID_P(0), PG_GETARG_UUID_P(1));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks__access_keys_write_down);

/* keelson._access_keys_write_down() */
Datum
ks__access_keys_write_down(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	write_down();
	PG_RETURN_VOID();
}
