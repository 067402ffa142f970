/*
 * request.c
 *	  Fuzzes the whole path of requests: the guard, the library behind it, the
 *	  screen, the call of the database, the reply.
 *
 * A loop of the gateway serves one end of a socket pair; the other end sends
 * the input, cut into pieces, and reads what comes. Nothing of it is replaced
 * but the database, which answers from a list, at once or a turn later.
 *
 * Claims: the library never sees a request that the guard has not seen whole;
 * what the database is sent is JSON where it must be, within its bounds and
 * without control characters; each reply is well framed, carries the fields
 * that every reply has, and its body is JSON where it says so.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway.h"
#include "guard.h"
#include "http.h"
#include "json.h"
#include "linger.h"
#include "pool.h"
#include "request.h"
#include "require.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TURNS_MAX 64

/* Longer than anything rests, or waits before it tries again; shorter than a client may take. */
#define PAUSE GW_SECONDS(1)

#define REQUESTS_MAX 512
#define OUTPUT_MAX (1024 * 1024)

#define ROUTE(number, verb, path, ...)                                                                                                                         \
	{                                                                                                                                                          \
		.id = (number), .method = (char *) (verb), .template = (char *) (path), .version = (char *) "v1", .body_limit = 2048, .timeout_ms = 30000, __VA_ARGS__ \
	}

static char *pictures[] = {(char *) "image/png", NULL};
static const struct GwRoute rows[] = {
	ROUTE(1, "GET", "user/profile", .is_public = false),
	ROUTE(2, "PUT", "user/profile", .is_public = false),
	ROUTE(3, "GET", "things/:id", .is_public = true, .deprecated_at = 1688169599, .sunset_at = 1719791999),
	ROUTE(4, "POST", "auth/login", .lane = GW_LANE_SLOW),
	ROUTE(5, "POST", "webhooks/:source", .is_raw = true, .is_public = true),
	ROUTE(6, "PUT", "user/avatar", .is_raw = true, .content_types = pictures),
	ROUTE(7, "GET", "rows", .kind = GW_KIND_ROWS),
	ROUTE(8, "GET", "watch", .kind = GW_KIND_WATCH),
	ROUTE(9, "DELETE", "things/:id", .is_public = true),
};

/* What the database answers: status, headers, body. */
static const struct
{
	int status;
	const char *headers;
	const char *body;
} answers[] = {
	{200, NULL, "{\"a\":1}"},
	{200, "{\":pagination\":{\"limit\":20,\"nextCursor\":null},\":user\":\"0194e0a0-0000-7000-8000-000000000000\"}", "[]"},
	{201, "{\"Set-Cookie\":[\"a=b; Path=/\",\"c=d\"],\"Location\":\"/x\"}", "{\"a\":\"\\u00e9\\n\"}"},
	{204, NULL, NULL},
	{404, NULL, "{\"code\":\"NOT_FOUND\",\"message\":\"There is nothing here\"}"},
	{400, NULL, "{\"code\":\"VALIDATION_FAILED\",\"message\":\"no\",\"details\":[{\"field\":\"a\",\"code\":\"b\",\"message\":\"c\"}]}"},
	{200, "{\":raw\":true,\"Content-Type\":\"text/plain; charset=utf-8\"}", "plain"},
	{429, "{\"Retry-After\":\"7\",\"RateLimit\":\"\\\"general\\\";r=0;t=7\"}", "{\"code\":\"RATE_LIMITED\",\"message\":\"Too much\"}"},
};

#define ANSWERS (sizeof(answers) / sizeof(answers[0]))

/* The database's calls that have not been answered, and what the input has caused so far. */
static struct GwCall *waiting;
static struct GwGateway gateway;
static struct GwLoop loop;
static struct
{
	uint8_t choice;
	bool is_prompt;
	size_t requests;
	bool is_head[REQUESTS_MAX];
	struct GwFraming framing; /* as the guard had it at last */
	size_t output_len;
} run;
static char output[OUTPUT_MAX];

