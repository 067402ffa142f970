/*
 * hash: SipHash-1-3, for tables that a client can fill.
 */
#ifndef GW_HASH_H
#define GW_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Hashes data under a random key of the thread's own: values of two threads do not compare. */
uint64_t gw_hash(const char *data, size_t len);

#endif
