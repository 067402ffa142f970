/*
 * user_keys.c
 *	  The users' keys: making, unwrapping, keeping, counting, erasing.
 *
 * A key is 32 random bytes, stored in keelson.user_keys as a sealed value under
 * a key derived from a master key. Rows are read and written as keelson_system,
 * by primary key, since values are also sealed for users who are not signed in
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
 *   back, and of those that were read meanwhile, which may be the same.
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
#include "lib/ilist.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "core/error.h"
#include "core/invalidation.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "secrets/crypto.h"
#include "secrets/locked.h"
#include "secrets/seal.h"
#include "secrets/user_keys.h"

#define CACHE_SIZE 256
#define CURRENT 0 /* in place of a number: the newest key */
#define MAX_TRIES 4
#define SAMPLE_RATE 65536
#define MAX_USES (INT64CONST(1) << 30)
#define WRAPPED_LENGTH (KS_KEY_LENGTH + KS_SEAL_OVERHEAD)

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
static int made_count;       /* how many in the cache have made_in set */
static bool has_made;        /* has this transaction made a key? */
static Oid relation;         /* keelson.user_keys; invalid: to be looked up */
static uint64 invalidations; /* how often the cache was emptied */

static KsPlan current_plan = {
	"select key_no, wrapped, uses from keelson.user_keys where user_id = $1 order by key_no desc limit 1",
	1,
	{UUIDOID}};
static KsPlan numbered_plan = {
	"select key_no, wrapped, uses from keelson.user_keys where user_id = $1 and key_no = $2",
	2,
	{UUIDOID, INT4OID}};
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
static bool read_row(const pg_uuid_t *user_id, uint32 key_no, bool fresh, KeyRow *row);
static bool make_row(const pg_uuid_t *user_id, uint32 key_no, KeyRow *row);
static bool can_write(void);
static void unwrap(const pg_uuid_t *user_id, bytea *wrapped, KeyRow *row);
static KsSealContext wrap_context(const pg_uuid_t *user_id, uint32 key_no);
static const KsKey *wrapping_key(uint32 key_id);
static void make_cache(void);
static void know_relation(void);
static CachedKey *look_up(const CacheKey *cache_key);
static CachedKey *keep(const CacheKey *cache_key, const KeyRow *row);
static void evict(CachedKey *cached);
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
	KsRoleSwitch save;
	bool found;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	found = read_row(user_id, key_no, false, row) || read_row(user_id, key_no, true, row);
	for (int i = 0; key_no == CURRENT && i < MAX_TRIES; i++)
	{
		if (found && (row->uses < MAX_USES || !can_write()))
			break;
		if (make_row(user_id, found ? row->key_no + 1 : 1, row))
			found = true;
		else
			found = read_row(user_id, key_no, true, row);
	}
	ks_role_leave(&save);
	ks_spi_finish();
	if (!found && key_no == CURRENT)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not settle on a user's key: it was erased meanwhile")));
	return found;
}

/* Read a row as the statement sees it, or, fresh, as it is now. */
static bool
read_row(const pg_uuid_t *user_id, uint32 key_no, bool fresh, KeyRow *row)
{
	Datum values[2] = {UUIDPGetDatum(user_id), Int32GetDatum((int32) key_no)};
	bool is_null;
	HeapTuple tuple;
	TupleDesc desc;

	if (fresh && IsInParallelMode())
		return false;
	(void) ks_spi_execute(key_no == CURRENT ? &current_plan : &numbered_plan, values, NULL, !fresh, 1);
	if (SPI_processed == 0)
		return false;
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	row->key_no = (uint32) DatumGetInt32(SPI_getbinval(tuple, desc, 1, &is_null));
	row->uses = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &is_null));
	unwrap(user_id, DatumGetByteaPP(SPI_getbinval(tuple, desc, 2, &is_null)), row);
	return true;
}

/* Make the key of that number; false where somebody else has made it. */
static bool
make_row(const pg_uuid_t *user_id, uint32 key_no, KeyRow *row)
{
	KsSealContext context = wrap_context(user_id, key_no);
	uint32 master_id = ks_keyring_primary();
	bytea *wrapped = palloc(VARHDRSZ + WRAPPED_LENGTH);
	Datum values[4];

	row->key_no = key_no;
	row->uses = 0;
	ks_random(row->key, KS_KEY_LENGTH);
	SET_VARSIZE(wrapped, VARHDRSZ + WRAPPED_LENGTH);
	ks_seal_with(wrapping_key(master_id), master_id, &context, row->key, KS_KEY_LENGTH, (uint8 *) VARDATA(wrapped));
	values[0] = UUIDPGetDatum(user_id);
	values[1] = Int32GetDatum((int32) key_no);
	values[2] = Int32GetDatum((int32) master_id);
	values[3] = PointerGetDatum(wrapped);
	(void) ks_spi_execute(&insert_plan, values, NULL, false, 0);
	if (SPI_processed == 1)
		has_made = true;
	return SPI_processed == 1;
}

static bool
can_write(void)
{
	return !XactReadOnly && !RecoveryInProgress() && !IsInParallelMode();
}

/* Unwrap the key of a row; a row that does not open is an error. */
static void
unwrap(const pg_uuid_t *user_id, bytea *wrapped, KeyRow *row)
{
	KsSealContext context = wrap_context(user_id, row->key_no);
	const uint8 *bytes = (const uint8 *) VARDATA_ANY(wrapped);
	uint32 master_id;

	if (VARSIZE_ANY_EXHDR(wrapped) != WRAPPED_LENGTH || !ks_seal_key_id(bytes, WRAPPED_LENGTH, &master_id) ||
		!ks_unseal_with(wrapping_key(master_id), &context, bytes, WRAPPED_LENGTH, row->key))
		ks_raise(500, "INTERNAL", NULL, "a sealed value could not be opened");
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
	made_count += has_made;
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
	made_count -= cached->made_in != InvalidSubTransactionId;
	dlist_delete(&cached->node);
	ks_wipe(cached, sizeof(*cached));
	dlist_push_head(&spare, &cached->node);
	last_used = NULL;
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
}

/* What the transaction has made is settled, or never was. */
static void
end_of_transaction(XactEvent event, void *arg)
{
	dlist_mutable_iter iter;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	has_made = false;
	if (made_count == 0)
		return;
	dlist_foreach_modify(iter, &recent)
	{
		CachedKey *cached = dlist_container(CachedKey, node, iter.cur);

		if (cached->made_in == InvalidSubTransactionId)
			continue;
		if (event == XACT_EVENT_COMMIT)
			cached->made_in = InvalidSubTransactionId;
		else
			evict(cached);
	}
	made_count = 0;
}

/*
 * A subtransaction that rolls back takes along what was made in it and in its
 * own, whose ids are higher; nothing else that is open has a higher id.
 */
static void
end_of_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	dlist_mutable_iter iter;

	if (made_count == 0 || event != SUBXACT_EVENT_ABORT_SUB)
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
