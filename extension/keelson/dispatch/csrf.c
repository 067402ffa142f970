/*
 * csrf.c
 *	  Signed double submit, and where the browser says that the request comes
 *	  from.
 *
 * The token is key id (4 bytes), 16 random bytes and their MAC with the
 * session's id, in base64url: the client repeats the readable cookie in a
 * header, which a page of another site can neither read nor set.
 */
#include "postgres.h"

#include "fmgr.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"

#include "core/error.h"
#include "core/guc.h"
#include "dispatch/csrf.h"
#include "secrets/keyring.h"

#define RANDOM_LENGTH 16
#define TOKEN_BYTES (4 + RANDOM_LENGTH + KS_SHA256_LENGTH)
#define TOKEN_LENGTH KS_BASE64URL_LENGTH(TOKEN_BYTES)

static const char *missing_proof(const KsCaller *caller, const pg_uuid_t *session_id);
static bool comes_from_us(const KsCaller *caller);
static bool is_origin_ours(const char *origin, int len);
static bool is_listed(const char *list, const char *origin, int len);
static int origin_length(const char *url);
static bool is_token_good(const char *token, const pg_uuid_t *session_id);
static void token_mac(uint32 key_id, const pg_uuid_t *session_id, const uint8 *random, uint8 *mac);

bool
ks_csrf_step(KsCall *call)
{
	const char *missing;

	if (call->caller.via == NULL || strcmp(call->caller.via, "cookie") != 0 || !call->route->is_unsafe)
		return true;
	ks_reply_header(&call->reply, "Vary", "Sec-Fetch-Site, Origin");
	if (call->credential.proof != KS_PROOF_VALID || !call->credential.identity.has_session)
		return true;
	missing = missing_proof(&call->caller, &call->credential.identity.session_id);
	if (missing == NULL)
		return true;
	return ks_reply_refuse(&call->reply, 403, "CSRF_FAILED", missing);
}

/* NULL when the caller proves it for the session; otherwise what is missing, for a person. */
static const char *
missing_proof(const KsCaller *caller, const pg_uuid_t *session_id)
{
	if (!comes_from_us(caller))
		return "the request does not come from a page of ours";
	if (caller->csrf == NULL || caller->csrf_cookie == NULL)
		return "the header X-CSRF-Token or its cookie is missing";
	if (strlen(caller->csrf) != TOKEN_LENGTH || strlen(caller->csrf_cookie) != TOKEN_LENGTH ||
		!ks_equal(caller->csrf, caller->csrf_cookie, TOKEN_LENGTH))
		return "the header X-CSRF-Token is not equal to its cookie";
	if (!is_token_good(caller->csrf, session_id))
		return "the header X-CSRF-Token does not belong to the session";
	return NULL;
}

/*
 * Sec-Fetch-Site cannot be set by a page, so "cross-site" is believed. Where an
 * origin is told, it must be ours; one of the three has to be told.
 */
static bool
comes_from_us(const KsCaller *caller)
{
	if (caller->fetch_site != NULL && strcmp(caller->fetch_site, "cross-site") == 0)
		return false;
	if (caller->origin != NULL)
		return is_origin_ours(caller->origin, strlen(caller->origin));
	if (caller->fetch_site != NULL)
		return true;
	return caller->referer != NULL && is_origin_ours(caller->referer, origin_length(caller->referer));
}

static bool
is_origin_ours(const char *origin, int len)
{
	return len > 0 &&
		   (is_listed(ks_guc_public_url, origin, len) || is_listed(ks_guc_app_url, origin, len) ||
			is_listed(ks_guc_allowed_origins, origin, len));
}

/* Is the origin that of a URL in the list, which commas separate? */
static bool
is_listed(const char *list, const char *origin, int len)
{
	while (list != NULL && *list != '\0')
	{
		list += strspn(list, " ,");
		if (origin_length(list) == len && pg_strncasecmp(list, origin, len) == 0)
			return true;
		list += strcspn(list, ",");
	}
	return false;
}

/* The length of scheme, host and port at the beginning of a URL; 0 when it has no such beginning. */
static int
origin_length(const char *url)
{
	const char *host = strstr(url, "://");

	if (host == NULL)
		return 0;
	host += 3;
	return host + strcspn(host, "/?#, ") - url;
}

static bool
is_token_good(const char *token, const pg_uuid_t *session_id)
{
	uint8 bytes[TOKEN_BYTES + 3];
	uint8 mac[KS_SHA256_LENGTH];
	uint32 key_id;
	size_t len;

	if (!ks_base64url_decode(token, TOKEN_LENGTH, bytes, &len) || len != TOKEN_BYTES)
		return false;
	memcpy(&key_id, bytes, sizeof(key_id));
	key_id = pg_ntoh32(key_id);
	if (key_id == 0 || !ks_keyring_has(key_id))
		return false;
	token_mac(key_id, session_id, bytes + 4, mac);
	return ks_equal(mac, bytes + 4 + RANDOM_LENGTH, KS_SHA256_LENGTH);
}

/* The MAC of both, each after its length. */
static void
token_mac(uint32 key_id, const pg_uuid_t *session_id, const uint8 *random, uint8 *mac)
{
	uint8 message[1 + UUID_LEN + 1 + RANDOM_LENGTH];

	message[0] = UUID_LEN;
	memcpy(message + 1, session_id->data, UUID_LEN);
	message[1 + UUID_LEN] = RANDOM_LENGTH;
	memcpy(message + 2 + UUID_LEN, random, RANDOM_LENGTH);
	ks_keyring_mac(key_id, "csrf", message, sizeof(message), mac);
}

PG_FUNCTION_INFO_V1(ks_csrf_token);

/* keelson._csrf_token(session_id uuid) */
Datum
ks_csrf_token(PG_FUNCTION_ARGS)
{
	uint32 primary;
	uint32 key_id;
	uint8 bytes[TOKEN_BYTES];

	ks_keyring_require();
	primary = ks_keyring_primary();
	key_id = pg_hton32(primary);
	memcpy(bytes, &key_id, sizeof(key_id));
	ks_random(bytes + 4, RANDOM_LENGTH);
	token_mac(primary, PG_GETARG_UUID_P(0), bytes + 4, bytes + 4 + RANDOM_LENGTH);
	PG_RETURN_TEXT_P(ks_base64url(bytes, TOKEN_BYTES));
}

PG_FUNCTION_INFO_V1(ks_csrf_require);

/* keelson._csrf_require(session_id uuid) */
Datum
ks_csrf_require(PG_FUNCTION_ARGS)
{
	const char *missing = missing_proof(ks_caller(), PG_GETARG_UUID_P(0));

	if (missing != NULL)
		ks_raise(403, "CSRF_FAILED", NULL, "%s", missing);
	PG_RETURN_VOID();
}
