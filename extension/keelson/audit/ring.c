/*
 * ring.c
 *	  Records on their way to the table outside of any transaction of their own.
 *
 * A ring of bytes in shared memory, under one lock that is held for a copy of a
 * few hundred bytes. `head` is where the next record goes, `tail` where the
 * oldest begins; both only rise, their remainder is the place. A record never
 * wraps: what is left at the end is skipped. The keeper copies records out,
 * inserts them, commits, and then moves the tail, so one that dies in between
 * repeats itself, and the id, given when the record was made, keeps it from
 * being inserted twice. A crash of the server loses what is in the ring.
 *
 * A flood of refusals of one kind (endpoint, status, address, user) becomes one
 * record each time the keeper comes: the places of recent records are
 * remembered by a hash of what they say, and a repetition is counted there.
 * What has been copied out, up to `taken`, is not added to. So the keeper does
 * not come at once for a refusal, which may be the first of many, but within a
 * second; at once for a record of something that has been done, which a crash
 * must not find here, and where the ring is half full.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"

#include "audit/ring.h"
#include "core/guc.h"
#include "core/keeper.h"
#include "core/shmem.h"
#include "core/worker.h"
#include "secrets/keyring.h"

#define RECENT 512
#define DRAIN_INTERVAL_MS 5000
#define BATCH_BYTES (256 * 1024)

struct KsFlatRecord
{
	uint32 len;           /* of the whole, aligned; 0: the rest up to the end is skipped */
	uint32 repeated;      /* how often more */
	uint64 same_hash;     /* of what it says, without id, time and request */
	KsAuditRecord record; /* its pointers mean nothing here */
	uint32 ip_len;        /* 0: none, as for the others */
	uint32 user_agent_len;
	uint32 data_len;
	uint32 personal_len;
	char type[KS_AUDIT_TYPE_LENGTH];
	/* address, user agent, then data and personal, each aligned */
};

typedef struct Recent
{
	uint64 same_hash;
	uint64 place;
} Recent;

typedef struct Ring
{
	LWLock lock;
	pg_atomic_uint64 counts[KS_COUNT_COUNT];
	uint64 head; /* these, recent and bytes: under the lock */
	uint64 taken;
	uint64 tail;
	Recent recent[RECENT];
	char bytes[FLEXIBLE_ARRAY_MEMBER];
} Ring;

/* Set when shared memory is made. */
static Ring *ring;

/* The keeper's duty; set when it is registered. */
static int duty;

static void init_shared(void *area, bool found);
static Size ring_size(void);
static bool add_repetition(const KsFlatRecord *flat);
static bool says_same(const KsFlatRecord *one, const KsFlatRecord *other);
static bool append(const KsFlatRecord *flat);
static KsFlatRecord *at_place(uint64 place);
static uint64 used_bytes(void);
static void drain(void);
static char *copy_batch(Size *len, uint64 *until);
static void insert_batch(char *batch, Size len);
static void insert_one(KsFlatRecord *flat);
static void unflatten(KsFlatRecord *flat, KsAuditRecord *record);
static Jsonb *with_repetitions(Jsonb *data, uint32 repeated);
static void move_tail(uint64 until);

void
ks_ring_init(void)
{
	ks_shmem_register("keelson audit ring", add_size(offsetof(Ring, bytes), ring_size()), init_shared, (void **) &ring);
	duty = ks_keeper_register("audit ring", DRAIN_INTERVAL_MS, false, drain);
}

static Size
ring_size(void)
{
	return (Size) ks_guc_audit_ring_size * 1024;
}

static void
init_shared(void *area, bool found)
{
	Ring *made = area;
	int tranche;

	if (found)
		return;
	memset(made, 0, offsetof(Ring, bytes));
	tranche = LWLockNewTrancheId();
	LWLockRegisterTranche(tranche, "keelson_audit_ring");
	LWLockInitialize(&made->lock, tranche);
	for (int i = 0; i < KS_COUNT_COUNT; i++)
		pg_atomic_init_u64(&made->counts[i], 0);
}

void
ks_audit_count(KsAuditCount count, uint64 n)
{
	pg_atomic_fetch_add_u64(&ring->counts[count], n);
}

uint64
ks_audit_counted(KsAuditCount count)
{
	return pg_atomic_read_u64(&ring->counts[count]);
}

