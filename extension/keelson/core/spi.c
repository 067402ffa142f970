/*
 * spi.c
 *	  Kept plans: prepare once, execute with bound parameters, check each code.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "core/spi.h"

static bool is_path_pinned(void);

void
ks_spi_connect(void)
{
	int code = SPI_connect();

	if (code != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed: %s", SPI_result_code_string(code));
}

void
ks_spi_finish(void)
{
	int code = SPI_finish();

	if (code != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed: %s", SPI_result_code_string(code));
}

int
ks_spi_execute(KsPlan *plan, Datum *values, const char *nulls, bool read_only, long limit)
{
	int settings = 0;
	int code;

	Assert(plan->nargs <= KS_PLAN_MAX_ARGS);
	/* An error takes the setting back with its transaction or subtransaction. */
	if (!is_path_pinned())
	{
		settings = NewGUCNestLevel();
		ks_search_path_pin();
	}
	if (plan->plan == NULL)
	{
		SPIPlanPtr prepared = SPI_prepare_cursor(plan->sql, plan->nargs, plan->argtypes, plan->options);

		if (prepared == NULL)
			elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(prepared);
		plan->plan = prepared;
	}
	code = SPI_execute_plan(plan->plan, values, nulls, read_only, limit);
	if (code < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
	if (settings != 0)
		AtEOXact_GUC(true, settings);
	return code;
}

int
ks_spi_read_latest(KsPlan *plan, Datum *values, long limit)
{
	int code;

	/* A worker, or who has some, has the one snapshot. */
	if (IsInParallelMode())
		return ks_spi_execute(plan, values, NULL, true, limit);
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	code = ks_spi_execute(plan, values, NULL, true, limit);
	PopActiveSnapshot();
	return code;
}

void
ks_spi_run(KsPlan *plan, Datum *values)
{
	ks_spi_connect();
	(void) ks_spi_execute(plan, values, NULL, false, 0);
	ks_spi_finish();
}

Datum
ks_spi_value(KsPlan *plan, Datum *values, bool *is_null)
{
	Datum value = (Datum) 0;

	*is_null = true;
	ks_spi_connect();
	(void) ks_spi_execute(plan, values, NULL, false, 1);
	if (SPI_processed == 1)
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, is_null);
	ks_spi_finish();
	return value;
}

void
ks_search_path_pin(void)
{
	if (!is_path_pinned())
		(void) set_config_option("search_path", KS_SEARCH_PATH, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static bool
is_path_pinned(void)
{
	return strcmp(namespace_search_path, KS_SEARCH_PATH) == 0;
}
