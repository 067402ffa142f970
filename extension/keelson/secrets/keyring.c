/*
 * keyring.c
 *	  The master keys and what is derived from them.
 *
 * The postmaster maps the area, locked and kept out of core dumps, and fills
 * it while the server starts; its children inherit the mapping. The keeper
 * alone replaces the keys afterwards, at a reload or when it starts after one.
 * `lock` guards keys, primary, count and problem; generation rises after the
 * keys have changed, so that a reader who sees the new number finds the new
 * keys. A crash of a backend makes the server build its shared memory anew,
 * but not this mapping, which the postmaster still has: the keys stay, the lock
 * is made new.
 *
 * A text that cannot be read or parsed leaves the keys as they are (a running
 * server goes on with what it has, as with a bad certificate); one that can is
 * taken, though it may turn out to lack a key: keyring_check.c then refuses to
 * serve, as it would after a restart with that file.
 *
 * Master keys are copied out of the area only to derive from them, and the
 * copy is wiped at once. Derived keys are kept per backend, in locked memory,
 * until the generation changes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/keeper.h"
#include "core/shmem.h"
#include "secrets/hashing.h"
#include "secrets/keyring.h"
#include "secrets/keyring_check.h"
#include "secrets/keyring_file.h"
#include "secrets/locked.h"
#include "secrets/seal.h"

#define KEEPER_INTERVAL_MS 60000
#define MAX_DERIVED 64
#define PURPOSE_LENGTH 80

typedef struct KeyringShared
{
	LWLock lock;
	pg_atomic_uint64 generation;
	bool is_locked;
	TimestampTz loaded_at; /* the keys; 0: never */
	TimestampTz read_at;   /* the last try */
	KsKeyring ring;
	char problem[KS_KEYRING_PROBLEM_LENGTH]; /* of the last try; empty: none */
} KeyringShared;

/* A derived key of this backend. */
typedef struct Derived
{
	uint32 key_id;
	char purpose[PURPOSE_LENGTH];
	KsKey key;
	KsMac *mac; /* made when first asked for */
} Derived;

typedef struct DerivedCache
{
	uint64 generation;
	int count;
	int next; /* to be replaced when full */
	Derived entries[MAX_DERIVED];
} DerivedCache;

/*
 * What keys are derived for here. A purpose's name is part of the key: it is
 * never changed, and never given to something else.
 */
static const char *const purposes[] = {
	"access-key", "audit-address", "challenge", "check", "csrf", "cursor", "device", "idempotency", "nobody", "oauth",
	"pepper", "principal", "recovery", "refresh", "signing", "stripe-reference", "undo", "unsubscribe", "verify"};

/* Set by the postmaster when shared memory is made, inherited by all. */
static KeyringShared *shared;

/* Made on first use, per backend; emptied when the keyring changes. */
static DerivedCache *derived;

static void init_shared(void *area, bool found);
static void keep(void);
static void reload(void);
static void load(void);
static void report_load(bool done, bool changed, const char *problem);
static bool take(const KsKeyring *ring);
static bool is_ready(StringInfo why, bool is_use);
static void check_purpose(const char *purpose);
static Derived *find_derived(uint32 key_id, const char *purpose);
static Derived *derive(uint32 key_id, const char *purpose);
static void forget_derived(Derived *entry);
static void copy_master(uint32 key_id, uint8 out[KS_KEY_LENGTH]);

/* Begin the capability: shared memory, and the keeper's duties. */
void
ks_secrets_init(void)
{
	static void *unused;

	ks_shmem_register("keelson keyring", sizeof(uint64), init_shared, &unused);
	ks_keeper_on_reload(reload);
	ks_keeper_register("keyring", KEEPER_INTERVAL_MS, true, keep);
	ks_sealing_init();
	ks_hashing_init();
}

/*
 * Make the area, or keep it when the postmaster starts over; what the server's
 * own shared memory gives is not used.
 */
