/*
 * fetch.h
 *	  Fetching the keys that issuers publish, off the path of any request.
 */
#ifndef KS_ISSUERS_FETCH_H
#define KS_ISSUERS_FETCH_H

#include "postgres.h"

#include "issuers/issuers.h"

/*
 * A token names a key that is not known: have the issuer's keys fetched, soon.
 * Waits for nothing and writes nothing. A key that a fetch did not bring is not
 * asked for again for five minutes. kid may be NULL.
 */
extern void ks_issuer_want(const KsIssuer *issuer, const char *kid);

extern void ks_issuers_init(void);

#endif /* KS_ISSUERS_FETCH_H */
