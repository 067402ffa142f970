/*
 * fetch.c
 *	  Fetching the keys that issuers publish.
 *
 * A request never waits for an issuer. One whose token names a key that is not
 * known is refused, and leaves a note in shared memory; the keeper turns notes,
 * and what is due by its time, into deliveries of the kind "jwks", at most one
 * of an issuer at once and 30 seconds apart; a courier fetches, and the
 * transaction that settles the delivery takes the keys over. A note stays until
 * a fetch was asked for after it.
 *
 * Keys that were asked for are remembered for five minutes, so that tokens with
 * names made up do not keep us fetching: one that the issuer has not published
 * by the next fetch is not asked for again within that time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/keeper.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "courier/courier.h"
#include "issuers/fetch.h"
#include "secrets/crypto.h"

#define LOOK_MS 30000
#define FETCH_TIMEOUT_MS 5000
#define KIDS 128
#define KID_SECONDS 300
#define KID_HASH_LENGTH 16

/* An issuer that is wanted, or was fetched. */
typedef struct Note
{
	pg_uuid_t id; /* nil: free */
	bool is_wanted;
	TimestampTz fetched_at; /* last, since the server started */
} Note;

/* A key that a token has named and that was not there. */
typedef struct Kid
{
	uint8 hash[KID_HASH_LENGTH]; /* of issuer and kid */
	TimestampTz asked_at;        /* 0: free */
} Kid;

