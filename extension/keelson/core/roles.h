/*
 * roles.h
 *	  Keelson's roles, and acting as one of them for a while.
 */
#ifndef KS_ROLES_H
#define KS_ROLES_H

#include "postgres.h"

typedef enum KsRole
{
	KS_ROLE_OWNER,
	KS_ROLE_SYSTEM,
	KS_ROLE_APP,
	KS_ROLE_ADMIN,
	KS_ROLE_GATEWAY,
	KS_ROLE_JOBS,
	KS_ROLE_KEY_USER,
	KS_ROLE_COUNT
} KsRole;

/* What ks_role_enter() replaced, for ks_role_leave(). */
typedef struct KsRoleSwitch
{
	Oid user;
	int sec_context;
} KsRoleSwitch;

/* The role's OID; an error when the role is missing. */
extern Oid ks_role_oid(KsRole role);

/*
 * Act as the role, adding the SECURITY_* flags, until ks_role_leave(). An error
 * in between needs no care: the transaction's or subtransaction's abort
 * restores both.
 */
extern void ks_role_enter(KsRoleSwitch *save, Oid role, int sec_flags);
extern void ks_role_leave(const KsRoleSwitch *save);

/* Refuse (403) what an endpoint's own function must not do: it is for the core's definer functions and administrators. */
extern void ks_role_require_core(const char *refusal);

#endif /* KS_ROLES_H */