void __wrap_gw_pool_submit(struct GwPool *pool, struct GwCall *call);
void __wrap_gw_pool_abandon(struct GwCall *call);
void __wrap_gw_pool_pause(struct GwCall *call, bool is_paused);
struct GwPool *__wrap_gw_pool_open(struct GwLoop *owner, enum GwLane lane, int nlinks, struct GwShared *shared);
void __wrap_gw_pool_close(struct GwPool *pool);
void *__wrap_gw_request_born(void *cls, const char *target, struct MHD_Connection *connection);
void __wrap_gw_screen(struct GwRequest *request);
void __wrap_gw_guard_detach(struct GwGuard *guard);
void __wrap_gw_log_flush(struct GwLog *log);
int __wrap_getpeername(int fd, struct sockaddr *address, socklen_t *len);
void *__real_gw_request_born(void *cls, const char *target, struct MHD_Connection *connection);
void __real_gw_screen(struct GwRequest *request);
void __real_gw_guard_detach(struct GwGuard *guard);

static size_t spare_bytes(void);
static void converse(int fd, const uint8_t *data, size_t size, size_t step);
static void take_turns(int fd, bool answers_calls);
static void receive(int fd);
static void answer_all(void);
static void answer(struct GwCall *call);
static PGresult *make_result(size_t which);
static void check_call(const struct GwCall *call);
static void require_json(const char *text, size_t len);
static void check_replies(void);
static size_t check_reply(const char *at, size_t len, bool is_head);
static bool field_value(const char *head, size_t len, const char *name, const char **value, size_t *value_len);
static size_t body_len(const char *head, size_t head_len, const char *body, size_t left, bool is_head, int status);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static struct GwMetrics *metrics[1] = {&loop.metrics};
	char *fault = NULL;

	(void) argc, (void) argv;
	clearenv();
	setenv("KEELSON_DATABASE_URL", "postgresql:///nowhere", 1);
	setenv("KEELSON_TRUSTED_PROXIES", "10.0.0.0/8", 1);
	setenv("ALLOWED_ORIGINS", "https://app.example.com", 1);
	setenv("KEELSON_LOG_LEVEL", "debug", 1);
	setenv("KEELSON_LOOPS", "1", 1);
	REQUIRE(gw_config_load(&gateway.config, stderr) && gw_guard_init(1024) && gw_guard_verify(stderr));
	pthread_mutex_init(&gateway.reason_lock, NULL);
	gw_perip_open(&gateway.connections_per_ip);
	gw_perip_open(&gateway.streams_per_ip);
	gateway.loops = &loop;
	gateway.nloops = 1;
	gateway.metrics = metrics;
	gateway.connections_max = 16;
	gw_gateway_set_state(&gateway, NULL);
	loop.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	REQUIRE(listen(loop.listener, 1) == 0 && gw_loop_open(&loop, &gateway, 0));
	loop.routes = gw_routes_build(rows, sizeof(rows) / sizeof(rows[0]), gateway.config.public_url, &fault);
	REQUIRE(loop.routes != NULL);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sockaddr_storage nowhere = {.ss_family = AF_UNIX};
	int pair[2];

	if (size < 2)
		return 0;
	memset(&run, 0, sizeof(run));
	run.choice = data[0];
	run.is_prompt = data[1] & 0x80;
	REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
	REQUIRE(MHD_add_connection(loop.daemon, pair[0], (struct sockaddr *) &nowhere, sizeof(nowhere.ss_family)) == MHD_YES);
	converse(pair[1], data + 2, size - 2, (size_t) 1 << (data[1] % 13));
	close(pair[1]);
	for (int turn = 0; loop.nconnections > 0; turn++)
	{
		REQUIRE(turn < TURNS_MAX);
		/* A suspended connection sees that its client has gone when its deadlines pass. */
		loop.now = gw_monotonic_us() + (turn > 4 ? GW_SECONDS(60) * (turn - 4) : 0);
		gw_timers_run(&loop.timers, loop.now);
		answer_all();
		(void) MHD_run(loop.daemon);
	}
	gw_linger_end(&loop);
	/* What rests until a time to come would keep the next input waiting. */
	gw_timers_run(&loop.timers, GW_NEVER - 1);
	REQUIRE(waiting == NULL && loop.nactive == 0 && loop.nwatchers == 0 && loop.body_bytes == spare_bytes() && loop.reply_bytes == 0);
	REQUIRE(run.requests <= run.framing.requests + (run.framing.requests == 0 || gw_framing_phase(&run.framing) != GW_FRAMING_IDLE ? 1 : 0));
	check_replies();
	return 0;
}

