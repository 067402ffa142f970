/*
 * partitions.c
 *	  Partitions made ahead by the keeper, and the time that an id stands for.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "audit/partitions.h"
#include "core/keeper.h"
#include "core/spi.h"

#define PARTITIONS_INTERVAL_MS (3600 * 1000)

static KsPlan make_plan = {"select keelson.audit_partitions_make()", 0, {0}};

static void make_partitions(void);

void
ks_audit_partitions_init(void)
{
	(void) ks_keeper_register("audit partitions", PARTITIONS_INTERVAL_MS, true, make_partitions);
}

static void
make_partitions(void)
{
	ks_spi_connect();
	(void) ks_spi_execute(&make_plan, NULL, NULL, false, 0);
	ks_spi_finish();
}

#define UNIX_EPOCH_US ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

PG_FUNCTION_INFO_V1(ks_uuid7_time);

/* keelson._uuid7_time(id uuid) */
Datum
ks_uuid7_time(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = PG_GETARG_UUID_P(0);
	int64 milliseconds = 0;
	int fraction = (id->data[6] & 0x0f) << 8 | id->data[7];

	for (int i = 0; i < 6; i++)
		milliseconds = milliseconds << 8 | id->data[i];
	PG_RETURN_TIMESTAMPTZ(milliseconds * 1000 + fraction * 1000 / 4096 - UNIX_EPOCH_US);
}

PG_FUNCTION_INFO_V1(ks_uuid7_floor);

/* keelson._uuid7_floor(moment timestamptz) : the lowest id of that millisecond */
Datum
ks_uuid7_floor(PG_FUNCTION_ARGS)
{
	TimestampTz moment = PG_GETARG_TIMESTAMPTZ(0);
	pg_uuid_t *id = palloc0(sizeof(pg_uuid_t));
	int64 milliseconds = (moment + UNIX_EPOCH_US) / 1000;

	if (TIMESTAMP_NOT_FINITE(moment) || milliseconds < 0 || milliseconds >= INT64CONST(1) << 48)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	for (int i = 0; i < 6; i++)
		id->data[i] = (uint8) (milliseconds >> (8 * (5 - i)));
	PG_RETURN_UUID_P(id);
}
