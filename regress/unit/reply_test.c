/*
 * reply: bodies and headers as a client gets them, through the library and a
 * socket pair.
 */
#include <malloc.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "builtin.h"
#include "guard.h"
#include "reply.h"
#include "tap.h"

#define ID "0190a7b2-0000-7000-8000-00000000000a"
#define USER "0190a7b2-0000-7000-8000-00000000000b"

static char *origins[] = {(char *) "https://app.example.com"};
static struct GwConfig config = {.public_url = (char *) "http://self", .origins = origins, .norigins = 1};
static struct GwText fields, reply_body;
static struct GwAsk ask = {.config = &config, .request_id = ID, .fields = &fields, .body = &reply_body};
static struct GwGuard guard;
static struct GwNote note;
static char got[1 << 20]; /* the reply under test */
static size_t got_len;

static enum MHD_Result
answer(void *cls, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
	   const char *data, size_t *size, void **state)
{
	(void) url, (void) method, (void) version, (void) data, (void) size, (void) state;
	return MHD_queue_response(connection, gw_guard_put_reply(&guard, note.status, &fields, &reply_body, false), cls);
}

/* Sends a request that response answers; got holds what came. Drops response. */
static void
serve(struct MHD_Response *response)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: self\r\nConnection: close\r\n\r\n";
	struct sockaddr_storage nowhere = {.ss_family = AF_UNIX};
	struct MHD_Daemon *server = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, answer, response, MHD_OPTION_END);
	int pair[2], i;

	got_len = 0;
	if (response != NULL && server != NULL && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0 &&
		gw_guard_attach(&guard, pair[0], &config, NULL, NULL) &&
		MHD_add_connection(server, pair[0], (struct sockaddr *) &nowhere, sizeof(nowhere.ss_family)) == MHD_YES)
	{
		if (write(pair[1], request, sizeof(request) - 1) < 0)
			abort();
		for (i = 0; i < 100; i++)
		{
			ssize_t n;

			MHD_run(server);
			n = read(pair[1], got + got_len, sizeof(got) - 1 - got_len);
			got_len += n > 0 ? (size_t) n : 0;
		}
		close(pair[1]);
		MHD_run(server);
		gw_guard_detach(&guard);
	}
	got[got_len] = '\0';
	if (server != NULL)
		MHD_stop_daemon(server);
	gw_reply_drop(response);
}

static const char *
body(void)
{
	const char *at = strstr(got, "\r\n\r\n");

	return at != NULL ? at + 4 : "";
}

static bool
has(const char *what, const char *name)
{
	bool is_there = strstr(got, what) != NULL;

	if (!ok(is_there, "%s", name))
		printf("# missing: %s\n# in: %.2000s\n", what, got);
	return is_there;
}

static void
lacks(const char *what, const char *name)
{
	ok(strstr(got, what) == NULL, "%s", name);
}

/* The body but for its time stamp, which becomes "T". */
static const char *
timeless(void)
{
	static char out[4096];
	const char *from = body();
	const char *stamp = strstr(from, "\"timestamp\":\"");
	size_t len;

	snprintf(out, sizeof(out), "%s", from);
	if (stamp != NULL)
	{
		len = (size_t) (stamp - from) + 13;
		snprintf(out + len, sizeof(out) - len, "T%s", stamp + 13 + 27);
	}
	return out;
}

#define META ",\"meta\":{\"requestId\":\"" ID "\",\"timestamp\":\"T\"}}"

static void
row(int status, const char *headers, const char *data)
{
	serve(gw_reply_row(&ask, status, headers, headers != NULL ? strlen(headers) : 0, data, data != NULL ? strlen(data) : 0, &note));
}