typedef struct Shared
{
	LWLock lock;
	Note notes[KS_ISSUERS_MAX];
	Kid kids[KIDS];
	pg_atomic_uint64 changed;   /* fetches that brought other keys, */
	pg_atomic_uint64 unchanged; /* the same, */
	pg_atomic_uint64 failed;    /* or none */
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

/* The keeper's duty, by number. */
static int duty;

static KsPlan due_plan = {"select keelson._issuers_fetch_due($1)", 1, {UUIDARRAYOID}};
static KsPlan url_plan = {"select i.jwks_url from keelson.issuers as i where i.id = $1 and i.is_enabled and i.jwks_url is not null", 1, {UUIDOID}};
static KsPlan fetched_plan = {"select keelson._issuer_fetched($1, $2, $3, $4, $5)", 5, {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}};

static void init_shared(void *area, bool found);
static Note *find_note(const pg_uuid_t *id);
static bool is_asked_for(const uint8 *hash, const Note *note, TimestampTz now);
static void ask(void);
static int take_wanted(Datum *ids, pg_uuid_t *memory);
static void clear_wanted(const pg_uuid_t *id);
static void build(KsDelivery **deliveries, int count);
static void judge(KsDelivery *delivery);
static void settled(KsDelivery **deliveries, int count);
static void take_over(const KsDelivery *delivery);
static const char *what_is_wrong(const KsDelivery *delivery);
static void note_fetched(const pg_uuid_t *id);

/* One attempt each: when to try again is the issuer's row's affair. */
static const KsCourierKind kind = {.name = "jwks", .build = build, .judge = judge, .settled = settled};

void
ks_issuers_init(void)
{
	ks_shmem_register("keelson issuers", sizeof(Shared), init_shared, (void **) &shared);
	duty = ks_keeper_register("issuers: fetch keys", LOOK_MS, true, ask);
	ks_courier_kind_register(&kind);
}

static void
init_shared(void *area, bool found)
{
	Shared *fresh = area;
	int tranche = LWLockNewTrancheId();

	LWLockRegisterTranche(tranche, "KeelsonIssuers");
	memset(fresh, 0, sizeof(*fresh));
	LWLockInitialize(&fresh->lock, tranche);
	pg_atomic_init_u64(&fresh->changed, 0);
	pg_atomic_init_u64(&fresh->unchanged, 0);
	pg_atomic_init_u64(&fresh->failed, 0);
}

void
ks_issuer_want(const KsIssuer *issuer, const char *kid)
{
	uint8 hash[KS_SHA256_LENGTH];
	char *named;
	bool is_new = false;
	Note *note;

	if (!issuer->is_published)
		return;
	named = psprintf("%s %s", ks_uuid_string(&issuer->id), kid != NULL ? kid : "");
	ks_sha256(named, strlen(named), hash);
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	note = find_note(&issuer->id);
	if (note != NULL && !is_asked_for(hash, note, GetCurrentTimestamp()))
	{
		is_new = !note->is_wanted;
		note->is_wanted = true;
	}
	LWLockRelease(&shared->lock);
	if (is_new)
		ks_keeper_wake_duty(duty);
}

/* The issuer's note, made if need be; one of an issuer that is gone gives way. Under the lock. */
static Note *
find_note(const pg_uuid_t *id)
{
	Note *place = NULL;

	for (int i = 0; i < KS_ISSUERS_MAX; i++)
	{
		Note *note = &shared->notes[i];

		if (memcmp(&note->id, id, UUID_LEN) == 0)
			return note;
		if (place == NULL && ks_uuid_is_nil(&note->id))
			place = note;
	}
	for (int i = 0; i < KS_ISSUERS_MAX && place == NULL; i++)
		if (!shared->notes[i].is_wanted)
			place = &shared->notes[i];
	if (place != NULL)
	{
		memset(place, 0, sizeof(*place));
		place->id = *id;
	}
	return place;
}

/* Has a fetch since the key was first asked for not brought it? Else remember that it is asked for. Under the lock. */
static bool
is_asked_for(const uint8 *hash, const Note *note, TimestampTz now)
{
	Kid *oldest = &shared->kids[0];

	for (int i = 0; i < KIDS; i++)
	{
		Kid *kid = &shared->kids[i];

		if (kid->asked_at < oldest->asked_at)
			oldest = kid;
		if (kid->asked_at == 0 || memcmp(kid->hash, hash, KID_HASH_LENGTH) != 0)
			continue;
		if (kid->asked_at <= now && now - kid->asked_at < KID_SECONDS * USECS_PER_SEC)
			return note->fetched_at >= kid->asked_at;
		kid->asked_at = now;
		return false;
	}
	memcpy(oldest->hash, hash, KID_HASH_LENGTH);
	oldest->asked_at = now;
	return false;
}

/* The keeper's duty: have fetched what is wanted or due. */
static void
ask(void)
{
	pg_uuid_t memory[KS_ISSUERS_MAX];
	Datum ids[KS_ISSUERS_MAX];
	int count = take_wanted(ids, memory);
	Datum values[1] = {PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR))};
	bool is_null;

	ks_spi_connect();
	(void) ks_spi_execute(&due_plan, values, NULL, false, 0);
	for (uint64 row = 0; row < SPI_processed; row++)
		clear_wanted(DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &is_null)));
	/* Others are too early yet. */
	if (count > (int) SPI_processed)
		ks_keeper_wake_duty_soon(duty);
	ks_spi_finish();
}

static int
take_wanted(Datum *ids, pg_uuid_t *memory)
{
	int count = 0;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < KS_ISSUERS_MAX; i++)
		if (shared->notes[i].is_wanted)
		{
			memory[count] = shared->notes[i].id;
			ids[count] = UUIDPGetDatum(&memory[count]);
			count++;
		}
	LWLockRelease(&shared->lock);
	return count;
}

static void
clear_wanted(const pg_uuid_t *id)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < KS_ISSUERS_MAX; i++)
		if (memcmp(&shared->notes[i].id, id, UUID_LEN) == 0)
			shared->notes[i].is_wanted = false;
	LWLockRelease(&shared->lock);
}

