/*
 * config, client, log: what the environment may say, who a client is, and what
 * a log line looks like.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

#include "client.h"
#include "json.h"
#include "log.h"
#include "tap.h"

extern char **environ;

static char *faults;
static struct GwConfig config;

/* Loads from the given variables alone ("NAME=value", NULL-terminated). */
static bool
load(const char *const *variables)
{
	static char *none[] = {NULL};
	size_t len;
	FILE *stream;
	bool is_good;

	environ = none;
	for (; *variables != NULL; variables++)
		putenv((char *) (uintptr_t) *variables);
	free(faults);
	stream = open_memstream(&faults, &len);
	gw_config_free(&config);
	is_good = gw_config_load(&config, stream);
	fclose(stream);
	return is_good;
}

#define LOAD(...) load((const char *const[]){__VA_ARGS__, NULL})
#define URL "KEELSON_DATABASE_URL=postgresql://g:pw@/keelson"

static void
test_defaults(void)
{
	ok(LOAD(URL), "the defaults are good");
	ok(strcmp(config.listen_address, "127.0.0.1") == 0 && config.port == 8080, "127.0.0.1:8080");
	is_string(config.public_url, "http://127.0.0.1:8080", "public URL");
	is_string(config.app_url, "http://127.0.0.1:8080", "app URL");
	ok(config.pool >= 4 && config.pool_rows == 2 && config.pool_slow == 2 && config.pool_upstream == 4 && config.drain_seconds == 30 && config.loops >= 1, "numbers");
	ok(LOAD(URL, "KEELSON_LOOPS=1") && config.pool == 16, "one loop has sixteen connections");
	ok(LOAD(URL, "KEELSON_LOOPS=4") && config.pool == 8, "loops share thirty-two connections");
	ok(LOAD(URL, "KEELSON_LOOPS=64") && config.pool == 4, "each loop has at least four");
	ok(LOAD(URL, "KEELSON_LOOPS=64", "KEELSON_POOL=2") && config.pool == 2, "what is said counts");
	ok(LOAD(URL), "the defaults again");
	ok(!config.is_production && !config.is_behind_tls && config.log_level == GW_LOG_INFO, "words");
	ok(LOAD(URL, "KEELSON_PORT=9090") && strcmp(config.public_url, "http://127.0.0.1:9090") == 0, "the public URL follows the port");
	ok(LOAD(URL, "KEELSON_PORT="), "an empty value is none");
	ok(LOAD(URL, "KEELSON_VAR=/x", "KEELSON_PGPORT=1", "KEELSON_SMTP_URL=smtp://x", "CRON_SECRET=x", "HOME=/"), "variables of other parts are known");
	ok(LOAD(URL, "KEELSON_SMTP_URL=smtps://user:p%40ss/word@[::1]:465", "KEELSON_MAIL_FROM=Product <no-reply@example.com>",
			"KEELSON_CAPTCHA_URL=https://api.hcaptcha.com/siteverify"),
	   "so is what the database takes");
	ok(LOAD(URL, "KEELSON_ENV=production", "KEELSON_TLS=proxy", "KEELSON_PUBLIC_URL=https://api.example.com/") && config.sends_hsts &&
		   strcmp(config.public_url, "https://api.example.com") == 0,
	   "production");
}

static void
is_refused(const char *variable, const char *expected)
{
	bool is_good = LOAD(URL, variable);

	if (!ok(!is_good && strstr(faults, expected) != NULL, "refused: %s", variable))
		printf("# %s", faults);
}