static void
init_shared(void *area, bool found)
{
	bool is_locked;
	int tranche;

	if (found)
		return;
	tranche = LWLockNewTrancheId();
	LWLockRegisterTranche(tranche, "keelson_keyring");
	if (shared != NULL)
	{
		LWLockInitialize(&shared->lock, tranche);
		return;
	}
	shared = ks_locked_create(sizeof(KeyringShared), true, &is_locked);
	if (shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map memory for the keyring: %m")));
	LWLockInitialize(&shared->lock, tranche);
	pg_atomic_init_u64(&shared->generation, 0);
	shared->is_locked = is_locked;
	if (!is_locked)
		ereport(LOG,
				(errmsg("could not lock the keyring into memory"),
				 errhint("Raise the limit of locked memory (ulimit -l) of the server's user, or use encrypted swap.")));
	load();
}

/* The keeper's duty: what a reload changed while it was not there; the check values. */
static void
keep(void)
{
	StringInfoData why;

	if (PgReloadTime > shared->read_at)
		load();
	initStringInfo(&why);
	/* A database that has sealed nothing may do without a keyring. */
	if (ks_keyring_generation() == 0 && !ks_keyring_needed(&why))
		return;
	resetStringInfo(&why);
	if (!ks_keyring_ready(&why))
		ereport(WARNING, (errmsg("secrets cannot be used: %s", why.data)));
}

static void
reload(void)
{
	load();
}

/* Read the keyring and take it, if it can be read; say so in the log. */
static void
load(void)
{
	KsKeyring ring;
	char problem[KS_KEYRING_PROBLEM_LENGTH];
	bool done = ks_keyring_read(ks_guc_keyring_file, ks_guc_keyring_command, &ring, problem);
	bool changed = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->read_at = GetCurrentTimestamp();
	strlcpy(shared->problem, problem, sizeof(shared->problem));
	if (done)
		changed = take(&ring);
	LWLockRelease(&shared->lock);
	ks_wipe(&ring, sizeof(ring));
	report_load(done, changed, problem);
}

static void
report_load(bool done, bool changed, const char *problem)
{
	bool is_set = ks_guc_keyring_file[0] != '\0' || ks_guc_keyring_command[0] != '\0';

	if (changed)
		ereport(LOG, (errmsg("keyring loaded: %d keys, primary %u", shared->ring.count, shared->ring.primary)));
	else if (!done)
		ereport(is_set ? WARNING : LOG,
				(errmsg("keyring not loaded: %s", problem),
				 ks_guc_keyring_file[0] != '\0' ? errdetail("The file is \"%s\".", ks_guc_keyring_file) : 0,
				 shared->ring.count > 0 ? errhint("The keys loaded before stay in use.") : 0));
}

/* Replace the keys, under the lock; false when they are the same as before. */
static bool
take(const KsKeyring *ring)
{
	if (shared->ring.count > 0 && ks_equal(&shared->ring, ring, sizeof(*ring)))
		return false;
	memcpy(&shared->ring, ring, sizeof(*ring));
	shared->loaded_at = shared->read_at;
	pg_atomic_fetch_add_u64(&shared->generation, 1);
	return true;
}

uint32
ks_keyring_primary(void)
{
	uint32 primary;

	ks_require_shmem();
	LWLockAcquire(&shared->lock, LW_SHARED);
	primary = shared->ring.primary;
	LWLockRelease(&shared->lock);
	return primary;
}

bool
ks_keyring_has(uint32 key_id)
{
	bool has = false;

	ks_require_shmem();
	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < shared->ring.count; i++)
		has |= shared->ring.keys[i].id == key_id;
	LWLockRelease(&shared->lock);
	return has;
}

uint64
ks_keyring_generation(void)
{
	return shared != NULL ? pg_atomic_read_u64(&shared->generation) : 0;
}

bool
ks_keyring_ready(StringInfo why)
{
	return is_ready(why, false);
}

