/*
 * partitions.c
 *	  What the keeper does for the partitions: those to come are made ahead,
 *	  what is due goes. And the time that an id stands for.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "audit/partitions.h"
#include "core/keeper.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "core/worker.h"
#include "secrets/keyring.h"

#define PARTITIONS_INTERVAL_MS (3600 * 1000)
#define EXPIRE_INTERVAL_MS (3600 * 1000)
#define EXPIRE_BATCH 10000

static KsPlan make_plan = {"select keelson.audit_partitions_make()", 0, {0}};
static KsPlan expire_plan = {"select keelson.audit_expire($1)", 1, {INT4OID}};

static void make_partitions(void);
static void expire(void);
static int64 expire_batch(void);

void
ks_audit_partitions_init(void)
{
	(void) ks_keeper_register("audit partitions", PARTITIONS_INTERVAL_MS, true, make_partitions);
	(void) ks_keeper_register("audit retention", EXPIRE_INTERVAL_MS, false, expire);
}

static void
make_partitions(void)
{
	ks_spi_run(&make_plan, NULL);
}

/* Batch by batch, each a transaction of its own. */
static void
expire(void)
{
	int64 taken;

	do
	{
		if (!ks_worker_transaction_begin("audit retention"))
			return;
		/* Without the right keyring no tombstone can be signed. */
		taken = ks_keyring_ready(NULL) ? expire_batch() : 0;
		ks_worker_transaction_end();
		CHECK_FOR_INTERRUPTS();
	} while (taken >= EXPIRE_BATCH);
}

static int64
expire_batch(void)
{
	Datum values[1] = {Int32GetDatum(EXPIRE_BATCH)};
	bool is_null;

	return DatumGetInt64(ks_spi_value(&expire_plan, values, &is_null));
}

#define UNIX_EPOCH_US ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* The beginning of the year 9999, in microseconds since 2000. */
#define LAST_MOMENT (INT64CONST(252424080000) * USECS_PER_SEC)

PG_FUNCTION_INFO_V1(ks_uuid7_time);

/* keelson._uuid7_time(id uuid) */
Datum
ks_uuid7_time(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = PG_GETARG_UUID_P(0);
	int fraction = (id->data[6] & 0x0f) << 8 | id->data[7];

	PG_RETURN_TIMESTAMPTZ(ks_uuid7_ms(id) * 1000 + fraction * 1000 / 4096 - UNIX_EPOCH_US);
}

PG_FUNCTION_INFO_V1(ks_uuid7_floor);

/* keelson._uuid7_floor(moment timestamptz) : the lowest id of that millisecond */
Datum
ks_uuid7_floor(PG_FUNCTION_ARGS)
{
	TimestampTz moment = PG_GETARG_TIMESTAMPTZ(0);
	pg_uuid_t *id = palloc0(sizeof(pg_uuid_t));
	/* All that can be told apart lies between 1970 and the year 9999. */
	TimestampTz within = Min(Max(moment, -UNIX_EPOCH_US), LAST_MOMENT);
	int64 milliseconds = (within + UNIX_EPOCH_US) / 1000;

	for (int i = 0; i < 6; i++)
		id->data[i] = (uint8) (milliseconds >> (8 * (5 - i)));
	PG_RETURN_UUID_P(id);
}
