/*
 * user_keys.c
 *	  The users' keys: making, unwrapping, keeping, counting, erasing.
 *
 * A key is 32 random bytes, stored in keelson.user_keys as a sealed value under
 * a key derived from a master key. Rows are read (user_key_row.c) and, as
 * keelson_system, written by primary key, since values are also sealed for users who are not signed in
 * yet; the user is always the caller's choice, never a client's.
 *
 * Two sessions that make the first key of one user at once: each inserts with
 * "on conflict do nothing", the second waits for the first, finds nothing
 * inserted and reads again. So there is one key of each number.
 *
 * The cache holds at most CACHE_SIZE keys in locked memory, the least recently
 * used goes first and is wiped. It is emptied
 * - by an invalidation of the relation, which erasing a user's keys sends when
 *   it commits, to this backend, to the others and, through the WAL, to
 *   standbys' (a transactional message that the server keeps for us);
 * - of the keys that a transaction or subtransaction has made, when it rolls
 *   back, and of those that were read meanwhile, which may be the same;
 * - when the transaction ends, of the keys that were read in it after such an
 *   invalidation: its snapshot may be from before an erasure, of which nobody
 *   will tell again.
 * An invalidation may come with any access to the catalog, so a key's pointer
 * is used at once and not kept.
 *
 * Uses are counted by sampling: one in SAMPLE_RATE seals adds SAMPLE_RATE to
 * the row, skipping a locked row (the amount is then added another time), so
 * that sessions of one user do not wait for one another. At MAX_USES, half of
 * what NIST SP 800-38D allows us, the next key is made. README: why this holds.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/error.h"
#include "core/invalidation.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "secrets/crypto.h"
#include "secrets/locked.h"
#include "secrets/seal.h"
#include "secrets/user_key_row.h"
#include "secrets/user_keys.h"

#define CACHE_SIZE 256
#define CURRENT 0 /* in place of a number: the newest key */
#define MAX_TRIES 4
#define SAMPLE_RATE 65536
#define MAX_USES (INT64CONST(1) << 30)

typedef struct CacheKey
{
	pg_uuid_t user_id;
	uint32 key_no; /* or CURRENT */
} CacheKey;

typedef struct CachedKey
{
	dlist_node node; /* in `recent` or `spare` */
	CacheKey cache_key;
	uint32 key_no;
	SubTransactionId made_in; /* of a row that may be this transaction's, while that is open */
	bool is_passing;          /* kept for this transaction alone */
	int64 uncounted;          /* uses that a locked row did not take */
	KsKey key;
} CachedKey;

typedef struct CacheEntry
{
	CacheKey cache_key;
	CachedKey *cached;
} CacheEntry;

/* The cache: made on first use, changed by this file alone. */
static HTAB *index_of_cache;
static CachedKey *cache;
static dlist_head recent; /* used last comes first */
static dlist_head spare;
static CachedKey *last_used; /* one in `recent`, or NULL */
static int open_count;       /* how many in the cache the end of the transaction concerns */
static bool has_made;        /* has this transaction made a key? */
static bool is_doubtful;     /* has the relation changed since this transaction began? */
static Oid relation;         /* keelson.user_keys; invalid: to be looked up */
static uint64 invalidations; /* how often the cache was emptied */

static KsPlan insert_plan = {
	"insert into keelson.user_keys (user_id, key_no, wrap_key_id, wrapped) values ($1, $2, $3, $4) on conflict (user_id, key_no) do nothing",
	4,
	{UUIDOID, INT4OID, INT4OID, BYTEAOID}};
static KsPlan count_plan = {
	"with free as (select user_id, key_no from keelson.user_keys where user_id = $1 and key_no = $2 for update skip locked)"
	" update keelson.user_keys as keys set uses = keys.uses + $3 from free"
	" where keys.user_id = free.user_id and keys.key_no = free.key_no returning keys.uses",
	3,
	{UUIDOID, INT4OID, INT8OID}};
static KsPlan old_plan = {
	"select user_id, key_no, wrapped from keelson.user_keys where wrap_key_id = $1 and (user_id, key_no) > ($2, $3)"
	" order by user_id, key_no limit $4 for update skip locked",
	4,
	{INT4OID, UUIDOID, INT4OID, INT4OID}};
