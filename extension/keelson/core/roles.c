/*
 * roles.c
 *	  Look-up of Keelson's roles, kept until pg_authid changes, the switch to
 *	  one of them, and what not every role may do.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "core/error.h"
#include "core/roles.h"

static const char *const role_names[KS_ROLE_COUNT] = {
	[KS_ROLE_OWNER] = "keelson_owner",
	[KS_ROLE_SYSTEM] = "keelson_system",
	[KS_ROLE_APP] = "keelson_app",
	[KS_ROLE_ADMIN] = "keelson_admin",
	[KS_ROLE_GATEWAY] = "keelson_gateway",
	[KS_ROLE_JOBS] = "keelson_jobs",
	[KS_ROLE_KEY_USER] = "keelson_key_user",
};

/* Known OIDs, InvalidOid where not looked up; emptied when pg_authid changes. */
static Oid role_oids[KS_ROLE_COUNT];

static void forget_roles(Datum arg, int cacheid, uint32 hashvalue);

Oid
ks_role_oid(KsRole role)
{
	/* Registered by the first look-up: a parallel worker or psql may be first. */
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(AUTHOID, forget_roles, (Datum) 0);
		registered = true;
	}
	if (!OidIsValid(role_oids[role]))
		role_oids[role] = get_role_oid(role_names[role], false);
	return role_oids[role];
}

void
ks_role_enter(KsRoleSwitch *save, Oid role, int sec_flags)
{
	GetUserIdAndSecContext(&save->user, &save->sec_context);
	SetUserIdAndSecContext(role, save->sec_context | SECURITY_LOCAL_USERID_CHANGE | sec_flags);
}

void
ks_role_leave(const KsRoleSwitch *save)
{
	SetUserIdAndSecContext(save->user, save->sec_context);
}

void
ks_role_require_core(const char *refusal)
{
	Oid role = GetUserId();

	if (!has_privs_of_role(role, ks_role_oid(KS_ROLE_OWNER)) && !has_privs_of_role(role, ks_role_oid(KS_ROLE_SYSTEM)) &&
		!has_privs_of_role(role, ks_role_oid(KS_ROLE_ADMIN)))
		ks_raise(403, "FORBIDDEN", NULL, "%s", refusal);
}

static void
forget_roles(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(role_oids, 0, sizeof(role_oids));
}
