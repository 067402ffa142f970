/*
 * refresh.c
 *	  Refresh tokens: derived from the session and its generation, never stored.
 *
 * A token is user id (16) | session id (16) | generation (4) | key id (4) and
 * their HMAC, "ksr_" in front. The session's row holds the present generation
 * and key id, so that the one good token can be written again at any time: a
 * refresh whose reply was lost gets the same successor, and 64 refreshes at
 * once are one.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "sessions/token.h"

/* What a token says. */
typedef struct RefreshToken
{
	pg_uuid_t user_id;
	pg_uuid_t session_id;
	uint32 generation; /* from 1 */
	uint32 key_id;
} RefreshToken;

static text *make_token(const RefreshToken *token);
static bool open_token(const char *token, size_t len, RefreshToken *out);

const KsTokenKind ks_refresh_kind = {"ksr_", "refresh", 2 * UUID_LEN + 2 * sizeof(uint32)};

PG_FUNCTION_INFO_V1(ks__refresh_token);

/* keelson._refresh_token(user, session, generation, key) */
Datum
ks__refresh_token(PG_FUNCTION_ARGS)
{
	RefreshToken token;

	token.user_id = *PG_GETARG_UUID_P(0);
	token.session_id = *PG_GETARG_UUID_P(1);
	token.generation = PG_GETARG_INT32(2);
	token.key_id = PG_GETARG_INT32(3);
	PG_RETURN_TEXT_P(make_token(&token));
}

static text *
make_token(const RefreshToken *token)
{
	uint8 payload[KS_TOKEN_PAYLOAD_MAX];

	memcpy(payload, token->user_id.data, UUID_LEN);
	memcpy(payload + UUID_LEN, token->session_id.data, UUID_LEN);
	ks_put_uint32(payload + 2 * UUID_LEN, token->generation);
	ks_put_uint32(payload + 2 * UUID_LEN + sizeof(uint32), token->key_id);
	return ks_token_make(&ks_refresh_kind, payload);
}

PG_FUNCTION_INFO_V1(ks__refresh_token_open);

/* keelson._refresh_token_open(token): its four parts, or nulls */
Datum
ks__refresh_token_open(PG_FUNCTION_ARGS)
{
	text *given = PG_GETARG_TEXT_PP(0);
	RefreshToken token = {0};
	TupleDesc shape;
	Datum values[4];
	bool nulls[4];
	bool is_ours = open_token(VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), &token);

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "the parts of a refresh token need a row type");
	values[0] = UUIDPGetDatum(&token.user_id);
	values[1] = UUIDPGetDatum(&token.session_id);
	values[2] = Int32GetDatum(token.generation);
	values[3] = Int32GetDatum(token.key_id);
	memset(nulls, !is_ours, sizeof(nulls));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

/* Whether the text is a refresh token of ours; says nothing of its session. */
static bool
open_token(const char *token, size_t len, RefreshToken *out)
{
	uint8 payload[KS_TOKEN_PAYLOAD_MAX];

	if (!ks_token_open(&ks_refresh_kind, token, len, payload))
		return false;
	memcpy(out->user_id.data, payload, UUID_LEN);
	memcpy(out->session_id.data, payload + UUID_LEN, UUID_LEN);
	out->generation = ks_get_uint32(payload + 2 * UUID_LEN);
	out->key_id = ks_get_uint32(payload + 2 * UUID_LEN + sizeof(uint32));
	return true;
}
