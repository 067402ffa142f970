/*
 * keyring_check.h
 *	  Is the loaded keyring the one that this database was sealed with?
 */
#ifndef KS_KEYRING_CHECK_H
#define KS_KEYRING_CHECK_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* Has this backend found the present keyring to be right? Costs a few loads. */
extern bool ks_keyring_is_checked(void);

/*
 * Find out; if not, the reason goes to `why`, which may be NULL. Who is about
 * to use the primary key has it recorded, where this database does not know it.
 */
extern bool ks_keyring_check(StringInfo why, bool is_use);

/* Append "; this database needs key …" where it needs any; false where it needs none. */
extern bool ks_keyring_needed(StringInfo why);

#endif /* KS_KEYRING_CHECK_H */
