/*
 * target: taking request targets apart.
 */
#include "target.h"
#include "tap.h"

/* Writes a target back: segments with "/", parameters as "name=value" with "&". */
static const char *
show(const char *raw, size_t len)
{
	static char out[512];
	static char copy[512];
	struct GwTarget target;
	enum GwTargetFault fault;
	size_t at = 0, i;

	memcpy(copy, raw, len);
	fault = gw_target_parse(&target, copy, len);
	if (fault != GW_TARGET_OK)
		return fault == GW_TARGET_NO_PATH ? "no path" : fault == GW_TARGET_BAD_ESCAPE ? "bad escape"
													: fault == GW_TARGET_BAD_UTF8     ? "bad utf-8"
													: fault == GW_TARGET_MANY_PARAMS  ? "many parameters"
																					  : "deep";
	if (target.is_asterisk)
		return "*";
	out[0] = '\0';
	for (i = 0; i < target.nsegments; i++)
		at += (size_t) sprintf(out + at, "/%.*s", (int) target.segments[i].len, target.segments[i].data);
	for (i = 0; i < target.nparams; i++)
		at += (size_t) sprintf(out + at, "%c%.*s=%.*s", i == 0 ? '?' : '&', (int) target.params[i].name.len, target.params[i].name.data,
							   (int) target.params[i].value.len, target.params[i].value.data);
	return out;
}

static void
is(const char *raw, const char *expected)
{
	is_string(show(raw, strlen(raw)), expected, raw);
}

int
main(void)
{
	char many[400] = "/?";
	int i;

	is("/", "");
	is("/api/user/profile", "/api/user/profile");
	is("/api/user/profile/", "/api/user/profile");
	is("/a//b", "/a//b");
	is("//a", "//a");
	is("/a%20b/%C3%A9", "/a b/\303\251");
	is("/a+b", "/a+b");
	is("/a?x=1&y=2", "/a?x=1&y=2");
	is("/a?x", "/a?x=");
	is("/a?x=", "/a?x=");
	is("/a?=1", "/a?=1");
	is("/a?", "/a");
	is("/a?&&x=1&", "/a?x=1");
	is("/a?x=1&x=2", "/a?x=1&x=2");
	is("/a?x=a+b%2Bc%26%3D", "/a?x=a b+c&=");
	is("/a?x=a=b", "/a?x=a=b");
	is("/a?x=/../?", "/a?x=/../?");
	is("/a?x=%0A", "/a?x=\n");
	is("http://example.com/a/b?c=d", "/a/b?c=d");
	is("HTTPS://example.com:8080", "");
	is("http://example.com?c=d", "?c=d");
	is("*", "*");
	is("example.com:443", "no path");
	is("", "no path");
	is("?a", "no path");
	is("/%", "bad escape");
	is("/%2", "bad escape");
	is("/%zz", "bad escape");
	is("/%00", "bad escape");
	is("/a?x=%00", "bad escape");
	is("/a?x=%", "bad escape");
	is("/a%2fb", "bad escape");
	is("/a%2Fb", "bad escape");
	is("/a%5cb", "bad escape");
	is("/a\\b", "bad escape");
	is("/a%0ab", "bad escape");
	is("/a#b", "bad escape");
	is("/a/../b", "bad escape");
	is("/a/./b", "bad escape");
	is("/a/%2e%2E/b", "bad escape");
	is("/a/..", "bad escape");
	is("/a/...", "/a/...");
	is("/%ff", "bad utf-8");
	is("/%c0%80", "bad utf-8");
	is("/a?x=%ed%a0%80", "bad utf-8");
	is("/a?%ff=1", "bad utf-8");
	is("/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p", "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p");
	is("/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q", "deep");
	for (i = 0; i < GW_TARGET_PARAMS; i++)
		strcat(many, "a=b&");
	ok(strncmp(show(many, strlen(many)), "?a=b", 4) == 0, "as many parameters as may be");
	strcat(many, "c");
	is_string(show(many, strlen(many)), "many parameters", "one more");
	return done();
}
