/*
 * refusals.c
 *	  What hard quotas have refused: counted, and told to the user.
 *
 * A refusal rolls back whatever its transaction wrote. So it is noted in shared
 * memory, under a spinlock, and the keeper tells the user in a transaction of
 * its own. Notes are few, one for each quota; what finds no room, or is lost
 * with the server, is noted again by the next refusal.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "core/keeper.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"
#include "tiers/refusals.h"

#define NOTES 64
#define NAME_LENGTH 64
#define KIND_LENGTH 7
#define TELL_INTERVAL_MS 2000

/* The quota that refused. */
typedef struct Note
{
	pg_uuid_t user_id;
	char kind[KIND_LENGTH + 1];
	char name[NAME_LENGTH + 1];
} Note;

typedef struct RefusalsShared
{
	pg_atomic_uint64 refused;
	slock_t lock; /* guards what follows */
	int count;
	Note notes[NOTES];
} RefusalsShared;

/* Set when shared memory is made. */
static RefusalsShared *shared;

static KsPlan tell_plan = {"select keelson._quota_refused_tell($1, $2, $3)", 3, {UUIDOID, TEXTOID, TEXTOID}};

static void init_shared(void *area, bool found);
static void leave_note(const Note *note);
static void tell(void);
static int take_notes(Note *notes);

void
ks_refusals_init(void)
{
	ks_shmem_register("keelson refusals", sizeof(RefusalsShared), init_shared, (void **) &shared);
	(void) ks_keeper_register("quota refusals", TELL_INTERVAL_MS, false, tell);
}

static void
init_shared(void *area, bool found)
{
	RefusalsShared *refusals = area;

	if (found)
		return;
	memset(refusals, 0, sizeof(*refusals));
	pg_atomic_init_u64(&refusals->refused, 0);
	SpinLockInit(&refusals->lock);
}

PG_FUNCTION_INFO_V1(ks_quota_refused);

/* keelson._quota_refused(user_id uuid, kind text, name text) */
Datum
ks_quota_refused(PG_FUNCTION_ARGS)
{
	Note note;

	ks_require_shmem();
	memset(&note, 0, sizeof(note));
	note.user_id = *PG_GETARG_UUID_P(0);
	text_to_cstring_buffer(PG_GETARG_TEXT_PP(1), note.kind, sizeof(note.kind));
	text_to_cstring_buffer(PG_GETARG_TEXT_PP(2), note.name, sizeof(note.name));
	pg_atomic_fetch_add_u64(&shared->refused, 1);
	leave_note(&note);
	PG_RETURN_VOID();
}

static void
leave_note(const Note *note)
{
	int i;

	SpinLockAcquire(&shared->lock);
	for (i = 0; i < shared->count; i++)
		if (memcmp(&shared->notes[i], note, sizeof(Note)) == 0)
			break;
	if (i == shared->count && shared->count < NOTES)
		shared->notes[shared->count++] = *note;
	SpinLockRelease(&shared->lock);
}

PG_FUNCTION_INFO_V1(ks_quota_refusals);

/* keelson._quota_refusals() */
Datum
ks_quota_refusals(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	PG_RETURN_INT64(pg_atomic_read_u64(&shared->refused));
}

/* The keeper's duty: tell the users whose quotas have refused something. */
static void
tell(void)
{
	Note notes[NOTES];
	int count = take_notes(notes);

	if (count == 0 || !ks_worker_transaction_begin("quota refusals"))
		return;
	ks_spi_connect();
	for (int i = 0; i < count; i++)
	{
		Datum values[3];

		values[0] = UUIDPGetDatum(&notes[i].user_id);
		values[1] = CStringGetTextDatum(notes[i].kind);
		values[2] = CStringGetTextDatum(notes[i].name);
		(void) ks_spi_execute(&tell_plan, values, NULL, false, 1);
	}
	ks_spi_finish();
	ks_worker_transaction_end();
}

static int
take_notes(Note *notes)
{
	int count;

	SpinLockAcquire(&shared->lock);
	count = shared->count;
	memcpy(notes, shared->notes, count * sizeof(Note));
	shared->count = 0;
	SpinLockRelease(&shared->lock);
	return count;
}
