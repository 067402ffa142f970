/*
 * device.c
 *	  Device tokens: proof that a device has signed its user in before.
 *
 * A token is user id (16) | device id (16) | day of issue (4) | key id (4) and
 * their HMAC, "ksd_" in front. It signs nobody in: it only lets the device's
 * attempts be counted apart from strangers', so that these cannot lock the
 * user out. The device keeps its id when the token is issued again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "sessions/token.h"

/* As long as the cookie. */
#define DEVICE_DAYS 365

const KsTokenKind ks_device_kind = {"ksd_", "device", 2 * UUID_LEN + 2 * sizeof(uint32)};

static uint32 today(void);

PG_FUNCTION_INFO_V1(ks__device_token);

/* keelson._device_token(user, device, key) */
Datum
ks__device_token(PG_FUNCTION_ARGS)
{
	uint8 payload[KS_TOKEN_PAYLOAD_MAX];

	memcpy(payload, PG_GETARG_UUID_P(0)->data, UUID_LEN);
	memcpy(payload + UUID_LEN, PG_GETARG_UUID_P(1)->data, UUID_LEN);
	ks_put_uint32(payload + 2 * UUID_LEN, today());
	ks_put_uint32(payload + 2 * UUID_LEN + sizeof(uint32), PG_GETARG_INT32(2));
	PG_RETURN_TEXT_P(ks_token_make(&ks_device_kind, payload));
}

PG_FUNCTION_INFO_V1(ks__device_token_open);

/*
 * keelson._device_token_open(token, user): the device's id, null if the token
 * is not ours, not of this user or over a year old.
 */
Datum
ks__device_token_open(PG_FUNCTION_ARGS)
{
	text *token = PG_GETARG_TEXT_PP(0);
	pg_uuid_t *user_id = PG_GETARG_UUID_P(1);
	uint8 payload[KS_TOKEN_PAYLOAD_MAX];
	pg_uuid_t *device_id;

	if (!ks_token_open(&ks_device_kind, VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), payload))
		PG_RETURN_NULL();
	if (memcmp(payload, user_id->data, UUID_LEN) != 0)
		PG_RETURN_NULL();
	if (today() - ks_get_uint32(payload + 2 * UUID_LEN) > DEVICE_DAYS)
		PG_RETURN_NULL();
	device_id = palloc(sizeof(pg_uuid_t));
	memcpy(device_id->data, payload + UUID_LEN, UUID_LEN);
	PG_RETURN_UUID_P(device_id);
}

/* Days since 2000. */
static uint32
today(void)
{
	return (uint32) (GetCurrentTransactionStartTimestamp() / USECS_PER_DAY);
}