/* What the requests that wait for others keep of their bodies' room: little, as of their other buffers. */
static size_t
spare_bytes(void)
{
	size_t sum = 0;

	for (const struct GwRequest *spare = loop.spare_requests; spare != NULL; spare = spare->next_spare)
	{
		REQUIRE(spare->body_size <= GW_REQUEST_SPARE && spare->params.size <= GW_REQUEST_SPARE);
		REQUIRE(spare->fields.size <= GW_REQUEST_SPARE && spare->reply_body.size <= GW_REQUEST_SPARE);
		sum += spare->body_size;
	}
	return sum;
}

/* Sends the bytes piece by piece and takes what comes. Who is not read from for long hangs up. */
static void
converse(int fd, const uint8_t *data, size_t size, size_t step)
{
	size_t at = 0;

	for (int stuck = 0; at < size && stuck < 2;)
	{
		size_t piece = size - at < step ? size - at : step;
		ssize_t sent = sendto(fd, data + at, piece, MSG_NOSIGNAL, NULL, 0);

		if (sent < 0 && errno != EAGAIN)
			break;
		at += sent > 0 ? (size_t) sent : 0;
		stuck = sent > 0 ? 0 : stuck + 1;
		take_turns(fd, run.is_prompt || stuck > 0);
	}
	shutdown(fd, SHUT_WR);
	take_turns(fd, true);
}

/* Lets the daemon run until it has nothing to do, and answers its calls. */
static void
take_turns(int fd, bool answers_calls)
{
	for (int turn = 0; turn < TURNS_MAX; turn++)
	{
		size_t before = run.output_len;
		MHD_UNSIGNED_LONG_LONG timeout;

		loop.now = gw_monotonic_us();
		if (answers_calls)
			gw_timers_run(&loop.timers, loop.now + PAUSE);
		loop.wants_run = false;
		(void) MHD_run(loop.daemon);
		receive(fd);
		if (answers_calls && waiting != NULL)
			answer_all();
		else if (!loop.wants_run && run.output_len == before && (MHD_get_timeout(loop.daemon, &timeout) != MHD_YES || timeout > 0))
			break;
	}
}

static void
receive(int fd)
{
	ssize_t got;

	while (run.output_len < OUTPUT_MAX && (got = recvfrom(fd, output + run.output_len, OUTPUT_MAX - run.output_len, 0, NULL, NULL)) > 0)
		run.output_len += (size_t) got;
}

static void
answer_all(void)
{
	while (waiting != NULL)
	{
		struct GwCall *call = waiting;

		waiting = call->next;
		call->next = NULL;
		answer(call);
	}
}

/* As the database would: rows one by one where the call asks for it, and an end. */
static void
answer(struct GwCall *call)
{
	size_t which = (run.choice + run.requests) % (ANSWERS + 1);
	PGresult *result;

	call->state = GW_CALL_IDLE;
	if (which == ANSWERS)
	{
		call->done(call, GW_CALL_AWAY, NULL);
		return;
	}
	result = make_result(which);
	if (call->kind != GW_CALL_DISPATCH)
	{
		PQclear(result);
		result = PQmakeEmptyPGresult(NULL, PGRES_FATAL_ERROR);
	}
	else if (call->is_streamed)
	{
		call->state = GW_CALL_SENT;
		call->row(call, result);
		if (call->state == GW_CALL_SENT)
			call->row(call, result);
		PQclear(result);
		result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
		if (call->state != GW_CALL_SENT)
		{
			PQclear(result);
			return;
		}
		call->state = GW_CALL_IDLE;
	}
	call->done(call, GW_CALL_ANSWERED, result);
	PQclear(result);
}