static bool
is_ready(StringInfo why, bool is_use)
{
	ks_require_shmem();
	if (ks_keyring_generation() != 0)
		return ks_keyring_check(why, is_use);
	if (why != NULL)
	{
		LWLockAcquire(&shared->lock, LW_SHARED);
		appendStringInfoString(why, shared->problem);
		LWLockRelease(&shared->lock);
		(void) ks_keyring_needed(why);
	}
	return false;
}

void
ks_keyring_require(void)
{
	StringInfoData why;

	if (likely(ks_keyring_is_checked()))
		return;
	initStringInfo(&why);
	if (!is_ready(&why, true))
		ks_raise(503, "UNAVAILABLE", "select * from keelson.keyring_status() shows each key.",
				 "secrets cannot be used: %s", why.data);
}

void
ks_keyring_mac(uint32 key_id, const char *purpose, const void *data, size_t len, uint8 out[KS_SHA256_LENGTH])
{
	Derived *entry;

	ks_keyring_require();
	entry = find_derived(key_id, purpose);
	if (entry->mac == NULL)
	{
		check_purpose(purpose);
		entry->mac = ks_mac_create(entry->key.bytes, KS_KEY_LENGTH);
	}
	ks_mac(entry->mac, data, len, out);
}

/* A purpose that is not in the list could be another's too. */
static void
check_purpose(const char *purpose)
{
	for (int i = 0; i < lengthof(purposes); i++)
		if (strcmp(purposes[i], purpose) == 0)
			return;
	elog(ERROR, "purpose \"%s\" of a derived key is not registered", purpose);
}

const KsKey *
ks_keyring_key(uint32 key_id, const char *purpose)
{
	ks_keyring_require();
	return &find_derived(key_id, purpose)->key;
}

void
ks_keyring_check_value(uint32 key_id, uint8 out[KS_KEY_LENGTH])
{
	memcpy(out, find_derived(key_id, "check")->key.bytes, KS_KEY_LENGTH);
}

uint64
ks_key_serial(void)
{
	static uint64 last = 0; /* this process's alone */

	return ++last;
}

/* The key, kept or derived now; the primary's where the id is 0. */
static Derived *
find_derived(uint32 key_id, const char *purpose)
{
	uint64 generation = ks_keyring_generation();

	if (derived == NULL && (derived = ks_locked_create(sizeof(DerivedCache), false, NULL)) == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not map memory for keys: %m")));
	if (derived->generation != generation)
	{
		for (int i = 0; i < derived->count; i++)
			forget_derived(&derived->entries[i]);
		derived->count = derived->next = 0;
		derived->generation = generation;
	}
	for (int i = 0; i < derived->count; i++)
		if (derived->entries[i].key_id == key_id && strcmp(derived->entries[i].purpose, purpose) == 0)
			return &derived->entries[i];
	return derive(key_id, purpose);
}

/* Derive the key into a free entry, or into the one whose turn it is. */
static Derived *
derive(uint32 key_id, const char *purpose)
{
	Derived *entry;
	char info[PURPOSE_LENGTH + 16];
	uint8 master[KS_KEY_LENGTH];
	uint8 key[KS_KEY_LENGTH];

	if (strlen(purpose) >= PURPOSE_LENGTH)
		elog(ERROR, "purpose of a derived key is too long");
	copy_master(key_id != 0 ? key_id : ks_keyring_primary(), master);
	snprintf(info, sizeof(info), "keelson/1/%s", purpose);
	(void) ks_hkdf_sha256(master, sizeof(master), "keelson", strlen("keelson"), info, strlen(info), key, sizeof(key));
	ks_wipe(master, sizeof(master));
	if (derived->count < MAX_DERIVED)
		entry = &derived->entries[derived->count++];
	else
	{
		entry = &derived->entries[derived->next];
		derived->next = (derived->next + 1) % MAX_DERIVED;
		forget_derived(entry);
	}
	entry->key_id = key_id;
	strlcpy(entry->purpose, purpose, PURPOSE_LENGTH);
	memcpy(entry->key.bytes, key, KS_KEY_LENGTH);
	entry->key.serial = ks_key_serial();
	ks_wipe(key, sizeof(key));
	return entry;
}

static void
forget_derived(Derived *entry)
{
	ks_mac_free(entry->mac);
	ks_wipe(entry, sizeof(*entry));
}

/* Copy a master key out of the shared area; the caller wipes it. */
static void
copy_master(uint32 key_id, uint8 out[KS_KEY_LENGTH])
{
	bool found = false;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < shared->ring.count && !found; i++)
	{
		found = shared->ring.keys[i].id == key_id;
		if (found)
			memcpy(out, shared->ring.keys[i].key, KS_KEY_LENGTH);
	}
	LWLockRelease(&shared->lock);
	if (!found)
		ks_raise(503, "UNAVAILABLE", "Put the key back into the keyring and reload the configuration.",
				 "secrets cannot be used: the keyring lacks key %u", key_id);
}

