/*
 * json_in.c
 *	  Check JSON from outside with the server's own parser; walk checked JSON.
 *
 * The server's parser calls back for every member's name. The names are
 * collected with the number of the object they stand in, and sorted at the
 * end, so that a hostile body costs n log n. Nothing here raises errors but for
 * want of memory.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "core/compat.h"
#include "dispatch/json_in.h"

typedef struct MemberName
{
	int object;
	const char *name;
} MemberName;

typedef struct CheckState
{
	int objects;
	int depth;
	int open[KS_JSON_MAX_DEPTH + 1]; /* the objects around the current place */
	MemberName *names;
	int name_count;
	int name_room;
} CheckState;

static const char *check_syntax(const char *text, int len);
static bool too_deep(const char *text, int len);
static KsJsonActionResult enter_object(void *state);
static KsJsonActionResult leave_object(void *state);
static KsJsonActionResult note_name(void *state, char *name, bool isnull);
static bool has_duplicate(CheckState *state);
static int compare_names(const void *a, const void *b);
static const char *read_value(const char *at, const char *end, KsJson *value);
static KsJsonKind plain_kind(char first);
static const char *skip_string(const char *at, const char *end, bool *is_escaped);
static const char *find(const char *at, const char *end, char c);
static const char *skip_container(const char *at, const char *end);
static const char *skip_space(const char *at, const char *end);

const char *
ks_json_check(const char *text, int len)
{
	if (!pg_verify_mbstr(PG_UTF8, text, len, true))
		return "the text is not valid UTF-8";
	if (too_deep(text, len))
		return "the text is nested too deeply";
	return check_syntax(text, len);
}

static const char *
check_syntax(const char *text, int len)
{
	CheckState state = {0};
	JsonLexContext *lexer = ks_json_lexer(text, len);
	JsonSemAction actions = {
		.semstate = &state,
		.object_start = enter_object,
		.object_end = leave_object,
		.object_field_start = note_name,
	};

	switch (pg_parse_json(lexer, &actions))
	{
		case JSON_SUCCESS:
			break;
		case JSON_UNICODE_CODE_POINT_ZERO:
			return "the text holds the character U+0000";
		default:
			return "the text is not JSON";
	}
	if (has_duplicate(&state))
		return "a member is named twice";
	return NULL;
}

/*
 * Does the text open more brackets than it may? Looks at no other rule, and
 * goes before the parser, which calls itself for each level.
 */
static bool
too_deep(const char *text, int len)
{
	const char *end = text + len;
	int depth = 0;
	bool is_escaped;

	for (const char *at = text; at < end; at++)
	{
		if (*at == '"')
		{
			at = skip_string(at + 1, end, &is_escaped);
			if (at >= end)
				return false;
		}
		else if ((*at == '{' || *at == '[') && ++depth > KS_JSON_MAX_DEPTH)
			return true;
		else if (*at == '}' || *at == ']')
			depth--;
	}
	return false;
}

static KsJsonActionResult
enter_object(void *arg)
{
	CheckState *state = arg;

	state->open[++state->depth] = ++state->objects;
	KS_JSON_ACTION_DONE;
}

static KsJsonActionResult
leave_object(void *arg)
{
	CheckState *state = arg;

	state->depth--;
	KS_JSON_ACTION_DONE;
}

static KsJsonActionResult
note_name(void *arg, char *name, bool isnull)
{
	CheckState *state = arg;

	if (state->name_count == state->name_room)
	{
		state->name_room = state->name_room ? state->name_room * 2 : 16;
		state->names = state->names
						   ? repalloc_huge(state->names, mul_size(state->name_room, sizeof(MemberName)))
						   : palloc(state->name_room * sizeof(MemberName));
	}
	state->names[state->name_count++] = (MemberName){state->open[state->depth], name};
	KS_JSON_ACTION_DONE;
}

static bool
has_duplicate(CheckState *state)
{
	if (state->name_count < 2)
		return false;
	qsort(state->names, state->name_count, sizeof(MemberName), compare_names);
	for (int i = 1; i < state->name_count; i++)
		if (compare_names(&state->names[i - 1], &state->names[i]) == 0)
			return true;
	return false;
}

static int
compare_names(const void *a, const void *b)
{
	const MemberName *left = a;
	const MemberName *right = b;

	if (left->object != right->object)
		return left->object < right->object ? -1 : 1;
	return strcmp(left->name, right->name);
}

