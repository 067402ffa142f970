/*
 * text.c
 *	  A reader of JSON that walks the text and keeps nothing. It skips what it
 *	  is not asked for by brackets and quotes, without judging it.
 */
#include "text.h"

#include <string.h>

static const char *skip_space(const char *at, const char *end);
static const char *skip_string(const char *at, const char *end);
static const char *skip_value(const char *at, const char *end);

Slice
json_member(Slice object, const char *name)
{
	const char *end = object.start + object.len;
	const char *at = object.start;
	Slice none = {NULL, 0};

	if (at == NULL || (at = skip_space(at, end)) == end || *at++ != '{')
		return none;
	while ((at = skip_space(at, end)) < end && *at == '"')
	{
		const char *key = at;
		const char *value;
		size_t key_len;

		at = skip_string(at, end);
		key_len = at - key;
		at = skip_space(at, end);
		if (at == end || *at++ != ':')
			return none;
		value = skip_space(at, end);
		at = skip_value(value, end);
		if (key_len == strlen(name) + 2 && memcmp(key + 1, name, key_len - 2) == 0)
			return (Slice){value, at - value};
		at = skip_space(at, end);
		if (at == end || *at++ != ',')
			return none;
	}
	return none;
}

Slice
json_element(Slice array, size_t *at)
{
	const char *end = array.start + array.len;
	const char *here = array.start + *at;
	const char *value;
	Slice none = {NULL, 0};

	if (array.start == NULL || here == end || *array.start != '[')
		return none;
	/* The bracket, or the comma after the element before. */
	value = skip_space(here + 1, end);
	if (*here == ']' || value == end || *value == ']')
		return none;
	here = skip_value(value, end);
	*at = skip_space(here, end) - array.start;
	return (Slice){value, here - value};
}

Slice
json_string(Slice value)
{
	Slice none = {NULL, 0};

	if (value.start == NULL || value.len < 2 || *value.start != '"' || memchr(value.start, '\\', value.len) != NULL)
		return none;
	return (Slice){value.start + 1, value.len - 2};
}

bool
json_number(Slice value, uint64_t *number)
{
	*number = 0;
	if (value.start == NULL || value.len == 0 || value.len > 19)
		return false;
	for (size_t i = 0; i < value.len; i++)
	{
		if (value.start[i] < '0' || value.start[i] > '9')
			return false;
		*number = *number * 10 + (value.start[i] - '0');
	}
	return true;
}

long
base64_decode(Slice text, uint8_t *out)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
	uint32_t bits = 0;
	int held = 0;
	long count = 0;

	if (text.start == NULL)
		return -1;
	while (text.len > 0 && text.start[text.len - 1] == '=')
		text.len--;
	for (size_t i = 0; i < text.len; i++)
	{
		char c = text.start[i];
		const char *found = c != '\0' ? strchr(letters, c) : NULL;
		int value = found != NULL ? (int) (found - letters) : c == '+' || c == '-' ? 62
														  : c == '/' || c == '_'   ? 63
																				   : -1;

		if (value < 0)
			return -1;
		bits = bits << 6 | (uint32_t) value;
		held += 6;
		if (held >= 8)
		{
			held -= 8;
			out[count++] = (uint8_t) (bits >> held);
		}
	}
	return held == 6 ? -1 : count;
}

static const char *
skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

/* Past the closing quote. */
static const char *
skip_string(const char *at, const char *end)
{
	for (at++; at < end && *at != '"'; at++)
		if (*at == '\\' && at + 1 < end)
			at++;
	return at < end ? at + 1 : end;
}

/* Past the value: by depth of brackets, not looking into strings. */
static const char *
skip_value(const char *at, const char *end)
{
	int depth = 0;

	while (at < end)
	{
		if (*at == '"')
			at = skip_string(at, end);
		else if (*at == '{' || *at == '[')
		{
			depth++;
			at++;
		}
		else if (*at == '}' || *at == ']')
		{
			if (depth == 0)
				return at;
			depth--;
			at++;
		}
		else if (depth == 0 && (*at == ',' || *at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
			return at;
		else
		{
			at++;
			continue;
		}
		if (depth == 0)
			return at;
	}
	return end;
}
