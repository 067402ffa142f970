/*
 * uuid.h
 *	  UUID version 7.
 */
#ifndef KS_UUID_H
#define KS_UUID_H

#include "postgres.h"

#include "utils/uuid.h"

/*
 * Make a UUIDv7 (RFC 9562, 5.7): 48 bits of Unix time in milliseconds, 12 bits
 * of fraction of the millisecond (method 3), 62 random bits. Values made by
 * one backend rise strictly, even when the clock steps back.
 */
extern void ks_uuid7(pg_uuid_t *out);

/* The UUID as text, palloc-ed. */
extern char *ks_uuid_string(const pg_uuid_t *uuid);

#endif /* KS_UUID_H */