static KsPlan rewrap_plan = {
	"update keelson.user_keys set wrap_key_id = $3, wrapped = $4 where user_id = $1 and key_no = $2",
	4,
	{UUIDOID, INT4OID, INT4OID, BYTEAOID}};
static KsPlan erase_plan = {"delete from keelson.user_keys where user_id = $1", 1, {UUIDOID}};

/* A row of keelson.user_keys, unwrapped; the holder wipes it. */
typedef struct KeyRow
{
	uint32 key_no;
	int64 uses;
	uint8 key[KS_KEY_LENGTH];
} KeyRow;

static const KsKey *find(const pg_uuid_t *user_id, uint32 key_no, uint32 *actual_no);
static bool load(const pg_uuid_t *user_id, uint32 key_no, KeyRow *row);
static bool make_current(const pg_uuid_t *user_id, bool found, KeyRow *row);
static bool read_row(const pg_uuid_t *user_id, uint32 key_no, bool fresh, KeyRow *row);
static bool make_row(const pg_uuid_t *user_id, uint32 key_no, KeyRow *row);
static bool can_write(void);
static void unwrap(const pg_uuid_t *user_id, const uint8 *wrapped, size_t len, KeyRow *row);
static bool try_unwrap(const pg_uuid_t *user_id, const uint8 *wrapped, size_t len, KeyRow *row);
static bytea *wrap(const pg_uuid_t *user_id, const KeyRow *row, uint32 master_id);
static KsSealContext wrap_context(const pg_uuid_t *user_id, uint32 key_no);
static const KsKey *wrapping_key(uint32 key_id);
static void make_cache(void);
static void know_relation(void);
static CachedKey *look_up(const CacheKey *cache_key);
static CachedKey *keep(const CacheKey *cache_key, const KeyRow *row);
static void evict(CachedKey *cached);
static bool is_open(const CachedKey *cached);
static void forget_relation(Datum arg, Oid changed);
static void end_of_transaction(XactEvent event, void *arg);
static void end_of_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg);

const KsKey *
ks_user_key_current(const pg_uuid_t *user_id, uint32 *key_no)
{
	return find(user_id, CURRENT, key_no);
}

const KsKey *
ks_user_key(const pg_uuid_t *user_id, uint32 key_no)
{
	uint32 actual_no;

	return key_no == CURRENT || key_no > PG_INT32_MAX ? NULL : find(user_id, key_no, &actual_no);
}

void
ks_user_key_count_use(const pg_uuid_t *user_id, uint32 key_no)
{
	CacheKey cache_key;
	CachedKey *cached;
	KsRoleSwitch save;
	Datum values[3];
	uint16 sample;
	int64 uses = 0;
	bool is_null;

	ks_random_nonce((uint8 *) &sample, sizeof(sample));
	if (likely(sample != 0))
		return;
	memset(&cache_key, 0, sizeof(cache_key));
	cache_key.user_id = *user_id;
	cached = look_up(&cache_key);
	if (cached == NULL)
		return;
	cached->uncounted += SAMPLE_RATE;
	/* A transaction of one snapshot would fail on a row counted since. */
	if (!can_write() || IsolationUsesXactSnapshot())
		return;
	values[0] = UUIDPGetDatum(user_id);
	values[1] = Int32GetDatum((int32) key_no);
	values[2] = Int64GetDatum(cached->uncounted);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&count_plan, values, NULL, false, 0);
	if (SPI_processed == 1)
		uses = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	ks_role_leave(&save);
	ks_spi_finish();
	/* Meanwhile the cache may have been emptied. */
	cached = look_up(&cache_key);
	if (cached != NULL && uses > 0)
		cached->uncounted = 0;
	if (cached != NULL && uses >= MAX_USES)
		evict(cached);
}

/* The key from the cache, else from its row; NULL where there is no row. */
static const KsKey *
find(const pg_uuid_t *user_id, uint32 key_no, uint32 *actual_no)
{
	CacheKey cache_key;
	CachedKey *cached;
	KeyRow row;

	make_cache();
	memset(&cache_key, 0, sizeof(cache_key));
	cache_key.user_id = *user_id;
	cache_key.key_no = key_no;
	cached = look_up(&cache_key);
	for (int i = 0; cached == NULL; i++)
	{
		uint64 before;

		know_relation();
		before = invalidations;
		if (!load(user_id, key_no, &row))
			return NULL;
		/* What was erased while it was being read must not be kept. */
		if (before == invalidations || i == MAX_TRIES)
			cached = keep(&cache_key, &row);
		ks_wipe(&row, sizeof(row));
	}
	*actual_no = cached->key_no;
	return &cached->key;
}

