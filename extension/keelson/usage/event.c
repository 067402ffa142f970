/*
 * event.c
 *	  Read and check usage events: all faults of all events, before anything
 *	  is written.
 *
 * Whose usage may be recorded: one's own by whoever acts for a user; others'
 * with the permission usage.write; anybody's by database administrators and
 * jobs, who act for no user.
 */
#include "postgres.h"

#include <stdarg.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "core/error.h"
#include "core/identity.h"
#include "core/roles.h"
#include "core/spi.h"
#include "dispatch/permission.h"
#include "identity/user_probe.h"
#include "secrets/crypto.h"
#include "usage/event.h"
#include "usage/features.h"

#define MAX_EVENTS 1000
#define MAX_MINUTES 1000000
#define MAX_SCALE 9
#define MAX_REQUESTS 1000000
#define MAX_KEY_LENGTH 255
#define LATEST_DAYS 35
#define EARLIEST_MINUTES 5

/* The columns of keelson.usage_event, and the arguments of usage_record() but the last. */
enum
{
	EVENT_USER_ID,
	EVENT_FEATURE,
	EVENT_MINUTES,
	EVENT_REQUESTS,
	EVENT_OCCURRED_AT,
	EVENT_KEY,
	EVENT_COLUMNS
};
#define ARGUMENT_EVENTS EVENT_COLUMNS

static const char *const names[EVENT_COLUMNS] = {"userId", "feature", "minutes", "requests", "occurredAt", "key"};

/* Who records, and what is the same for all events of a batch. */
typedef struct Recorder
{
	const KsIdentity *identity;
	bool may_name_others; /* known once asked for */
	bool has_asked;
	TimestampTz now;
	Numeric zero;
	Numeric most;
} Recorder;

static void read_list(Datum list, Recorder *recorder, KsUsageBatch *batch);
static void read_event(const Datum *values, const bool *nulls, Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event);
static void read_user(Datum value, bool is_null, Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event);
static void read_feature(Datum value, bool is_null, KsUsageBatch *batch, KsUsageEvent *event);
static void read_minutes(Datum value, bool is_null, const Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event);
static void read_requests(Datum value, bool is_null, KsUsageBatch *batch, KsUsageEvent *event);
static void read_time(Datum value, bool is_null, const Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event);
static void read_key(Datum value, bool is_null, KsUsageBatch *batch, KsUsageEvent *event);
static void hash_content(KsUsageEvent *event);
static void find_recorder(Recorder *recorder);
static bool may_name_others(Recorder *recorder);
static void check_users(const Recorder *recorder, KsUsageBatch *batch);
static int gather_doubtful(const Recorder *recorder, const KsUsageBatch *batch, Datum *ids);
static int find_users(Datum *ids, int count, pg_uuid_t *found);
static bool is_others(const Recorder *recorder, const KsUsageEvent *event);
static int compare_users(const void *a, const void *b);
static int compare_ids(const void *a, const void *b);
static void fault(KsUsageBatch *batch, int index, const char *name, const char *code, const char *fmt, ...) pg_attribute_printf(5, 6);

void
ks_usage_read(FunctionCallInfo fcinfo, KsUsageBatch *batch)
{
	Recorder recorder;
	Datum values[EVENT_COLUMNS];
	bool nulls[EVENT_COLUMNS];
	bool is_any = false;

	memset(batch, 0, sizeof(*batch));
	ks_faults_begin(&batch->faults);
	batch->faults.listed = MAX_EVENTS * EVENT_COLUMNS;
	initStringInfo(&batch->words);
	find_recorder(&recorder);
	for (int i = 0; i < EVENT_COLUMNS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i);
		is_any |= !nulls[i];
	}
	if (PG_ARGISNULL(ARGUMENT_EVENTS))
	{
		batch->events = palloc(sizeof(KsUsageEvent));
		batch->count = 1;
		read_event(values, nulls, &recorder, batch, &batch->events[0]);
	}
	else if (is_any)
		fault(batch, -1, "events", "CONFLICT", "cannot be given together with an event's own fields");
	else
		read_list(PG_GETARG_DATUM(ARGUMENT_EVENTS), &recorder, batch);
	check_users(&recorder, batch);
}

