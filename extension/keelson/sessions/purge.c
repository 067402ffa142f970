/*
 * purge.c
 *	  The keeper's duty here: failures that no longer count and sessions that
 *	  have long been over are deleted, a batch at a time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "core/keeper.h"
#include "core/spi.h"
#include "sessions/purge.h"

#define PURGE_INTERVAL_MS (60 * 1000)
#define PURGE_BATCH 5000

/* The duty's number, set while the library is preloaded. */
static int duty;

static void purge(void);

void
ks_sessions_init(void)
{
	duty = ks_keeper_register("sessions", PURGE_INTERVAL_MS, true, purge);
}

static void
purge(void)
{
	static KsPlan plan = {
		.sql = "select keelson._authentication_purge($1)",
		.nargs = 1,
		.argtypes = {INT4OID}};

	ks_keeper_purge(duty, &plan, PURGE_BATCH);
}
