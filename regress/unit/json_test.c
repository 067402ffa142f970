/*
 * json: what the check of bodies accepts and why it refuses, the reader of
 * members, and the public JSONTestSuite (nst/JSONTestSuite) where VECTORS says
 * where it is.
 */
#include <dirent.h>
#include <stdlib.h>

#include "json.h"
#include "tap.h"

static void
good(const char *text)
{
	const char *reason = "";
	size_t offset = 0;

	if (!ok(gw_json_check(text, strlen(text), &reason, &offset), "accepted: %.60s", text))
		printf("# %s at %zu\n", reason, offset);
}

static void
bad_bytes(const char *text, size_t len, const char *expected)
{
	const char *reason = "accepted";
	size_t offset = 0;
	bool is_good = gw_json_check(text, len, &reason, &offset);

	if (!ok(!is_good && strstr(reason, expected) != NULL && offset <= len, "refused: %.60s", text))
		printf("# %s\n", reason);
}

static void
bad(const char *text, const char *expected)
{
	bad_bytes(text, strlen(text), expected);
}

static void
test_check(void)
{
	good("{}");
	good(" [1, -0.5e+10, \"a\\u00e9\\ud83d\\ude00\", true, false, null, {\"a\": {}}] ");
	good("\"just a string\"");
	good("12345678901234567890123456789.000000000000000000001");
	good("{\"a\":1,\"b\":2,\"A\":3,\"\":4}");
	good("{\"a\":{\"a\":{\"a\":[{\"a\":1},{\"a\":2}]}},\"b\":{\"a\":1}}");
	bad("", "too early");
	bad("  ", "too early");
	bad("{\"a\":1} x", "after the end");
	bad("{\"a\":1}{}", "after the end");
	bad("{'a':1}", "double quotes");
	bad("{a:1}", "double quotes");
	bad("{\"a\":1,}", "double quotes");
	bad("{\"a\" 1}", "colon");
	bad("{\"a\":1 \"b\":2}", "commas");
	bad("[1 2]", "commas");
	bad("[1,]", "not valid");
	bad("[01]", "not valid");
	bad("[.5]", "not valid");
	bad("[1.]", "point");
	bad("[1e]", "exponent");
	bad("[NaN]", "not valid");
	bad("[+1]", "not valid");
	bad("[\"\\x41\"]", "escape");
	bad("[\"\\u12g4\"]", "escape");
	bad("[\"a\nb\"]", "control character");
	bad("[\"a", "too early");
	bad("[\"\\u0000\"]", "U+0000");
	bad("[\"\\ud800\"]", "surrogate");
	bad("[\"\\udc00\\ud800\"]", "surrogate");
	bad("[\"\\ud800\\u0041\"]", "surrogate");
	bad("[\"\xc3\"]", "UTF-8");
	bad("[\"\xc0\x80\"]", "UTF-8");
	bad("[\"\xed\xa0\x80\"]", "UTF-8");
	bad("\xef\xbb\xbf{}", "not valid");
	bad_bytes("[\"a\0b\"]", 7, "control character");
	bad_bytes("{}\0", 3, "after the end");
}

static void
test_names(void)
{
	struct GwText text = {0};
	char *many;
	size_t len = 0;
	int i;

	bad("{\"a\":1,\"a\":1}", "twice");
	bad("{\"a\":1,\"\\u0061\":1}", "twice");
	bad("{\"\\/\":1,\"/\":1}", "twice");
	bad("{\"\xc3\xa9\":1,\"\\u00E9\":1}", "twice");
	bad("[{\"x\":{\"b\":1,\"a\":1,\"a\":2}}]", "twice");
	gw_text_lit(&text, "{");
	for (i = 0; i < 5000; i++)
		gw_text_printf(&text, "\"name%d\":{\"name%d\":%d},", i, i, i);
	gw_text_lit(&text, "\"\\u006eame5000\":0}");
	many = gw_text_take(&text, &len);
	ok(gw_json_check(many, len, NULL, NULL), "an object with 5,001 names");
	many[len - 6] = '9'; /* name5009 stays unlike all others, … */
	ok(gw_json_check(many, len, NULL, NULL), "another one");
	memcpy(strstr(many, "\"name4999\":"), "\"name4000\"", 10); /* … name4000 does not */
	bad_bytes(many, len, "twice");
	free(many);
}

