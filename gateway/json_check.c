/*
 * json_check: checking of request bodies.
 *
 * The check is one pass without building anything. Names of the objects that
 * are open are kept as slices on a stack so that a repeated one is found: by
 * comparing for small objects, by a hash set (SipHash under a key of the thread's
 * own, so that no client can make names collide) once an object has many members.
 * Names are compared as they are after decoding of escapes.
 */
#include <stdlib.h>

#include "hash.h"
#include "json.h"
#include "json_escape.h"

#define NAMES_LINEAR 16 /* an object with more members gets a hash set */

/* A decoded name of an object that is open. */
struct Name
{
	uint64_t hash; /* only while its object's set is made */
	struct GwSlice raw;
	bool has_escape;
};

struct Check
{
	const char *at;
	const char *end;
	const char *reason;
	int depth;
	struct Name *names; /* of all open objects, innermost last */
	size_t nnames, names_size;
	struct Name first[64]; /* where names points until it must grow */
	uint32_t *slots;       /* hash set of one object's names: index + 1 */
	size_t slots_size;
};

static bool check_value(struct Check *check);
static bool check_object(struct Check *check);
static bool check_array(struct Check *check);
static bool check_string(struct Check *check, struct Name *name);
static bool check_number(struct Check *check);
static bool check_word(struct Check *check, const char *word, size_t len);
static bool check_names(struct Check *check, size_t from);
static bool push_name(struct Check *check, const struct Name *name);
static bool hash_name(struct Name *name);
static bool same_name(const struct Name *a, const struct Name *b);
static bool fail(struct Check *check, const char *reason);
static void skip_space(struct Check *check);

bool
gw_json_check(const char *body, size_t len, const char **reason, size_t *offset)
{
	struct Check check;
	bool is_good;

	check.at = body;
	check.end = body + len;
	check.reason = NULL;
	check.depth = 0;
	check.names = check.first;
	check.nnames = 0;
	check.names_size = sizeof(check.first) / sizeof(check.first[0]);
	check.slots = NULL;
	check.slots_size = 0;
	is_good = check_value(&check);
	if (is_good)
	{
		skip_space(&check);
		if (check.at < check.end)
			is_good = fail(&check, "There is something after the end of the JSON text");
	}
	if (!is_good)
	{
		if (reason != NULL)
			*reason = check.reason;
		if (offset != NULL)
			*offset = (size_t) (check.at - body);
	}
	if (check.names != check.first)
		free(check.names);
	free(check.slots);
	return is_good;
}

static void
skip_space(struct Check *check)
{
	while (check->at < check->end &&
		   (*check->at == ' ' || *check->at == '\n' || *check->at == '\r' || *check->at == '\t'))
		check->at++;
}

static bool
fail(struct Check *check, const char *reason)
{
	if (check->reason == NULL)
		check->reason = reason;
	return false;
}

/* Recursion is bounded by GW_JSON_DEPTH. */
static bool
check_value(struct Check *check)
{
	skip_space(check);
	if (check->at == check->end)
		return fail(check, "The JSON text ends too early");
	switch (*check->at)
	{
		case '{':
			return check_object(check);
		case '[':
			return check_array(check);
		case '"':
			return check_string(check, NULL);
		case 't':
			return check_word(check, "true", 4);
		case 'f':
			return check_word(check, "false", 5);
		case 'n':
			return check_word(check, "null", 4);
		default:
			return check_number(check);
	}
}

static bool
check_word(struct Check *check, const char *word, size_t len)
{
	if ((size_t) (check->end - check->at) < len || memcmp(check->at, word, len) != 0)
		return fail(check, "The body is not valid JSON");
	check->at += len;
	return true;
}

static bool
check_object(struct Check *check)
{
	size_t from = check->nnames;

	if (++check->depth > GW_JSON_DEPTH)
		return fail(check, "The JSON text is nested more than 32 deep");
	check->at++;
	skip_space(check);
	if (check->at < check->end && *check->at == '}')
		goto done;
	for (;;)
	{
		struct Name name;

		skip_space(check);
		if (check->at == check->end || *check->at != '"')
			return fail(check, "An object's member must begin with its name in double quotes");
		if (!check_string(check, &name) || !push_name(check, &name))
			return false;
		skip_space(check);
		if (check->at == check->end || *check->at != ':')
			return fail(check, "An object's name must be followed by a colon");
		check->at++;
		if (!check_value(check))
			return false;
		skip_space(check);
		if (check->at < check->end && *check->at == '}')
			break;
		if (check->at == check->end || *check->at != ',')
			return fail(check, "Members of an object must be separated by commas");
		check->at++;
	}
	if (!check_names(check, from))
		return false;
done:
	check->at++;
	check->nnames = from;
	check->depth--;
	return true;
}

static bool
check_array(struct Check *check)
{
	if (++check->depth > GW_JSON_DEPTH)
		return fail(check, "The JSON text is nested more than 32 deep");
	check->at++;
	skip_space(check);
	if (check->at < check->end && *check->at == ']')
		goto done;
	for (;;)
	{
		if (!check_value(check))
			return false;
		skip_space(check);
		if (check->at < check->end && *check->at == ']')
			break;
		if (check->at == check->end || *check->at != ',')
			return fail(check, "Elements of an array must be separated by commas");
		check->at++;
	}
done:
	check->at++;
	check->depth--;
	return true;
}

