/*
 * json_escape: the escapes of JSON strings, for json and json_check.
 */
#ifndef GW_JSON_ESCAPE_H
#define GW_JSON_ESCAPE_H

#include <stddef.h>
#include <stdint.h>

/* Reads an escape, of a surrogate pair both halves, and moves behind it; NULL, or what is wrong with it (static). */
const char *gw_json_escape_read(const char **place, const char *end, uint32_t *code) __attribute__((warn_unused_result));

/* Writes a character as UTF-8, at most four bytes; returns how many. */
size_t gw_utf8_put(char *out, uint32_t code);

#endif
