/*
 * init.c
 *	  The beginning of the capability: partitions ahead, and its kind of delivery.
 */
#include "postgres.h"

#include "core/keeper.h"
#include "core/spi.h"
#include "webhooks/kind.h"
#include "webhooks/webhooks.h"

#define INTERVAL_MS (3600 * 1000)

static KsPlan keep_plan = {"select keelson.webhook_partitions_make() + keelson.webhook_events_expire()", 0, {0}};

static void keep(void);

void
ks_webhooks_init(void)
{
	(void) ks_keeper_register("webhooks: partitions", INTERVAL_MS, true, keep);
	ks_webhook_kind_init();
}

static void
keep(void)
{
	ks_spi_connect();
	(void) ks_spi_execute(&keep_plan, NULL, NULL, false, 0);
	ks_spi_finish();
}