static bool
check_number(struct Check *check)
{
	const char *at = check->at;
	const char *end = check->end;
	const char *digits;

#define SKIP_DIGITS()                            \
	while (at < end && *at >= '0' && *at <= '9') \
	at++
	if (at < end && *at == '-')
		at++;
	digits = at;
	SKIP_DIGITS();
	if (at == digits || (*digits == '0' && at - digits > 1))
		return fail(check, "The body is not valid JSON");
	if (at < end && *at == '.')
	{
		digits = ++at;
		SKIP_DIGITS();
		if (at == digits)
			return fail(check, "A number must have digits after its point");
	}
	if (at < end && (*at == 'e' || *at == 'E'))
	{
		at++;
		if (at < end && (*at == '+' || *at == '-'))
			at++;
		digits = at;
		SKIP_DIGITS();
		if (at == digits)
			return fail(check, "A number must have digits in its exponent");
	}
#undef SKIP_DIGITS
	check->at = at;
	return true;
}

/* Reads a string; goes to *name if wanted. */
static bool
check_string(struct Check *check, struct Name *name)
{
	const char *begin = ++check->at;
	bool has_escape = false;
	bool is_ascii = true;

	while (check->at < check->end && *check->at != '"')
	{
		unsigned char c = (unsigned char) *check->at;

		if (c == '\\')
		{
			uint32_t code;

			const char *reason = gw_json_escape_read(&check->at, check->end, &code);

			has_escape = true;
			if (reason != NULL)
				return fail(check, reason);
			continue;
		}
		if (c < 0x20)
			return fail(check, "A string has a control character that must be escaped");
		is_ascii &= c < 0x80;
		check->at++;
	}
	if (check->at == check->end)
		return fail(check, "The JSON text ends too early");
	if (!is_ascii && !gw_utf8_is_valid(begin, (size_t) (check->at - begin)))
		return fail(check, "A string is not UTF-8");
	if (name != NULL)
		*name = (struct Name){0, {begin, (size_t) (check->at - begin)}, has_escape};
	check->at++;
	return true;
}

static bool
push_name(struct Check *check, const struct Name *name)
{
	if (check->nnames == check->names_size)
	{
		size_t size = check->names_size * 2;
		struct Name *names = check->names == check->first ? malloc(size * sizeof(*names))
														  : realloc(check->names, size * sizeof(*names));

		if (names == NULL)
			return fail(check, "There is not enough memory to check the JSON text");
		if (check->names == check->first)
			memcpy(names, check->first, sizeof(check->first));
		check->names = names;
		check->names_size = size;
	}
	check->names[check->nnames++] = *name;
	return true;
}

/* Looks for a repeated name among those from "from" on, when their object ends. */
static bool
check_names(struct Check *check, size_t from)
{
	static const char repeated[] = "An object has the same name twice";
	size_t count = check->nnames - from;
	size_t i, j, size;

	if (count <= NAMES_LINEAR)
	{
		for (i = from + 1; i < check->nnames; i++)
			for (j = from; j < i; j++)
				if (same_name(&check->names[i], &check->names[j]))
					return fail(check, repeated);
		return true;
	}
	for (size = 64; size < count * 2;)
		size *= 2;
	if (size > check->slots_size)
	{
		free(check->slots);
		check->slots = malloc(size * sizeof(*check->slots));
		check->slots_size = check->slots != NULL ? size : 0;
		if (check->slots == NULL)
			return fail(check, "There is not enough memory to check the JSON text");
	}
	memset(check->slots, 0, size * sizeof(*check->slots));
	for (i = from; i < check->nnames; i++)
	{
		struct Name *name = &check->names[i];

		if (!hash_name(name))
			return fail(check, "There is not enough memory to check the JSON text");
		for (j = name->hash & (size - 1); check->slots[j] != 0; j = (j + 1) & (size - 1))
		{
			const struct Name *other = &check->names[from + check->slots[j] - 1];

			if (other->hash == name->hash && same_name(other, name))
				return fail(check, repeated);
		}
		check->slots[j] = (uint32_t) (i - from + 1);
	}
	return true;
}

/* Sets the hash of a name as it is after decoding. */
static bool
hash_name(struct Name *name)
{
	char *decoded;
	long len;

	if (!name->has_escape)
	{
		name->hash = gw_hash(name->raw.data, name->raw.len);
		return true;
	}
	decoded = malloc(name->raw.len + 1);
	if (decoded == NULL)
		return false;
	len = gw_json_decode(name->raw, decoded, name->raw.len + 1);
	name->hash = gw_hash(decoded, (size_t) len);
	free(decoded);
	return true;
}

/* Names with escapes are compared decoded. */
static bool
same_name(const struct Name *a, const struct Name *b)
{
	char *one, *two;
	long len_one, len_two;
	bool is_same;

	if (!a->has_escape && !b->has_escape)
		return a->raw.len == b->raw.len && memcmp(a->raw.data, b->raw.data, a->raw.len) == 0;
	one = malloc(a->raw.len + 1);
	two = malloc(b->raw.len + 1);
	/* Without memory the names count as the same: refused rather than let through. */
	is_same = one == NULL || two == NULL;
	if (!is_same)
	{
		len_one = gw_json_decode(a->raw, one, a->raw.len + 1);
		len_two = gw_json_decode(b->raw, two, b->raw.len + 1);
		is_same = len_one == len_two && len_one >= 0 && memcmp(one, two, (size_t) len_one) == 0;
	}
	free(one);
	free(two);
	return is_same;
}
