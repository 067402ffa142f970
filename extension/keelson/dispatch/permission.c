/*
 * permission.c
 *	  Roles and permissions are data: a route names what it demands, roles hold
 *	  permissions, users hold roles and a tier. Read anew each time, so that what
 *	  is taken away is gone with the next request.
 *
 * A credential with scopes can do what they name and its user may, nothing
 * else: a scope that is no open one (keelson.scopes) is a permission, and good
 * while the user holds that. A credential without scopes can do all that its
 * user may; an endpoint that demands a scope alone is not for it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "core/roles.h"
#include "core/spi.h"
#include "dispatch/permission.h"
#include "tiers/tiers.h"

static bool require_proof(KsCall *call);
static bool is_permitted(KsCall *call);
static const char *what_is_needed(const KsCall *call);
static bool has_tier(KsCall *call);
static bool has_shown(KsCall *call);
static const char *needed_permission(const KsCall *call);
static bool has_scope(const KsCredential *credential, const char *scope);
static bool holds(const KsIdentity *identity, const char *permission);

bool
ks_authorise(KsCall *call)
{
	if (call->route->is_public)
		return true;
	if (call->credential.proof != KS_PROOF_VALID)
		return require_proof(call);
	if (!is_permitted(call))
		return ks_reply_refuse(&call->reply, 403, "FORBIDDEN", what_is_needed(call));
	return (call->route->tier == NULL || has_tier(call)) && has_shown(call);
}

/* Refuse a caller who is not known. */
static bool
require_proof(KsCall *call)
{
	if (call->token == NULL)
	{
		ks_reply_header(&call->reply, "WWW-Authenticate", "Bearer");
		return ks_reply_refuse(&call->reply, 401, "UNAUTHENTICATED", "sign in first");
	}
	if (call->credential.proof == KS_PROOF_REFUSED)
		return ks_reply_refuse(&call->reply, call->credential.refusal.status, call->credential.refusal.code, call->credential.refusal.message);
	ks_reply_header(&call->reply, "WWW-Authenticate", "Bearer error=\"invalid_token\"");
	if (call->credential.proof == KS_PROOF_EXPIRED)
		return ks_reply_refuse(&call->reply, 401, "TOKEN_EXPIRED", psprintf("the %s has expired", call->credential.kind));
	return ks_reply_refuse(&call->reply, 401, "UNAUTHENTICATED", "the credential is not valid");
}

/* Does the credential go so far, and its user? */
static bool
is_permitted(KsCall *call)
{
	KsRoute *route = call->route;
	KsCredential *credential = &call->credential;
	const char *scope = route->scope != NULL ? route->scope : route->permission;
	const char *permission = needed_permission(call);
	bool may;

	if (credential->is_scoped)
		may = scope != NULL && has_scope(credential, scope);
	else
		may = route->scope == NULL || route->permission != NULL;
	return may && (permission == NULL || holds(&credential->identity, permission));
}

/* Why the caller is not permitted. What endpoints need is no secret: the API's description has it. */
static const char *
what_is_needed(const KsCall *call)
{
	const KsRoute *route = call->route;
	const KsCredential *credential = &call->credential;
	const char *scope = route->scope != NULL ? route->scope : route->permission;

	if (credential->is_scoped && scope == NULL)
		return "an access key may not do this";
	if (credential->is_scoped ? !has_scope(credential, scope) : route->permission == NULL)
		return psprintf("this needs an access key with the scope %s", scope);
	return psprintf("this needs the permission %s", needed_permission(call));
}

/* Is the user's tier high enough? A tier that has been removed is nobody's. */
static bool
has_tier(KsCall *call)
{
	const KsIdentity *identity = &call->credential.identity;
	const KsTier *tier = ks_tier_find(call->route->tier, strlen(call->route->tier));
	char *message = psprintf("this needs the tier %s", tier != NULL ? tier->name : call->route->tier);
	int rank = tier != NULL ? tier->rank : INT_MAX;

	if (identity->has_user && ks_tier_of(&identity->user_id)->rank >= rank)
		return true;
	return ks_reply_refuse(&call->reply, 403, "TIER_REQUIRED", message);
}

