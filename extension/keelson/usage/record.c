/*
 * record.c
 *	  Record usage events in the caller's transaction.
 *
 * In this order: check all; enter the keys, which waits for other transactions
 * that enter the same ones and tells what has been counted before; charge the
 * quotas; insert the events. A refusal anywhere undoes all of it.
 *
 * Keys are entered in the order of user and hash, so that two batches which
 * share some wait for each other and never in a circle.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/error.h"
#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "dispatch/reply.h"
#include "usage/charge.h"
#include "usage/event.h"
#include "usage/insert.h"
#include "usage/leaf.h"

/* So many indexes of events are told in a message. */
#define INDEXES_TOLD 20

typedef struct Receipt
{
	int accepted;
	int duplicates;
} Receipt;

static KsPlan key_plan = {
	"insert into keelson.usage_keys (user_id, key_hash, content_hash, recorded_on) values ($1, $2, $3, $4)"
	" on conflict on constraint usage_keys_pkey do nothing",
	4,
	{UUIDOID, UUIDOID, UUIDOID, DATEOID}};
#define INSERT_KEYS                                                                      \
	"insert into keelson.usage_keys as k (user_id, key_hash, content_hash, recorded_on)" \
	" select g.user_id, g.key_hash, g.content_hash, $4"                                  \
	" from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) as g (user_id, key_hash, content_hash)"

static KsPlan new_keys_plan = {INSERT_KEYS, 4, {UUIDARRAYOID, UUIDARRAYOID, UUIDARRAYOID, DATEOID}};
static KsPlan keys_plan = {
	INSERT_KEYS
	" on conflict on constraint usage_keys_pkey do nothing"
	" returning k.user_id, k.key_hash",
	4,
	{UUIDARRAYOID, UUIDARRAYOID, UUIDARRAYOID, DATEOID}};
static KsPlan content_plan = {
	"select content_hash from keelson.usage_keys where user_id = $1 and key_hash = $2", 2, {UUIDOID, UUIDOID}};

static Receipt record(KsUsageBatch *batch);
static void enter_keys(KsUsageBatch *batch);
static int gather_keyed(KsUsageBatch *batch, KsUsageEvent **keyed);
static int compare_keys(const void *a, const void *b);
static int compare_key_owners(const KsUsageEvent *a, const KsUsageEvent *b);
static int drop_repeated(KsUsageEvent **keyed, int count);
static void enter_key(KsUsageEvent *event);
static void enter_many(KsUsageEvent **keyed, int count);
static bool are_new(Datum *values);
static void compare_content(KsUsageEvent *event);
static void refuse_conflicts(const KsUsageBatch *batch);
static void insert_events(KsUsageBatch *batch, Receipt *receipt);

PG_FUNCTION_INFO_V1(ks_usage_record);

/* keelson.usage_record(user_id uuid, feature text, minutes numeric, requests integer, occurred_at timestamptz, key text, events keelson.usage_event[]) */
Datum
ks_usage_record(PG_FUNCTION_ARGS)
{
	KsUsageBatch batch;
	Receipt receipt;
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};

	ks_require_shmem();
	ks_usage_read(fcinfo, &batch);
	if (batch.faults.count == 1)
		ks_raise_field(400, "VALIDATION_FAILED", batch.first_field, NULL, "%.*s", batch.words.len - 1, batch.words.data);
	if (batch.faults.count > 1)
		ks_raise_detail(400, "VALIDATION_FAILED", batch.first_field, batch.words.data, "the usage has %d faults", batch.faults.count);
	receipt = record(&batch);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson.usage_record() returns a row");
	values[0] = Int32GetDatum(receipt.accepted);
	values[1] = Int32GetDatum(receipt.duplicates);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

PG_FUNCTION_INFO_V1(ks_usage_post);

