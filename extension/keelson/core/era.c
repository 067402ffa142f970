/*
 * era.c
 *	  Look-up and opening of the present era.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"

#include "core/era.h"
#include "core/roles.h"
#include "core/spi.h"

static KsPlan find_plan = {"select number from keelson.eras where system_identifier = $1", 1, {INT8OID}};
static KsPlan open_plan = {
	"insert into keelson.eras (number, system_identifier)"
	" select coalesce(pg_catalog.max(number), 0) + 1, $1 from keelson.eras on conflict do nothing",
	1,
	{INT8OID}};

/* The present era once it is known to stay, 0 before. */
static int32 known_era;

/* The transaction that has opened an era, which may yet be undone. */
static FullTransactionId opened_in;

static int32 find(void);

int32
ks_era(void)
{
	Datum values[1] = {Int64GetDatum((int64) GetSystemIdentifier())};
	KsRoleSwitch save;
	int32 era;

	if (likely(known_era != 0))
		return known_era;
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	era = find();
	/* Two that open one at once: the second waits, opens none, and finds the first's. */
	for (int i = 0; era == 0 && i < 3; i++)
	{
		(void) ks_spi_execute(&open_plan, values, NULL, false, 0);
		if (SPI_processed == 1)
			opened_in = GetTopFullTransactionId();
		era = find();
	}
	ks_role_leave(&save);
	ks_spi_finish();
	if (era == 0)
		elog(ERROR, "could not open an era");
	if (!FullTransactionIdIsValid(opened_in) || !FullTransactionIdEquals(opened_in, GetTopFullTransactionIdIfAny()))
		known_era = era;
	return era;
}

/* The era as it is now, or 0. */
static int32
find(void)
{
	Datum values[1] = {Int64GetDatum((int64) GetSystemIdentifier())};
	bool is_null;

	(void) ks_spi_execute(&find_plan, values, NULL, false, 1);
	if (SPI_processed == 0)
		return 0;
	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
}

PG_FUNCTION_INFO_V1(ks_current_era);

/* keelson._current_era() */
Datum
ks_current_era(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ks_era());
}