static void
test_faults(void)
{
	is_refused("KEELSON_PROT=1", "KEELSON_PROT");
	is_refused("KEELSON_PORT=http", "KEELSON_PORT");
	is_refused("KEELSON_PORT=0", "1 to 65535");
	is_refused("KEELSON_PORT=65536", "1 to 65535");
	is_refused("KEELSON_PORT=80 ", "KEELSON_PORT");
	is_refused("KEELSON_PORT=+80", "KEELSON_PORT");
	is_refused("KEELSON_PORT=080", "KEELSON_PORT");
	is_refused("KEELSON_PGPORT=65536", "1 to 65535");
	is_refused("KEELSON_LISTEN=localhost", "KEELSON_LISTEN");
	is_refused("KEELSON_LISTEN=10.0.0.0/8", "KEELSON_LISTEN");
	is_refused("KEELSON_ENV=prod", "KEELSON_ENV");
	is_refused("KEELSON_ENV=production", "KEELSON_TLS");
	is_refused("KEELSON_TLS=on", "KEELSON_TLS");
	is_refused("KEELSON_PUBLIC_URL=example.com", "KEELSON_PUBLIC_URL");
	is_refused("KEELSON_PUBLIC_URL=https://a b", "KEELSON_PUBLIC_URL");
	is_refused("KEELSON_APP_URL=ftp://a", "KEELSON_APP_URL");
	is_refused("KEELSON_TRUSTED_PROXIES=10.0.0.0/8, 10.0.0.0/33", "\"10.0.0.0/33\"");
	is_refused("KEELSON_TRUSTED_PROXIES=proxy", "\"proxy\"");
	is_refused("ALLOWED_ORIGINS=https://a.example, *", "\"*\"");
	is_refused("ALLOWED_ORIGINS=https://a.example/", "ALLOWED_ORIGINS");
	is_refused("KEELSON_LOG_LEVEL=loud", "KEELSON_LOG_LEVEL");
	is_refused("KEELSON_DRAIN_SECONDS=-1", "KEELSON_DRAIN_SECONDS");
	is_refused("KEELSON_METRICS_TOKEN=too short", "KEELSON_METRICS_TOKEN is no token");
	is_refused("KEELSON_METRICS_TOKEN=long enough, with spaces in it", "KEELSON_METRICS_TOKEN is no token");
	ok(strstr(faults, "long enough") == NULL, "the token is not repeated");
	is_refused("KEELSON_LOOPS=0", "KEELSON_LOOPS");
	is_refused("KEELSON_RATE_LIMITS=no", "KEELSON_RATE_LIMITS");
	is_refused("KEELSON_CAPTCHA_URL=siteverify", "KEELSON_CAPTCHA_URL");
	is_refused("KEELSON_MAIL_FROM=no-reply", "KEELSON_MAIL_FROM");
	is_refused("KEELSON_MAIL_FROM=@example.com", "KEELSON_MAIL_FROM");
	is_refused("KEELSON_MAIL_FROM=Product <no-reply@>", "KEELSON_MAIL_FROM");
	is_refused("KEELSON_MAIL_FROM=Br\xc3\xbc <no-reply@example.com>", "KEELSON_MAIL_FROM");
	is_refused("KEELSON_SMTP_URL=mail.example.com:587", "KEELSON_SMTP_URL");
	is_refused("KEELSON_SMTP_URL=smtp://user:secret@", "KEELSON_SMTP_URL");
	ok(strstr(faults, "secret") == NULL, "the mail server's password is never repeated");
	ok(!LOAD("KEELSON_PORT=x", "KEELSON_LOOPS=x", "KEELSON_FOO=x") && strstr(faults, "KEELSON_PORT") && strstr(faults, "KEELSON_LOOPS") &&
		   strstr(faults, "KEELSON_FOO") && strstr(faults, "KEELSON_DATABASE_URL"),
	   "every fault is told");
	ok(!LOAD("KEELSON_DATABASE_URL=mysecret") && strstr(faults, "mysecret") == NULL, "the database's URL is never repeated");
	ok(!LOAD(URL, "KEELSON_ENV=production", "KEELSON_TLS=proxy", "KEELSON_RATE_LIMITS=off") && strstr(faults, "KEELSON_RATE_LIMITS"),
	   "production keeps its rate limits");
}

static void
test_origins(void)
{
	ok(LOAD(URL, "ALLOWED_ORIGINS=https://a.example , http://b.example:3000"), "two origins");
	ok(gw_config_allows_origin(&config, "https://a.example") && gw_config_allows_origin(&config, "http://b.example:3000"), "are allowed");
	ok(!gw_config_allows_origin(&config, "https://a.example.evil") && !gw_config_allows_origin(&config, "null") &&
		   !gw_config_allows_origin(&config, "http://a.example"),
	   "no others are");
}

