/*
 * access.c
 *	  Access tokens, as functions of SQL.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "secrets/jwt.h"

PG_FUNCTION_INFO_V1(ks__access_token);

/* keelson._access_token(user, session, assurance level, seconds) */
Datum
ks__access_token(PG_FUNCTION_ARGS)
{
	KsAccessToken token = {0};

	token.user_id = *PG_GETARG_UUID_P(0);
	token.session_id = *PG_GETARG_UUID_P(1);
	token.aal = PG_GETARG_INT16(2);
	token.issued_at = (int64) timestamptz_to_time_t(GetCurrentTimestamp());
	token.expires_at = token.issued_at + PG_GETARG_INT32(3);
	PG_RETURN_TEXT_P(ks_access_token_sign(&token));
}
