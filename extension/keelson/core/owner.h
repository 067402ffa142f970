/*
 * owner.h
 *	  Owners of foreign resources (OpenSSL, libcurl, libpq objects).
 */
#ifndef KS_OWNER_H
#define KS_OWNER_H

#include "postgres.h"

#include "utils/palloc.h"

/*
 * Allocate a zeroed struct in the context and have release(struct) called
 * when the context is reset or deleted. Create the owner first, then fill it,
 * so that a failure at any line leaks nothing; release() must cope with a
 * struct that is still or again empty, and must not raise errors.
 */
extern void *ks_owner_create(MemoryContext cxt, Size size, void (*release)(void *));

#endif /* KS_OWNER_H */
