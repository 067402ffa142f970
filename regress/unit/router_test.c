/*
 * router: precedence, aliases, versions, methods.
 */
#include <stdlib.h>

#include "router.h"
#include "tap.h"

static struct GwRoute rows[] = {
	{.id = 1, .method = (char *) "GET", .template = (char *) "user/profile", .version = (char *) "v1"},
	{.id = 2, .method = (char *) "PUT", .template = (char *) "user/profile", .version = (char *) "v1"},
	{.id = 3, .method = (char *) "GET", .template = (char *) "users/:id", .version = (char *) "v1"},
	{.id = 4, .method = (char *) "DELETE", .template = (char *) "users/:user", .version = (char *) "v1"},
	{.id = 5, .method = (char *) "POST", .template = (char *) "users/bulk", .version = (char *) "v1"},
	{.id = 6, .method = (char *) "GET", .template = (char *) "users/bulk/:id", .version = (char *) "v1"},
	{.id = 7, .method = (char *) "GET", .template = (char *) "users/:id/sessions", .version = (char *) "v1"},
	{.id = 8, .method = (char *) "GET", .template = (char *) ".well-known/jwks.json", .version = (char *) "v1"},
	{.id = 9, .method = (char *) "GET", .template = (char *) "things/:id", .version = (char *) "v1", .deprecated_at = 1688169599, .sunset_at = 1719791999, .successor = (char *) "GET /v2/things/:id"},
	{.id = 10, .method = (char *) "GET", .template = (char *) "things/:id", .version = (char *) "v2"},
	{.id = 11, .method = (char *) "GET", .template = (char *) "things/:id", .version = (char *) "v3beta"},
	{.id = 12, .method = (char *) "GET", .template = (char *) "v10/literal", .version = (char *) "v1"},
	{.id = 13, .method = (char *) "POST", .template = (char *) "webhooks/:source", .version = (char *) "v1"},
	{.id = 14, .method = (char *) "GET", .template = (char *) "webhooks/health", .version = (char *) "v1"},
	{.id = 15, .method = (char *) "GET", .template = (char *) "a/:x/c/:y", .version = (char *) "v1"},
	{.id = 16, .method = (char *) "GET", .template = (char *) "a/b/:z/d", .version = (char *) "v1"},
	{.id = 17, .method = (char *) "GET", .template = (char *) "only/new", .version = (char *) "v4alpha1"},
};

/* Writes what a request finds: id and parameters, 404, or 405 and Allow. */
static const char *
find(const struct GwRoutes *routes, const char *method, const char *path)
{
	static char out[512];
	char raw[256];
	struct GwTarget target;
	struct GwMatch match;
	size_t at, i;

	strcpy(raw, path);
	if (gw_target_parse(&target, raw, strlen(raw)) != GW_TARGET_OK)
		return "bad target";
	switch (gw_routes_match(routes, method, &target, &match))
	{
		case GW_MATCH_NOT_FOUND:
			return "404";
		case GW_MATCH_METHOD:
			sprintf(out, "405 %s", match.allow);
			return out;
		case GW_MATCH_FOUND:
			break;
	}
	at = (size_t) sprintf(out, "%d", match.route->id);
	for (i = 0; i < match.nparams; i++)
		at += (size_t) sprintf(out + at, " %.*s=%.*s", (int) match.params[i].name.len, match.params[i].name.data,
							   (int) match.params[i].value.len, match.params[i].value.data);
	return out;
}

static const struct GwRoutes *table;

static void
is(const char *method, const char *path, const char *expected)
{
	char name[300];

	snprintf(name, sizeof(name), "%s %s", method, path);
	is_string(find(table, method, path), expected, name);
}

static void
test_paths(void)
{
	is("GET", "/user/profile", "1");
	is("GET", "/api/user/profile", "1");
	is("GET", "/v1/user/profile", "1");
	is("GET", "/api/v1/user/profile", "1");
	is("GET", "/api/v1/user/profile/", "1");
	is("GET", "/v1/api/user/profile", "404");
	is("GET", "/api/api/user/profile", "404");
	is("GET", "/v9/user/profile", "404");
	is("GET", "/API/user/profile", "404");
	is("GET", "/api", "404");
	is("GET", "/", "404");
	is("GET", "/user", "404");
	is("GET", "/user/profile/x", "404");
	is("GET", "/api//user/profile", "404");
	is("GET", "/.well-known/jwks.json", "8");
	is("GET", "/user/profil", "404");
	is("GET", "/user/profiles", "404");
}