/* A row of keelson.dispatch() in the binary format. */
static PGresult *
make_result(size_t which)
{
	static char name[] = "dispatch";
	PGresAttDesc column = {.name = name, .format = 1, .typid = 16384, .typlen = -1};
	PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
	struct GwText record = {0};
	const char *fields[2] = {answers[which].headers, answers[which].body};
	uint32_t header[] = {htonl(3), htonl(23), htonl(4), htonl((uint32_t) answers[which].status)};

	gw_text_add(&record, (const char *) header, sizeof(header));
	for (int i = 0; i < 2; i++)
	{
		size_t version = i == 0 ? 1 : 0;
		uint32_t field[] = {htonl(i == 0 ? 3802 : 17), htonl(fields[i] == NULL ? UINT32_MAX : (uint32_t) (strlen(fields[i]) + version))};

		gw_text_add(&record, (const char *) field, sizeof(field));
		if (fields[i] != NULL)
		{
			gw_text_add(&record, "\1", version);
			gw_text_puts(&record, fields[i]);
		}
	}
	REQUIRE(PQsetResultAttrs(result, 1, &column) && PQsetvalue(result, 0, 0, record.data, (int) record.len));
	gw_text_free(&record);
	return result;
}

void
__wrap_gw_pool_submit(struct GwPool *pool, struct GwCall *call)
{
	struct GwCall **last = &waiting;

	(void) pool;
	check_call(call);
	call->state = GW_CALL_QUEUED;
	call->next = NULL;
	while (*last != NULL)
		last = &(*last)->next;
	*last = call;
}

void
__wrap_gw_pool_abandon(struct GwCall *call)
{
	for (struct GwCall **at = &waiting; *at != NULL; at = &(*at)->next)
		if (*at == call)
		{
			*at = call->next;
			break;
		}
	call->state = GW_CALL_IDLE;
}

void
__wrap_gw_pool_pause(struct GwCall *call, bool is_paused)
{
	(void) call, (void) is_paused;
}

struct GwPool *
__wrap_gw_pool_open(struct GwLoop *owner, enum GwLane lane, int nlinks, struct GwShared *shared)
{
	static struct GwPool pools[GW_LANES];

	(void) owner, (void) nlinks, (void) shared;
	return &pools[lane];
}

void
__wrap_gw_pool_close(struct GwPool *pool)
{
	(void) pool;
}

void *
__wrap_gw_request_born(void *cls, const char *target, struct MHD_Connection *connection)
{
	run.requests++;
	return __real_gw_request_born(cls, target, connection);
}

void
__wrap_gw_screen(struct GwRequest *request)
{
	if (run.requests <= REQUESTS_MAX)
		run.is_head[run.requests - 1] = request->is_head;
	__real_gw_screen(request);
}

void
__wrap_gw_guard_detach(struct GwGuard *guard)
{
	run.framing = guard->framing;
	__real_gw_guard_detach(guard);
}

/* Every line of the log is JSON. */
void
__wrap_gw_log_flush(struct GwLog *log)
{
	for (size_t at = 0; at < log->len;)
	{
		const char *end = memchr(log->buffer + at, '\n', log->len - at);

		REQUIRE(end != NULL);
		require_json(log->buffer + at, (size_t) (end - log->buffer) - at);
		at = (size_t) (end - log->buffer) + 1;
	}
	log->len = 0;
}

/* The peer is a trusted proxy. */
int
__wrap_getpeername(int fd, struct sockaddr *address, socklen_t *len)
{
	struct sockaddr_in proxy = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000001)};

	(void) fd;
	memcpy(address, &proxy, sizeof(proxy));
	*len = sizeof(proxy);
	return 0;
}

static void
check_call(const struct GwCall *call)
{
	const struct GwRequest *request = gw_container_of(call, struct GwRequest, call);

	if (call->kind != GW_CALL_DISPATCH)
		return;
	REQUIRE(call->route_id >= 1 && call->route_id <= 9);
	REQUIRE(call->caller != NULL);
	require_json(call->caller, strlen(call->caller));
	if (call->path_and_query != NULL)
		REQUIRE(gw_utf8_is_valid(call->path_and_query, strlen(call->path_and_query)));
	for (const char *at = call->credential; at != NULL && *at != '\0'; at++)
		REQUIRE(*at > ' ' && *at <= '~');
	REQUIRE(call->body_len <= request->route->body_limit);
	REQUIRE((call->body != NULL) == request->has_body);
	if (call->body_len > 0 && !request->route->is_raw)
		require_json(call->body, call->body_len);
}

static void
require_json(const char *text, size_t len)
{
	const char *reason;
	size_t offset;

	REQUIRE(gw_json_check(text, len, &reason, &offset));
}

