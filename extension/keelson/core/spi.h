/*
 * spi.h
 *	  The extension's way to its tables: kept plans with bound parameters.
 */
#ifndef KS_SPI_H
#define KS_SPI_H

#include "postgres.h"

#include "executor/spi.h"

#define KS_PLAN_MAX_ARGS 24

/*
 * A statement, planned on first use and kept for the life of the backend.
 * Declare it static, with the text and the types filled in; `plan` is written
 * by ks_spi_execute() alone.
 */
typedef struct KsPlan
{
	const char *sql;
	int nargs;
	Oid argtypes[KS_PLAN_MAX_ARGS];
	SPIPlanPtr plan;
} KsPlan;

extern void ks_spi_connect(void);
extern void ks_spi_finish(void);

/*
 * Execute the plan between ks_spi_connect() and ks_spi_finish(). `nulls` is
 * NULL or a string of ' ' and 'n'; `limit` 0 means all rows. Returns SPI's
 * code, which is never an error code: those are raised. Rows stand in
 * SPI_tuptable, their number in SPI_processed.
 */
extern int ks_spi_execute(KsPlan *plan, Datum *values, const char *nulls, bool read_only, long limit);

#endif /* KS_SPI_H */
