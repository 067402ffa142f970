/*
 * access_key.h
 *	  The text of an access key.
 *
 *	  ks_<environment>_<key id><user id><secret><checksum>
 *
 * The environment is live or test. Key id and user id are 16 bytes, the secret
 * 32, each eight bytes written as eleven digits of base 62 (0-9, A-Z, a-z), so
 * that a double click takes the whole and nothing in it needs quoting. The
 * checksum is the CRC-32 of all that stands before it, six digits: what was
 * mistyped, cut or made up is known without a look-up.
 */
#ifndef KS_ACCESS_KEY_H
#define KS_ACCESS_KEY_H

#include "postgres.h"

#include "utils/uuid.h"

#define KS_ACCESS_KEY_LENGTH 102
#define KS_ACCESS_KEY_PREFIX_LENGTH 19 /* what lists show: up to the first eleven digits */

typedef struct KsAccessKeyText
{
	bool is_live;
	pg_uuid_t id;
	pg_uuid_t user_id;
} KsAccessKeyText;

/* Does it begin as one, whatever follows? */
extern bool ks_access_key_has_shape(const char *text, size_t len);

/* Take a key apart; false for all that is not one. Says nothing of whether there is such a key. */
extern bool ks_access_key_parse(const char *text, size_t len, KsAccessKeyText *out);

/* Are the keys of this installation live ones (production) or test ones? */
extern bool ks_access_keys_are_live(void);

#endif /* KS_ACCESS_KEY_H */
