/*
 * upstream.c
 *	  Requests to the outside that a session waits for.
 *
 * Each goes through a gate, by the name of whom it goes to: a circuit breaker
 * in shared memory, so that what one session has learned spares all others the
 * wait. A gate is found by its name, and given to another when there are more
 * names than places: the one that was used longest ago and lets nobody through
 * just now. A restart of the server closes all breakers. Of one user only a few
 * calls are under way at once, so that nobody takes all places of the pool.
 *
 * Nothing may have been written before: while it waits the session would keep
 * others from rows, and what is sent cannot be rolled back. An administrator
 * who acts as somebody in psql has written that, and decides what else. An
 * endpoint that waits stands on a pool of its own, not on everybody's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/identity.h"
#include "core/shmem.h"
#include "core/uuid.h"
#include "courier/breaker.h"
#include "courier/guard.h"
#include "courier/transfer.h"
#include "courier/upstream.h"
#include "dispatch/call.h"

#define NAME_LENGTH 64
#define TIMEOUT_MS 10000
#define GATES 64
#define CALLS 256
#define LARGEST_ANSWER (1024 * 1024)
#define MAX_HEADERS 32

typedef struct Gate
{
	char name[NAME_LENGTH]; /* empty: free */
	KsBreaker breaker;
	int waiting; /* calls under way */
	TimestampTz used_at;
	uint64 answered;
	uint64 failed;  /* no answer, or 5xx */
	uint64 refused; /* since the breaker was open */
} Gate;

typedef struct Shared
{
	LWLock lock;
	Gate gates[GATES];
	pg_uuid_t callers[CALLS]; /* who waits, a place for each call under way; nil: free, or nobody's call */
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

/* The caller's place of this session's call, or NULL. */
static pg_uuid_t *my_place;

static void init_shared(void *area, bool found);
static void call_upstream(const char *name, KsRequest *request, KsAnswer *answer);
static void require_occasion(bool is_trusted);
static void perform_through(Gate *gate, const KsRequest *request, KsAnswer *answer);
static Gate *enter(const char *name);
static bool take_place(void);
static void give_back_place(void);
static Gate *find_gate(const char *name);
static void leave(Gate *gate, const KsAnswer *answer);
static void leave_unjudged(int code, Datum gate);
static void raise_unanswered(const KsAnswer *answer);
static void read_request(FunctionCallInfo fcinfo, KsRequest *request);
static void add_headers(KsRequest *request, Jsonb *headers);

void
ks_upstream_init(void)
{
	ks_shmem_register("keelson upstream", sizeof(Shared), init_shared, (void **) &shared);
}

static void
init_shared(void *area, bool found)
{
	Shared *fresh = area;
	int tranche = LWLockNewTrancheId();

	LWLockRegisterTranche(tranche, "KeelsonUpstream");
	memset(fresh, 0, sizeof(*fresh));
	LWLockInitialize(&fresh->lock, tranche);
}

/*
 * Send the request and wait for the answer, 10 seconds at most; whoever calls
 * has written nothing yet. Calls of one name share a circuit breaker: an answer
 * of 5xx, or none, counts as a failure. Returns with whatever status came;
 * raises 502 UPSTREAM_FAILED where none did or where the answer was larger than
 * the request allows, 503 UNAVAILABLE while the breaker is open, and an error
 * of the program's where the transaction has written, or on the pool "fast".
 */
static void
call_upstream(const char *name, KsRequest *request, KsAnswer *answer)
{
	ks_require_shmem();
	require_occasion(request->is_trusted);
	request->timeout_ms = request->timeout_ms > 0 ? Min(request->timeout_ms, TIMEOUT_MS) : TIMEOUT_MS;
	perform_through(enter(name), request, answer);
	raise_unanswered(answer);
}

/* Send it, and tell the gate what came of it. */
static void
perform_through(Gate *gate, const KsRequest *request, KsAnswer *answer)
{
	/* Also when the session is ended while it waits, which unwinds nothing. */
	PG_ENSURE_ERROR_CLEANUP(leave_unjudged, PointerGetDatum(gate));
	{
		ks_transfer_perform(request, answer);
	}
	PG_END_ENSURE_ERROR_CLEANUP(leave_unjudged, PointerGetDatum(gate));
	leave(gate, answer);
}

/*
 * Refuse where others would wait with us: a program's fault, not the client's.
 * A call of the operator's own, such as a CAPTCHA's, may be made where passwords
 * are hashed, too.
 */
static void
require_occasion(bool is_trusted)
{
	const KsCall *call = ks_call();

	if (call != NULL && (is_trusted ? call->route->is_fast : !call->route->is_upstream))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("an endpoint that calls another service is of the pool \"upstream\""),
				 errhint("Register it with pool => 'upstream'.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) && ks_identity()->actor != KS_ACTOR_ADMIN)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a call to another service comes before whatever the transaction writes"),
				 errhint("Make the call first, then write what it has brought.")));
}

