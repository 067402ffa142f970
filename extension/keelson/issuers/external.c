/*
 * external.c
 *	  Tokens of external issuers.
 *
 * Which issuer's keys a token is verified with is told by its claim iss, read
 * before that is proven; nothing else is taken from it until the signature is.
 * What was found good is kept as its SHA-256, in SETS sets of WAYS entries,
 * with the version of the issuer's row. A user made by the running transaction
 * is not kept: that may roll back.
 */
#include "postgres.h"

#include <time.h>

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/roles.h"
#include "core/shmem.h"
#include "core/spi.h"
#include "identity/user_probe.h"
#include "issuers/external.h"
#include "issuers/fetch.h"
#include "issuers/issuers.h"
#include "secrets/crypto.h"
#include "secrets/jose_json.h"
#include "secrets/jwt.h"

#define SETS 256
#define WAYS 4
#define MAX_SUBJECT 255

/* A verified token; last_used 0: an empty place. */
typedef struct Verified
{
	uint8 hash[KS_SHA256_LENGTH];
	uint64 last_used;
	pg_uuid_t issuer_id;
	uint32 issuer_version;
	KsExternalToken token;
} Verified;

/* The backend's verified tokens, made on first use; an entry counts while its issuer is as it was. */
static struct
{
	uint64 clock;
	Verified (*sets)[WAYS];
} verified;

/* What a verified token says of its subject. */
typedef struct Subject
{
	char *subject;
	char *email; /* or NULL */
	bool is_email_verified;
	char *name; /* or NULL */
} Subject;

static bool is_active_now(const pg_uuid_t *user_id);
static Verified *find_verified(const KsIssuers *issuers, const uint8 *hash);
static bool is_current(const KsIssuers *issuers, const Verified *entry);
static void keep_verified(const uint8 *hash, const KsIssuer *issuer, const KsExternalToken *token);
static KsExternalState verify(const KsIssuers *issuers, const char *token, size_t len, const KsIssuer **issuer, Subject *subject, int64 *expires_at);
static const KsIssuer *find_issuer(const KsIssuers *issuers, const char *token, size_t len);
static bool is_signed(const KsIssuer *issuer, const char *token, size_t len, KsJws *jws);
static bool has_key(const KsIssuer *issuer, const char *kid);
static bool is_of_type(const KsIssuer *issuer, const KsJws *jws);
static bool is_for_party(const KsIssuer *issuer, const JsonbContainer *claims);
static bool read_subject(const KsIssuer *issuer, const JsonbContainer *claims, Subject *subject);
static bool is_true(const JsonbContainer *claims, const char *name);
static KsExternalState find_user(const KsIssuer *issuer, const Subject *subject, KsExternalToken *out);

KsExternalState
ks_external_verify(const char *token, size_t len, KsExternalToken *out)
{
	const KsIssuers *issuers = ks_issuers();
	uint8 hash[KS_SHA256_LENGTH];
	const KsIssuer *issuer;
	const Verified *known;
	Subject subject;
	KsExternalState state;

	if (issuers->count == 0 || len > KS_TOKEN_MAX_LENGTH)
		return KS_EXTERNAL_INVALID;
	ks_sha256(token, len, hash);
	known = find_verified(issuers, hash);
	if (known != NULL)
	{
		KsUserState user = ks_user_probe(&known->token.user_id);

		*out = known->token;
		if (known->token.expires_at + KS_JWT_MAX_LEEWAY <= (int64) time(NULL))
			return KS_EXTERNAL_EXPIRED;
		/* One whose user is not there any more, or never was, is looked at anew. */
		if (user != KS_USER_NONE)
			return user == KS_USER_ACTIVE ? KS_EXTERNAL_VALID : KS_EXTERNAL_INVALID;
	}
	state = verify(issuers, token, len, &issuer, &subject, &out->expires_at);
	if (state != KS_EXTERNAL_VALID)
		return state;
	state = find_user(issuer, &subject, out);
	if (state != KS_EXTERNAL_VALID)
		return state;
	if (!is_active_now(&out->user_id))
		return KS_EXTERNAL_INVALID;
	/* Also where somebody else has made the user since the statement began. */
	out->is_first_sight |= ks_user_probe(&out->user_id) == KS_USER_NONE;
	if (!out->is_first_sight)
		keep_verified(hash, issuer, out);
	return KS_EXTERNAL_VALID;
}