static void
read_list(Datum list, Recorder *recorder, KsUsageBatch *batch)
{
	ArrayType *array = DatumGetArrayTypeP(list);
	TupleDesc desc = lookup_rowtype_tupdesc(ARR_ELEMTYPE(array), -1);
	Datum values[EVENT_COLUMNS];
	bool nulls[EVENT_COLUMNS];
	Datum *elements;
	bool *are_null;
	int count;

	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_DOUBLE, &elements, &are_null, &count);
	batch->is_list = true;
	if (count < 1 || count > MAX_EVENTS)
		fault(batch, -1, "events", "OUT_OF_RANGE", "must have 1 to 1,000 events, not %d", count);
	else
	{
		batch->events = palloc(count * sizeof(KsUsageEvent));
		batch->count = count;
	}
	for (int i = 0; i < batch->count; i++)
	{
		HeapTupleHeader header;
		HeapTupleData row;

		batch->events[i].index = i;
		memset(nulls, true, sizeof(nulls));
		if (!are_null[i])
		{
			header = DatumGetHeapTupleHeader(elements[i]);
			row = (HeapTupleData){.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};
			heap_deform_tuple(&row, desc, values, nulls);
		}
		read_event(values, nulls, recorder, batch, &batch->events[i]);
	}
	ReleaseTupleDesc(desc);
}

static void
read_event(const Datum *values, const bool *nulls, Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event)
{
	int before = batch->faults.count;
	int index = batch->is_list ? event->index : 0;

	memset(event, 0, sizeof(*event));
	event->index = index;
	read_user(values[EVENT_USER_ID], nulls[EVENT_USER_ID], recorder, batch, event);
	read_feature(values[EVENT_FEATURE], nulls[EVENT_FEATURE], batch, event);
	read_minutes(values[EVENT_MINUTES], nulls[EVENT_MINUTES], recorder, batch, event);
	read_requests(values[EVENT_REQUESTS], nulls[EVENT_REQUESTS], batch, event);
	read_time(values[EVENT_OCCURRED_AT], nulls[EVENT_OCCURRED_AT], recorder, batch, event);
	read_key(values[EVENT_KEY], nulls[EVENT_KEY], batch, event);
	if (event->is_keyed && batch->faults.count == before)
		hash_content(event);
}

static void
read_user(Datum value, bool is_null, Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event)
{
	event->has_user = !is_null || recorder->identity->has_user;
	if (!is_null)
		event->user_id = *DatumGetUUIDP(value);
	else if (event->has_user)
		event->user_id = recorder->identity->user_id;
	else
		fault(batch, event->index, names[EVENT_USER_ID], "REQUIRED", "is needed");
	if (is_others(recorder, event) && !may_name_others(recorder))
		ks_raise_field(403, "FORBIDDEN", "user_id", NULL, "you may record no usage but your own");
}

static void
read_feature(Datum value, bool is_null, KsUsageBatch *batch, KsUsageEvent *event)
{
	text *name;
	const char *field = names[EVENT_FEATURE];

	if (is_null)
	{
		fault(batch, event->index, field, "REQUIRED", "is needed");
		return;
	}
	name = DatumGetTextPP(value);
	event->feature = PointerGetDatum(name);
	if (!ks_feature_name_is_good(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)))
	{
		fault(batch, event->index, field, "INVALID_VALUE",
			  "must be a name such as speech or voice.clone: at most 63 lower-case letters, digits, \".\", \"_\" and \"-\", a letter first");
		return;
	}
	switch (ks_feature_state(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)))
	{
		case KS_FEATURE_OPEN:
			break;
		case KS_FEATURE_CLOSED:
			fault(batch, event->index, field, "FEATURE_CLOSED", "is closed");
			break;
		case KS_FEATURE_UNDECLARED:
			fault(batch, event->index, field, "UNKNOWN_FEATURE", "is not a declared feature");
			break;
	}
}

