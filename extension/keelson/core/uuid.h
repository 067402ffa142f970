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
 * one backend rise strictly, also when the clock steps back; but for a step of
 * more than a minute, lest ids keep a day that is far ahead, and has no partition.
 */
extern void ks_uuid7(pg_uuid_t *out);

#define KS_UUID_TEXT_LENGTH 36

/* The UUID as text: into a buffer, without a terminator; and palloc-ed, with one. */
extern void ks_uuid_write(const pg_uuid_t *uuid, char out[KS_UUID_TEXT_LENGTH]);
extern char *ks_uuid_string(const pg_uuid_t *uuid);

/* Read 36 characters as ks_uuid_write() writes them, or in capitals; false, with nothing read, for anything else. */
extern bool ks_uuid_read(const char *text, size_t len, pg_uuid_t *uuid);

/* Is it the nil UUID (RFC 9562, 5.9), which nobody has? */
extern bool ks_uuid_is_nil(const pg_uuid_t *uuid);

/* The time that a UUIDv7 holds, in milliseconds since 1970, and the day, UTC, since then. */
extern int64 ks_uuid7_ms(const pg_uuid_t *uuid);
extern int32 ks_uuid7_day(const pg_uuid_t *uuid);

#endif /* KS_UUID_H */
