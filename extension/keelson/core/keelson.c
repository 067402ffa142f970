/*
 * keelson.c
 *	  Entry point: settings, then each capability's own beginning.
 *
 * Loaded by shared_preload_libraries, the library makes shared memory and
 * registers the background workers. Loaded otherwise it defines settings and
 * functions, and those that need more say what to set.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "audit/audit.h"
#include "core/compat.h"
#include "core/guc.h"
#include "core/guest.h"
#include "core/identity.h"
#include "core/keeper.h"
#include "core/shmem.h"
#include "courier/courier.h"
#include "dispatch/dispatch.h"
#include "incoming/incoming.h"
#include "issuers/fetch.h"
#include "keys/verify.h"
#include "limits/limits.h"
#include "recovery/recovery.h"
#include "secrets/keyring.h"
#include "sessions/purge.h"
#include "tiers/refusals.h"
#include "usage/usage.h"
#include "webhooks/webhooks.h"

KS_MODULE_MAGIC;

void _PG_init(void);

/*
 * Each capability's beginning, in the Makefile's order. It registers shared
 * memory, duties of the keeper and callbacks, and touches no table.
 */
static void (*const capabilities[])(void) = {
	ks_identity_init,
	ks_guest_init,
	ks_keeper_init,
	ks_secrets_init,
	ks_audit_init,
	ks_limits_init,
	ks_dispatch_init,
	ks_courier_init,
	ks_webhooks_init,
	ks_refusals_init,
	ks_incoming_init,
	ks_sessions_init,
	ks_keys_init,
	ks_issuers_init,
	ks_recovery_init,
	ks_usage_init,
};

void
_PG_init(void)
{
	ks_guc_init();
	if (process_shared_preload_libraries_in_progress)
		ks_shmem_init();
	for (int i = 0; i < lengthof(capabilities); i++)
		capabilities[i]();
}
