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

/* Find out, and record the primary key if this database does not know it; the reason in `why`. */
extern bool ks_keyring_check(StringInfo why);

#endif /* KS_KEYRING_CHECK_H */