/* keelson.usage_post() : the same for a request, naming each fault apart */
Datum
ks_usage_post(PG_FUNCTION_ARGS)
{
	KsUsageBatch batch;
	Receipt receipt;
	KsReply reply = {0};
	TupleDesc desc;

	ks_require_shmem();
	ks_usage_read(fcinfo, &batch);
	if (batch.faults.count > 0)
		(void) ks_reply_refuse_details(&reply, 400, "VALIDATION_FAILED", "the usage is not valid", batch.faults.details.data);
	else
	{
		receipt = record(&batch);
		reply.status = 202;
		reply.body = cstring_to_text(psprintf("{\"accepted\":%d,\"duplicates\":%d}", receipt.accepted, receipt.duplicates));
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson.usage_post() returns a reply");
	PG_RETURN_DATUM(ks_reply_datum(&reply, BlessTupleDesc(desc)));
}

/* Record events that are known to be good. */
static Receipt
record(KsUsageBatch *batch)
{
	Receipt receipt = {0, 0};
	KsRoleSwitch save;

	/* An id is made after the transaction has its own, see ks_leaf_new_id(). */
	(void) GetTopFullTransactionId();
	for (int i = 0; i < batch->count; i++)
		batch->events[i].day = ks_leaf_new_id(&batch->events[i].id);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	enter_keys(batch);
	ks_quota_charge(batch);
	insert_events(batch, &receipt);
	ks_role_leave(&save);
	ks_spi_finish();
	ks_usage_count(receipt.accepted, receipt.duplicates);
	return receipt;
}

/* Enter the keys, and mark the events whose key was counted before. */
static void
enter_keys(KsUsageBatch *batch)
{
	KsUsageEvent **keyed = palloc(batch->count * sizeof(KsUsageEvent *));
	int count = gather_keyed(batch, keyed);

	if (count == 0)
		return;
	qsort(keyed, count, sizeof(KsUsageEvent *), compare_keys);
	count = drop_repeated(keyed, count);
	if (count == 1)
		enter_key(keyed[0]);
	else
		enter_many(keyed, count);
	refuse_conflicts(batch);
}

static int
gather_keyed(KsUsageBatch *batch, KsUsageEvent **keyed)
{
	int count = 0;

	for (int i = 0; i < batch->count; i++)
		if (batch->events[i].is_keyed)
			keyed[count++] = &batch->events[i];
	return count;
}

/* By user and hash of the key; the same key in the batch's order. */
static int
compare_keys(const void *a, const void *b)
{
	const KsUsageEvent *left = *(KsUsageEvent *const *) a;
	const KsUsageEvent *right = *(KsUsageEvent *const *) b;
	int order = compare_key_owners(left, right);

	return order != 0 ? order : left->index - right->index;
}

static int
compare_key_owners(const KsUsageEvent *a, const KsUsageEvent *b)
{
	int order = memcmp(&a->user_id, &b->user_id, UUID_LEN);

	return order != 0 ? order : memcmp(&a->key_hash, &b->key_hash, UUID_LEN);
}

/* Keep the first event of each key in the batch; returns how many are left. */
static int
drop_repeated(KsUsageEvent **keyed, int count)
{
	int kept = 0;

	for (int i = 0; i < count; i++)
	{
		if (kept == 0 || compare_key_owners(keyed[kept - 1], keyed[i]) != 0)
		{
			keyed[kept++] = keyed[i];
			continue;
		}
		keyed[i]->is_duplicate = true;
		keyed[i]->is_conflict = memcmp(&keyed[kept - 1]->content_hash, &keyed[i]->content_hash, UUID_LEN) != 0;
	}
	return kept;
}

static void
enter_key(KsUsageEvent *event)
{
	Datum values[4];

	values[0] = UUIDPGetDatum(&event->user_id);
	values[1] = UUIDPGetDatum(&event->key_hash);
	values[2] = UUIDPGetDatum(&event->content_hash);
	values[3] = DateADTGetDatum(event->day - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE));
	(void) ks_spi_execute(&key_plan, values, NULL, false, 0);
	if (SPI_processed == 0)
		compare_content(event);
}

