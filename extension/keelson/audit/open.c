/*
 * open.c
 *	  Opening the personal part of an event.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "audit/record.h"
#include "core/uuid.h"
#include "secrets/seal.h"
#include "secrets/user_keys.h"

PG_FUNCTION_INFO_V1(ks_audit_open);

/* keelson._audit_open(user_id uuid, id uuid, personal bytea) : null once the user's key is erased */
Datum
ks_audit_open(PG_FUNCTION_ARGS)
{
	bytea *sealed = PG_GETARG_BYTEA_PP(2);
	KsSealContext context = {.purpose = "audit-nobody", .user_id = *PG_GETARG_UUID_P(0), .row_id = *PG_GETARG_UUID_P(1)};
	uint32 key_no;
	bytea *text;

	if (!ks_uuid_is_nil(&context.user_id))
	{
		context.has_user = true;
		context.purpose = "audit";
		ks_keyring_require();
		if (!ks_seal_key_id((const uint8 *) VARDATA_ANY(sealed), VARSIZE_ANY_EXHDR(sealed), &key_no) ||
			ks_user_key(&context.user_id, key_no) == NULL)
			PG_RETURN_NULL();
	}
	text = ks_unseal(&context, sealed);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(text)));
}