/* Is the user active, with all that has committed by now and what we have made ourselves? */
static bool
is_active_now(const pg_uuid_t *user_id)
{
	KsUserState state;

	PushActiveSnapshot(GetTransactionSnapshot());
	state = ks_user_probe(user_id);
	PopActiveSnapshot();
	return state == KS_USER_ACTIVE;
}

bool
ks_external_is_known(const char *token, size_t len)
{
	const KsIssuers *issuers = ks_issuers();
	uint8 hash[KS_SHA256_LENGTH];

	if (issuers->count == 0 || len > KS_TOKEN_MAX_LENGTH)
		return false;
	ks_sha256(token, len, hash);
	return find_verified(issuers, hash) != NULL;
}

static Verified *
find_verified(const KsIssuers *issuers, const uint8 *hash)
{
	Verified *set;

	if (verified.sets == NULL)
		verified.sets = MemoryContextAllocZero(TopMemoryContext, SETS * sizeof(*verified.sets));
	set = verified.sets[hash[0] % SETS];
	for (int i = 0; i < WAYS; i++)
		if (set[i].last_used != 0 && memcmp(set[i].hash, hash, KS_SHA256_LENGTH) == 0 && is_current(issuers, &set[i]))
		{
			set[i].last_used = ++verified.clock;
			return &set[i];
		}
	return NULL;
}

/* Is the issuer there and as it was? */
static bool
is_current(const KsIssuers *issuers, const Verified *entry)
{
	for (int i = 0; i < issuers->count; i++)
		if (memcmp(&issuers->issuers[i].id, &entry->issuer_id, UUID_LEN) == 0)
			return issuers->issuers[i].version == entry->issuer_version;
	return false;
}

/* In the place that the token had, or of the entry of the set that was used longest ago. */
static void
keep_verified(const uint8 *hash, const KsIssuer *issuer, const KsExternalToken *token)
{
	Verified *set = verified.sets[hash[0] % SETS];
	Verified *place = &set[0];

	for (int i = 0; i < WAYS; i++)
	{
		if (memcmp(set[i].hash, hash, KS_SHA256_LENGTH) == 0)
		{
			place = &set[i];
			break;
		}
		if (set[i].last_used < place->last_used)
			place = &set[i];
	}
	memcpy(place->hash, hash, KS_SHA256_LENGTH);
	place->last_used = ++verified.clock;
	place->issuer_id = issuer->id;
	place->issuer_version = issuer->version;
	place->token = *token;
}

/* Is it a token of one of the issuers, as that issuer's row demands? */
static KsExternalState
verify(const KsIssuers *issuers, const char *token, size_t len, const KsIssuer **issuer, Subject *subject, int64 *expires_at)
{
	KsJwtExpected expected = {.leeway = KS_JWT_MAX_LEEWAY};
	bool is_expired = false;
	Jsonb *claims;
	KsJws jws;

	*issuer = find_issuer(issuers, token, len);
	if (*issuer == NULL || !is_signed(*issuer, token, len, &jws) || !is_of_type(*issuer, &jws))
		return KS_EXTERNAL_INVALID;
	claims = ks_json_object((const char *) jws.payload, jws.payload_len);
	expected.issuer = (*issuer)->issuer;
	expected.audience = (*issuer)->audience;
	if (claims == NULL)
		return KS_EXTERNAL_INVALID;
	if (ks_jwt_check(&claims->root, &jws, &expected, &is_expired) != NULL)
		return is_expired ? KS_EXTERNAL_EXPIRED : KS_EXTERNAL_INVALID;
	if (!is_for_party(*issuer, &claims->root) || !read_subject(*issuer, &claims->root, subject) ||
		!ks_json_seconds(&claims->root, "exp", expires_at))
		return KS_EXTERNAL_INVALID;
	return KS_EXTERNAL_VALID;
}

/* The issuer that the token says it is of; NULL: none of ours. */
static const KsIssuer *
find_issuer(const KsIssuers *issuers, const char *token, size_t len)
{
	const char *end = token + len;
	const char *first = memchr(token, '.', len);
	const char *second = first != NULL ? memchr(first + 1, '.', end - first - 1) : NULL;
	uint8 *payload;
	size_t payload_len;
	Jsonb *claims;
	char *name;

	if (second == NULL)
		return NULL;
	payload = palloc(KS_BASE64URL_BYTES(second - first) + 1);
	if (!ks_base64url_decode(first + 1, second - first - 1, payload, &payload_len))
		return NULL;
	claims = ks_json_object((const char *) payload, payload_len);
	name = claims != NULL ? ks_json_string(&claims->root, "iss") : NULL;
	for (int i = 0; name != NULL && i < issuers->count; i++)
		if (strcmp(issuers->issuers[i].issuer, name) == 0)
			return &issuers->issuers[i];
	return NULL;
}

