/*
 * nobody.c
 *	  The account of an address that nobody holds.
 *
 * Failed logins are counted for such addresses as for any other, so that a
 * locked account does not tell that it exists. What they are counted under is
 * derived from the address under a key of the keyring: nobody else can tell
 * which address it was, and as a UUID of version 8 it is no user's id, which
 * are of version 7.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/uuid.h"

#include "secrets/crypto.h"
#include "secrets/keyring.h"

PG_FUNCTION_INFO_V1(ks__nobody_id);

/* keelson._nobody_id(email text): the address as it is looked up, in lower case */
Datum
ks__nobody_id(PG_FUNCTION_ARGS)
{
	text *email = PG_GETARG_TEXT_PP(0);
	uint8 mac[KS_SHA256_LENGTH];
	pg_uuid_t *id = palloc(sizeof(pg_uuid_t));

	ks_keyring_require();
	ks_keyring_mac(ks_keyring_primary(), "nobody", VARDATA_ANY(email), VARSIZE_ANY_EXHDR(email), mac);
	memcpy(id->data, mac, UUID_LEN);
	/* Version 8 and the variant of RFC 9562. */
	id->data[6] = (id->data[6] & 0x0f) | 0x80;
	id->data[8] = (id->data[8] & 0x3f) | 0x80;
	PG_RETURN_UUID_P(id);
}
