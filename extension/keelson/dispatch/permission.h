/*
 * permission.h
 *	  What a caller may do.
 */
#ifndef KS_PERMISSION_H
#define KS_PERMISSION_H

#include "postgres.h"

#include "dispatch/call.h"

/* May the caller call the route? If not, the call is refused and false returned. */
extern bool ks_authorise(KsCall *call);

/* Does the acting user hold the permission, and the credential of the running request, if it has scopes, too? */
extern bool ks_permission_now(const char *permission);

#endif /* KS_PERMISSION_H */
