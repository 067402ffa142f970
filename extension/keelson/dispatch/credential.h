/*
 * credential.h
 *	  What a credential proves.
 */
#ifndef KS_CREDENTIAL_H
#define KS_CREDENTIAL_H

#include "postgres.h"

#include "dispatch/call.h"

/* Fill call->credential. A credential that proves nothing is no error here. */
extern void ks_credential_check(KsCall *call);

#endif /* KS_CREDENTIAL_H */