/* Through the name's gate, if its breaker lets us. */
static Gate *
enter(const char *name)
{
	TimestampTz now = GetCurrentTimestamp();
	bool is_open = false;
	bool has_place;
	Gate *gate;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	has_place = take_place();
	gate = has_place ? find_gate(name) : NULL;
	if (gate != NULL)
	{
		gate->used_at = now;
		is_open = ks_breaker_room(&gate->breaker, now) <= gate->waiting;
		if (is_open)
			gate->refused++;
		else
			gate->waiting++;
	}
	if (gate == NULL || is_open)
		give_back_place();
	LWLockRelease(&shared->lock);
	if (!has_place)
		ks_raise(429, "RATE_LIMITED", "Wait until one of them is answered.", "you have as many calls of other services under way as a user may have at once");
	if (gate == NULL || is_open)
		ks_raise(503, "UNAVAILABLE", "Try again in a minute.", "the service that this needs does not answer at present");
	return gate;
}

/* Note whose call this is; false when the user has as many under way as they may. Under the lock. */
static bool
take_place(void)
{
	const KsIdentity *identity = ks_identity();
	int under_way = 0;

	my_place = NULL;
	if (!identity->has_user)
		return true;
	for (int i = 0; i < CALLS; i++)
	{
		if (memcmp(&shared->callers[i], &identity->user_id, UUID_LEN) == 0)
			under_way++;
		else if (my_place == NULL && ks_uuid_is_nil(&shared->callers[i]))
			my_place = &shared->callers[i];
	}
	if (under_way >= ks_guc_upstream_calls_per_user || my_place == NULL)
	{
		my_place = NULL;
		return false;
	}
	*my_place = identity->user_id;
	return true;
}

/* Under the lock. */
static void
give_back_place(void)
{
	if (my_place != NULL)
		memset(my_place, 0, sizeof(*my_place));
	my_place = NULL;
}

/* The name's gate, made if need be; NULL when all are others' and in use. Under the lock. */
static Gate *
find_gate(const char *name)
{
	Gate *place = NULL;

	for (int i = 0; i < GATES; i++)
	{
		Gate *gate = &shared->gates[i];

		if (strcmp(gate->name, name) == 0)
			return gate;
		if (gate->waiting == 0 && (place == NULL || gate->used_at < place->used_at))
			place = gate;
	}
	if (place != NULL)
	{
		memset(place, 0, sizeof(*place));
		strlcpy(place->name, name, sizeof(place->name));
	}
	return place;
}

static void
leave(Gate *gate, const KsAnswer *answer)
{
	bool is_success = answer->status > 0 && answer->status < 500;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	gate->waiting--;
	give_back_place();
	/* Nobody answers: five in a row are enough, wherever it stuck. */
	ks_breaker_judge(&gate->breaker, is_success, answer->status == 0, GetCurrentTimestamp());
	if (is_success)
		gate->answered++;
	else
		gate->failed++;
	LWLockRelease(&shared->lock);
}

/* The call was cancelled: nothing is known of whom it went to. */
static void
leave_unjudged(int code, Datum gate)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	((Gate *) DatumGetPointer(gate))->waiting--;
	give_back_place();
	LWLockRelease(&shared->lock);
}

static void
raise_unanswered(const KsAnswer *answer)
{
	if (answer->status == 0)
		ks_raise(502, "UPSTREAM_FAILED", NULL, "the service that this needs has not answered: %s", answer->error);
	if (answer->response_size > answer->response_length)
		ks_raise(502, "UPSTREAM_FAILED", NULL, "the service that this needs has answered more than is taken");
}

PG_FUNCTION_INFO_V1(ks_upstream_call_sql);

