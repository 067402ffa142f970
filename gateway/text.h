/*
 * text: a growing byte buffer that remembers failure.
 *
 * Every append is safe after a failed one: callers check "failed" once, at the
 * end. A GwText belongs to one thread. The data is NUL-terminated by
 * gw_text_take() only.
 */
#ifndef GW_TEXT_H
#define GW_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A piece of text that somebody else owns; not NUL-terminated. */
struct GwSlice
{
	const char *data;
	size_t len;
};

struct GwText
{
	char *data;
	size_t len;
	size_t size;
	bool failed; /* an allocation failed; the content is incomplete */
};

void gw_text_printf(struct GwText *text, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void gw_text_int(struct GwText *text, int64_t value);

/* Writes a number without NUL; returns its length. */
#define GW_DIGITS_MAX 20
size_t gw_digits(char out[GW_DIGITS_MAX], int64_t value);

/* Appends data as a JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
void gw_text_json(struct GwText *text, const char *data, size_t len);

/* Appends "2025-01-15T00:00:00.123456Z" for microseconds since 1970. */
void gw_text_time(struct GwText *text, int64_t unix_us);

/* Writes the same, without NUL. */
#define GW_TIME_LEN 27
void gw_time_write(char out[GW_TIME_LEN], int64_t unix_us);

/* Writes "Wed, 15 Jan 2025 00:00:00 GMT" and NUL for seconds since 1970. */
#define GW_DATE_SIZE 30
void gw_date_write(char out[GW_DATE_SIZE], int64_t seconds);

/* How many bytes stand before the first control character (below 0x20, or 0x7F). */
size_t gw_text_plain(const char *data, size_t len);

/* How many bytes stand before the first that is not ASCII, or that a JSON string cannot have as it is. */
size_t gw_text_safe(const char *data, size_t len);

/* How many bytes stand before the first that is not printable ASCII, or is a space. */
size_t gw_text_solid(const char *data, size_t len);

/* The value of a hexadecimal digit, or -1. */
static inline int
gw_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Says whether data is well-formed UTF-8 (no surrogates, nothing over U+10FFFF). */
bool gw_utf8_is_valid(const char *data, size_t len);

/* Hands the malloc'ed, NUL-terminated data to the caller (NULL after a failure) and empties text. */
char *gw_text_take(struct GwText *text, size_t *len);

/* Frees the data; the struct may be used again. */
void gw_text_free(struct GwText *text);

/* Allocates for gw_text_reserve(). */
bool gw_text_grow(struct GwText *text, size_t more);

/* Makes room for "more" bytes; false (and failed set) when memory is short. */
static inline bool
gw_text_reserve(struct GwText *text, size_t more)
{
	return !text->failed && (text->size - text->len >= more || gw_text_grow(text, more));
}

static inline void
gw_text_add(struct GwText *text, const char *data, size_t len)
{
	if (len == 0 || !gw_text_reserve(text, len))
		return;
	memcpy(text->data + text->len, data, len);
	text->len += len;
}

static inline void
gw_text_puts(struct GwText *text, const char *string)
{
	gw_text_add(text, string, strlen(string));
}

/* Appends a string literal. */
#define gw_text_lit(text, literal) gw_text_add((text), "" literal, sizeof(literal) - 1)

static inline bool
gw_slice_is(struct GwSlice slice, const char *string)
{
	size_t len = strlen(string);

	return slice.len == len && memcmp(slice.data, string, len) == 0;
}

#endif
