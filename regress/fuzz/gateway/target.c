/*
 * target.c
 *	  Fuzzes request targets and the matching of paths.
 *
 * What was taken apart holds no separator, no NUL and only UTF-8. The route
 * found is the one that looking at each in turn finds, literals before
 * parameters from left to right, and its parameters are the segments there.
 * Targets that the guard refuses never come so far.
 */
#include <stdlib.h>

#include "framing.h"
#include "require.h"
#include "router.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROUTE(number, verb, path, release)                                                                    \
	{                                                                                                         \
		.id = (number), .method = (char *) (verb), .template = (char *) (path), .version = (char *) (release) \
	}

static const struct GwRoute rows[] = {
	ROUTE(1, "GET", "a", "v1"),
	ROUTE(2, "PUT", "a", "v1"),
	ROUTE(3, "GET", "a/:x", "v1"),
	ROUTE(4, "DELETE", "a/:y", "v1"),
	ROUTE(5, "GET", "a/b", "v1"),
	ROUTE(6, "POST", "a/b/:x", "v1"),
	ROUTE(7, "GET", "a/:x/c", "v1"),
	ROUTE(8, "GET", "a/b/:z/d", "v1"),
	ROUTE(9, "GET", "a/:x/c/:y", "v1"),
	ROUTE(10, "GET", ".well-known/jwks.json", "v1"),
	ROUTE(11, "GET", "t/:id", "v1"),
	ROUTE(12, "GET", "t/:id", "v2"),
	ROUTE(13, "GET", "t/:id", "v3beta"),
	ROUTE(14, "POST", ":any/:other/:third", "v1"),
	ROUTE(15, "GET", "v10/literal", "v1"),
	ROUTE(16, "GET", "only/new", "v4alpha1"),
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"};

static struct GwRoutes *routes;

static bool passes_guard(const uint8_t *target, size_t len);
static void check_target(const struct GwTarget *target);
static void check_match(const char *method, const struct GwTarget *target);
static bool fits(const char *template, const struct GwSlice *segments, size_t count, char shape[GW_TARGET_SEGMENTS + 1]);
static bool is_version(struct GwSlice segment);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char *fault = NULL;

	(void) argc, (void) argv;
	routes = gw_routes_build(rows, ROWS, "http://self", &fault);
	REQUIRE(routes != NULL);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct GwTarget target;
	char *raw;

	if (size == 0 || !passes_guard(data + 1, size - 1))
		return 0;
	raw = malloc(size);
	memcpy(raw, data + 1, size - 1);
	raw[size - 1] = '\0';
	if (gw_target_parse(&target, raw, size - 1) == GW_TARGET_OK)
	{
		check_target(&target);
		if (!target.is_asterisk)
			check_match(methods[data[0] % (sizeof(methods) / sizeof(methods[0]))], &target);
	}
	free(raw);
	return 0;
}

static bool
passes_guard(const uint8_t *target, size_t len)
{
	struct GwFraming framing;

	/* Behind a blank it would be more than a target. */
	if (memchr(target, ' ', len) != NULL)
		return false;
	gw_framing_init(&framing);
	(void) gw_framing_feed(&framing, "GET ", 4, NULL);
	(void) gw_framing_feed(&framing, (const char *) target, len, NULL);
	(void) gw_framing_feed(&framing, " HTTP/1.1\r\nHost: a\r\n\r\n", 22, NULL);
	return framing.fault == GW_FRAMING_OK && framing.requests == 1;
}

static void
check_target(const struct GwTarget *target)
{
	REQUIRE(target->nsegments <= GW_TARGET_SEGMENTS && target->nparams <= GW_TARGET_PARAMS);
	for (size_t i = 0; i < target->nsegments; i++)
	{
		const struct GwSlice *segment = &target->segments[i];

		REQUIRE(gw_utf8_is_valid(segment->data, segment->len));
		REQUIRE(memchr(segment->data, '/', segment->len) == NULL && memchr(segment->data, '\\', segment->len) == NULL);
		REQUIRE(gw_text_plain(segment->data, segment->len) == segment->len);
		REQUIRE(!gw_slice_is(*segment, ".") && !gw_slice_is(*segment, ".."));
	}
	for (size_t i = 0; i < target->nparams; i++)
	{
		REQUIRE(gw_utf8_is_valid(target->params[i].name.data, target->params[i].name.len));
		REQUIRE(gw_utf8_is_valid(target->params[i].value.data, target->params[i].value.len));
		REQUIRE(memchr(target->params[i].value.data, 0, target->params[i].value.len) == NULL);
	}
}

/* Looks at all routes of the version, or of the newest stable one that has the shape. */
static void
check_match(const char *method, const struct GwTarget *target)
{
	struct GwMatch match;
	enum GwMatched matched = gw_routes_match(routes, method, target, &match);
	size_t skip = target->nsegments > 0 && gw_slice_is(target->segments[0], "api") ? 1 : 0;
	const struct GwSlice *segments = target->segments + skip;
	size_t count = target->nsegments - skip;
	char shape[GW_TARGET_SEGMENTS + 1];
	size_t params = 0;

	if (matched != GW_MATCH_FOUND)
	{
		REQUIRE(matched == GW_MATCH_NOT_FOUND || strstr(match.allow, "OPTIONS") != NULL);
		for (size_t i = 0; i < ROWS && matched == GW_MATCH_NOT_FOUND; i++)
			REQUIRE(strcmp(rows[i].version, "v1") != 0 || (count > 0 && is_version(segments[0])) || !fits(rows[i].template, segments, count, shape));
		return;
	}
	REQUIRE(strcmp(match.route->method, strcmp(method, "HEAD") == 0 ? "GET" : method) == 0);
	if (!fits(match.route->template, segments, count, shape))
	{
		REQUIRE(count > 0 && gw_slice_is(segments[0], match.route->version));
		segments++;
		count--;
		REQUIRE(fits(match.route->template, segments, count, shape));
	}
	for (size_t i = 0; i < ROWS; i++)
	{
		char other[GW_TARGET_SEGMENTS + 1];

		/* Letters before colons: the smaller shape has its literals further left. */
		if (strcmp(rows[i].version, match.route->version) == 0 && strcmp(rows[i].method, match.route->method) == 0 &&
			fits(rows[i].template, segments, count, other))
			REQUIRE(strcmp(shape, other) <= 0);
	}
	for (size_t i = 0; i < count; i++)
		if (shape[i] == 'p')
		{
			REQUIRE(params < match.nparams && match.params[params].value.data == segments[i].data);
			params++;
		}
	REQUIRE(params == match.nparams);
}

/* Says whether the template has these segments; shape gets "l" for a literal and "p" for a parameter. */
static bool
fits(const char *template, const struct GwSlice *segments, size_t count, char shape[GW_TARGET_SEGMENTS + 1])
{
	size_t i;

	for (i = 0; i < count && *template != '\0'; i++)
	{
		size_t len = strcspn(template, "/");

		shape[i] = template[0] == ':' ? 'p' : 'l';
		if (template[0] == ':' ? segments[i].len == 0 : segments[i].len != len || memcmp(segments[i].data, template, len) != 0)
			return false;
		template += len + (template[len] == '/' ? 1 : 0);
	}
	shape[i] = '\0';
	return i == count && *template == '\0' && count > 0;
}

static bool
is_version(struct GwSlice segment)
{
	return segment.len > 1 && segment.data[0] == 'v' && segment.data[1] >= '0' && segment.data[1] <= '9';
}
