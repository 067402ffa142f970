/*
 * budget.c
 *	  A bound on the time that what users have written may take.
 *
 * A jsonpath of a few hundred characters can take longer than the world will
 * last, and only for what its author chooses. Filters are evaluated in
 * whatever transaction emits an event, templates in the courier: neither may
 * be held up. What counts is processor time, so that a machine that is busy
 * with something else changes nothing.
 */
#include "postgres.h"

#include <time.h>

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "core/cancel.h"
#include "core/error.h"
#include "core/spi.h"
#include "webhooks/budget.h"

#define LOOK_EVERY_MS 20

/* A filter or a template, what it is applied to, and what has come of it, in the memory of who asked. */
typedef struct Evaluation
{
	Datum expression;
	Datum input;
	MemoryContext cxt;
	Datum result;
} Evaluation;

static KsPlan query_plan = {
	"select pg_catalog.jsonb_path_query_array_tz($2, $1::jsonpath, '{}', true)::text", 2, {TEXTOID, JSONBOID}};
static KsPlan render_plan = {"select keelson._webhook_render($1, $2)::text", 2, {JSONBOID, JSONBOID}};

/* Registered once per process, by the first use. */
static TimeoutId budget_timeout = MAX_TIMEOUTS;
static int64 ends_at_us;
static volatile sig_atomic_t is_over;

static void begin(int64 end_us);
static bool end(void);
static void look(void);
static bool is_of_work(const ErrorData *error);
static int64 processor_us(void);
static void query(void *arg);
static void render(void *arg);
static void execute(KsPlan *plan, Evaluation *evaluation);
static Datum evaluate(PG_FUNCTION_ARGS, void (*work)(void *arg), int64 budget_us, const char *field);

bool
ks_budget_run(int64 *left_us, void (*work)(void *arg), void *arg, ErrorData **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int64 began_us = processor_us();
	volatile bool is_done = true;
	volatile bool was_over = false;

	*error = NULL;
	if (*left_us <= 0)
		return false;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		begin(began_us + *left_us);
		work(arg);
		(void) end();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		is_done = false;
		was_over = end();
		MemoryContextSwitchTo(cxt);
		*error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	*left_us -= processor_us() - began_us;
	if (is_done)
		return true;
	if (was_over && (*error)->sqlerrcode == ERRCODE_QUERY_CANCELED)
		*error = NULL;
	else if (!is_of_work(*error))
		ReThrowError(*error);
	return false;
}

/* Is it an error of what was written, for what it was applied to? Not one of the server, or of who cancels. */
static bool
is_of_work(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
			return true;
	}
	return false;
}

static void
begin(int64 end_us)
{
	if (budget_timeout == MAX_TIMEOUTS)
		budget_timeout = RegisterTimeout(USER_TIMEOUT, look);
	ends_at_us = end_us;
	is_over = false;
	enable_timeout_every(budget_timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_EVERY_MS), LOOK_EVERY_MS);
}

/* Returns whether the time was over. */
static bool
end(void)
{
	disable_timeout(budget_timeout, false);
	if (is_over)
		ks_cancel_forget();
	return is_over;
}

/* Runs in a signal handler. */
static void
look(void)
{
	if (processor_us() < ends_at_us)
		return;
	is_over = true;
	ks_cancel_statement();
}

/* Of this thread alone: libcurl's look names up in others. */
static int64
processor_us(void)
{
	struct timespec used;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	return (int64) used.tv_sec * USECS_PER_SEC + used.tv_nsec / 1000;
}

static void
query(void *arg)
{
	execute(&query_plan, arg);
}

static void
render(void *arg)
{
	execute(&render_plan, arg);
}

static void
execute(KsPlan *plan, Evaluation *evaluation)
{
	Datum values[2] = {evaluation->expression, evaluation->input};
	bool is_null;
	Datum value;
	MemoryContext save;

	ks_spi_connect();
	(void) ks_spi_execute(plan, values, NULL, true, 1);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
	save = MemoryContextSwitchTo(evaluation->cxt);
	evaluation->result = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	MemoryContextSwitchTo(save);
	ks_spi_finish();
}

static Datum
evaluate(PG_FUNCTION_ARGS, void (*work)(void *arg), int64 budget_us, const char *field)
{
	Evaluation evaluation = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), CurrentMemoryContext, 0};
	ErrorData *error;
	bool is_done = ks_budget_run(&budget_us, work, &evaluation, &error);

	if (error != NULL)
		ReThrowError(error);
	if (!is_done)
		ks_raise_field(400, "VALIDATION_FAILED", field, NULL, "the %s takes too long", field);
	return evaluation.result;
}

PG_FUNCTION_INFO_V1(ks_webhook_filter_query);

/* keelson._webhook_filter_query(filter text, payload jsonb) */
Datum
ks_webhook_filter_query(PG_FUNCTION_ARGS)
{
	return evaluate(fcinfo, query, KS_WEBHOOK_FILTER_BUDGET, "filter");
}

PG_FUNCTION_INFO_V1(ks_webhook_render_text);

/* keelson._webhook_render_text(transform jsonb, input jsonb) */
Datum
ks_webhook_render_text(PG_FUNCTION_ARGS)
{
	return evaluate(fcinfo, render, KS_WEBHOOK_RENDER_BUDGET, "transform");
}
