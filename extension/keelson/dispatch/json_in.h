/*
 * json_in.h
 *	  Reading of JSON text in place.
 *
 * A document from outside is checked once, by ks_json_check(). What has been
 * checked (or is of type json, so the server has) is then walked without
 * copying: values are slices of the text, unescaped only when asked for.
 */
#ifndef KS_JSON_IN_H
#define KS_JSON_IN_H

#include "postgres.h"

#define KS_JSON_MAX_DEPTH 32

typedef enum KsJsonKind
{
	KS_JSON_NULL,
	KS_JSON_FALSE,
	KS_JSON_TRUE,
	KS_JSON_NUMBER,
	KS_JSON_STRING, /* the slice stands between the quotes */
	KS_JSON_ARRAY,
	KS_JSON_OBJECT
} KsJsonKind;

typedef struct KsJson
{
	KsJsonKind kind;
	bool is_escaped; /* a string that holds a backslash */
	const char *start;
	int len;
} KsJson;

/* A place inside an array or object. */
typedef struct KsJsonCursor
{
	const char *at;
	const char *end;
} KsJsonCursor;

/*
 * NULL when the text is one JSON value in valid UTF-8 without a member named
 * twice, without U+0000 and nested no deeper than KS_JSON_MAX_DEPTH; otherwise
 * what is wrong with it, for a person.
 */
extern const char *ks_json_check(const char *text, int len);

/* The value that the whole of a checked text is. */
extern KsJson ks_json_value(const char *text, int len);

/* Walk through the members of an object, or the elements of an array. */
extern KsJsonCursor ks_json_open(const KsJson *container);
extern bool ks_json_next_member(KsJsonCursor *cursor, KsJson *name, KsJson *value);
extern bool ks_json_next_element(KsJsonCursor *cursor, KsJson *value);

/* A copy of the string, unescaped and terminated; NULL when it holds U+0000. */
extern char *ks_json_unescape(const KsJson *string);

/* The string for use in a message. */
extern const char *ks_json_shown(const KsJson *string);

/* Is the string this text? */
extern bool ks_json_equals(const KsJson *string, const char *text, int len);

#endif /* KS_JSON_IN_H */