static void
build(KsDelivery **deliveries, int count)
{
	for (int i = 0; i < count; i++)
	{
		KsDelivery *delivery = deliveries[i];
		KsRequest *request = &delivery->request;
		Datum values[1] = {UUIDPGetDatum(&delivery->ref)};
		MemoryContext save;

		(void) ks_spi_execute(&url_plan, values, NULL, true, 1);
		if (SPI_processed == 0)
		{
			request->refusal = "the issuer is gone, disabled, or publishes no keys any more";
			delivery->verdict = KS_CANCELLED;
			continue;
		}
		save = MemoryContextSwitchTo(delivery->cxt);
		request->url = MemoryContextStrdup(delivery->cxt, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
		request->timeout_ms = FETCH_TIMEOUT_MS;
		request->response_kept = KS_RESPONSE_READ;
		request->wants_cache_control = true;
		ks_request_header(request, "Accept", "application/jwk-set+json, application/json");
		MemoryContextSwitchTo(save);
		SPI_freetuptable(SPI_tuptable);
	}
}

static void
judge(KsDelivery *delivery)
{
	delivery->verdict = what_is_wrong(delivery) == NULL ? KS_DELIVERED : KS_EXHAUSTED;
}

/* Why the answer is no key set, as far as can be told without reading it; or NULL. */
static const char *
what_is_wrong(const KsDelivery *delivery)
{
	const KsAnswer *answer = &delivery->outcome;

	if (answer->error != NULL)
		return answer->error;
	if (answer->status != 200)
		return "it was not answered with status 200";
	if (answer->response_size > KS_RESPONSE_READ)
		return "the answer has more than 64 KiB";
	return NULL;
}

static void
settled(KsDelivery **deliveries, int count)
{
	for (int i = 0; i < count; i++)
		if (deliveries[i]->verdict == KS_DELIVERED || deliveries[i]->verdict == KS_EXHAUSTED)
			take_over(deliveries[i]);
}

/* Hand the keys over, or why there are none, and count what came of it. */
static void
take_over(const KsDelivery *delivery)
{
	const KsAnswer *answer = &delivery->outcome;
	const char *problem = what_is_wrong(delivery);
	Datum values[5] = {UUIDPGetDatum(&delivery->ref)};
	char nulls[6] = " nnnn";
	char *outcome;

	if (problem == NULL && !pg_verify_mbstr(GetDatabaseEncoding(), answer->response, answer->response_length, true))
		problem = "the answer is no text";
	if (problem == NULL)
		values[2] = PointerGetDatum(cstring_to_text_with_len(answer->response, answer->response_length));
	if (answer->cache_control != NULL)
		values[3] = CStringGetTextDatum(answer->cache_control);
	if (problem != NULL)
		values[4] = CStringGetTextDatum(problem);
	if (delivery->request.url != NULL)
		values[1] = CStringGetTextDatum(delivery->request.url);
	nulls[1] = delivery->request.url != NULL ? ' ' : 'n';
	nulls[2] = problem == NULL ? ' ' : 'n';
	nulls[3] = answer->cache_control != NULL ? ' ' : 'n';
	nulls[4] = problem != NULL ? ' ' : 'n';
	(void) ks_spi_execute(&fetched_plan, values, nulls, false, 1);
	outcome = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (outcome == NULL)
		return;
	if (strcmp(outcome, "failed") == 0)
	{
		(void) pg_atomic_fetch_add_u64(&shared->failed, 1);
		return;
	}
	(void) pg_atomic_fetch_add_u64(strcmp(outcome, "changed") == 0 ? &shared->changed : &shared->unchanged, 1);
	note_fetched(&delivery->ref);
}

static void
note_fetched(const pg_uuid_t *id)
{
	Note *note;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	note = find_note(id);
	if (note != NULL)
		note->fetched_at = GetCurrentTimestamp();
	LWLockRelease(&shared->lock);
}

PG_FUNCTION_INFO_V1(ks__issuer_fetch_counts);

/* keelson._issuer_fetch_counts(out changed, out unchanged, out failed) */
Datum
ks__issuer_fetch_counts(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {false};

	ks_require_shmem();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson._issuer_fetch_counts() returns a record");
	values[0] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->changed));
	values[1] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->unchanged));
	values[2] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->failed));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