/* Has one of its keys signed it? One that names a key which is not known has the keys fetched, for the next. */
static bool
is_signed(const KsIssuer *issuer, const char *token, size_t len, KsJws *jws)
{
	if (issuer->keys == NULL)
	{
		ks_issuer_want(issuer, NULL);
		return false;
	}
	if (ks_jws_verify(issuer->keys, issuer->algorithms, token, len, jws) == NULL)
		return true;
	if (jws->kid != NULL && !has_key(issuer, jws->kid))
		ks_issuer_want(issuer, jws->kid);
	return false;
}

static bool
has_key(const KsIssuer *issuer, const char *kid)
{
	for (int i = 0; i < issuer->keys->count; i++)
		if (issuer->keys->keys[i].kid != NULL && strcmp(issuer->keys->keys[i].kid, kid) == 0)
			return true;
	return false;
}

/* A token without a typ is a JWT (RFC 7519, 5.1). */
static bool
is_of_type(const KsIssuer *issuer, const KsJws *jws)
{
	for (int i = 0; i < issuer->type_count; i++)
		if (ks_jwt_is_type(jws->typ != NULL ? jws->typ : "JWT", issuer->types[i]))
			return true;
	return false;
}

static bool
is_for_party(const KsIssuer *issuer, const JsonbContainer *claims)
{
	char *party = ks_json_string(claims, "azp");
	Datum *elements;
	int count;

	if (issuer->parties == NULL)
		return true;
	if (party == NULL)
		return false;
	deconstruct_array(issuer->parties, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		if (strcmp(TextDatumGetCString(elements[i]), party) == 0)
			return true;
	return false;
}

/* Who it is about; false when it does not say. */
static bool
read_subject(const KsIssuer *issuer, const JsonbContainer *claims, Subject *subject)
{
	subject->subject = ks_json_string(claims, "sub");
	if (subject->subject == NULL || subject->subject[0] == '\0' || pg_mbstrlen(subject->subject) > MAX_SUBJECT)
		return false;
	subject->email = issuer->email_claim != NULL ? ks_json_string(claims, issuer->email_claim) : NULL;
	subject->name = issuer->name_claim != NULL ? ks_json_string(claims, issuer->name_claim) : NULL;
	subject->is_email_verified = issuer->trusts_email ||
								 (issuer->email_verified_claim != NULL && is_true(claims, issuer->email_verified_claim));
	return true;
}

/* True, or the string that some issuers write instead. */
static bool
is_true(const JsonbContainer *claims, const char *name)
{
	JsonbValue *value = ks_json_member(claims, name);

	if (value == NULL)
		return false;
	if (value->type == jbvBool)
		return value->val.boolean;
	return value->type == jbvString && value->val.string.len == 4 && strncmp(value->val.string.val, "true", 4) == 0;
}

/* The user who the subject is, made or linked if need be. */
static KsExternalState
find_user(const KsIssuer *issuer, const Subject *subject, KsExternalToken *out)
{
	static KsPlan plan = {
		.sql = "select user_id, outcome from keelson._external_user($1, $2, $3, $4, $5)",
		.nargs = 5,
		.argtypes = {TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID}};
	Datum values[] = {
		CStringGetTextDatum(issuer->issuer),
		CStringGetTextDatum(subject->subject),
		subject->email != NULL ? CStringGetTextDatum(subject->email) : (Datum) 0,
		BoolGetDatum(subject->is_email_verified),
		subject->name != NULL ? CStringGetTextDatum(subject->name) : (Datum) 0};
	const char nulls[] = {' ', ' ', subject->email != NULL ? ' ' : 'n', ' ', subject->name != NULL ? ' ' : 'n', '\0'};
	KsRoleSwitch save;
	KsExternalState state = KS_EXTERNAL_VALID;
	char *outcome;
	Datum user_id;
	bool is_null;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_execute(&plan, values, nulls, false, 1);
	ks_role_leave(&save);
	user_id = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
	outcome = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	if (is_null)
		state = strcmp(outcome, "unverified") == 0 ? KS_EXTERNAL_UNVERIFIED : KS_EXTERNAL_UNLINKED;
	else
		out->user_id = *DatumGetUUIDP(user_id);
	out->is_first_sight = strcmp(outcome, "known") != 0;
	ks_spi_finish();
	return state;
}