/* The client of a connection from peer, with the headers given. */
static struct GwClient
client_of(const char *peer, const char *forwarded_for, const char *proto)
{
	struct sockaddr_storage storage = {0};
	struct sockaddr_in *four = (struct sockaddr_in *) (void *) &storage;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *) (void *) &storage;
	struct GwClient client;

	if (inet_pton(AF_INET, peer, &four->sin_addr) == 1)
		four->sin_family = AF_INET;
	else if (inet_pton(AF_INET6, peer, &six->sin6_addr) == 1)
		six->sin6_family = AF_INET6;
	gw_client_find(&client, &config, (struct sockaddr *) &storage, forwarded_for, proto);
	return client;
}

static void
test_clients(void)
{
	ok(LOAD(URL, "KEELSON_TRUSTED_PROXIES=10.0.0.0/8, 2001:db8::/32, 192.0.2.1"), "trusted proxies");
	is_string(client_of("203.0.113.9", "1.2.3.4", "https").ip, "203.0.113.9", "from elsewhere nothing counts");
	ok(!client_of("203.0.113.9", "1.2.3.4", "https").is_https, "the scheme neither");
	is_string(client_of("10.1.2.3", "1.2.3.4", "https").ip, "1.2.3.4", "behind a proxy the header counts");
	ok(client_of("10.1.2.3", "1.2.3.4", "https").is_https, "the scheme too");
	ok(!client_of("10.1.2.3", "1.2.3.4", "https, http").is_https, "of several schemes the last");
	is_string(client_of("10.1.2.3", "6.6.6.6, 1.2.3.4", NULL).ip, "1.2.3.4", "read from the right");
	is_string(client_of("10.1.2.3", "6.6.6.6, 1.2.3.4, 10.9.9.9,192.0.2.1", NULL).ip, "1.2.3.4", "past trusted ones");
	is_string(client_of("10.1.2.3", "10.5.5.5, 10.9.9.9", NULL).ip, "10.5.5.5", "to the end of the list");
	is_string(client_of("10.1.2.3", "1.2.3.4, unknown", NULL).ip, "10.1.2.3", "not past what is no address");
	is_string(client_of("10.1.2.3", "unknown, 10.9.9.9", NULL).ip, "10.9.9.9", "nor further left");
	is_string(client_of("10.1.2.3", "", NULL).ip, "10.1.2.3", "an empty header");
	is_string(client_of("10.1.2.3", NULL, NULL).ip, "10.1.2.3", "none");
	is_string(client_of("10.1.2.3", "1.2.3.4:5678", NULL).ip, "1.2.3.4", "with a port");
	is_string(client_of("2001:db8::7", "[2001:DB9:0::1]:443", NULL).ip, "2001:db9::1", "IPv6 with a port");
	is_string(client_of("2001:db8::7", "2001:db9::1", NULL).ip, "2001:db9::1", "IPv6");
	is_string(client_of("::ffff:10.1.2.3", "1.2.3.4", NULL).ip, "1.2.3.4", "a mapped address is the IPv4 one");
	is_string(client_of("10.1.2.3", "10.0.0.0/8", NULL).ip, "10.1.2.3", "a network is no address");
}