static void
test_success(void)
{
	row(200, NULL, "{\"a\":1}");
	is_string(timeless(), "{\"success\":true,\"data\":{\"a\":1}" META, "the envelope");
	has("HTTP/1.1 200 OK\r\n", "status");
	has("X-Request-ID: " ID "\r\n", "X-Request-ID");
	has("X-Content-Type-Options: nosniff\r\n", "nosniff");
	has("X-Frame-Options: DENY\r\n", "X-Frame-Options");
	has("Referrer-Policy: no-referrer\r\n", "Referrer-Policy");
	has("Content-Security-Policy: default-src 'none'; frame-ancestors 'none'; base-uri 'none'\r\n", "Content-Security-Policy");
	has("Cache-Control: no-store\r\n", "Cache-Control");
	has("Content-Type: application/json; charset=utf-8\r\n", "Content-Type");
	lacks("Strict-Transport-Security", "no HSTS without TLS");
	lacks("Access-Control", "no CORS without Origin");
	row(201, NULL, NULL);
	is_string(timeless(), "{\"success\":true,\"data\":null" META, "no body is null");
	row(204, NULL, NULL);
	has("HTTP/1.1 204 No Content\r\n", "204");
	is_string(body(), "", "has no body");
	lacks("\r\nContent-Type:", "and no type");
	row(200, "{\":pagination\": {\"limit\": 20, \"nextCursor\": null}, \":user\": \"" USER "\"}", "[]");
	is_string(timeless(),
			  "{\"success\":true,\"data\":[],\"meta\":{\"requestId\":\"" ID "\",\"timestamp\":\"T\","
			  "\"pagination\":{\"limit\": 20, \"nextCursor\": null}}}",
			  "pagination");
	is_string(note.user_id, USER, "the user is noted");
	lacks(":user", "and not sent");
}

static void
test_headers(void)
{
	row(200,
		"{\"Set-Cookie\": [\"__Host-a=b; Path=/; Secure\", \"c=\\u0064\"], \"RateLimit\": \"\\\"general\\\";r=50;t=30\", \"X-RateLimit-Limit\": 100,"
		" \"Cache-Control\": \"public\", \"Content-Length\": \"7\", \"X-Bad\": \"a\\r\\nX-Split: 1\", \"X-Null\": null, \"Vary\": \"Cookie\"}",
		"1");
	has("Set-Cookie: __Host-a=b; Path=/; Secure\r\n", "a first cookie");
	has("Set-Cookie: c=d\r\n", "a second one, unescaped");
	has("RateLimit: \"general\";r=50;t=30\r\n", "a quoted value");
	has("X-RateLimit-Limit: 100\r\n", "a number");
	has("Cache-Control: public\r\n", "what the database says wins");
	lacks("no-store", "over the default");
	lacks("X-Split", "no value splits the head");
	lacks("Content-Length: 7", "no length but the true one");
	lacks("X-Null", "null is none");
	has("Vary: Cookie, Origin", "Vary is joined");
	row(200, "{\":raw\": true, \"Content-Type\": \"text/html; charset=utf-8\", \"Content-Security-Policy\": \"default-src 'self'\"}", "<p>");
	is_string(body(), "<p>", "a raw body goes out as it is");
	has("Content-Type: text/html; charset=utf-8\r\n", "with its type");
	has("Content-Security-Policy: default-src 'self'\r\n", "and its policy");
	row(303, "{\"Location\": \"/x\"}", NULL);
	has("Location: /x\r\n", "a redirect");
	is_string(body(), "", "has no body");
	row(200, "not json", "1");
	is_string(timeless(), "{\"success\":true,\"data\":1" META, "headers that are none are left out");
}

static void
test_errors(void)
{
	row(401, NULL, "{\"error\":\"Second factor\",\"code\":\"SECOND_FACTOR_REQUIRED\",\"challenge\":\"x\"}");
	is_string(timeless(), "{\"success\":false,\"error\":\"Second factor\",\"code\":\"SECOND_FACTOR_REQUIRED\",\"challenge\":\"x\"" META,
			  "an error with a further member");
	is_string(note.code, "SECOND_FACTOR_REQUIRED", "its code is noted");
	has("WWW-Authenticate: Bearer\r\n", "401 says how");
	row(429, "{\"Retry-After\": \"17\"}", "{\"error\":\"Slow\",\"code\":\"RATE_LIMITED\"}");
	has("Retry-After: 17\r\n", "Retry-After of the database");
	lacks("Retry-After: 1\r\n", "is the only one");
	row(503, NULL, "{\"error\":\"Away\",\"code\":\"UNAVAILABLE\"}");
	has("Retry-After: 1\r\n", "503 has one anyway");
	row(700, NULL, "{\"error\":\"secret\",\"code\":\"ODD\"}");
	has("HTTP/1.1 500 ", "an impossible status is 500");
	lacks("secret", "and tells nothing");
	serve(gw_reply_refusal(&ask, GW_METHOD_NOT_ALLOWED, NULL, "GET, HEAD, OPTIONS", &note));
	has("HTTP/1.1 405 Method Not Allowed\r\n", "a refusal of our own");
	has("Allow: GET, HEAD, OPTIONS\r\n", "with Allow");
	is_string(timeless(), "{\"success\":false,\"error\":\"This method is not allowed here\",\"code\":\"METHOD_NOT_ALLOWED\"" META, "in the envelope");
}