static void
test_methods(void)
{
	is("PUT", "/api/user/profile", "2");
	is("HEAD", "/api/user/profile", "1");
	is("POST", "/api/user/profile", "405 GET, HEAD, PUT, OPTIONS");
	is("OPTIONS", "/api/user/profile", "405 GET, HEAD, PUT, OPTIONS");
	is("TRACE", "/api/user/profile", "405 GET, HEAD, PUT, OPTIONS");
	is("TRACE", "/api/nothing", "404");
	is("HEAD", "/api/users/bulk", "405 POST, OPTIONS");
}

static void
test_precedence(void)
{
	is("GET", "/users/17", "3 id=17");
	is("DELETE", "/users/17", "4 user=17");
	is("POST", "/users/bulk", "5");
	is("GET", "/users/bulk", "405 POST, OPTIONS");
	is("GET", "/users/bulk/9", "6 id=9");
	is("GET", "/users/bulk/sessions", "6 id=sessions");
	is("GET", "/users/x/sessions", "7 id=x");
	is("GET", "/users/", "404");
	is("GET", "/users//sessions", "404");
	is("POST", "/webhooks/stripe", "13 source=stripe");
	is("POST", "/webhooks/health", "405 GET, HEAD, OPTIONS");
	is("GET", "/a/b/c/d", "16 z=c");
	is("GET", "/a/b/c/e", "15 x=b y=e");
	is("GET", "/a/x/c/d", "15 x=x y=d");
	is("GET", "/users/a%20b", "3 id=a b");
}

static void
test_versions(void)
{
	is("GET", "/api/things/1", "10 id=1");
	is("GET", "/api/v1/things/1", "9 id=1");
	is("GET", "/api/v2/things/1", "10 id=1");
	is("GET", "/api/v3beta/things/1", "11 id=1");
	is("GET", "/api/v2/user/profile", "404");
	is("POST", "/api/v2/things/1", "405 GET, HEAD, OPTIONS");
	is("GET", "/api/v10/literal", "12");
	is("GET", "/api/only/new", "404");
	is("GET", "/api/v4alpha1/only/new", "17");
}

static void
test_headers(void)
{
	struct GwTarget target;
	struct GwMatch match;
	char raw[] = "/v1/things/1";

	if (gw_target_parse(&target, raw, strlen(raw)) != GW_TARGET_OK || gw_routes_match(table, "GET", &target, &match) != GW_MATCH_FOUND)
		return;
	is_string(match.route->deprecation_header, "@1688169599", "Deprecation");
	is_string(match.route->sunset_header, "Sun, 30 Jun 2024 23:59:59 GMT", "Sunset");
	is_string(match.route->link_header,
			  "<http://self/api/docs>; rel=\"sunset\", <http://self/api/docs>; rel=\"deprecation\", "
			  "<http://self/api/v2/things/:id>; rel=\"successor-version\"",
			  "Link");
}

static void
refused(const struct GwRoute *routes, size_t n, const char *expected)
{
	char *fault = NULL;
	struct GwRoutes *built = gw_routes_build(routes, n, "", &fault);

	ok(built == NULL && fault != NULL && strstr(fault, expected) != NULL, "refused: %s", fault);
	free(fault);
}

static void
test_refused(void)
{
	static const struct GwRoute twice[] = {
		{.method = (char *) "GET", .template = (char *) "a/:x", .version = (char *) "v1"},
		{.method = (char *) "GET", .template = (char *) "a/:y", .version = (char *) "v1"},
	};
	static const struct GwRoute odd = {.method = (char *) "BREW", .template = (char *) "pot", .version = (char *) "v1"};
	static const struct GwRoute unversioned = {.method = (char *) "GET", .template = (char *) "pot", .version = (char *) "one"};

	refused(twice, 2, "same shape");
	refused(&odd, 1, "method");
	refused(&unversioned, 1, "version");
}

static void
test_empty(void)
{
	char *fault;
	struct GwRoutes *routes = gw_routes_build(NULL, 0, "", &fault);

	ok(routes != NULL && gw_routes_count(routes) == 0, "an empty table");
	is_string(find(routes, "GET", "/"), "404", "finds nothing");
	gw_routes_unref(routes);
	gw_routes_unref(NULL);
}

int
main(void)
{
	char *fault;
	struct GwRoutes *routes = gw_routes_build(rows, sizeof(rows) / sizeof(rows[0]), "http://self", &fault);

	if (!ok(routes != NULL, "the table is built"))
		return 1;
	table = gw_routes_ref(routes);
	gw_routes_unref(routes);
	test_paths();
	test_methods();
	test_precedence();
	test_versions();
	test_headers();
	test_refused();
	test_empty();
	gw_routes_unref(routes);
	return done();
}