static void
read_minutes(Datum value, bool is_null, const Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event)
{
	const char *field = names[EVENT_MINUTES];
	Numeric minutes;

	if (is_null)
	{
		fault(batch, event->index, field, "REQUIRED", "is needed");
		return;
	}
	minutes = DatumGetNumeric(value);
	event->minutes = NumericGetDatum(minutes);
	if (numeric_is_nan(minutes) || numeric_is_inf(minutes) ||
		!DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(minutes), NumericGetDatum(recorder->zero))) ||
		DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(minutes), NumericGetDatum(recorder->most))))
		fault(batch, event->index, field, "OUT_OF_RANGE", "must be more than 0 and at most 1,000,000");
	else if (DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(minutes))) > MAX_SCALE)
	{
		/* Zeros at the end say nothing, and every sum would have as many. */
		event->minutes = DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(minutes));
		if (DatumGetInt32(DirectFunctionCall1(numeric_scale, event->minutes)) > MAX_SCALE)
			fault(batch, event->index, field, "OUT_OF_RANGE", "must have at most %d decimal places", MAX_SCALE);
	}
}

static void
read_requests(Datum value, bool is_null, KsUsageBatch *batch, KsUsageEvent *event)
{
	event->requests = is_null ? 1 : DatumGetInt32(value);
	if (event->requests < 1 || event->requests > MAX_REQUESTS)
		fault(batch, event->index, names[EVENT_REQUESTS], "OUT_OF_RANGE", "must be 1 to 1,000,000");
}

static void
read_time(Datum value, bool is_null, const Recorder *recorder, KsUsageBatch *batch, KsUsageEvent *event)
{
	const char *field = names[EVENT_OCCURRED_AT];

	event->occurred_at = is_null ? recorder->now : DatumGetTimestampTz(value);
	event->is_dated = !is_null;
	if (event->occurred_at < recorder->now - LATEST_DAYS * USECS_PER_DAY)
		fault(batch, event->index, field, "TOO_LATE", "must not be more than %d days ago", LATEST_DAYS);
	else if (event->occurred_at > recorder->now + EARLIEST_MINUTES * USECS_PER_MINUTE)
		fault(batch, event->index, field, "TOO_EARLY", "must not be more than %d minutes ahead", EARLIEST_MINUTES);
}

static void
read_key(Datum value, bool is_null, KsUsageBatch *batch, KsUsageEvent *event)
{
	uint8 hash[KS_SHA256_LENGTH];
	text *key;

	if (is_null)
		return;
	key = DatumGetTextPP(value);
	if (VARSIZE_ANY_EXHDR(key) < 1 || VARSIZE_ANY_EXHDR(key) > MAX_KEY_LENGTH)
	{
		fault(batch, event->index, names[EVENT_KEY], "OUT_OF_RANGE", "must have 1 to %d bytes", MAX_KEY_LENGTH);
		return;
	}
	ks_sha256(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), hash);
	memcpy(&event->key_hash, hash, UUID_LEN);
	event->is_keyed = true;
}

/* Hash what was given. How minutes were written does not matter, 1.50 is 1.5; an event without a time has none. */
static void
hash_content(KsUsageEvent *event)
{
	uint8 hash[KS_SHA256_LENGTH];
	char content[256];
	text *feature = DatumGetTextPP(event->feature);
	int len = snprintf(content, sizeof(content), "%.*s|%s|%d|", (int) VARSIZE_ANY_EXHDR(feature), VARDATA_ANY(feature),
					   numeric_normalize(DatumGetNumeric(event->minutes)), event->requests);

	if (event->is_dated)
		len += snprintf(content + len, sizeof(content) - len, INT64_FORMAT, event->occurred_at);
	Assert(len < sizeof(content));
	ks_sha256(content, len, hash);
	memcpy(&event->content_hash, hash, UUID_LEN);
}

/* Find out for whom the caller acts, and whose usage they may record. */
static void
find_recorder(Recorder *recorder)
{
	recorder->identity = ks_identity();
	recorder->now = GetCurrentTimestamp();
	recorder->zero = int64_to_numeric(0);
	recorder->most = int64_to_numeric(MAX_MINUTES);
	recorder->has_asked = recorder->may_name_others = false;
	if (!recorder->identity->has_user && !may_name_others(recorder))
		(void) ks_acting_user();
}

/* May the caller record usage of users other than the acting one? */
static bool
may_name_others(Recorder *recorder)
{
	static const KsRole operators[] = {KS_ROLE_ADMIN, KS_ROLE_SYSTEM, KS_ROLE_OWNER, KS_ROLE_JOBS};

	if (recorder->has_asked)
		return recorder->may_name_others;
	recorder->has_asked = true;
	if (recorder->identity->has_user)
		recorder->may_name_others = ks_permission_now("usage.write");
	else
		for (int i = 0; i < lengthof(operators); i++)
			recorder->may_name_others |= has_privs_of_role(GetUserId(), ks_role_oid(operators[i]));
	return recorder->may_name_others;
}

