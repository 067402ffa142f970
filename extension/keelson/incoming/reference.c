/*
 * reference.c
 *	  Whom a checkout is for, as its payer cannot make it up.
 *
 * What stands in a payment link as client_reference_id is written by whoever
 * opens it, and users' ids are no secrets. So a user is named there by user id
 * (16) | key id (4) and their HMAC, "kss_" in front: letters, digits, "-" and
 * "_", 74 in all, which is what Stripe takes there. It signs nobody in.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "sessions/token.h"

static const KsTokenKind reference_kind = {"kss_", "stripe-reference", UUID_LEN + sizeof(uint32)};

PG_FUNCTION_INFO_V1(ks__stripe_reference);

/* keelson._stripe_reference(user, key) */
Datum
ks__stripe_reference(PG_FUNCTION_ARGS)
{
	uint8 payload[KS_TOKEN_PAYLOAD_MAX];

	memcpy(payload, PG_GETARG_UUID_P(0)->data, UUID_LEN);
	ks_put_uint32(payload + UUID_LEN, PG_GETARG_INT32(1));
	PG_RETURN_TEXT_P(ks_token_make(&reference_kind, payload));
}

PG_FUNCTION_INFO_V1(ks__stripe_reference_open);

/* keelson._stripe_reference_open(reference): the user's id, null if it is not ours */
Datum
ks__stripe_reference_open(PG_FUNCTION_ARGS)
{
	text *reference = PG_GETARG_TEXT_PP(0);
	uint8 payload[KS_TOKEN_PAYLOAD_MAX];
	pg_uuid_t *user_id;

	if (!ks_token_open(&reference_kind, VARDATA_ANY(reference), VARSIZE_ANY_EXHDR(reference), payload))
		PG_RETURN_NULL();
	user_id = palloc(sizeof(pg_uuid_t));
	memcpy(user_id->data, payload, UUID_LEN);
	PG_RETURN_UUID_P(user_id);
}
