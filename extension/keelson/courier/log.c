/*
 * log.c
 *	  Partitions of the log of deliveries: made ahead, dropped in time, and made
 *	  late where one is missing for what is to be settled.
 *
 * A delivery is logged on the day of its id. Without that day's partition it
 * could not be settled: it would be sent again and again. None is missing but
 * where a clock was wrong, or where the last of a day was replayed while its
 * partition was dropped.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "core/keeper.h"
#include "core/partition.h"
#include "core/spi.h"
#include "core/uuid.h"
#include "courier/log.h"

#define INTERVAL_MS (3600 * 1000)

static KsPlan keep_plan = {
	"select keelson.deliveries_partitions_make() + keelson.deliveries_expire()", 0, {0}};
static KsPlan make_plan = {
	"select keelson._partition_make('deliveries_log', $1), keelson._partition_make('delivery_attempts', $1)", 1, {TIMESTAMPTZOID}};

static void keep(void);

void
ks_delivery_log_init(void)
{
	(void) ks_keeper_register("deliveries: partitions", INTERVAL_MS, true, keep);
}

static void
keep(void)
{
	ks_spi_connect();
	(void) ks_spi_execute(&keep_plan, NULL, NULL, false, 0);
	ks_spi_finish();
}

void
ks_delivery_log_need(KsDelivery **deliveries, int count)
{
	for (int i = 0; i < count; i++)
	{
		int32 day = ks_uuid7_day(&deliveries[i]->id);
		Datum values[1] = {TimestampTzGetDatum((day - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY)};

		/* Most are of one day. */
		if (i > 0 && day == ks_uuid7_day(&deliveries[i - 1]->id))
			continue;
		if (!OidIsValid(ks_partition_oid("deliveries_log", day)) || !OidIsValid(ks_partition_oid("delivery_attempts", day)))
			(void) ks_spi_execute(&make_plan, values, NULL, false, 1);
	}
}
