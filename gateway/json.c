/*
 * json: a reader of the small objects that the database sends.
 */
#include "json.h"

#include "json_escape.h"

static char peek(struct GwJsonCursor *cursor);
static bool skip_string(struct GwJsonCursor *cursor);
static enum GwJsonType skip_value(struct GwJsonCursor *cursor, struct GwSlice *raw);

long
gw_json_decode(struct GwSlice raw, char *out, size_t size)
{
	const char *at = raw.data;
	const char *end = raw.data + raw.len;
	size_t len = 0;

	while (at < end)
	{
		const char *escape = memchr(at, '\\', (size_t) (end - at));
		size_t n = (size_t) ((escape != NULL ? escape : end) - at);
		uint32_t code;
		char utf8[4];

		if (size - len <= n)
			return -1;
		memcpy(out + len, at, n);
		len += n;
		at += n;
		if (escape == NULL)
			break;
		if (gw_json_escape_read(&at, end, &code) != NULL)
			return -1;
		n = gw_utf8_put(utf8, code);
		if (size - len <= n)
			return -1;
		memcpy(out + len, utf8, n);
		len += n;
	}
	if (len >= size)
		return -1;
	out[len] = '\0';
	return (long) len;
}

bool
gw_json_open(struct GwJsonCursor *cursor, const char *text, size_t len)
{
	const char *end = text + len;

	while (text < end && (*text == ' ' || *text == '\n' || *text == '\r' || *text == '\t'))
		text++;
	if (text == end || (*text != '{' && *text != '['))
		return false;
	*cursor = (struct GwJsonCursor){text + 1, end, false, *text == '{'};
	return true;
}

static char
peek(struct GwJsonCursor *cursor)
{
	while (cursor->at < cursor->end &&
		   (*cursor->at == ' ' || *cursor->at == '\n' || *cursor->at == '\r' || *cursor->at == '\t'))
		cursor->at++;
	return cursor->at < cursor->end ? *cursor->at : '\0';
}

enum GwJsonType
gw_json_next(struct GwJsonCursor *cursor, struct GwJsonMember *member)
{
	char next = peek(cursor);

	member->name = (struct GwSlice){"", 0};
	member->type = GW_JSON_BROKEN;
	if (next == (cursor->is_object ? '}' : ']'))
		return member->type = GW_JSON_END;
	if (cursor->is_started)
	{
		if (next != ',')
			return GW_JSON_BROKEN;
		cursor->at++;
		next = peek(cursor);
	}
	cursor->is_started = true;
	if (cursor->is_object)
	{
		if (next != '"' || skip_value(cursor, &member->name) != GW_JSON_STRING || peek(cursor) != ':')
			return GW_JSON_BROKEN;
		cursor->at++;
		peek(cursor);
	}
	return member->type = skip_value(cursor, &member->raw);
}

/* Steps over a string from its opening quote; false if it does not end. */
static bool
skip_string(struct GwJsonCursor *cursor)
{
	const char *at = cursor->at + 1;
	const char *end = cursor->end;
	const char *quote = NULL;
	const char *escape;

	for (;;)
	{
		/* Looked for again only where it was escaped. */
		if (quote < at)
			quote = at < end ? memchr(at, '"', (size_t) (end - at)) : NULL;
		if (quote == NULL)
		{
			cursor->at = end;
			return false;
		}
		escape = memchr(at, '\\', (size_t) (quote - at));
		if (escape == NULL)
			break;
		at = escape + 2;
	}
	cursor->at = quote + 1;
	return true;
}

/* Steps over any value; the text is trusted to be JSON, so brackets are only counted. */
static enum GwJsonType
skip_value(struct GwJsonCursor *cursor, struct GwSlice *raw)
{
	const char *begin = cursor->at;
	char first = begin < cursor->end ? *begin : '\0';
	int depth = 0;

	if (first == '"')
	{
		if (!skip_string(cursor))
			return GW_JSON_BROKEN;
		*raw = (struct GwSlice){begin + 1, (size_t) (cursor->at - begin) - 2};
		return GW_JSON_STRING;
	}
	while (cursor->at < cursor->end)
	{
		char c = *cursor->at;

		if (c == '"')
		{
			if (!skip_string(cursor))
				return GW_JSON_BROKEN;
			continue;
		}
		if (depth == 0 && (c == ',' || c == '}' || c == ']' || c == ' ' || c == '\n' || c == '\r' || c == '\t'))
			break;
		depth += c == '{' || c == '[';
		depth -= c == '}' || c == ']';
		cursor->at++;
		if (depth == 0 && (c == '}' || c == ']'))
			break;
	}
	*raw = (struct GwSlice){begin, (size_t) (cursor->at - begin)};
	if (depth != 0 || raw->len == 0)
		return GW_JSON_BROKEN;
	return first == '{' ? GW_JSON_OBJECT : first == '[' ? GW_JSON_ARRAY
									   : first == 't'   ? GW_JSON_TRUE
									   : first == 'f'   ? GW_JSON_FALSE
									   : first == 'n'   ? GW_JSON_NULL
														: GW_JSON_NUMBER;
}

bool
gw_json_find(const char *text, size_t len, const char *name, struct GwJsonMember *member)
{
	struct GwJsonCursor cursor;
	enum GwJsonType type;

	if (!gw_json_open(&cursor, text, len) || !cursor.is_object)
		return false;
	while ((type = gw_json_next(&cursor, member)) != GW_JSON_END && type != GW_JSON_BROKEN)
		if (gw_slice_is(member->name, name))
			return true;
	return false;
}