/*
 * Has the user shown what the route demands besides: a verified address, a
 * second factor lately, or one at all where the tier demands it? Few routes do.
 */
static bool
has_shown(KsCall *call)
{
	static KsPlan plan = {
		"select keelson._proof_missing($1, $2, $3, $4, $5)", 5, {UUIDOID, UUIDOID, BOOLOID, INT4OID, BOOLOID}};
	const KsRoute *route = call->route;
	const KsIdentity *identity = &call->credential.identity;
	bool is_tier_asked = route->tier != NULL && identity->aal < 2 && !identity->has_access_key;
	KsRoleSwitch save;
	Datum values[5];
	char *missing;
	bool is_shown, is_email;

	if (!route->needs_verified_email && route->factor_within_s == 0 && !is_tier_asked)
		return true;
	values[0] = UUIDPGetDatum(&identity->user_id);
	values[1] = UUIDPGetDatum(&identity->session_id);
	values[2] = BoolGetDatum(route->needs_verified_email);
	values[3] = Int32GetDatum(route->factor_within_s);
	values[4] = BoolGetDatum(is_tier_asked);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&plan, values, NULL, true, 1);
	ks_role_leave(&save);
	missing = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	is_shown = missing == NULL;
	is_email = missing != NULL && strcmp(missing, "EMAIL_UNVERIFIED") == 0;
	ks_spi_finish();
	if (is_shown)
		return true;
	if (is_email)
		return ks_reply_refuse(&call->reply, 403, "EMAIL_UNVERIFIED", "verify your e-mail address first");
	return ks_reply_refuse(&call->reply, 401, "SECOND_FACTOR_REQUIRED", "show your second factor first: POST auth/totp/verify");
}

/* The permission that the caller must hold; NULL: none. */
static const char *
needed_permission(const KsCall *call)
{
	const KsRoute *route = call->route;

	if (route->permission == NULL && call->credential.identity.has_access_key && !route->is_scope_open)
		return route->scope;
	return route->permission;
}

static bool
has_scope(const KsCredential *credential, const char *scope)
{
	for (int i = 0; i < credential->scope_count; i++)
		if (strcmp(credential->scopes[i], scope) == 0)
			return true;
	return false;
}

/* Does the user hold the permission through a role? */
static bool
holds(const KsIdentity *identity, const char *permission)
{
	/*
	 * Everybody signed in holds the role user. A role that demands a second
	 * factor gives nothing to a session that has not shown one, once its
	 * holder has had time to enrol one.
	 */
	static KsPlan plan = {
		.sql = "select from keelson.role_permissions as held join keelson.roles as r on r.name = held.role "
			   "where held.permission = $2 and (held.role = 'user' or held.role in ("
			   "select granted.role from keelson.user_roles as granted where granted.user_id = $1)) "
			   "and ($3 or r.factor_since is null or exists (select from keelson.users as u "
			   "where u.id = $1 and greatest(r.factor_since, u.created_at) + r.factor_grace > pg_catalog.now()))",
		.nargs = 3,
		.argtypes = {UUIDOID, TEXTOID, BOOLOID}};
	Datum values[3];
	KsRoleSwitch save;
	bool is_held;

	if (!identity->has_user)
		return false;
	values[0] = UUIDPGetDatum(&identity->user_id);
	values[1] = CStringGetTextDatum(permission);
	/* A machine's key was made by somebody who could; under act_as() the administrator answers for it. */
	values[2] = BoolGetDatum(identity->aal >= 2 || identity->has_access_key || identity->actor == KS_ACTOR_ADMIN);
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&plan, values, NULL, true, 1);
	ks_role_leave(&save);
	is_held = SPI_processed > 0;
	ks_spi_finish();
	return is_held;
}

bool
ks_permission_now(const char *permission)
{
	KsCall *call = ks_call();

	if (call != NULL && call->credential.is_scoped && !has_scope(&call->credential, permission))
		return false;
	return holds(ks_identity(), permission);
}

PG_FUNCTION_INFO_V1(ks_has_permission);

/* keelson.has_permission(permission text) */
Datum
ks_has_permission(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ks_permission_now(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
