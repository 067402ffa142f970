/*
 * uuid: request ids.
 */
#ifndef GW_UUID_H
#define GW_UUID_H

#include <stdbool.h>
#include <stddef.h>

#define GW_UUID_SIZE 37 /* 36 characters and NUL */

/* Writes a new UUIDv7. Any thread; random bytes are drawn in batches per thread. */
void gw_uuid7(char out[GW_UUID_SIZE]);

/* Says whether text is a UUID in its usual form (36 characters). */
bool gw_uuid_is_valid(const char *text);

/* Writes two hexadecimal digits for each byte, and no NUL. */
void gw_hex(char *out, const unsigned char *bytes, size_t len);

/* Fills out with random bytes, from the thread's batch. */
void gw_random(void *out, size_t len);

#endif
