/*
 * spi.c
 *	  Kept plans: prepare once, execute with bound parameters, check each code.
 */
#include "postgres.h"

#include "core/spi.h"

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
	int code;

	Assert(plan->nargs <= KS_PLAN_MAX_ARGS);
	if (plan->plan == NULL)
	{
		SPIPlanPtr prepared = SPI_prepare(plan->sql, plan->nargs, plan->argtypes);

		if (prepared == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(prepared);
		plan->plan = prepared;
	}
	code = SPI_execute_plan(plan->plan, values, nulls, read_only, limit);
	if (code < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
	return code;
}
