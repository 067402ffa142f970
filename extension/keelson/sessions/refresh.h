/*
 * refresh.h
 *	  Refresh tokens.
 */
#ifndef KS_REFRESH_H
#define KS_REFRESH_H

#include "postgres.h"

#include "utils/uuid.h"

typedef struct KsRefreshToken
{
	pg_uuid_t user_id;
	pg_uuid_t session_id;
	uint32 generation; /* from 1 */
	uint32 key_id;
} KsRefreshToken;

extern text *ks_refresh_token_make(const KsRefreshToken *token);

/* Whether the text is a refresh token of ours; says nothing of its session. */
extern bool ks_refresh_token_open(const char *token, size_t len, KsRefreshToken *out);

#endif /* KS_REFRESH_H */