KsFlatRecord *
ks_flat_record(const KsAuditRecord *record)
{
	uint32 ip_len = record->ip != NULL ? strlen(record->ip) : 0;
	uint32 agent_len = record->user_agent != NULL ? record->user_agent_len : 0;
	uint32 data_len = record->data != NULL ? VARSIZE(record->data) : 0;
	uint32 personal_len = record->personal != NULL ? VARSIZE(record->personal) : 0;
	Size strings_len = MAXALIGN(sizeof(KsFlatRecord) + ip_len + agent_len);
	Size len = strings_len + MAXALIGN(data_len) + MAXALIGN(personal_len);
	KsFlatRecord *flat;
	char *to;

	if (len > ring_size() / 4)
		return NULL;
	flat = palloc0(len);
	flat->len = len;
	flat->record = *record;
	flat->ip_len = ip_len;
	flat->user_agent_len = agent_len;
	flat->data_len = data_len;
	flat->personal_len = personal_len;
	strlcpy(flat->type, record->type, sizeof(flat->type));
	to = (char *) (flat + 1);
	if (ip_len > 0)
		memcpy(to, record->ip, ip_len);
	if (agent_len > 0)
		memcpy(to + ip_len, record->user_agent, agent_len);
	to = (char *) flat + strings_len;
	if (data_len > 0)
		memcpy(to, record->data, data_len);
	if (personal_len > 0)
		memcpy(to + MAXALIGN(data_len), record->personal, personal_len);
	flat->same_hash = hash_bytes_extended((unsigned char *) (flat + 1), len - sizeof(KsFlatRecord), record->outcome);
	flat->same_hash = hash_combine64(flat->same_hash, hash_bytes_extended((unsigned char *) flat->type, strlen(flat->type), 0));
	flat->same_hash = hash_combine64(flat->same_hash, hash_bytes_extended(record->user_id.data, UUID_LEN, record->actor));
	return flat;
}

void
ks_ring_push(const KsFlatRecord *flat, bool may_repeat)
{
	bool is_repetition = false;
	bool is_first = false;
	bool is_pushed = false;
	bool is_urgent = !may_repeat;

	if (flat != NULL)
	{
		LWLockAcquire(&ring->lock, LW_EXCLUSIVE);
		is_repetition = may_repeat && add_repetition(flat);
		if (!is_repetition)
		{
			is_first = ring->head == ring->taken;
			is_pushed = append(flat);
			is_urgent |= ring->head - ring->tail > ring_size() / 2;
		}
		LWLockRelease(&ring->lock);
	}
	ks_audit_count(is_repetition ? KS_COUNT_REPEATED : is_pushed ? KS_COUNT_PUSHED
																 : KS_COUNT_DROPPED,
				   1);
	if (is_pushed && is_urgent)
		ks_keeper_wake_duty(duty);
	else if (is_pushed && is_first)
		ks_keeper_wake_duty_soon(duty);
}

/* How many bytes of the ring are taken. */
static uint64
used_bytes(void)
{
	uint64 used;

	LWLockAcquire(&ring->lock, LW_SHARED);
	used = ring->head - ring->tail;
	LWLockRelease(&ring->lock);
	return used;
}

/* Count the record as a repetition of one in the ring; false when there is none. */
static bool
add_repetition(const KsFlatRecord *flat)
{
	const Recent *recent = &ring->recent[flat->same_hash % RECENT];

	if (recent->same_hash != flat->same_hash || recent->place < ring->taken || recent->place >= ring->head ||
		!says_same(at_place(recent->place), flat))
		return false;
	at_place(recent->place)->repeated++;
	return true;
}

/* Do both say the same, but for id, time and request? A client who aims at the hash is not to pass for another. */
static bool
says_same(const KsFlatRecord *one, const KsFlatRecord *other)
{
	return one->len == other->len && one->ip_len == other->ip_len && one->user_agent_len == other->user_agent_len &&
		   one->data_len == other->data_len && one->personal_len == other->personal_len &&
		   one->record.outcome == other->record.outcome && one->record.actor == other->record.actor &&
		   memcmp(&one->record.user_id, &other->record.user_id, UUID_LEN) == 0 && strcmp(one->type, other->type) == 0 &&
		   memcmp(one + 1, other + 1, one->len - sizeof(KsFlatRecord)) == 0;
}

static bool
append(const KsFlatRecord *flat)
{
	Size size = ring_size();
	Size left = size - ring->head % size;
	Size skipped = left < flat->len ? left : 0;

	if (ring->head + skipped + flat->len - ring->tail > size)
		return false;
	if (skipped > 0)
	{
		at_place(ring->head)->len = 0;
		ring->head += skipped;
	}
	memcpy(at_place(ring->head), flat, flat->len);
	ring->recent[flat->same_hash % RECENT] = (Recent){flat->same_hash, ring->head};
	ring->head += flat->len;
	return true;
}

static KsFlatRecord *
at_place(uint64 place)
{
	return (KsFlatRecord *) (ring->bytes + place % ring_size());
}