PG_FUNCTION_INFO_V1(ks_keyring_loaded);

/* keelson._keyring_loaded() : the keys that the server holds, by id */
Datum
ks_keyring_loaded(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	KsKeyring ring;

	ks_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(&shared->lock, LW_SHARED);
	ring.count = shared->ring.count;
	ring.primary = shared->ring.primary;
	for (int i = 0; i < ring.count; i++)
		ring.keys[i].id = shared->ring.keys[i].id;
	LWLockRelease(&shared->lock);
	for (int i = 0; i < ring.count; i++)
	{
		uint8 check[KS_KEY_LENGTH];
		bytea *value = palloc(VARHDRSZ + KS_KEY_LENGTH);
		Datum values[3];
		bool nulls[3] = {false, false, false};

		ks_keyring_check_value(ring.keys[i].id, check);
		SET_VARSIZE(value, VARHDRSZ + KS_KEY_LENGTH);
		memcpy(VARDATA(value), check, KS_KEY_LENGTH);
		values[0] = Int32GetDatum((int32) ring.keys[i].id);
		values[1] = BoolGetDatum(ring.keys[i].id == ring.primary);
		values[2] = PointerGetDatum(value);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}

PG_FUNCTION_INFO_V1(ks_keyring_state);

/* keelson._keyring_state(): generation, loaded_at, read_at, is_locked, problem of the last read */
Datum
ks_keyring_state(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[5];
	bool nulls[5] = {false, false, false, false, false};
	char problem[KS_KEYRING_PROBLEM_LENGTH];

	ks_require_shmem();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	LWLockAcquire(&shared->lock, LW_SHARED);
	values[0] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->generation));
	values[1] = TimestampTzGetDatum(shared->loaded_at);
	nulls[1] = shared->loaded_at == 0;
	values[2] = TimestampTzGetDatum(shared->read_at);
	values[3] = BoolGetDatum(shared->is_locked);
	strlcpy(problem, shared->problem, sizeof(problem));
	LWLockRelease(&shared->lock);
	values[4] = CStringGetTextDatum(problem);
	nulls[4] = problem[0] == '\0';
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

PG_FUNCTION_INFO_V1(ks_keyring_ready_sql);

/* keelson._keyring_ready(is_use boolean): is_ready, reason */
Datum
ks_keyring_ready_sql(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[2];
	bool nulls[2];
	StringInfoData why;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	initStringInfo(&why);
	values[0] = BoolGetDatum(is_ready(&why, PG_GETARG_BOOL(0)));
	values[1] = CStringGetTextDatum(why.data);
	nulls[0] = false;
	nulls[1] = why.len == 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

PG_FUNCTION_INFO_V1(ks_transactions_wait);

/* keelson._transactions_wait() */
Datum
ks_transactions_wait(PG_FUNCTION_ARGS)
{
	int count;
	VirtualTransactionId *running = GetCurrentVirtualXIDs(InvalidTransactionId, false, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, &count);

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		(void) VirtualXactLock(running[i], true);
	}
	PG_RETURN_VOID();
}
