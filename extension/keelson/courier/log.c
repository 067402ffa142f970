/*
 * log.c
 *	  Partitions of the log of deliveries: made ahead, dropped in time.
 */
#include "postgres.h"

#include "core/keeper.h"
#include "core/spi.h"
#include "courier/log.h"

#define INTERVAL_MS (3600 * 1000)

static KsPlan keep_plan = {
	"select keelson.deliveries_partitions_make() + keelson.deliveries_expire()", 0, {0}};

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
