/*
 * keeper.c
 *	  The keeper does the duties that capabilities register, each in its time
 *	  and in a transaction of its own.
 *
 * When a duty is next due is kept in shared memory and moved on before the
 * duty runs: one that fails ends the process, and is not due again when the
 * postmaster has started the next, so it cannot keep the others from theirs.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/keeper.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "core/worker.h"

#define MAX_DUTIES 32
#define LONGEST_WAIT_MS 60000
#define SOON_MS 1000

typedef struct Duty
{
	const char *name;
	int interval_ms;
	bool needs_database;
	void (*run)(void);
} Duty;

/* Filled while the library is preloaded, fixed afterwards. */
static Duty duties[MAX_DUTIES];
static int duty_count;
static void (*reload_functions[MAX_DUTIES])(void);
static int reload_count;

typedef struct KeeperShared
{
	pg_atomic_uint32 wake;          /* a bit for each duty that is due at once, */
	pg_atomic_uint32 soon;          /* and for each that is due within SOON_MS */
	TimestampTz due_at[MAX_DUTIES]; /* the keeper alone reads and writes it, */
	int first;                      /* and the duty that its next turn begins with */
} KeeperShared;

/* Set when shared memory is made. */
static KeeperShared *shared;

static void init_shared(void *area, bool found);
static void run_due_duties(void);
static void leave_note(pg_atomic_uint32 *notes, int duty);
static void run_duty(const Duty *duty);
static long time_until_due(void);

void
ks_keeper_init(void)
{
	ks_worker_init();
	ks_shmem_register("keelson keeper", sizeof(KeeperShared), init_shared, (void **) &shared);
	ks_worker_register("keeper", "ks_keeper_main", KS_KEEPER_SLOT);
}

static void
init_shared(void *area, bool found)
{
	KeeperShared *keeper = area;

	if (found)
		return;
	memset(keeper, 0, sizeof(*keeper));
	pg_atomic_init_u32(&keeper->wake, 0);
	pg_atomic_init_u32(&keeper->soon, 0);
}

int
ks_keeper_register(const char *name, int interval_ms, bool needs_database, void (*run)(void))
{
	if (!process_shared_preload_libraries_in_progress)
		return 0;
	if (duty_count == MAX_DUTIES)
		elog(ERROR, "too many duties of the keeper");
	duties[duty_count] = (Duty){name, interval_ms, needs_database, run};
	return duty_count++;
}

void
ks_keeper_on_reload(void (*run)(void))
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	if (reload_count == MAX_DUTIES)
		elog(ERROR, "too many functions at the keeper's reload");
	reload_functions[reload_count++] = run;
}

void
ks_keeper_wake_duty(int duty)
{
	if (shared != NULL)
		leave_note(&shared->wake, duty);
}

void
ks_keeper_wake_duty_soon(int duty)
{
	if (shared != NULL)
		leave_note(&shared->soon, duty);
}

void
ks_keeper_purge(int duty, KsPlan *plan, int batch)
{
	Datum values[] = {Int32GetDatum(batch)};
	bool is_null;
	int purged;

	ks_spi_connect();
	(void) ks_spi_execute(plan, values, NULL, false, 0);
	purged = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	ks_spi_finish();
	if (purged >= batch)
		ks_keeper_wake_duty(duty);
}

/* Leave the keeper a note, and wake it unless the same is there already. */
static void
leave_note(pg_atomic_uint32 *notes, int duty)
{
	uint32 bit = UINT32_C(1) << duty;

	if ((pg_atomic_fetch_or_u32(notes, bit) & bit) == 0)
		ks_worker_wake(KS_KEEPER_SLOT);
}

void
ks_keeper_main(Datum arg)
{
	MemoryContext turn;

	ks_worker_begin("keeper", DatumGetInt32(arg));
	turn = AllocSetContextCreate(TopMemoryContext, "keelson keeper turn", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		MemoryContextSwitchTo(turn);
		run_due_duties();
		MemoryContextReset(turn);
		if (ks_worker_wait(time_until_due()))
			for (int i = 0; i < reload_count; i++)
				reload_functions[i]();
	}
}

/*
 * Do each duty whose time has come, or that was woken.  What a turn has not come
 * to when one fails is done in the next keeper's, which begins after that one: a
 * duty that fails each time keeps none of the others waiting for good.
 */
static void
run_due_duties(void)
{
	TimestampTz now = GetCurrentTimestamp();
	uint32 woken = pg_atomic_exchange_u32(&shared->wake, 0);
	uint32 soon = pg_atomic_exchange_u32(&shared->soon, 0);
	int first = shared->first;

	for (int i = 0; i < duty_count; i++)
	{
		if ((woken & (UINT32_C(1) << i)) != 0)
			shared->due_at[i] = Min(shared->due_at[i], now);
		else if ((soon & (UINT32_C(1) << i)) != 0)
			shared->due_at[i] = Min(shared->due_at[i], TimestampTzPlusMilliseconds(now, SOON_MS));
	}
	for (int turn = 0; turn < duty_count; turn++)
	{
		int i = (first + turn) % duty_count;
		/* A clock that was set back must not put a duty off for long. */
		bool is_due = shared->due_at[i] <= now ||
					  shared->due_at[i] > TimestampTzPlusMilliseconds(now, duties[i].interval_ms);

		if (!is_due)
			continue;
		shared->due_at[i] = TimestampTzPlusMilliseconds(now, duties[i].interval_ms);
		shared->first = (i + 1) % duty_count;
		run_duty(&duties[i]);
		CHECK_FOR_INTERRUPTS();
	}
	shared->first = 0;
}

static void
run_duty(const Duty *duty)
{
	MemoryContext turn = CurrentMemoryContext;

	if (!duty->needs_database)
		duty->run();
	else if (ks_worker_transaction_begin(duty->name))
	{
		duty->run();
		ks_worker_transaction_end();
	}
	MemoryContextSwitchTo(turn);
}

/* Milliseconds until the next duty is due. */
static long
time_until_due(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long wait_ms = LONGEST_WAIT_MS;

	for (int i = 0; i < duty_count; i++)
		wait_ms = Min(wait_ms, TimestampDifferenceMilliseconds(now, shared->due_at[i]));
	return wait_ms;
}
