/*
 * jose_json.c
 *	  A guard before jsonb: jsonb keeps the last of two members of one name,
 *	  and its input function raises errors that quote the text.
 *
 * The depth is looked at before anything recurses into it. Then the server's
 * JSON parser runs with callbacks that note the names of each open object; it
 * returns its findings and raises nothing.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "core/compat.h"
#include "secrets/jose_json.h"

#define MAX_MEMBERS 256
#define MAX_NUMBER_LENGTH 128

/* The names of the objects that are open, the innermost last. */
typedef struct Names
{
	bool is_bad;
	int level;
	int count;
	int first[KS_JSON_MAX_LEVELS + 1]; /* of the objects by level */
	char *names[KS_JSON_MAX_LEVELS * MAX_MEMBERS];
} Names;

static bool is_shallow(const char *json, size_t len);
static bool is_well_formed(const char *json, size_t len);
static KsJsonActionResult begin_object(void *state);
static KsJsonActionResult end_object(void *state);
static KsJsonActionResult begin_member(void *state, char *name, bool is_null);
static KsJsonActionResult look_at_scalar(void *state, char *token, JsonTokenType type);

Jsonb *
ks_json_object(const char *json, size_t len)
{
	char *copy;
	Jsonb *jsonb;

	if (len == 0 || memchr(json, '\0', len) != NULL || pg_encoding_verifymbstr(PG_UTF8, json, (int) len) != (int) len)
		return NULL;
	if (!is_shallow(json, len))
		return NULL;
	copy = pnstrdup(json, len);
	if (!is_well_formed(copy, len))
		return NULL;
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(copy)));
	return JB_ROOT_IS_OBJECT(jsonb) ? jsonb : NULL;
}

JsonbValue *
ks_json_member(const JsonbContainer *object, const char *name)
{
	return getKeyJsonValueFromContainer((JsonbContainer *) object, name, (int) strlen(name), NULL);
}

char *
ks_json_string(const JsonbContainer *object, const char *name)
{
	JsonbValue *value = ks_json_member(object, name);

	return value != NULL && value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : NULL;
}

bool
ks_json_seconds(const JsonbContainer *object, const char *name, int64 *seconds)
{
	JsonbValue *value = ks_json_member(object, name);
	Datum whole;
	Datum limit = DirectFunctionCall1(int8_numeric, Int64GetDatum(INT64CONST(1) << 53));

	if (value == NULL || value->type != jbvNumeric)
		return false;
	/* Within what a double holds exactly, and not before 1970. */
	whole = DirectFunctionCall1(numeric_floor, NumericGetDatum(value->val.numeric));
	if (DatumGetBool(DirectFunctionCall2(numeric_gt, whole, limit)) ||
		DatumGetBool(DirectFunctionCall2(numeric_lt, whole, DirectFunctionCall1(int8_numeric, Int64GetDatum(0)))))
		return false;
	*seconds = DatumGetInt64(DirectFunctionCall1(numeric_int8, whole));
	return true;
}

/* Do brackets outside of strings nest no deeper than allowed? */
static bool
is_shallow(const char *json, size_t len)
{
	int level = 0;
	bool in_string = false;

	for (size_t i = 0; i < len; i++)
	{
		if (in_string && json[i] == '\\')
			i++;
		else if (json[i] == '"')
			in_string = !in_string;
		else if (!in_string && (json[i] == '{' || json[i] == '['))
		{
			if (++level > KS_JSON_MAX_LEVELS)
				return false;
		}
		else if (!in_string && (json[i] == '}' || json[i] == ']'))
			level--;
	}
	return true;
}

static bool
is_well_formed(const char *json, size_t len)
{
	Names *names = palloc(sizeof(Names));
	JsonLexContext *lex = ks_json_lexer(json, len);
	JsonSemAction actions;

	names->is_bad = false;
	names->level = names->count = 0;
	memset(&actions, 0, sizeof(actions));
	actions.semstate = names;
	actions.object_start = begin_object;
	actions.object_end = end_object;
	actions.object_field_start = begin_member;
	actions.scalar = look_at_scalar;
	return pg_parse_json(lex, &actions) == JSON_SUCCESS && !names->is_bad;
}

static KsJsonActionResult
begin_object(void *state)
{
	Names *names = state;

	names->first[names->level++] = names->count;
	KS_JSON_ACTION_DONE;
}

static KsJsonActionResult
end_object(void *state)
{
	Names *names = state;

	names->count = names->first[--names->level];
	KS_JSON_ACTION_DONE;
}

/* The names of enclosing objects stand before `first` and do not count. */
static KsJsonActionResult
begin_member(void *state, char *name, bool is_null)
{
	Names *names = state;
	int first = names->first[names->level - 1];

	if (names->count - first >= MAX_MEMBERS)
		names->is_bad = true;
	for (int i = first; i < names->count && !names->is_bad; i++)
		names->is_bad = strcmp(names->names[i], name) == 0;
	if (!names->is_bad)
		names->names[names->count++] = name;
	KS_JSON_ACTION_DONE;
}

/* Numbers of a sane length and an exponent of at most two digits. */
static KsJsonActionResult
look_at_scalar(void *state, char *token, JsonTokenType type)
{
	Names *names = state;
	const char *exponent;

	if (type == JSON_TOKEN_NUMBER)
	{
		exponent = strpbrk(token, "eE");
		if (strlen(token) > MAX_NUMBER_LENGTH || (exponent != NULL && strspn(exponent + 1 + strspn(exponent + 1, "+-"), "0123456789") > 2))
			names->is_bad = true;
	}
	KS_JSON_ACTION_DONE;
}