/* All that came is one reply after the other; the last one may be cut off by us alone. */
static void
check_replies(void)
{
	size_t at = 0;
	size_t index = 0;

	gw_log_flush(&loop.log);
	while (at < run.output_len && run.output_len < OUTPUT_MAX)
	{
		bool is_interim = run.output_len - at >= 12 && memcmp(output + at, "HTTP/1.1 100", 12) == 0;

		if (is_interim)
		{
			const char *end = memmem(output + at, run.output_len - at, "\r\n\r\n", 4);

			REQUIRE(end != NULL);
			at = (size_t) (end - output) + 4;
			continue;
		}
		at += check_reply(output + at, run.output_len - at, index < REQUESTS_MAX && run.is_head[index]);
		index++;
	}
	REQUIRE(index <= run.requests + 1);
}

/* Returns the length of the reply. */
static size_t
check_reply(const char *at, size_t len, bool is_head)
{
	static const char *const always[] = {"X-Request-ID", "X-Content-Type-Options", "X-Frame-Options", "Content-Security-Policy", "Date"};
	const char *end = memmem(at, len, "\r\n\r\n", 4);
	size_t head_len;
	size_t body;
	int status;
	const char *value;
	size_t value_len;

	REQUIRE(end != NULL && len > 13 && memcmp(at, "HTTP/1.", 7) == 0);
	head_len = (size_t) (end - at) + 4;
	status = atoi(at + 9);
	REQUIRE(status >= 200 && status <= 599 && (status != 500 || run.choice != 0));
	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		if (!field_value(at, head_len, always[i], &value, &value_len))
			REQUIRE((fprintf(stderr, "lacks %s: %.*s\n", always[i], (int) len, at), false));
	for (size_t i = 0; i < head_len; i++)
		REQUIRE(((unsigned char) at[i] >= ' ' && at[i] != 0x7f) || (at[i] == '\r' && at[i + 1] == '\n') || (at[i] == '\n' && at[i - 1] == '\r'));
	body = body_len(at, head_len, at + head_len, len - head_len, is_head, status);
	/* What is sent row by row is whole only in the database's words. */
	if (body > 0 && field_value(at, head_len, "Content-Length", &value, &value_len) &&
		!field_value(at, head_len, "Content-Encoding", &value, &value_len) &&
		field_value(at, head_len, "Content-Type", &value, &value_len) && memmem(value, value_len, "json", 4) != NULL)
		require_json(at + head_len, body);
	return head_len + body;
}

static bool
field_value(const char *head, size_t len, const char *name, const char **value, size_t *value_len)
{
	size_t name_len = strlen(name);
	const char *line = memmem(head, len, "\r\n", 2);

	for (const char *end = head + len - 2; line != NULL && line < end; line = memmem(line, (size_t) (end + 2 - line), "\r\n", 2))
	{
		line += 2;
		if ((size_t) (end - line) > name_len && strncasecmp(line, name, name_len) == 0 && line[name_len] == ':')
		{
			*value = line + name_len + 1;
			*value_len = (size_t) ((const char *) memmem(*value, (size_t) (end + 2 - *value), "\r\n", 2) - *value);
			return true;
		}
	}
	return false;
}

/* How long the body is, by what the head says; all that is left where the connection's end is its end. */
static size_t
body_len(const char *head, size_t head_len, const char *body, size_t left, bool is_head, int status)
{
	const char *value;
	size_t value_len;
	size_t at = 0;

	if (is_head || status == 204 || status == 304)
		return 0;
	if (field_value(head, head_len, "Transfer-Encoding", &value, &value_len))
	{
		for (;;)
		{
			const char *line = memmem(body + at, left - at, "\r\n", 2);
			unsigned long size = line != NULL ? strtoul(body + at, NULL, 16) : 0;

			/* A stream that goes on for ever ends where we hung up. */
			if (line == NULL)
				return left;
			at = (size_t) (line - body) + 2;
			REQUIRE(size <= left - at);
			at += size + 2;
			if (size == 0)
				return at;
		}
	}
	if (!field_value(head, head_len, "Content-Length", &value, &value_len))
		return left;
	REQUIRE(strtoul(value, NULL, 10) <= left);
	return strtoul(value, NULL, 10);
}
