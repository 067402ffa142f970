/*
 * text.h
 *	  Just enough JSON and base64 to read proofs and checkpoints.
 */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of a text that somebody else owns; start NULL: nothing. */
typedef struct Slice
{
	const char *start;
	size_t len;
} Slice;

/* The value of the member of an object, as it stands; strings with their quotes. */
Slice json_member(Slice object, const char *name);

/* The next element of an array; begin with *at 0; start NULL after the last. */
Slice json_element(Slice array, size_t *at);

/* What stands between a string's quotes; start NULL when it is no string, or one with escapes. */
Slice json_string(Slice value);

/* A whole number from 0 on; false when it is none, or too large. */
bool json_number(Slice value, uint64_t *number);

/*
 * Decode base64 or base64url, with or without padding; returns the number of
 * bytes, or -1. `out` has room for 3 bytes for every 4 characters begun.
 */
long base64_decode(Slice text, uint8_t *out);

#endif /* TEXT_H */