KsJson
ks_json_value(const char *text, int len)
{
	KsJson value = {KS_JSON_NULL};
	const char *end = text + len;
	const char *start = skip_space(text, end);

	/* Of a container it is known where it ends. */
	while (end > start && strchr(" \t\r\n", end[-1]) != NULL)
		end--;
	if (start < end && (*start == '{' || *start == '['))
		value = (KsJson){*start == '{' ? KS_JSON_OBJECT : KS_JSON_ARRAY, false, start, end - start};
	else
		read_value(start, end, &value);
	return value;
}

KsJsonCursor
ks_json_open(const KsJson *container)
{
	const char *end = container->start + container->len - 1;

	return (KsJsonCursor){skip_space(container->start + 1, end), end};
}

bool
ks_json_next_member(KsJsonCursor *cursor, KsJson *name, KsJson *value)
{
	if (cursor->at >= cursor->end)
		return false;
	cursor->at = skip_space(read_value(cursor->at, cursor->end, name), cursor->end);
	cursor->at = skip_space(cursor->at + 1, cursor->end); /* the colon */
	return ks_json_next_element(cursor, value);
}

bool
ks_json_next_element(KsJsonCursor *cursor, KsJson *value)
{
	if (cursor->at >= cursor->end)
		return false;
	cursor->at = skip_space(read_value(cursor->at, cursor->end, value), cursor->end);
	if (cursor->at < cursor->end)
		cursor->at = skip_space(cursor->at + 1, cursor->end); /* the comma */
	return true;
}

char *
ks_json_unescape(const KsJson *string)
{
	JsonLexContext *lexer;

	if (!string->is_escaped)
		return pnstrdup(string->start, string->len);
	lexer = ks_json_lexer(string->start - 1, string->len + 2);
	if (json_lex(lexer) != JSON_SUCCESS)
		return NULL;
	return lexer->strval->data;
}

const char *
ks_json_shown(const KsJson *string)
{
	const char *plain = ks_json_unescape(string);

	return plain != NULL ? plain : "?";
}

bool
ks_json_equals(const KsJson *string, const char *text, int len)
{
	char *plain;

	if (!string->is_escaped)
		return string->len == len && memcmp(string->start, text, len) == 0;
	plain = ks_json_unescape(string);
	return plain != NULL && strcmp(plain, text) == 0;
}

/* Read the value that starts here; returns the place behind it. */
static const char *
read_value(const char *at, const char *end, KsJson *value)
{
	const char *behind;
	char first = at < end ? *at : 'n';

	value->start = at;
	value->is_escaped = false;
	switch (first)
	{
		case '"':
			value->kind = KS_JSON_STRING;
			value->start = at + 1;
			behind = skip_string(at + 1, end, &value->is_escaped);
			value->len = behind - value->start;
			return Min(behind + 1, end);
		case '{':
			value->kind = KS_JSON_OBJECT;
			behind = skip_container(at, end);
			break;
		case '[':
			value->kind = KS_JSON_ARRAY;
			behind = skip_container(at, end);
			break;
		default:
			behind = at;
			while (behind < end && strchr(" \t\r\n,:]}", *behind) == NULL)
				behind++;
			value->kind = plain_kind(first);
			break;
	}
	value->len = behind - at;
	return behind;
}

/* What a value is that begins with this character and is no string, array or object. */
static KsJsonKind
plain_kind(char first)
{
	switch (first)
	{
		case 'n':
			return KS_JSON_NULL;
		case 't':
			return KS_JSON_TRUE;
		case 'f':
			return KS_JSON_FALSE;
		default:
			return KS_JSON_NUMBER;
	}
}

/* The place of the quote that ends the string, or `end`. */
static const char *
skip_string(const char *at, const char *end, bool *is_escaped)
{
	const char *quote = find(at, end, '"');
	const char *escape;

	*is_escaped = false;
	while ((escape = find(at, quote, '\\')) < quote)
	{
		*is_escaped = true;
		at = escape + 2;
		/* Looked for again only where it was escaped: no byte is passed more than twice. */
		if (at > quote)
			quote = find(at, end, '"');
	}
	return quote;
}

/* The place of the character, or `end`. */
static const char *
find(const char *at, const char *end, char c)
{
	const char *found = at < end ? memchr(at, c, end - at) : NULL;

	return found != NULL ? found : end;
}

/* The place behind the bracket that closes the one at `at`. */
static const char *
skip_container(const char *at, const char *end)
{
	int depth = 0;
	bool is_escaped;

	for (; at < end; at++)
	{
		if (*at == '"')
			at = skip_string(at + 1, end, &is_escaped);
		else if (*at == '{' || *at == '[')
			depth++;
		else if ((*at == '}' || *at == ']') && --depth == 0)
			return at + 1;
	}
	return end;
}

static const char *
skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n'))
		at++;
	return at;
}
