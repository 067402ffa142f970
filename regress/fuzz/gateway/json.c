/*
 * json.c
 *	  Fuzzes the checking of JSON bodies, and the reading and writing of the
 *	  small objects that the database sends.
 *
 * A text that passed the check is walked: every member is read to its end, and
 * a string that is decoded and written again decodes to the same. An object's
 * member that the walk found is found by its name.
 */
#include <stdlib.h>

#include "json.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const char *text, size_t len, int depth);
static void reread(struct GwSlice raw);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;
	const char *reason = NULL;
	size_t offset = 0;
	struct GwJsonCursor cursor;
	struct GwJsonMember member;
	struct GwText quoted = {0};
	bool is_good = gw_json_check(text, size, &reason, &offset);

	REQUIRE(is_good || (reason != NULL && offset <= size));
	if (is_good)
	{
		REQUIRE(gw_utf8_is_valid(text, size));
		walk(text, size, 0);
	}
	else if (gw_json_open(&cursor, text, size))
		for (enum GwJsonType type = GW_JSON_NULL; type != GW_JSON_END && type != GW_JSON_BROKEN;)
			type = gw_json_next(&cursor, &member);
	/* Whatever the bytes are, as a string they are JSON. */
	gw_text_json(&quoted, text, size);
	REQUIRE(!quoted.failed);
	REQUIRE(gw_json_check(quoted.data, quoted.len, &reason, &offset) || memchr(data, 0, size) != NULL);
	gw_text_free(&quoted);
	return 0;
}

static void
walk(const char *text, size_t len, int depth)
{
	struct GwJsonCursor cursor;
	struct GwJsonMember member;
	struct GwJsonMember found;
	enum GwJsonType type;

	REQUIRE(depth <= GW_JSON_DEPTH);
	if (!gw_json_open(&cursor, text, len))
		return;
	while ((type = gw_json_next(&cursor, &member)) != GW_JSON_END)
	{
		REQUIRE(type != GW_JSON_BROKEN);
		if (type == GW_JSON_STRING)
			reread(member.raw);
		if (type == GW_JSON_OBJECT || type == GW_JSON_ARRAY)
			walk(member.raw.data, member.raw.len, depth + 1);
		if (cursor.is_object && member.name.len < 64 && memchr(member.name.data, '\\', member.name.len) == NULL)
		{
			char name[65];

			memcpy(name, member.name.data, member.name.len);
			name[member.name.len] = '\0';
			REQUIRE(gw_json_find(text, len, name, &found) && found.type == type);
		}
	}
}

static void
reread(struct GwSlice raw)
{
	char *first = malloc(raw.len + 1);
	char *second;
	long len = gw_json_decode(raw, first, raw.len + 1);
	struct GwText text = {0};

	REQUIRE(len >= 0 && (size_t) len <= raw.len && first[len] == '\0');
	gw_text_json(&text, first, (size_t) len);
	REQUIRE(!text.failed && text.len >= 2);
	second = malloc(text.len);
	REQUIRE(gw_json_decode((struct GwSlice){text.data + 1, text.len - 2}, second, text.len) == len);
	REQUIRE(memcmp(first, second, (size_t) len) == 0);
	gw_text_free(&text);
	free(first);
	free(second);
}