static void
test_ids(void)
{
	char id[GW_UUID_SIZE], other[GW_UUID_SIZE], trace[GW_TRACE_SIZE];

	gw_request_id(id, "0190A7B2-0000-7000-8000-00000000000a");
	is_string(id, "0190A7B2-0000-7000-8000-00000000000a", "a client's UUID is kept");
	gw_request_id(id, "0190a7b2-0000-7000-8000-00000000000ax");
	ok(gw_uuid_is_valid(id) && id[14] == '7' && strchr("89ab", id[19]) != NULL, "another id is not: %s", id);
	gw_uuid7(other);
	ok(gw_uuid_is_valid(other) && strcmp(id, other) != 0 && strncmp(id, other, 8) <= 0, "the next one is another: %s", other);
	gw_traceparent(trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
	ok(strncmp(trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-", 36) == 0 && strncmp(trace + 36, "00f067aa0ba902b7", 16) != 0 &&
		   strcmp(trace + 52, "-01") == 0,
	   "a trace goes on under a span of our own");
	gw_traceparent(trace, "00-00000000000000000000000000000000-00f067aa0ba902b7-01");
	ok(strlen(trace) == 55 && strncmp(trace + 3, "0000", 4) != 0 && strcmp(trace + 52, "-00") == 0, "one that is none is not");
	gw_traceparent(trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x");
	ok(strstr(trace, "4bf92f35") == NULL, "version 00 is not longer");
	gw_traceparent(trace, "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x");
	ok(strstr(trace, "4bf92f35") != NULL, "a later one may be");
}

/* Reads what a log wrote. */
static const char *
logged(struct GwLog *log, int from)
{
	static char line[65536];
	ssize_t len;

	gw_log_flush(log);
	len = read(from, line, sizeof(line) - 1);
	line[len > 0 ? len : 0] = '\0';
	return line;
}

static void
test_log(void)
{
	struct GwLogRequest request = {.request_id = "id", .traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", .method = "GET", .route = "a/:b", .status = 200, .duration_us = 12, .database_us = -1, .bytes = 3, .ip = "::1", .user_agent = "a\"b\n{\"level\":\"x\"}\xff\x7f", .user_id = ""};
	static char endless[100000];
	struct GwLog log;
	int ends[2], i;
	const char *line;

	if (!gw_log_init(&log, GW_LOG_INFO) || pipe(ends) != 0)
		return;
	log.fd = ends[1];
	gw_log_request(&log, &request);
	line = logged(&log, ends[0]);
	ok(gw_json_check(line, strlen(line), NULL, NULL) && strchr(line, '\n') == line + strlen(line) - 1, "a request is one line of JSON");
	ok(strstr(line, "\"traceId\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"method\":\"GET\",\"route\":\"a/:b\",\"status\":200,\"durationUs\":12,\"bytes\":3") != NULL,
	   "with its fields");
	ok(strstr(line, "databaseUs") == NULL && strstr(line, "userId") == NULL && strstr(line, "error\"") == NULL, "and none that it has not");
	if (!ok(strstr(line, "\"userAgent\":\"a\\\"b\\u000a{\\\"level\\\":\\\"x\\\"}?\\u007f\"") != NULL, "nothing of the client's gets out of its string"))
		printf("# %s", line);
	request.user_agent = "\xc2\x9b"
						 "31m \xc2\xa9";
	gw_log_request(&log, &request);
	ok(strstr(logged(&log, ends[0]), "\"userAgent\":\"\\u009b31m \xc2\xa9\"") != NULL, "nothing commands a terminal");
	memset(endless, '\001', sizeof(endless) - 1);
	request.user_agent = request.ip = request.error = request.route = request.request_id = endless;
	for (i = 0; i < 3; i++)
		gw_log_request(&log, &request);
	line = logged(&log, ends[0]);
	ok(strlen(line) < 60000, "long values are cut");
	request.error = "xxxxxxxxxxxxxxx";
	for (i = 1; i < 1001; i += 2)
		memcpy(endless + i, "\303\251", 2);
	endless[0] = 'x';
	request.user_agent = endless;
	gw_log_request(&log, &request);
	line = logged(&log, ends[0]);
	ok(gw_json_check(line, strlen(line), NULL, NULL), "but not inside a character");
	log.level = GW_LOG_WARN;
	gw_log_request(&log, &request);
	gw_log_event(&log, GW_LOG_WARN, "away", "database \"%s\" is away", "x");
	line = logged(&log, ends[0]);
	ok(strstr(line, "\"level\":\"warn\",\"event\":\"away\",\"message\":\"database \\\"x\\\" is away\"}") != NULL && strstr(line, "request") == NULL,
	   "below the level nothing is written");
	request.status = 500;
	gw_log_request(&log, &request);
	ok(strstr(logged(&log, ends[0]), "\"level\":\"error\"") != NULL, "a 500 is an error");
	close(ends[0]);
	close(ends[1]);
	gw_log_event(&log, GW_LOG_ERROR, "lost", "x");
	gw_log_free(&log);
	is_number((long long) log.dropped, 1, "what cannot be written is counted");
}

static void
test_text(void)
{
	struct GwText text = {0};
	char *out;

	gw_text_time(&text, 0);
	gw_text_lit(&text, " ");
	gw_text_time(&text, 951782400000001);
	gw_text_lit(&text, " ");
	gw_text_time(&text, 4102444799999999);
	gw_text_lit(&text, " ");
	gw_text_time(&text, 4102444799000000);
	gw_text_lit(&text, " ");
	gw_text_time(&text, -1);
	out = gw_text_take(&text, NULL);
	is_string(out, "1970-01-01T00:00:00.000000Z 2000-02-29T00:00:00.000001Z 2099-12-31T23:59:59.999999Z 2099-12-31T23:59:59.000000Z 1969-12-31T23:59:59.999999Z", "times");
	free(out);
	gw_text_json(&text, "a\"\\\n\x01\xc3\xa9\xff\x7f", 9);
	gw_text_int(&text, INT64_MIN);
	gw_text_printf(&text, "%0600d", 7);
	out = gw_text_take(&text, NULL);
	ok(strncmp(out, "\"a\\\"\\\\\\n\\u0001\xc3\xa9\\ufffd\x7f\"-9223372036854775808000", 47) == 0, "strings and numbers: %.60s", out);
	free(out);
}

/* The first byte of a kind that was looked for one by one. */
static size_t
first_odd(const unsigned char *data, size_t len, int kind)
{
	size_t i = 0;

	for (; i < len; i++)
		if (data[i] < 0x20 || data[i] == 0x7F || (kind > 0 && data[i] > 0x7F) ||
			(kind == 1 && (data[i] == '"' || data[i] == '\\')) || (kind == 2 && data[i] == ' '))
			break;
	return i;
}

/* Every byte at every place of texts of every length, behind one that is odd already or not. */
static void
test_spans(void)
{
	size_t (*const spans[])(const char *data, size_t len) = {gw_text_plain, gw_text_safe, gw_text_solid};
	unsigned char data[40];
	long long missed = 0;

	for (int kind = 0; kind < 3; kind++)
		for (size_t len = 0; len <= sizeof(data); len++)
			for (size_t at = 0; at < len; at++)
				for (int byte = 0; byte < 256; byte++)
				{
					memset(data, 'a', sizeof(data));
					data[at] = (unsigned char) byte;
					data[(at + 7) % sizeof(data)] = '\n';
					missed += spans[kind]((const char *) data, len) != first_odd(data, len, kind);
				}
	is_number(missed, 0, "what is looked for many bytes at a time is found as if one by one");
}

static void
test_numbers(void)
{
	static const int64_t numbers[] = {0, 9, 10, 99, 100, 12345, -1, -10, INT64_MAX, INT64_MIN};
	char written[GW_DIGITS_MAX], expected[32], date[GW_DATE_SIZE];
	bool is_good = true;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
	{
		size_t len = gw_digits(written, numbers[i]);

		snprintf(expected, sizeof(expected), "%lld", (long long) numbers[i]);
		is_good &= len == strlen(expected) && memcmp(written, expected, len) == 0;
	}
	ok(is_good, "numbers of every length");
	gw_date_write(date, 784111777);
	ok(strcmp(date, "Sun, 06 Nov 1994 08:49:37 GMT") == 0, "a date");
	gw_date_write(date, 784111778);
	ok(strcmp(date, "Sun, 06 Nov 1994 08:49:38 GMT") == 0, "and the next second's");
}

int
main(void)
{
	test_defaults();
	test_faults();
	test_origins();
	test_clients();
	test_ids();
	test_log();
	test_text();
	test_spans();
	test_numbers();
	gw_config_free(&config);
	free(faults);
	return done();
}
