/*
 * request.h
 *	  What the gateway tells of the caller.
 */
#ifndef KS_REQUEST_H
#define KS_REQUEST_H

#include "postgres.h"

#include "core/identity.h"

/* Read the JSON object {"ip": ..., "userAgent": ...}; strings are allocated. */
extern void ks_request_read(KsCaller *caller, const char *json, int len);

#endif /* KS_REQUEST_H */
