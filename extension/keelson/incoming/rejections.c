/*
 * rejections.c
 *	  Refused signatures: counted in shared memory, with a sample of the latest.
 *
 * Whoever sends without a secret must not be able to fill a table. So a
 * refusal is an addition in shared memory, under the source and the kind of
 * fault, and the worker carries sums and samples into
 * keelson.webhook_rejections now and then: a row for each source and kind.
 *
 * The spinlock guards all of Shared and is held for copying an entry at most.
 * What was counted and not yet carried over is lost when the server stops
 * hard, as counts may be.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/identity.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "incoming/rejections.h"

#define ENTRIES 256
#define SOURCE_LENGTH 64
#define FAULT_LENGTH 24
#define ADDRESS_LENGTH 64
#define AGENT_LENGTH 128

typedef struct Entry
{
	char source[SOURCE_LENGTH]; /* empty: none that is known */
	char fault[FAULT_LENGTH];   /* empty: the entry is free */
	int64 count;                /* since it was carried over */
	TimestampTz last_at;
	char address[ADDRESS_LENGTH];
	char agent[AGENT_LENGTH];
} Entry;

typedef struct Shared
{
	slock_t lock;
	Entry entries[ENTRIES];
} Shared;

/* Set when shared memory is made. */
static Shared *shared;

static KsPlan flush_plan = {
	.sql = "select keelson._webhook_rejections_add($1, $2, $3, $4, $5, $6)",
	.nargs = 6,
	.argtypes = {TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID}};

static void init_shared(void *area, bool found);
static Entry *find_entry(const char *source, const char *fault);
static bool take_entry(int *place, Entry *out);
static void write_entry(const Entry *entry);

void
ks_rejections_init(void)
{
	ks_shmem_register("keelson webhook rejections", sizeof(Shared), init_shared, (void **) &shared);
}

static void
init_shared(void *area, bool found)
{
	Shared *rejections = area;

	if (found)
		return;
	memset(rejections, 0, sizeof(*rejections));
	SpinLockInit(&rejections->lock);
}

PG_FUNCTION_INFO_V1(ks__webhook_rejected);

/* keelson._webhook_rejected(source text, fault text) */
Datum
ks__webhook_rejected(PG_FUNCTION_ARGS)
{
	char *source = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *fault = text_to_cstring(PG_GETARG_TEXT_PP(1));
	const KsCaller *caller = ks_caller();
	const char *agent = caller->user_agent != NULL ? caller->user_agent : "";
	/* What is cut off is whole characters: it becomes text. */
	size_t agent_length = pg_mbcliplen(agent, strlen(agent), AGENT_LENGTH - 1);
	TimestampTz now = GetCurrentTimestamp();
	Entry *entry;

	ks_require_shmem();
	SpinLockAcquire(&shared->lock);
	entry = find_entry(source, fault);
	if (entry != NULL)
	{
		entry->count++;
		entry->last_at = now;
		strlcpy(entry->address, caller->ip != NULL ? caller->ip : "", ADDRESS_LENGTH);
		strlcpy(entry->agent, agent, agent_length + 1);
	}
	SpinLockRelease(&shared->lock);
	PG_RETURN_VOID();
}

/* The entry, a new one if there is room; NULL when there is none, and it goes uncounted. */
static Entry *
find_entry(const char *source, const char *fault)
{
	for (int i = 0; i < ENTRIES; i++)
	{
		Entry *entry = &shared->entries[i];

		if (entry->fault[0] == '\0')
		{
			strlcpy(entry->source, source, SOURCE_LENGTH);
			strlcpy(entry->fault, fault, FAULT_LENGTH);
			return entry;
		}
		if (strcmp(entry->source, source) == 0 && strcmp(entry->fault, fault) == 0)
			return entry;
	}
	return NULL;
}

void
ks_rejections_flush(void)
{
	int place = 0;
	Entry entry;

	while (take_entry(&place, &entry))
		if (ks_worker_transaction_begin("incoming: refused signatures"))
		{
			write_entry(&entry);
			ks_worker_transaction_end();
		}
}

/* The next entry that has counted something; its count begins anew. */
static bool
take_entry(int *place, Entry *out)
{
	bool found = false;

	SpinLockAcquire(&shared->lock);
	while (!found && *place < ENTRIES && shared->entries[*place].fault[0] != '\0')
	{
		Entry *entry = &shared->entries[(*place)++];

		found = entry->count > 0;
		if (found)
			*out = *entry;
		entry->count = 0;
	}
	SpinLockRelease(&shared->lock);
	return found;
}

static void
write_entry(const Entry *entry)
{
	char nulls[7] = "      ";
	Datum values[6];

	values[0] = CStringGetTextDatum(entry->source);
	values[1] = CStringGetTextDatum(entry->fault);
	values[2] = Int64GetDatum(entry->count);
	values[3] = TimestampTzGetDatum(entry->last_at);
	values[4] = CStringGetTextDatum(entry->address);
	values[5] = CStringGetTextDatum(entry->agent);
	nulls[4] = entry->address[0] == '\0' ? 'n' : ' ';
	nulls[5] = entry->agent[0] == '\0' ? 'n' : ' ';
	ks_spi_connect();
	(void) ks_spi_execute(&flush_plan, values, nulls, false, 0);
	ks_spi_finish();
}
