/*
 * user_probe.c
 *	  Whether a user may act. Who leaves the status active loses all sessions
 *	  in the same transaction; credentials that outlive a block ask here.
 */
#include "postgres.h"

#include "fmgr.h"

#include "core/compat.h"
#include "core/probe.h"
#include "identity/user_probe.h"

enum
{
	STATUS
};

/* The places in it are written by core/probe.c. */
static KsProbeTable users = {
	.name = "users",
	.key_count = 1,
	.keys = {"id"},
	.columns = {[STATUS] = "status"}};

static void judge(const KsProbeRow *row, void *arg);

KsUserState
ks_user_probe(const pg_uuid_t *user_id)
{
	const pg_uuid_t *const key[] = {user_id};
	KsUserState state = KS_USER_NONE;

	(void) ks_probe(&users, key, judge, &state);
	return state;
}

static void
judge(const KsProbeRow *row, void *arg)
{
	static const char active[] = "active";
	KsUserState *state = arg;
	bool is_null;
	text *status = DatumGetTextPP(ks_probe_column(row, STATUS, &is_null));
	bool is_active = VARSIZE_ANY_EXHDR(status) == strlen(active) && memcmp(VARDATA_ANY(status), active, strlen(active)) == 0;

	*state = is_active ? KS_USER_ACTIVE : KS_USER_INACTIVE;
}