static void
test_sql_errors(void)
{
	struct GwSqlError error = {.sqlstate = "KS400", .code = "VALIDATION_FAILED", .message = "new password is too short", .hint = "Take a longer one.", .field = "new_password", .headers = "{\"X-RateLimit-Remaining\":\"3\",\":user\":\"" USER "\"}"};

	serve(gw_reply_sql_error(&ask, &error, &note));
	is_string(timeless(),
			  "{\"success\":false,\"error\":\"New password is too short\",\"code\":\"VALIDATION_FAILED\","
			  "\"details\":[{\"field\":\"newPassword\",\"code\":\"VALIDATION_FAILED\",\"message\":\"New password is too short\"}],"
			  "\"hint\":\"Take a longer one.\"" META,
			  "an error of ours");
	has("X-RateLimit-Remaining: 3\r\n", "with the reply's headers");
	is_string(note.user_id, USER, "and its user");
	error = (struct GwSqlError){.sqlstate = "KS404", .message = "no such thing"};
	serve(gw_reply_sql_error(&ask, &error, &note));
	has("\"code\":\"NOT_FOUND\"", "a code is found by status");
	error = (struct GwSqlError){.sqlstate = "22012", .code = "c", .message = "division by zero", .hint = "h", .field = "f"};
	serve(gw_reply_sql_error(&ask, &error, &note));
	is_string(timeless(), "{\"success\":false,\"error\":\"Something went wrong on our side\",\"code\":\"INTERNAL\"" META, "an error from inside tells nothing");
	error = (struct GwSqlError){.sqlstate = "57014", .message = "canceling statement"};
	serve(gw_reply_sql_error(&ask, &error, &note));
	has("HTTP/1.1 504 ", "57014 is 504");
	error = (struct GwSqlError){0};
	serve(gw_reply_sql_error(&ask, &error, &note));
	has("HTTP/1.1 503 ", "a lost connection is 503");
	has("Retry-After: 1\r\n", "with Retry-After");
	error = (struct GwSqlError){.sqlstate = "KS999", .message = "odd"};
	serve(gw_reply_sql_error(&ask, &error, &note));
	has("HTTP/1.1 500 ", "a KS state that is no status is 500");
	lacks("odd", "and tells nothing");
}