/* keelson._upstream_call(upstream, url, method, headers, body, timeout_ms, is_trusted, out status, out content_type, out body) */
Datum
ks_upstream_call_sql(PG_FUNCTION_ARGS)
{
	char name[NAME_LENGTH];
	KsRequest request = {.response_read = LARGEST_ANSWER, .response_kept = LARGEST_ANSWER};
	KsAnswer answer;
	TupleDesc desc;
	Datum values[3] = {0};
	bool nulls[3] = {false};

	for (int i = 0; i < 7; i++)
		if (PG_ARGISNULL(i) && i != 4)
			elog(ERROR, "argument %d of a call to another service is null", i + 1);
	text_to_cstring_buffer(PG_GETARG_TEXT_PP(0), name, sizeof(name));
	read_request(fcinfo, &request);
	call_upstream(name, &request, &answer);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson._upstream_call() returns a record");
	values[0] = Int32GetDatum(answer.status);
	nulls[1] = answer.content_type == NULL;
	if (!nulls[1])
		values[1] = CStringGetTextDatum(answer.content_type);
	values[2] = PointerGetDatum(cstring_to_text_with_len(answer.response, answer.response_length));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static void
read_request(FunctionCallInfo fcinfo, KsRequest *request)
{
	char *url = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char *normal = url;
	const char *fault;

	request->method = text_to_cstring(PG_GETARG_TEXT_PP(2));
	add_headers(request, PG_GETARG_JSONB_P(3));
	if (!PG_ARGISNULL(4))
	{
		bytea *body = PG_GETARG_BYTEA_PP(4);

		request->body = VARDATA_ANY(body);
		request->body_length = VARSIZE_ANY_EXHDR(body);
	}
	request->timeout_ms = PG_GETARG_INT32(5);
	request->is_trusted = PG_GETARG_BOOL(6);
	fault = request->is_trusted ? NULL : ks_url_check(url, &normal);
	if (fault != NULL)
		ks_raise_field(400, "VALIDATION_FAILED", "url", NULL, "the URL %s", fault);
	request->url = normal;
}

static void
add_headers(KsRequest *request, Jsonb *headers)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue value;
	char *name = NULL;
	int count = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvString || ++count > MAX_HEADERS)
				ks_raise_field(400, "VALIDATION_FAILED", "headers", NULL, "header fields are an object of up to %d texts", MAX_HEADERS);
			ks_request_header(request, name, pnstrdup(value.val.string.val, value.val.string.len));
		}
		else if (token == WJB_ELEM || token == WJB_BEGIN_ARRAY)
			ks_raise_field(400, "VALIDATION_FAILED", "headers", NULL, "header fields are an object of up to %d texts", MAX_HEADERS);
	}
}

PG_FUNCTION_INFO_V1(ks_upstream_status);

/* keelson.upstream_status() */
Datum
ks_upstream_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Gate *gates = palloc(sizeof(shared->gates));

	ks_require_shmem();
	LWLockAcquire(&shared->lock, LW_SHARED);
	memcpy(gates, shared->gates, sizeof(shared->gates));
	LWLockRelease(&shared->lock);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < GATES; i++)
	{
		const KsBreaker *breaker = &gates[i].breaker;
		Datum values[] = {
			CStringGetTextDatum(gates[i].name),
			CStringGetTextDatum(ks_breaker_name(breaker->state)),
			TimestampTzGetDatum(breaker->open_until),
			Int32GetDatum(gates[i].waiting),
			Int64GetDatum(gates[i].answered),
			Int64GetDatum(gates[i].failed),
			Int64GetDatum(gates[i].refused)};
		bool nulls[lengthof(values)] = {false, false, breaker->state != KS_BREAKER_OPEN};

		if (gates[i].name[0] != '\0')
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ks_upstream_reset);

/* keelson.upstream_reset(upstream text) */
Datum
ks_upstream_reset(PG_FUNCTION_ARGS)
{
	char name[NAME_LENGTH];
	bool found = false;

	ks_require_shmem();
	text_to_cstring_buffer(PG_GETARG_TEXT_PP(0), name, sizeof(name));
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < GATES && !found; i++)
		if (name[0] != '\0' && strcmp(shared->gates[i].name, name) == 0)
		{
			memset(&shared->gates[i].breaker, 0, sizeof(KsBreaker));
			found = true;
		}
	LWLockRelease(&shared->lock);
	PG_RETURN_BOOL(found);
}