/* The keeper's duty: move what is in the ring into the table. */
static void
drain(void)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext cxt = AllocSetContextCreate(outer, "keelson audit drain", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		uint64 until;
		Size len;
		char *batch;

		MemoryContextSwitchTo(cxt);
		MemoryContextReset(cxt);
		if (used_bytes() == 0 || !ks_worker_transaction_begin("audit ring"))
			break;
		/* Without the right keyring nothing can be sealed, so it stays where it is. */
		if (!ks_keyring_ready(NULL))
		{
			ks_worker_transaction_end();
			break;
		}
		MemoryContextSwitchTo(cxt);
		batch = copy_batch(&len, &until);
		insert_batch(batch, len);
		ks_worker_transaction_end();
		move_tail(until);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(cxt);
}

/* Copy records from the tail on: `len` bytes, which end at the place `until`. */
static char *
copy_batch(Size *len, uint64 *until)
{
	char *batch = palloc(BATCH_BYTES);
	Size size = ring_size();
	uint64 place;

	*len = 0;
	LWLockAcquire(&ring->lock, LW_EXCLUSIVE);
	for (place = ring->tail; place < ring->head;)
	{
		KsFlatRecord *flat = at_place(place);

		if (flat->len == 0)
		{
			place += size - place % size;
			continue;
		}
		if (*len + flat->len > BATCH_BYTES)
			break;
		memcpy(batch + *len, flat, flat->len);
		*len += flat->len;
		place += flat->len;
	}
	ring->taken = place;
	LWLockRelease(&ring->lock);
	*until = place;
	return batch;
}

static void
insert_batch(char *batch, Size len)
{
	KsFlatRecord *flat;

	for (Size at = 0; at < len; at += flat->len)
	{
		flat = (KsFlatRecord *) (batch + at);
		insert_one(flat);
	}
}

/* Insert the record; one that cannot be inserted is counted and logged, and in no other's way. */
static void
insert_one(KsFlatRecord *flat)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	KsAuditRecord record;

	unflatten(flat, &record);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		ks_audit_insert(&record, true);
		ReleaseCurrentSubTransaction();
		ks_audit_count(KS_COUNT_DRAINED, 1);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ks_audit_count(KS_COUNT_LOST, 1);
		ereport(LOG,
				(errmsg("could not record an audit event of type \"%s\": %s", record.type, error->message)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
}

static void
unflatten(KsFlatRecord *flat, KsAuditRecord *record)
{
	char *from = (char *) (flat + 1);
	char *rest = (char *) flat + MAXALIGN(sizeof(KsFlatRecord) + flat->ip_len + flat->user_agent_len);

	*record = flat->record;
	record->type = flat->type;
	record->ip = flat->ip_len > 0 ? pnstrdup(from, flat->ip_len) : NULL;
	record->user_agent = flat->user_agent_len > 0 ? from + flat->ip_len : NULL;
	record->user_agent_len = flat->user_agent_len;
	record->data = flat->data_len > 0 ? (Jsonb *) rest : NULL;
	record->personal = flat->personal_len > 0 ? (Jsonb *) (rest + MAXALIGN(flat->data_len)) : NULL;
	if (flat->repeated > 0)
		record->data = with_repetitions(record->data, flat->repeated);
}

/* The data with "repeated": how often more the same came. */
static Jsonb *
with_repetitions(Jsonb *data, uint32 repeated)
{
	JsonbValue value = {.type = jbvNumeric, .val.numeric = int64_to_numeric(repeated)};

	return ks_audit_data_with(data, "repeated", &value);
}

static void
move_tail(uint64 until)
{
	LWLockAcquire(&ring->lock, LW_EXCLUSIVE);
	ring->tail = until;
	LWLockRelease(&ring->lock);
}

PG_FUNCTION_INFO_V1(ks_audit_counters);

/* keelson._audit_counters() */
Datum
ks_audit_counters(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {
		[KS_COUNT_WRITTEN] = "written_total",
		[KS_COUNT_FALLBACKS] = "fallbacks_total",
		[KS_COUNT_PUSHED] = "pushed_total",
		[KS_COUNT_REPEATED] = "repeated_total",
		[KS_COUNT_DROPPED] = "dropped_total",
		[KS_COUNT_DRAINED] = "drained_total",
		[KS_COUNT_LOST] = "lost_total",
		[KS_COUNT_SEALED] = "sealed_total",
		[KS_COUNT_COUNT] = "ring_bytes"};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	ks_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i <= KS_COUNT_COUNT; i++)
	{
		Datum values[2] = {CStringGetTextDatum(names[i])};
		bool nulls[2] = {false};

		values[1] = Int64GetDatum(i < KS_COUNT_COUNT ? ks_audit_counted(i) : used_bytes());
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