static void
test_depth(void)
{
	char text[256];
	int depth;

	for (depth = GW_JSON_DEPTH; depth <= GW_JSON_DEPTH + 1; depth++)
	{
		memset(text, '[', (size_t) depth);
		memset(text + depth, ']', (size_t) depth);
		text[2 * depth] = '\0';
		if (depth == GW_JSON_DEPTH)
			good(text);
		else
			bad(text, "32");
	}
}

static void
test_reader(void)
{
	static const char text[] = " {\"a\" : \"x\\n\\\"y\", \"b\":[1, [2], \"]\"], \"c\":{\"d\":\"}\"}, \"e\":-1.5e3, \"f\":true,\"g\":null}";
	static const enum GwJsonType types[] = {GW_JSON_STRING, GW_JSON_ARRAY, GW_JSON_OBJECT, GW_JSON_NUMBER, GW_JSON_TRUE, GW_JSON_NULL, GW_JSON_END};
	struct GwJsonCursor cursor;
	struct GwJsonMember member;
	char value[32];
	size_t i;
	bool is_good = gw_json_open(&cursor, text, sizeof(text) - 1);

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		is_good &= gw_json_next(&cursor, &member) == types[i];
	ok(is_good, "members come in order, with their types");
	ok(gw_json_find(text, sizeof(text) - 1, "a", &member) && gw_json_decode(member.raw, value, sizeof(value)) == 4, "a member is found");
	is_string(value, "x\n\"y", "its string is decoded");
	for (i = 0; i <= 4; i++)
		is_good &= gw_json_decode(member.raw, value, i) == -1;
	ok(is_good, "a string that does not fit is refused");
	ok(gw_json_find(text, sizeof(text) - 1, "c", &member) && gw_slice_is(member.raw, "{\"d\":\"}\"}"), "an object is cut out whole");
	ok(gw_json_find(text, sizeof(text) - 1, "e", &member) && gw_slice_is(member.raw, "-1.5e3"), "a number too");
	ok(!gw_json_find(text, sizeof(text) - 1, "d", &member), "only members of the top level are found");
	ok(!gw_json_open(&cursor, "17", 2), "a number has no members");
	for (i = 0; i < sizeof(text) - 2; i++)
	{
		enum GwJsonType type = GW_JSON_NULL;

		if (gw_json_open(&cursor, text, i))
			while (type != GW_JSON_END && type != GW_JSON_BROKEN)
				type = gw_json_next(&cursor, &member);
		is_good &= type != GW_JSON_END;
	}
	ok(is_good, "a text cut anywhere is broken, not complete");
}

static char *
read_file(const char *path, size_t *len)
{
	FILE *file = fopen(path, "rb");
	char *data = malloc(1 << 20);

	*len = file != NULL && data != NULL ? fread(data, 1, 1 << 20, file) : 0;
	if (file != NULL)
		fclose(file);
	return data;
}

/*
 * y_ must be accepted, n_ refused; i_ may be either. Of the y_ files those are
 * refused that have what the contract refuses: a name twice, U+0000.
 */
static void
test_vectors(void)
{
	const char *vectors = getenv("VECTORS");
	char folder[4096], path[8192];
	struct dirent *entry;
	DIR *dir;
	int count = 0;

	if (vectors == NULL || vectors[0] == '\0')
	{
		skip("JSONTestSuite", "VECTORS is not set");
		return;
	}
	snprintf(folder, sizeof(folder), "%s/json/test_parsing", vectors);
	dir = opendir(folder);
	if (!ok(dir != NULL, "the JSONTestSuite is there"))
		return;
	while ((entry = readdir(dir)) != NULL)
	{
		static const char *const ours[] = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json",
										   "y_string_null_escape.json", "y_object_escaped_null_in_key.json"};
		size_t len, i;
		char *data;
		bool is_accepted, is_ours = false;

		if (strchr("yni", entry->d_name[0]) == NULL || entry->d_name[1] != '_')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		data = read_file(path, &len);
		is_accepted = gw_json_check(data, len, NULL, NULL);
		for (i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
			is_ours |= strcmp(entry->d_name, ours[i]) == 0;
		if (is_ours)
			ok(!is_accepted, "%s is refused by the contract", entry->d_name);
		else
			ok(entry->d_name[0] == 'i' || is_accepted == (entry->d_name[0] == 'y'), "%s", entry->d_name);
		free(data);
		count++;
	}
	closedir(dir);
	ok(count > 300, "%d files were read", count);
}

int
main(void)
{
	test_check();
	test_names();
	test_depth();
	test_reader();
	test_vectors();
	return done();
}