/*
 * Read the row and unwrap its key; the newest is made where there is none, and
 * followed by another when it has been used enough.
 */
static bool
load(const pg_uuid_t *user_id, uint32 key_no, KeyRow *row)
{
	bool found = read_row(user_id, key_no, false, row) || read_row(user_id, key_no, true, row);

	if (key_no == CURRENT && (!found || (row->uses >= MAX_USES && can_write())))
		found = make_current(user_id, found, row);
	return found;
}

/* Make the user's first key, or the next; settles with others who do the same. */
static bool
make_current(const pg_uuid_t *user_id, bool found, KeyRow *row)
{
	KsRoleSwitch save;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	for (int i = 0; i < MAX_TRIES && (!found || row->uses >= MAX_USES); i++)
	{
		if (make_row(user_id, found ? row->key_no + 1 : 1, row))
			found = true;
		else
			found = read_row(user_id, CURRENT, true, row);
	}
	ks_role_leave(&save);
	ks_spi_finish();
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not settle on a user's key: it was erased meanwhile")));
	return found;
}

/* Read a row as the statement sees it, or, fresh, as it is now. */
static bool
read_row(const pg_uuid_t *user_id, uint32 key_no, bool fresh, KeyRow *row)
{
	KsUserKeyRow stored;
	bool found;

	if (fresh && IsInParallelMode())
		return false;
	fresh = fresh || !ActiveSnapshotSet();
	if (fresh)
	{
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	found = ks_user_key_row_read(user_id, key_no, &stored);
	if (fresh)
		PopActiveSnapshot();
	if (!found)
		return false;
	row->key_no = stored.key_no;
	row->uses = stored.uses;
	unwrap(user_id, stored.wrapped, stored.length, row);
	return true;
}

/* Make the key of that number; false where somebody else has made it. */
static bool
make_row(const pg_uuid_t *user_id, uint32 key_no, KeyRow *row)
{
	uint32 master_id = ks_keyring_primary();
	Datum values[4];

	row->key_no = key_no;
	row->uses = 0;
	ks_random(row->key, KS_KEY_LENGTH);
	values[0] = UUIDPGetDatum(user_id);
	values[1] = Int32GetDatum((int32) key_no);
	values[2] = Int32GetDatum((int32) master_id);
	values[3] = PointerGetDatum(wrap(user_id, row, master_id));
	(void) ks_spi_execute(&insert_plan, values, NULL, false, 0);
	if (SPI_processed == 1)
		has_made = true;
	return SPI_processed == 1;
}

/* The key of a row, wrapped by the master key. */
static bytea *
wrap(const pg_uuid_t *user_id, const KeyRow *row, uint32 master_id)
{
	KsSealContext context = wrap_context(user_id, row->key_no);
	bytea *wrapped = palloc(VARHDRSZ + KS_WRAPPED_LENGTH);

	SET_VARSIZE(wrapped, VARHDRSZ + KS_WRAPPED_LENGTH);
	ks_wrap_with(wrapping_key(master_id), master_id, &context, row->key, (uint8 *) VARDATA(wrapped));
	return wrapped;
}

static bool
can_write(void)
{
	return !XactReadOnly && !RecoveryInProgress() && !IsInParallelMode();
}

/* Unwrap the key of a row; a row that does not open is an error. */
static void
unwrap(const pg_uuid_t *user_id, const uint8 *wrapped, size_t len, KeyRow *row)
{
	KsSealContext context = wrap_context(user_id, row->key_no);

	if (!try_unwrap(user_id, wrapped, len, row))
		ks_unseal_fail(&context, "the user's key %u does not open under the keyring", row->key_no);
}

/* Unwrap the key of a row, whose number is set; false where it does not open. */
static bool
try_unwrap(const pg_uuid_t *user_id, const uint8 *wrapped, size_t len, KeyRow *row)
{
	KsSealContext context = wrap_context(user_id, row->key_no);
	uint32 master_id;

	return len == KS_WRAPPED_LENGTH && ks_seal_key_id(wrapped, len, &master_id) && ks_keyring_has(master_id) &&
		   ks_unwrap_with(wrapping_key(master_id), &context, wrapped, len, row->key);
}

/* The number stands in for the row's id. */
static KsSealContext
wrap_context(const pg_uuid_t *user_id, uint32 key_no)
{
	KsSealContext context = {.purpose = "user-key", .has_user = true, .user_id = *user_id};
	uint32 network_no = pg_hton32(key_no);

	memcpy(context.row_id.data + UUID_LEN - sizeof(network_no), &network_no, sizeof(network_no));
	return context;
}

static const KsKey *
wrapping_key(uint32 key_id)
{
	return ks_keyring_key(key_id, "user-key");
}

static void
make_cache(void)
{
	HASHCTL control = {.keysize = sizeof(CacheKey), .entrysize = sizeof(CacheEntry), .hcxt = TopMemoryContext};

	if (likely(cache != NULL))
		return;
	if (index_of_cache == NULL)
		index_of_cache = hash_create("keelson user keys", CACHE_SIZE, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	cache = ks_locked_create(CACHE_SIZE * sizeof(CachedKey), false, NULL);
	if (cache == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not map memory for keys: %m")));
	dlist_init(&recent);
	dlist_init(&spare);
	for (int i = 0; i < CACHE_SIZE; i++)
		dlist_push_tail(&spare, &cache[i].node);
	ks_on_relation_change(forget_relation, (Datum) 0);
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
}

/* Know which relation's invalidations concern the cache, before it is read. */
static void
know_relation(void)
{
	if (!OidIsValid(relation))
		relation = get_relname_relid("user_keys", get_namespace_oid("keelson", false));
}

/* The cached key, now the most recently used; or NULL. */
static CachedKey *
look_up(const CacheKey *cache_key)
{
	CacheEntry *entry;

	if (last_used != NULL && memcmp(&last_used->cache_key, cache_key, sizeof(*cache_key)) == 0)
		return last_used;
	entry = hash_search(index_of_cache, cache_key, HASH_FIND, NULL);
	if (entry == NULL)
		return NULL;
	dlist_move_head(&recent, &entry->cached->node);
	last_used = entry->cached;
	return last_used;
}

/* Put the row's key into the cache, in place of the least recently used. */
static CachedKey *
keep(const CacheKey *cache_key, const KeyRow *row)
{
	CacheEntry *entry;
	CachedKey *cached;
	bool found;

	if (dlist_is_empty(&spare))
		evict(dlist_container(CachedKey, node, dlist_tail_node(&recent)));
	entry = hash_search(index_of_cache, cache_key, HASH_ENTER, &found);
	Assert(!found);
	cached = dlist_container(CachedKey, node, dlist_pop_head_node(&spare));
	cached->cache_key = *cache_key;
	cached->key_no = row->key_no;
	cached->made_in = has_made ? GetCurrentSubTransactionId() : InvalidSubTransactionId;
	cached->uncounted = 0;
	cached->key.serial = ks_key_serial();
	memcpy(cached->key.bytes, row->key, KS_KEY_LENGTH);
	cached->is_passing = is_doubtful;
	open_count += is_open(cached);
	entry->cached = cached;
	dlist_push_head(&recent, &cached->node);
	last_used = cached;
	return cached;
}

/* Wipe a key and give its place back. */
static void
evict(CachedKey *cached)
{
	(void) hash_search(index_of_cache, &cached->cache_key, HASH_REMOVE, NULL);
	open_count -= is_open(cached);
	dlist_delete(&cached->node);
	ks_wipe(cached, sizeof(*cached));
	dlist_push_head(&spare, &cached->node);
	last_used = NULL;
}

/* Does it depend on how the transaction ends, or end with it? */
static bool
is_open(const CachedKey *cached)
{
	return cached->made_in != InvalidSubTransactionId || cached->is_passing;
}

static void
forget_relation(Datum arg, Oid changed)
{
	dlist_mutable_iter iter;

	if (changed != InvalidOid && changed != relation)
		return;
	dlist_foreach_modify(iter, &recent) evict(dlist_container(CachedKey, node, iter.cur));
	/* A table made anew has another OID. */
	relation = InvalidOid;
	invalidations++;
	is_doubtful = true;
}

/* What the transaction has made is settled, or never was; what it has read in doubt goes. */
static void
end_of_transaction(XactEvent event, void *arg)
{
	dlist_mutable_iter iter;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	has_made = false;
	is_doubtful = false;
	if (open_count == 0)
		return;
	dlist_foreach_modify(iter, &recent)
	{
		CachedKey *cached = dlist_container(CachedKey, node, iter.cur);

		if (!is_open(cached))
			continue;
		if (event == XACT_EVENT_COMMIT && !cached->is_passing)
			cached->made_in = InvalidSubTransactionId;
		else
			evict(cached);
	}
	open_count = 0;
}

/*
 * A subtransaction that rolls back takes along what was made in it and in its
 * own, whose ids are higher; nothing else that is open has a higher id.
 */
static void
end_of_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	dlist_mutable_iter iter;

	if (open_count == 0 || event != SUBXACT_EVENT_ABORT_SUB)
		return;
	dlist_foreach_modify(iter, &recent)
	{
		CachedKey *cached = dlist_container(CachedKey, node, iter.cur);

		if (cached->made_in != InvalidSubTransactionId && cached->made_in >= mine)
			evict(cached);
	}
}

PG_FUNCTION_INFO_V1(ks_user_keys_erase);

/* keelson._user_keys_erase(user_id uuid) : how many keys there were */
Datum
ks_user_keys_erase(PG_FUNCTION_ARGS)
{
	KsRoleSwitch save;
	Datum values[1] = {PG_GETARG_DATUM(0)};
	uint64 erased;

	ks_require_shmem();
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&erase_plan, values, NULL, false, 0);
	erased = SPI_processed;
	ks_role_leave(&save);
	ks_spi_finish();
	CacheInvalidateRelcacheByRelid(get_relname_relid("user_keys", get_namespace_oid("keelson", false)));
	CommandCounterIncrement();
	PG_RETURN_INT32((int32) erased);
}

PG_FUNCTION_INFO_V1(ks_user_keys_rewrap);

/*
 * keelson._user_keys_rewrap(from_key_id integer, after_user_id uuid, after_key_no integer, batch integer):
 * how many rows were seen, how many wrapped anew, the last one's user and number
 */
Datum
ks_user_keys_rewrap(PG_FUNCTION_ARGS)
{
	KsRoleSwitch save;
	TupleDesc desc;
	Datum old[4] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), PG_GETARG_DATUM(3)};
	Datum results[4];
	bool nulls[4] = {false, false, false, false};
	uint32 master_id;
	pg_uuid_t last_user = *PG_GETARG_UUID_P(1);
	KeyRow row = {.key_no = (uint32) PG_GETARG_INT32(2)};
	SPITupleTable *rows;
	uint64 count;
	int32 moved = 0;

	ks_keyring_require();
	master_id = ks_keyring_primary();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&old_plan, old, NULL, false, 0);
	rows = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		Datum values[4];
		bytea *wrapped;
		bool is_null;

		CHECK_FOR_INTERRUPTS();
		values[0] = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &is_null);
		values[1] = SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &is_null);
		last_user = *DatumGetUUIDP(values[0]);
		row.key_no = (uint32) DatumGetInt32(values[1]);
		wrapped = DatumGetByteaPP(SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &is_null));
		/* One that does not open stays as it is, for somebody to look at. */
		if (!try_unwrap(&last_user, (const uint8 *) VARDATA_ANY(wrapped), VARSIZE_ANY_EXHDR(wrapped), &row))
			continue;
		values[2] = Int32GetDatum((int32) master_id);
		values[3] = PointerGetDatum(wrap(&last_user, &row, master_id));
		(void) ks_spi_execute(&rewrap_plan, values, NULL, false, 0);
		moved++;
	}
	ks_wipe(row.key, sizeof(row.key));
	ks_role_leave(&save);
	ks_spi_finish();
	results[0] = Int32GetDatum((int32) count);
	results[1] = Int32GetDatum(moved);
	results[2] = UUIDPGetDatum(&last_user);
	results[3] = Int32GetDatum((int32) row.key_no);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, results, nulls)));
}
