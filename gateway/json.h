/*
 * json: checking of request bodies, and a reader of the small objects that the
 * database sends (reply headers, error members). Writing is in text.h.
 */
#ifndef GW_JSON_H
#define GW_JSON_H

#include "text.h"

#define GW_JSON_DEPTH 32

/*
 * Says whether body is one JSON text as RFC 8259 has it, in UTF-8 without byte
 * order mark, nested at most GW_JSON_DEPTH deep, no name twice in an object,
 * no U+0000, no lone surrogate. If not, *reason is a sentence (static) for the
 * client and *offset the byte it is about. An empty body is no JSON.
 */
bool gw_json_check(const char *body, size_t len, const char **reason, size_t *offset)
	__attribute__((warn_unused_result));

enum GwJsonType
{
	GW_JSON_END, /* no further member */
	GW_JSON_BROKEN,
	GW_JSON_STRING,
	GW_JSON_NUMBER,
	GW_JSON_TRUE,
	GW_JSON_FALSE,
	GW_JSON_NULL,
	GW_JSON_OBJECT,
	GW_JSON_ARRAY
};

/* A cursor over the members of an object or the elements of an array. */
struct GwJsonCursor
{
	const char *at;
	const char *end;
	bool is_started;
	bool is_object;
};

/*
 * One member. Raw texts are slices of the input: a string's raw excludes its
 * quotes and still has escapes; of other values it is the whole text.
 */
struct GwJsonMember
{
	struct GwSlice name; /* raw, empty in arrays */
	enum GwJsonType type;
	struct GwSlice raw;
};

/* Starts on the text of an object or array; false if it is neither. */
bool gw_json_open(struct GwJsonCursor *cursor, const char *text, size_t len);

/* Reads the next member; returns its type, GW_JSON_END, or GW_JSON_BROKEN. */
enum GwJsonType gw_json_next(struct GwJsonCursor *cursor, struct GwJsonMember *member);

/*
 * Decodes a raw string into out (size raw.len + 1 suffices); NUL-terminates;
 * returns its length, or -1 if the escapes are broken, it holds U+0000 or does not fit.
 */
long gw_json_decode(struct GwSlice raw, char *out, size_t size);

/* Finds a top-level member by name; false if absent. */
bool gw_json_find(const char *text, size_t len, const char *name, struct GwJsonMember *member);

#endif
