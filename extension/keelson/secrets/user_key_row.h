/*
 * user_key_row.h
 *	  Reading one row of keelson.user_keys.
 */
#ifndef KS_USER_KEY_ROW_H
#define KS_USER_KEY_ROW_H

#include "postgres.h"

#include "utils/uuid.h"

#include "secrets/crypto.h"
#include "secrets/seal.h"

#define KS_WRAPPED_LENGTH (KS_KEY_LENGTH + KS_SEAL_OVERHEAD)

typedef struct KsUserKeyRow
{
	uint32 key_no;
	int64 uses;
	size_t length; /* of what stands in `wrapped`; 0 where it is too long */
	uint8 wrapped[KS_WRAPPED_LENGTH];
} KsUserKeyRow;

/* The user's key of the number, the newest for 0, as the active snapshot has it; false where there is none. */
extern bool ks_user_key_row_read(const pg_uuid_t *user_id, uint32 key_no, KsUserKeyRow *row);

#endif /* KS_USER_KEY_ROW_H */
