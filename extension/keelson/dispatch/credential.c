/*
 * credential.c
 *	  The kinds of credentials, told apart by their shape.
 *
 * Shape and checksum are looked at first, then the signature, then the
 * session's row, every time. The first kind whose shape fits decides.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/roles.h"
#include "core/spi.h"
#include "dispatch/credential.h"
#include "dispatch/session_probe.h"
#include "issuers/external.h"
#include "keys/access_key.h"
#include "keys/verify.h"
#include "secrets/jwt.h"

/* The scope of the cron secret, which no other credential can hold. */
#define CRON_SCOPE "jobs.run"

typedef struct CredentialKind
{
	const char *name;
	bool (*has_shape)(const KsCall *call);
	void (*check)(KsCall *call);
} CredentialKind;

static bool is_token_shape(const KsCall *call);
static void check_access_token(KsCall *call);
static void check_external_token(KsCall *call);
static bool is_access_key_shape(const KsCall *call);
static void check_access_key(KsCall *call);
static bool is_cron_shape(const KsCall *call);
static void check_cron_secret(KsCall *call);

static const CredentialKind kinds[] = {
	{"access token", is_token_shape, check_access_token},
	{"access key", is_access_key_shape, check_access_key},
	{"cron secret", is_cron_shape, check_cron_secret},
};

void
ks_credential_check(KsCall *call)
{
	if (call->token == NULL)
		return;
	for (int i = 0; i < lengthof(kinds); i++)
		if (kinds[i].has_shape(call))
		{
			call->credential.kind = kinds[i].name;
			kinds[i].check(call);
			return;
		}
}

/* Three parts, the first of which is an object in base64url. */
static bool
is_token_shape(const KsCall *call)
{
	const char *end = call->token + call->token_len;
	int dots = 0;

	if (call->token_len < 3 || memcmp(call->token, "eyJ", 3) != 0)
		return false;
	for (const char *at = call->token; (at = memchr(at, '.', end - at)) != NULL; at++)
		dots++;
	return dots == 2;
}

static void
check_access_token(KsCall *call)
{
	KsCredential *credential = &call->credential;
	KsAccessToken token;
	KsTokenState state;
	int aal;

	/* Before it is looked at as one of ours, which costs more. */
	if (ks_external_is_known(call->token, call->token_len))
	{
		check_external_token(call);
		return;
	}
	state = ks_access_token_verify(call->token, call->token_len, &token);

	if (state == KS_TOKEN_INVALID)
	{
		check_external_token(call);
		return;
	}
	credential->names_session = true;
	credential->token_user_id = token.user_id;
	credential->token_session_id = token.session_id;
	credential->token_expires_at = token.expires_at;
	if (state == KS_TOKEN_EXPIRED)
	{
		credential->proof = KS_PROOF_EXPIRED;
		return;
	}
	if (!ks_session_probe(&token.user_id, &token.session_id, &aal))
		return;
	credential->proof = KS_PROOF_VALID;
	credential->identity = (KsIdentity){
		.actor = KS_ACTOR_USER,
		.has_user = true,
		.user_id = token.user_id,
		.has_session = true,
		.session_id = token.session_id,
		.aal = aal};
}

/* A token of another issuer, which is no cookie of ours. It names no session. */
static void
check_external_token(KsCall *call)
{
	KsCredential *credential = &call->credential;
	KsExternalToken token = {0};

	if (call->caller.via != NULL && strcmp(call->caller.via, "cookie") == 0)
		return;
	switch (ks_external_verify(call->token, call->token_len, &token))
	{
		case KS_EXTERNAL_INVALID:
			return;
		case KS_EXTERNAL_EXPIRED:
			credential->proof = KS_PROOF_EXPIRED;
			return;
		case KS_EXTERNAL_UNLINKED:
			credential->proof = KS_PROOF_REFUSED;
			credential->refusal = (KsProofRefusal){403, "FORBIDDEN", "no account belongs to this token"};
			return;
		case KS_EXTERNAL_UNVERIFIED:
			credential->proof = KS_PROOF_REFUSED;
			credential->refusal = (KsProofRefusal){403, "EMAIL_UNVERIFIED", "the issuer of this token has not verified the e-mail address"};
			return;
		case KS_EXTERNAL_VALID:
			break;
	}
	credential->proof = KS_PROOF_VALID;
	credential->identity = (KsIdentity){
		.actor = KS_ACTOR_USER,
		.has_user = true,
		.user_id = token.user_id};
	credential->token_expires_at = token.expires_at;
	credential->is_first_sight = token.is_first_sight;
}

/* A key is no cookie: a browser that sent it would need no proof of whose page that was. */
static bool
is_access_key_shape(const KsCall *call)
{
	return ks_access_key_has_shape(call->token, call->token_len) &&
		   (call->caller.via == NULL || strcmp(call->caller.via, "cookie") != 0);
}

static void
check_access_key(KsCall *call)
{
	KsCredential *credential = &call->credential;
	KsAccessKey key;
	KsKeyState state = ks_access_key_verify(call->token, call->token_len, call->caller.ip, &key);

	if (state == KS_KEY_EXPIRED)
		credential->proof = KS_PROOF_EXPIRED;
	if (state == KS_KEY_ELSEWHERE)
	{
		credential->proof = KS_PROOF_REFUSED;
		credential->refusal = (KsProofRefusal){403, "FORBIDDEN", "the access key may not be used from this address"};
	}
	if (state != KS_KEY_VALID)
		return;
	credential->proof = KS_PROOF_VALID;
	credential->identity = (KsIdentity){
		.actor = KS_ACTOR_ACCESS_KEY,
		.has_user = true,
		.user_id = key.user_id,
		.has_access_key = true,
		.access_key_id = key.id};
	credential->is_scoped = true;
	credential->scopes = key.scopes;
	credential->scope_count = key.scope_count;
}

/* Only an endpoint of jobs takes the cron secret, which may be any text. */
static bool
is_cron_shape(const KsCall *call)
{
	return call->route->scope != NULL && strcmp(call->route->scope, CRON_SCOPE) == 0;
}

static void
check_cron_secret(KsCall *call)
{
	static const char *const scopes[] = {CRON_SCOPE};
	static KsPlan plan = {
		.sql = "select keelson._secret_matches('cron_secret', $1)",
		.nargs = 1,
		.argtypes = {TEXTOID}};
	Datum values[] = {PointerGetDatum(cstring_to_text_with_len(call->token, call->token_len))};
	KsRoleSwitch save;
	bool matches;
	bool is_null;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&plan, values, NULL, true, 1);
	ks_role_leave(&save);
	matches = SPI_processed == 1 && DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	ks_spi_finish();
	if (!matches)
		return;
	call->credential.proof = KS_PROOF_VALID;
	call->credential.identity.actor = KS_ACTOR_SYSTEM;
	call->credential.is_scoped = true;
	call->credential.scopes = scopes;
	call->credential.scope_count = lengthof(scopes);
}