/* Users other than the acting one must be there. */
static void
check_users(const Recorder *recorder, KsUsageBatch *batch)
{
	Datum *ids;
	pg_uuid_t *found;
	int count;
	int found_count;

	if (batch->count == 0 || !recorder->may_name_others)
		return;
	ids = palloc(batch->count * sizeof(Datum));
	count = gather_doubtful(recorder, batch, ids);
	if (count == 0)
		return;
	found = palloc(count * sizeof(pg_uuid_t));
	found_count = find_users(ids, count, found);
	if (found_count == count)
		return;
	for (int i = 0; i < batch->count; i++)
	{
		KsUsageEvent *event = &batch->events[i];
		Datum id = UUIDPGetDatum(&event->user_id);

		if (is_others(recorder, event) && bsearch(&id, ids, count, sizeof(Datum), compare_users) != NULL &&
			bsearch(&event->user_id, found, found_count, sizeof(pg_uuid_t), compare_ids) == NULL)
			fault(batch, event->index, names[EVENT_USER_ID], "UNKNOWN_USER", "is not a user");
	}
}

/* The ids, in order and each once, of the others who are not active users; returns how many. */
static int
gather_doubtful(const Recorder *recorder, const KsUsageBatch *batch, Datum *ids)
{
	int count = 0;
	int doubtful = 0;

	for (int i = 0; i < batch->count; i++)
		if (is_others(recorder, &batch->events[i]))
			ids[count++] = UUIDPGetDatum(&batch->events[i].user_id);
	qsort(ids, count, sizeof(Datum), compare_users);
	count = qunique(ids, count, sizeof(Datum), compare_users);
	for (int i = 0; i < count; i++)
		if (ks_user_probe(DatumGetUUIDP(ids[i])) != KS_USER_ACTIVE)
			ids[doubtful++] = ids[i];
	return doubtful;
}

/* Those of the ids, in order, whose users are there: what blocked ones have used counts too. Returns how many. */
static int
find_users(Datum *ids, int count, pg_uuid_t *found)
{
	static KsPlan plan = {
		"select u.id from keelson.users as u where u.id = any ($1) and u.status <> 'deleted'", 1, {UUIDARRAYOID}};
	Datum values[1] = {PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR))};
	KsRoleSwitch save;
	uint64 found_count;
	bool is_null;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&plan, values, NULL, false, 0);
	ks_role_leave(&save);
	found_count = SPI_processed;
	for (uint64 i = 0; i < found_count; i++)
		found[i] = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
	ks_spi_finish();
	qsort(found, found_count, sizeof(pg_uuid_t), compare_ids);
	return found_count;
}

/* Is it an event of a user who is named, and not the acting one? */
static bool
is_others(const Recorder *recorder, const KsUsageEvent *event)
{
	return event->has_user &&
		   !(recorder->identity->has_user && compare_ids(&event->user_id, &recorder->identity->user_id) == 0);
}

static int
compare_users(const void *a, const void *b)
{
	return compare_ids(DatumGetUUIDP(*(const Datum *) a), DatumGetUUIDP(*(const Datum *) b));
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, UUID_LEN);
}

/* Note a fault of an event's field; an index below 0 stands for the batch itself. */
static void
fault(KsUsageBatch *batch, int index, const char *name, const char *code, const char *fmt, ...)
{
	char message[256];
	int start = batch->faults.path.len;
	va_list args;

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	if (batch->is_list && index >= 0)
	{
		(void) ks_faults_enter_member(&batch->faults, "events");
		(void) ks_faults_enter_element(&batch->faults, index);
	}
	(void) ks_faults_enter_member(&batch->faults, name);
	if (batch->first_field == NULL)
		batch->first_field = pstrdup(batch->faults.path.data);
	appendStringInfo(&batch->words, "%s%s %s.", batch->words.len > 0 ? "\n" : "", batch->faults.path.data, message);
	ks_fault(&batch->faults, code, "%s", message);
	ks_faults_leave(&batch->faults, start);
}
