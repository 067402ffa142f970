/*
 * jose_json.h
 *	  JSON from strangers: checked before the server's own parser may raise
 *	  an error about it.
 */
#ifndef KS_JOSE_JSON_H
#define KS_JOSE_JSON_H

#include "postgres.h"

#include "utils/jsonb.h"

#define KS_JSON_MAX_LEVELS 16

/*
 * The object that the text is, or NULL unless it is one: valid UTF-8 and JSON,
 * at most KS_JSON_MAX_LEVELS deep, no member named twice in an object, no
 * U+0000, no number that numeric cannot hold. Never raises an error about it.
 */
extern Jsonb *ks_json_object(const char *json, size_t len);

/* A member, or NULL. The value lives as long as the object. */
extern JsonbValue *ks_json_member(const JsonbContainer *object, const char *name);

/* A member that is a string, palloc-ed with a terminator; NULL where it is none. */
extern char *ks_json_string(const JsonbContainer *object, const char *name);

/* A member that is a number of whole seconds, a fraction cut off; false where it is none. */
extern bool ks_json_seconds(const JsonbContainer *object, const char *name, int64 *seconds);

#endif /* KS_JOSE_JSON_H */