static void
test_classes(void)
{
	static const struct
	{
		const char *sqlstate;
		enum GwSqlClass expected;
	} states[] = {
		{"KS400", GW_SQL_CLIENT}, {"KS503", GW_SQL_CLIENT}, {"KS500", GW_SQL_INTERNAL}, {"40001", GW_SQL_RETRY}, {"40P01", GW_SQL_RETRY}, {"40002", GW_SQL_INTERNAL}, {"25006", GW_SQL_UNAVAILABLE}, {"25001", GW_SQL_INTERNAL}, {"53300", GW_SQL_UNAVAILABLE}, {"57P01", GW_SQL_UNAVAILABLE}, {"57P03", GW_SQL_UNAVAILABLE}, {"08006", GW_SQL_UNAVAILABLE}, {"57014", GW_SQL_TIMEOUT}, {"23505", GW_SQL_INTERNAL}, {"42501", GW_SQL_INTERNAL}, {"P0001", GW_SQL_INTERNAL}, {NULL, GW_SQL_UNAVAILABLE}};
	size_t i;

	for (i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		is_number(gw_sql_class(states[i].sqlstate), states[i].expected, states[i].sqlstate != NULL ? states[i].sqlstate : "no state");
}

static void
test_problem(void)
{
	struct GwSqlError error = {.sqlstate = "KS409", .code = "EMAIL_TAKEN", .message = "address is taken", .field = "email"};

	ask.accepts_problem = true;
	serve(gw_reply_sql_error(&ask, &error, &note));
	has("Content-Type: application/problem+json; charset=utf-8\r\n", "problem+json");
	is_string(body(),
			  "{\"type\":\"http://self/problems/EMAIL_TAKEN\",\"title\":\"Conflict\",\"status\":409,\"instance\":\"" ID "\","
			  "\"detail\":\"Address is taken\",\"code\":\"EMAIL_TAKEN\",\"details\":[{\"field\":\"email\",\"code\":\"EMAIL_TAKEN\",\"message\":\"Address is taken\"}]}",
			  "as RFC 9457 has it");
	row(429, NULL, "{\"error\":\"Slow\",\"code\":\"RATE_LIMITED\"}");
	has("\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\"", "a limit has the registered type");
	row(200, NULL, "1");
	has("Content-Type: application/json", "a success is no problem");
	ask.accepts_problem = false;
	ok(gw_accepts_problem("application/problem+json"), "accepts: named");
	ok(gw_accepts_problem("text/html, application/problem+json;q=0.5"), "accepts: named with a weight");
	ok(!gw_accepts_problem("application/problem+json;q=0"), "accepts: refused");
	ok(!gw_accepts_problem("application/json"), "accepts: not named");
	ok(!gw_accepts_problem("*/*"), "accepts: not meant by anything");
	ok(!gw_accepts_problem(NULL), "accepts: no header");
}

static void
test_gzip(void)
{
	static char data[50002], plain[65536];
	z_stream stream = {0};

	memset(data, 'a', sizeof(data));
	data[0] = data[50000] = '"';
	data[50001] = '\0';
	row(200, NULL, data);
	lacks("Content-Encoding", "nothing is compressed unasked");
	ask.accepts_gzip = true;
	row(200, NULL, data);
	has("Content-Encoding: gzip\r\n", "a large body is compressed");
	has("Accept-Encoding", "and Vary says so");
	ok(malloc_usable_size(reply_body.data) < reply_body.size + 4096, "and its memory is as large as it says, so that a large one is not kept");
	inflateInit2(&stream, 15 + 16);
	stream.next_in = (Bytef *) (uintptr_t) body();
	stream.avail_in = (uInt) (got_len - (size_t) (body() - got));
	stream.next_out = (Bytef *) plain;
	stream.avail_out = sizeof(plain);
	ok(inflate(&stream, Z_FINISH) == Z_STREAM_END && stream.total_out > 50000 && strncmp(plain, "{\"success\":true,\"data\":\"aaa", 26) == 0,
	   "and opens again");
	inflateEnd(&stream);
	row(200, NULL, "1");
	lacks("Content-Encoding", "a small one is not");
	row(304, "{\"ETag\":\"\\\"a\\\"\"}", NULL);
	has("HTTP/1.1 304 Not Modified\r\n", "what the client has is not sent");
	has("ETag: W/\"a\"\r\n", "and named, by a tag that both forms of it may have");
	has("Accept-Encoding", "with the Vary of what it has");
	lacks("Content-Length", "and without a length, which would be taken for that of what it has");
	row(200, "{\"etag\":\"W/\\\"a\\\"\"}", "1");
	has("ETag: W/\"a\"\r\n", "a tag that is weak stays as it is");
	row(200, "{\"ETag\":\"\\\"a\\r\\nX: y\\\"\"}", "1");
	lacks("ETag", "one that could break the head is left out");
	ask.accepts_gzip = false;
	ok(gw_accepts_gzip("gzip, deflate, br"), "accepts: gzip");
	ok(gw_accepts_gzip("br;q=1.0, gzip;q=0.8"), "accepts: gzip with a weight");
	ok(gw_accepts_gzip("*"), "accepts: anything");
	ok(!gw_accepts_gzip("gzip;q=0, *"), "accepts: all but gzip");
	ok(!gw_accepts_gzip("gzip; q=0.000"), "accepts: gzip refused");
	ok(!gw_accepts_gzip("identity"), "accepts: identity");
	ok(!gw_accepts_gzip("gzipped"), "accepts: another name");
	ok(!gw_accepts_gzip(NULL), "accepts: no header");
}

static void
test_cors(void)
{
	ask.origin = "https://app.example.com";
	row(200, NULL, "1");
	has("Access-Control-Allow-Origin: https://app.example.com\r\n", "an allowed origin is echoed");
	has("Access-Control-Allow-Credentials: true\r\n", "with credentials");
	serve(gw_reply_options(&ask, "GET, HEAD, OPTIONS", &note));
	has("HTTP/1.1 204 No Content\r\n", "preflight");
	has("Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n", "with methods");
	has("Allow: GET, HEAD, OPTIONS\r\n", "and Allow");
	ask.origin = "https://evil.example.com";
	row(200, NULL, "1");
	lacks("Access-Control", "another origin is not");
	serve(gw_reply_options(&ask, "GET, HEAD, OPTIONS", &note));
	lacks("Access-Control", "nor in preflight");
	ask.origin = NULL;
}

static void
test_tls(void)
{
	config.sends_hsts = true;
	row(200, NULL, "1");
	has("Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n", "HSTS behind TLS");
	serve(gw_reply_upgrade(&ask, "/api/user/profile?a=b", &note));
	has("HTTP/1.1 308 Permanent Redirect\r\n", "http is sent on");
	has("Location: https://self/api/user/profile?a=b\r\n", "to https");
	config.sends_hsts = false;
}

static void
test_route(void)
{
	struct GwRoute route = {.method = (char *) "POST", .deprecation_header = (char *) "@1", .sunset_header = (char *) "Thu, 01 Jan 1970 00:00:02 GMT", .link_header = (char *) "<x>; rel=\"sunset\""};

	ask.route = &route;
	ask.closes = true;
	row(200, NULL, "1");
	has("Deprecation: @1\r\n", "Deprecation");
	has("Sunset: Thu, 01 Jan 1970 00:00:02 GMT\r\n", "Sunset");
	has("Link: <x>; rel=\"sunset\"\r\n", "Link");
	has("Sec-Fetch-Site, Origin", "Vary of an unsafe method");
	has("Connection: close\r\n", "Connection: close");
	ask.route = NULL;
	ask.closes = false;
}

static enum GwBuiltin
find_builtin(const char *path)
{
	char raw[64];
	struct GwTarget target;

	strcpy(raw, path);
	return gw_target_parse(&target, raw, strlen(raw)) == GW_TARGET_OK ? gw_builtin_find(&target) : GW_BUILTIN_NONE;
}

static void
builtin(const char *path, struct GwBuiltinFacts *facts)
{
	char raw[64];
	struct GwTarget target;

	strcpy(raw, path);
	if (gw_target_parse(&target, raw, strlen(raw)) == GW_TARGET_OK)
		serve(gw_builtin_reply(gw_builtin_find(&target), &ask, &target, facts, &note));
}

static void
test_builtin(void)
{
	static const struct GwSample samples[] = {
		{"keelson_queue_depth", "{\"queue\": \"a\\\"b\", \"n\": 1}", "3", "gauge", "Depth."},
		{"keelson_other_total", NULL, "4", "counter", "Other\nthings."},
		{"keelson_queue_depth", "{\"queue\": \"c\"}", "5", "gauge", "Depth."},
		{"keelson_gateway_calls_total", NULL, "6", "counter", "A name of the gateway's own."},
		{"bad name", NULL, "7", "gauge", "Bad."},
	};
	struct GwMetrics metrics;
	struct GwMetrics *all[] = {&metrics};
	struct GwText text = {0};
	struct GwBuiltinFacts facts = {.is_ready = true, .health = "{\"workers\":[]}", .health_len = 14, .metrics_text = &text, .metrics = all, .nmetrics = 1};

	if (!gw_metrics_init(&metrics))
		return;
	ok(find_builtin("/live") == GW_BUILTIN_LIVE && find_builtin("/api/v1/health/detailed/") == GW_BUILTIN_HEALTH_DETAILED &&
		   find_builtin("/api/docs") == GW_BUILTIN_DOCS && find_builtin("/api/docs/docs.js") == GW_BUILTIN_DOCS,
	   "built-in endpoints are found, under their aliases");
	ok(find_builtin("/") == GW_BUILTIN_NONE && find_builtin("/api/docs/../x") == GW_BUILTIN_NONE && find_builtin("/api/docs/x") == GW_BUILTIN_NONE &&
		   find_builtin("/live/x") == GW_BUILTIN_NONE && find_builtin("/metrics/x") == GW_BUILTIN_NONE,
	   "others are not");
	builtin("/live", NULL);
	is_string(timeless(), "{\"success\":true,\"data\":{\"status\":\"live\"}" META, "/live");
	builtin("/ready", &facts);
	has("HTTP/1.1 200 ", "/ready");
	builtin("/health/detailed", &facts);
	has("\"database\":{\"workers\":[]}", "/health/detailed shows the database's part");
	has("\"pool\":{\"fast\":{\"connections\":0", "and the gateway's");
	facts.is_ready = false;
	facts.reason = "migrations are missing";
	builtin("/ready", &facts);
	has("HTTP/1.1 503 ", "/ready when it is not");
	has("\"error\":\"Migrations are missing\",\"code\":\"UNAVAILABLE\"", "says why");
	builtin("/health", &facts);
	has("\"health\":{\"status\":\"unavailable\"", "/health shows the state with the error");
	gw_metrics_request(&metrics, gw_metrics_slot("GET", "v1", "user/profile"), 200, 700);
	gw_metrics_add(&metrics, GW_COUNT_CALLS, 2);
	gw_builtin_write_metrics(&text, &facts, samples, 5);
	builtin("/metrics", &facts);
	has("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", "/metrics");
	has("keelson_http_request_duration_seconds_bucket{method=\"GET\",route=\"user/profile\",version=\"v1\",status=\"2xx\",le=\"0.0005\"} 0\n", "a bucket below");
	has("status=\"2xx\",le=\"0.001\"} 1\n", "a bucket above");
	has("keelson_http_request_duration_seconds_count{method=\"GET\",route=\"user/profile\",version=\"v1\",status=\"2xx\"} 1\n", "the count");
	has("keelson_gateway_calls_total 2\n", "a counter of the gateway");
	lacks("keelson_gateway_calls_total 6", "is not the database's to give");
	has("# HELP keelson_queue_depth Depth.\n# TYPE keelson_queue_depth gauge\nkeelson_queue_depth{queue=\"a\\\"b\",n=\"1\"} 3\nkeelson_queue_depth{queue=\"c\"} 5\n",
		"the database's samples, each family together");
	has("# HELP keelson_other_total Other\\nthings.\n", "help is escaped");
	lacks("bad name", "what is no name is left out");
	builtin("/api/docs", NULL);
	has("Content-Type: text/html; charset=utf-8\r\n", "/api/docs");
	has("script-src 'self'", "with a policy of its own");
	ok(strstr(body(), "<html") != NULL, "is the page");
	builtin("/api/docs/docs.css", NULL);
	has("Content-Type: text/css; charset=utf-8\r\n", "its style");
	gw_text_free(&text);
	gw_metrics_free(&metrics);
}

static void
test_raw_refusal(void)
{
	char out[2048];
	size_t len = gw_reply_raw_refusal(out, sizeof(out), &config, 431, "HEADERS_TOO_LARGE", "Too \"large\"", ID);

	memcpy(got, out, len);
	got[len] = '\0';
	is_string(timeless(), "{\"success\":false,\"error\":\"Too \\\"large\\\"\",\"code\":\"HEADERS_TOO_LARGE\"" META, "the guard's reply has the same form");
	snprintf(out, sizeof(out), "Content-Length: %zu\r\n", strlen(body()));
	has(out, "and a true length");
	is_number((long long) gw_reply_raw_refusal(out, 300, &config, 431, "X", "Y", ID), 0, "one that does not fit is none");
}

int
main(void)
{
	if (!gw_guard_init(256))
		return 1;
	test_success();
	test_headers();
	test_errors();
	test_sql_errors();
	test_classes();
	test_problem();
	test_gzip();
	test_cors();
	test_tls();
	test_route();
	test_builtin();
	test_raw_refusal();
	gw_reply_end();
	gw_text_free(&fields);
	gw_text_free(&reply_body);
	gw_guard_free();
	return done();
}