static void
enter_many(KsUsageEvent **keyed, int count)
{
	Datum *columns[3];
	Datum values[4];
	SPITupleTable *entered;
	uint64 next = 0;
	bool is_null;

	for (int c = 0; c < 3; c++)
		columns[c] = palloc(count * sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		columns[0][i] = UUIDPGetDatum(&keyed[i]->user_id);
		columns[1][i] = UUIDPGetDatum(&keyed[i]->key_hash);
		columns[2][i] = UUIDPGetDatum(&keyed[i]->content_hash);
	}
	values[0] = PointerGetDatum(construct_array(columns[0], count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[1] = PointerGetDatum(construct_array(columns[1], count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[2] = PointerGetDatum(construct_array(columns[2], count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[3] = DateADTGetDatum(keyed[0]->day - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE));
	if (are_new(values))
		return;
	(void) ks_spi_execute(&keys_plan, values, NULL, false, 0);
	if (SPI_processed == count)
		return;
	/* Those that were entered come back in the order given; the others were there. */
	entered = SPI_tuptable;
	for (int i = 0; i < count; i++)
	{
		if (next < entered->numvals &&
			memcmp(DatumGetUUIDP(SPI_getbinval(entered->vals[next], entered->tupdesc, 1, &is_null)), &keyed[i]->user_id, UUID_LEN) == 0 &&
			memcmp(DatumGetUUIDP(SPI_getbinval(entered->vals[next], entered->tupdesc, 2, &is_null)), &keyed[i]->key_hash, UUID_LEN) == 0)
			next++;
		else
			compare_content(keyed[i]);
	}
	if (next != entered->numvals)
		elog(ERROR, "keys of usage events came back in another order");
}

/*
 * Enter the keys as if all of them were new, which most often they are, and
 * costs a third less than to ask; false, and none is entered, when one is there.
 */
static bool
are_new(Datum *values)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool are_entered = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		(void) ks_spi_execute(&new_keys_plan, values, NULL, false, 0);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
			ReThrowError(error);
		are_entered = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return are_entered;
}

/* The key was there: the event is a duplicate, and must be the same. */
static void
compare_content(KsUsageEvent *event)
{
	Datum values[2] = {UUIDPGetDatum(&event->user_id), UUIDPGetDatum(&event->key_hash)};
	pg_uuid_t *content;
	bool is_null;

	event->is_duplicate = true;
	(void) ks_spi_execute(&content_plan, values, NULL, false, 1);
	/* Expired in this moment: as a duplicate it is not counted, and a repetition would be. */
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not record usage: its key expires")));
	content = DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	event->is_conflict = memcmp(content, &event->content_hash, UUID_LEN) != 0;
}

/* Refuse the batch where a key was used for something else, naming those events. */
static void
refuse_conflicts(const KsUsageBatch *batch)
{
	StringInfoData places;
	int count = 0;

	initStringInfo(&places);
	for (int i = 0; i < batch->count; i++)
		if (batch->events[i].is_conflict && ++count <= INDEXES_TOLD)
			appendStringInfo(&places, "%sevents[%d]", count > 1 ? ", " : "", i);
	if (count == 0)
		return;
	if (!batch->is_list)
		ks_raise_field(409, "IDEMPOTENCY_CONFLICT", "key", NULL, "the key was used for something else");
	ks_raise_field(409, "IDEMPOTENCY_CONFLICT", "events", NULL, "keys were used for something else: %s%s",
				   places.data, count > INDEXES_TOLD ? " and more" : "");
}

/* Insert all that are no duplicates, each day's together. */
static void
insert_events(KsUsageBatch *batch, Receipt *receipt)
{
	KsUsageEvent **events = palloc(batch->count * sizeof(KsUsageEvent *));
	int count = 0;

	for (int i = 0; i < batch->count; i++)
	{
		if (batch->events[i].is_duplicate)
			receipt->duplicates++;
		else
			events[count++] = &batch->events[i];
	}
	receipt->accepted = count;
	/* Ids rise, and days with them. */
	for (int from = 0, to; from < count; from = to)
	{
		for (to = from + 1; to < count && events[to]->day == events[from]->day; to++)
			;
		ks_usage_insert(events + from, to - from);
	}
}
