/*
 * spi.h
 *	  The extension's way to its tables: kept plans with bound parameters.
 */
#ifndef KS_SPI_H
#define KS_SPI_H

#include "postgres.h"

#include "executor/spi.h"

#define KS_PLAN_MAX_ARGS 24

/* What functions find who qualify nothing: they are meant to. */
#define KS_SEARCH_PATH "pg_catalog, pg_temp"

/*
 * A statement, planned on first use and kept for the life of the backend.
 * Declare it static, with the text and the types filled in; `plan` is written
 * by ks_spi_execute() alone. `options` are SPI's for the plan: 0, or
 * CURSOR_OPT_GENERIC_PLAN for one that is good whatever the values are, so that
 * they are not looked at, and the statement planned, each time.
 */
typedef struct KsPlan
{
	const char *sql;
	int nargs;
	Oid argtypes[KS_PLAN_MAX_ARGS];
	int options;
	SPIPlanPtr plan;
} KsPlan;

extern void ks_spi_connect(void);
extern void ks_spi_finish(void);

/*
 * Execute the plan between ks_spi_connect() and ks_spi_finish(), with the
 * search path pinned: it may run as one of the owner roles, and neither its
 * operators nor what it calls are the caller's to choose. `nulls` is
 * NULL or a string of ' ' and 'n'; `limit` 0 means all rows. Returns SPI's
 * code, which is never an error code: those are raised. Rows stand in
 * SPI_tuptable, their number in SPI_processed.
 */
extern int ks_spi_execute(KsPlan *plan, Datum *values, const char *nulls, bool read_only, long limit);

/*
 * As ks_spi_execute(), for what only reads and is kept for later statements:
 * all that has committed by now is seen, and what this transaction has written,
 * whatever the snapshots of statement and transaction. The notice that a
 * relation has changed may come after a snapshot was taken; whoever read with
 * that one what is to be remembered would get no other notice.
 */
extern int ks_spi_read_latest(KsPlan *plan, Datum *values, long limit);

/*
 * Execute the plan all by itself, and connect for it: for the sake of what it
 * does, or for the first column of its first row, whose type must be one that
 * is passed by value; null where there is no row.
 */
extern void ks_spi_run(KsPlan *plan, Datum *values);
extern Datum ks_spi_value(KsPlan *plan, Datum *values, bool *is_null);

/* Pin the search path until the level of settings ends, unless it is so already. */
extern void ks_search_path_pin(void);

#endif /* KS_SPI_H */
