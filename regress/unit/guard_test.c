/*
 * guard: the library behind our recv(), over real sockets. What the client
 * gets, that the library never sees a refused request, and that the order of
 * replies holds when requests are pipelined.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "guard.h"
#include "head.h"
#include "tap.h"

#define ID "0190a7b2-0000-7000-8000-00000000000a"

/* The server's side of the connection under test, and what came of it. */
static struct GwConfig config = {.public_url = (char *) "http://self"};
static struct MHD_Daemon *daemon_under_test;
static struct GwGuard guard;
static struct MHD_Connection *waiting; /* suspended by /wait */
static int handled;                    /* requests that the library handed on */
static int refusals;
static bool is_open;
static char last_code[64];

struct Request
{
	struct GwHead head;
	size_t body;
	bool was_suspended;
};

static enum MHD_Result
handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
	   const char *data, size_t *size, void **state)
{
	struct Request *request = *state;
	struct MHD_Response *response;
	enum MHD_Result result;
	char text[128], header[4001] = "";

	(void) cls, (void) url, (void) version, (void) data;
	if (request == NULL)
	{
		*state = request = calloc(1, sizeof(*request));
		gw_head_read(&request->head, &guard.head);
		handled++;
		return MHD_YES;
	}
	if (*size > 0)
	{
		request->body += *size;
		*size = 0;
		return MHD_YES;
	}
	if (strcmp(request->head.target, "/wait") == 0 && waiting == NULL)
	{
		waiting = connection;
		request->was_suspended = true;
		MHD_suspend_connection(connection);
		gw_guard_suspended(&guard);
		return MHD_YES;
	}
	if (gw_guard_holds_more(&guard) && !request->was_suspended)
	{
		request->was_suspended = true;
		MHD_suspend_connection(connection);
		MHD_resume_connection(connection);
		return MHD_YES;
	}
	snprintf(text, sizeof(text), "[%s %.20s %zu]", method, request->head.target, request->body);
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
	if (strcmp(request->head.target, "/") == 0)
	{
		/* As much as a reply with cookies and limits has. */
		memset(header, 'h', sizeof(header) - 1);
		MHD_add_response_header(response, "Set-Cookie", header);
	}
	result = MHD_queue_response(connection, 200, response);
	MHD_destroy_response(response);
	return result;
}

static void
completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode why)
{
	struct Request *request = *state;

	(void) cls, (void) connection, (void) why;
	if (request != NULL)
		gw_head_free(&request->head);
	free(request);
	*state = NULL;
	gw_guard_reply_done(&guard);
}

static void
refused(struct GwGuard *who, const struct GwGuardRefusal *refusal)
{
	refusals += who == &guard;
	snprintf(last_code, sizeof(last_code), "%s", refusal->code);
}

static void
changed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_ConnectionNotificationCode what)
{
	(void) cls, (void) state;
	is_open = what == MHD_CONNECTION_NOTIFY_STARTED;
	if (is_open)
	{
		int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;

		if (!gw_guard_attach(&guard, fd, &config, refused, NULL))
			abort();
	}
	else
		gw_guard_detach(&guard);
}

/* A connected pair of TCP sockets; the server's end goes to the daemon. Returns the client's. */
static int
open_connection(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	int client = socket(AF_INET, SOCK_STREAM, 0);
	int server, yes = 1;

	handled = refusals = 0;
	waiting = NULL;
	last_code[0] = '\0';
	if (bind(listener, (struct sockaddr *) &address, len) != 0 || listen(listener, 1) != 0 ||
		getsockname(listener, (struct sockaddr *) &address, &len) != 0 ||
		connect(client, (struct sockaddr *) &address, len) != 0)
		abort();
	server = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (server < 0)
		abort();
	close(listener);
	fcntl(client, F_SETFL, O_NONBLOCK);
	/* Pieces must arrive as they are sent. */
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (MHD_add_connection(daemon_under_test, server, (struct sockaddr *) &address, len) != MHD_YES)
		abort();
	/* From 1.0 on the library takes it in at its next turn. */
	MHD_run(daemon_under_test);
	return client;
}

/* Turns the daemon until nothing moves any more, reading what comes. Returns false at the end of the stream. */
static bool
turn(int client, char *reply, size_t size, size_t *len)
{
	ssize_t got = -1;
	int i;

	for (i = 0; i < 6; i++)
	{
		uint64_t before = guard.bytes_in + guard.thrown_away;

		MHD_run(daemon_under_test);
		if (guard.bytes_in + guard.thrown_away != before)
			i = -1;
		/* Not recv(): that name is the guard's. */
		got = read(client, reply + *len, size - 1 - *len);
		if (got > 0)
		{
			*len += (size_t) got;
			i = -1;
		}
		else if (got == 0 || (errno != EAGAIN && errno != EINTR))
			break;
		if (got < 0)
			usleep(200);
	}
	reply[*len] = '\0';
	return got != 0;
}

/* Sends bytes in pieces of "step" and collects all replies until nothing more comes or the server half-closes. */
static bool
exchange(int client, const char *bytes, size_t len, size_t step, char *reply, size_t size)
{
	size_t at = 0, reply_len = 0;
	bool is_alive = true;

	while (at < len && is_alive)
	{
		size_t piece = len - at < step ? len - at : step;
		ssize_t sent = send(client, bytes + at, piece, MSG_NOSIGNAL);

		if (sent > 0)
			at += (size_t) sent;
		is_alive = turn(client, reply, size, &reply_len);
	}
	return turn(client, reply, size, &reply_len) && is_alive;
}

static void
close_connection(int client)
{
	int i;

	close(client);
	for (i = 0; i < 20 && is_open; i++)
	{
		MHD_run(daemon_under_test);
		usleep(200);
	}
	ok(!is_open, "  the connection is gone on both sides");
}

static int
count(const char *text, const char *what)
{
	int n = 0;

	for (; (text = strstr(text, what)) != NULL; text++)
		n++;
	return n;
}

static void
test_good(const char *name, const char *bytes, size_t step, const char *const *expected)
{
	char reply[8192];
	int client = open_connection();
	const char *at = reply;
	bool is_alive = exchange(client, bytes, strlen(bytes), step, reply, sizeof(reply));
	bool is_good = is_alive;

	for (; *expected != NULL && at != NULL; expected++)
		is_good &= (at = strstr(at, *expected)) != NULL;
	if (!ok(is_good && refusals == 0, "%s, %zu bytes at a time", name, step))
		printf("# %s\n", reply);
	close_connection(client);
}

static void
test_accepted(void)
{
	static const size_t steps[] = {1, 7, 100000};
	size_t i;

	for (i = 0; i < 3; i++)
	{
		test_good("a GET", "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", steps[i], (const char *[]){"[GET /a 0]", NULL});
		test_good("a POST", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", steps[i],
				  (const char *[]){"[POST /a 5]", NULL});
		test_good("chunks", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n",
				  steps[i], (const char *[]){"[POST /a 6]", NULL});
		test_good("a tab before a length", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: \t 5\r\n\r\nhello", steps[i],
				  (const char *[]){"[POST /a 5]", NULL});
		test_good("leading zeros in a length", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 000000000000000000000005\r\n\r\nhello", steps[i],
				  (const char *[]){"[POST /a 5]", NULL});
		test_good("no space after the colon, capitals", "POST /a HTTP/1.1\r\nhOST:a\r\nCONTENT-LENGTH:5\r\n\r\nhello", steps[i],
				  (const char *[]){"[POST /a 5]", NULL});
		test_good("capitals in the encoding", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0000000A\r\n0123456789\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
				  steps[i], (const char *[]){"[POST /a 10]", "[GET /b 0]", NULL});
		test_good("pipelined requests with empty lines between",
				  "GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n",
				  steps[i], (const char *[]){"[GET /a 0]", "[POST /b 5]", "[GET /c 0]", NULL});
		test_good("HTTP/1.0 to be kept", "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", steps[i],
				  (const char *[]){"Connection: Keep-Alive", "[GET /a 0]", "[GET /b 0]", NULL});
		/* The head ends with a piece: from 1.0 on the library asks for no body of which something is there. */
		test_good("a body that is waited for", "PUT /ab HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", steps[i],
				  (const char *[]){steps[i] < 100 ? "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK" : "HTTP/1.1 200 OK", "[PUT /ab 5]", NULL});
		test_good("a body that looks like a request", "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n",
				  steps[i], (const char *[]){"[POST /a 28]", "[GET /c 0]", NULL});
	}
}

/* One faulty request: the client gets our reply whole and the end of the stream; the library hands nothing on. */
static void
test_bad(const char *name, const char *bytes, size_t len, size_t step, const char *status, int expected_handled)
{
	char reply[8192];
	int client = open_connection();
	bool is_alive = exchange(client, bytes, len, step, reply, sizeof(reply));
	const char *body = strstr(reply, "\r\n\r\n");

	if (!ok(!is_alive && strncmp(reply, status, strlen(status)) == 0 && refusals == 1 && handled == expected_handled &&
				count(reply, "\r\nDate: ") == 1 && count(reply, "X-Request-ID: ") == 1 && count(reply, "Connection: close") == 1 &&
				body != NULL && strstr(body, "\"success\":false") != NULL && strstr(body, last_code) != NULL,
			"%s, %zu bytes at a time", name, step))
		printf("# alive %d refusals %d handled %d\n# %s\n", is_alive, refusals, handled, reply);
	close_connection(client);
}

#define BAD(name, bytes, status, handled)                                  \
	do                                                                     \
	{                                                                      \
		test_bad(name, bytes, sizeof(bytes) - 1, 1, status, handled);      \
		test_bad(name, bytes, sizeof(bytes) - 1, 100000, status, handled); \
	} while (0)

static void
test_refused(void)
{
	static const char bad_chunk[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
	char big[40000];
	size_t len;

	BAD("length and encoding", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400 ", 0);
	BAD("bare LF", "GET / HTTP/1.1\nHost: a\n\n", "HTTP/1.1 400 ", 0);
	BAD("NUL", "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", "HTTP/1.1 400 ", 0);
	BAD("no Host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ", 0);
	BAD("small letters", "get / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 405 ", 0);
	BAD("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "HTTP/1.1 400 ", 0);
	/* The library may have begun the request when a chunk of its body turns out bad. */
	test_bad("a bad chunk", bad_chunk, sizeof(bad_chunk) - 1, 1, "HTTP/1.1 400 ", 1);
	test_bad("a bad chunk", bad_chunk, sizeof(bad_chunk) - 1, 100000, "HTTP/1.1 400 ", 0);
	len = (size_t) sprintf(big, "GET /");
	memset(big + len, 'a', 9000);
	len += 9000;
	len += (size_t) sprintf(big + len, " HTTP/1.1\r\nHost: a\r\n\r\n");
	test_bad("a target over 8 KiB", big, len, 1000, "HTTP/1.1 414 ", 0);
	test_bad("a target over 8 KiB", big, len, 100000, "HTTP/1.1 414 ", 0);
	len = (size_t) sprintf(big, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
	memset(big + len, 'a', 35000);
	len += 35000;
	len += (size_t) sprintf(big + len, "\r\n\r\n");
	test_bad("a header section over 16 KiB", big, len, 1000, "HTTP/1.1 431 ", 0);
	test_bad("a header section over 16 KiB", big, len, 100000, "HTTP/1.1 431 ", 0);
}

static void
test_request_id(void)
{
	static const char bytes[] = "GET / HTTP/1.1\r\nX-Request-ID: " ID "\r\nX : y\r\n\r\n";
	char reply[8192];
	int client = open_connection();

	exchange(client, bytes, sizeof(bytes) - 1, 1, reply, sizeof(reply));
	ok(count(reply, "X-Request-ID: " ID "\r\n") == 1 && count(reply, "\"requestId\":\"" ID "\"") == 1,
	   "a refusal names the client's request id");
	close_connection(client);
}

/* A fault behind requests: first their replies, then the refusal. */
static void
test_pipelined_fault(size_t step)
{
	static const char bytes[] = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\r\nHost : a\r\n\r\n";
	char reply[8192];
	int client = open_connection();
	bool is_alive = exchange(client, bytes, sizeof(bytes) - 1, step, reply, sizeof(reply));
	const char *a = strstr(reply, "[GET /a 0]");
	const char *b = strstr(reply, "[GET /b 0]");
	const char *refusal = strstr(reply, "HTTP/1.1 400 ");

	if (!ok(!is_alive && a != NULL && b > a && refusal > b && count(reply, "HTTP/1.1 ") == 3 && handled == 2,
			"a fault behind two requests, %zu bytes at a time", step))
		printf("# %s\n", reply);
	close_connection(client);
}

/* The same while the first request still waits for its answer. */
static void
test_pipelined_wait(void)
{
	static const char bytes[] = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
	char reply[8192];
	size_t len = 0;
	int client = open_connection();
	bool is_alive = exchange(client, bytes, sizeof(bytes) - 1, 100000, reply, sizeof(reply));

	ok(is_alive && reply[0] == '\0' && waiting != NULL && refusals == 0, "a refusal waits for an answer under way");
	if (waiting != NULL)
		MHD_resume_connection(waiting);
	is_alive = turn(client, reply, sizeof(reply), &len) && turn(client, reply, sizeof(reply), &len);
	ok(!is_alive && strstr(reply, "[GET /wait 0]") != NULL && count(reply, "HTTP/1.1 ") == 2 && refusals == 1,
	   "and follows it");
	close_connection(client);
}

/* Waits for an answer; then comes "more", before the library has looked or after. */
static int
open_waiting(const char *more, bool looks)
{
	static const char wait[] = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
	char reply[8192];
	size_t len = 0;
	int client = open_connection();

	exchange(client, wait, sizeof(wait) - 1, 100000, reply, sizeof(reply));
	ok(waiting != NULL && guard.interest.is_hidden && guard.interest.epoll >= 0, "while suspended, a connection stays in the kernel's list");
	if (send(client, more, strlen(more), MSG_NOSIGNAL) != (ssize_t) strlen(more))
		abort();
	if (looks)
		turn(client, reply, sizeof(reply), &len);
	ok(guard.interest.has_missed == looks && handled == 1, "  what it reports meanwhile is held back");
	return client;
}

static void
test_comes_while_suspended(bool looks)
{
	static const char next[] = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
	char reply[8192];
	size_t len = 0;
	int client = open_waiting(next, looks);

	MHD_resume_connection(waiting);
	ok(turn(client, reply, sizeof(reply), &len) && strstr(reply, "[GET /wait 0]") != NULL && strstr(reply, "[GET /b 0]") != NULL,
	   "  and both are answered in the end");
	len = 0;
	ok(exchange(client, next, sizeof(next) - 1, 100000, reply, sizeof(reply)) && strstr(reply, "[GET /b 0]") != NULL, "  so is one more");
	close_connection(client);
}

static void
test_goes_while_suspended(void)
{
	char reply[8192];
	size_t len = 0;
	int client = open_waiting("GET", true);

	shutdown(client, SHUT_WR);
	turn(client, reply, sizeof(reply), &len);
	ok(is_open, "  nor is the end of the client noticed");
	MHD_resume_connection(waiting);
	turn(client, reply, sizeof(reply), &len);
	ok(strstr(reply, "[GET /wait 0]") != NULL && !is_open, "  before it is answered");
	close_connection(client);
}

/* The client's last bytes and its end come together, in one event: replies are due, and then the connection is over. */
static void
test_half_closed(const char *bytes, int nreplies)
{
	char reply[8192];
	size_t len = 0;
	int client = open_connection();
	bool is_alive;

	if (send(client, bytes, strlen(bytes), MSG_NOSIGNAL) != (ssize_t) strlen(bytes))
		abort();
	shutdown(client, SHUT_WR);
	is_alive = turn(client, reply, sizeof(reply), &len);
	if (waiting != NULL)
	{
		ok(is_open, "a client that has ended is waited for");
		MHD_resume_connection(waiting);
		is_alive = turn(client, reply, sizeof(reply), &len);
	}
	ok(!is_alive && !is_open && count(reply, "HTTP/1.1 200") == nreplies, "%d replies to a client that has ended, and the end", nreplies);
	close_connection(client);
}

/* A loop that knows that there is nothing spares the library the look. */
static void
test_quiet(void)
{
	static const char bytes[] = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
	char reply[8192];
	size_t len = 0;
	int client = open_connection();

	turn(client, reply, sizeof(reply), &len);
	gw_guard_quiet(true);
	exchange(client, bytes, sizeof(bytes) - 1, 100000, reply, sizeof(reply));
	ok(handled == 0, "the library does not look where there is nothing");
	gw_guard_quiet(false);
	turn(client, reply, sizeof(reply), &len);
	ok(handled == 1 && strstr(reply, "[GET /a 0]") != NULL, "and then it does");
	close_connection(client);
}

static void
test_client_goes_away(void)
{
	char reply[8192];
	int client = open_connection();

	exchange(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhe", 50, 100000, reply, sizeof(reply));
	ok(gw_guard_phase(&guard) == GW_FRAMING_BODY, "a body is waited for");
	close_connection(client);
}

/* Memory is short while a head comes: not even a refusal could be made of it. */
static void
test_no_memory(void)
{
	static const char rest[] = "TP/1.1\r\nHost: a\r\n\r\n";
	char reply[8192];
	int client = open_connection();

	exchange(client, "GET / HT", 8, 100000, reply, sizeof(reply));
	guard.head.failed = true;
	ok(!exchange(client, rest, sizeof(rest) - 1, 100000, reply, sizeof(reply)) && !is_open, "a connection for which there is no memory is cut");
	ok(reply[0] == '\0' && handled == 0 && refusals == 0, "  without a word");
	close_connection(client);
}

static void
test_timeouts(void)
{
	char reply[8192];
	size_t len = 0;
	int client = open_connection();
	int64_t began = gw_monotonic_us();

	exchange(client, "GET / HT", 8, 1, reply, sizeof(reply));
	ok(gw_guard_phase(&guard) == GW_FRAMING_HEAD && guard.since_us >= began - 20000 && guard.since_us <= gw_monotonic_us(),
	   "a head under way has its stamp");
	gw_guard_timeout(&guard);
	ok(!turn(client, reply, sizeof(reply), &len) && strncmp(reply, "HTTP/1.1 408 ", 13) == 0, "a head that takes too long gets 408");
	ok(gw_guard_phase(&guard) == GW_FRAMING_REFUSED && is_open, "and lingers");
	shutdown(guard.fd, SHUT_RDWR);
	turn(client, reply, sizeof(reply), &len);
	ok(!is_open, "until the loop shuts it down");
	close_connection(client);

	client = open_connection();
	len = 0;
	gw_guard_overload(&guard);
	ok(!turn(client, reply, sizeof(reply), &len) && strncmp(reply, "HTTP/1.1 503 ", 13) == 0 && strstr(reply, "Retry-After: ") != NULL,
	   "a connection over the limit gets 503");
	close_connection(client);
}

/* A client that goes on sending after the refusal still reads it, and is thrown out in the end. */
static void
test_deaf_client(void)
{
	static const char bad[] = "GET / HTTP/1.1\nX";
	char *noise = calloc(1, 65536);
	char reply[8192];
	size_t len = 0;
	int client = open_connection();
	int i;

	exchange(client, bad, sizeof(bad) - 1, 100000, reply, sizeof(reply));
	for (i = 0; i < 200 && is_open; i++)
	{
		if (send(client, noise, 65536, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
			break;
		turn(client, reply, sizeof(reply), &len);
	}
	MHD_run(daemon_under_test);
	ok(!is_open, "a client that does not stop is thrown out (after %llu bytes)", (unsigned long long) guard.thrown_away);
	close_connection(client);
	free(noise);
}

/*
 * A head of the given measures, with a chunked body of body_len bytes and the
 * largest trailer section if there is a body at all. malloc'ed.
 */
static char *
large_request(size_t target_len, size_t headers_len, size_t nheaders, size_t nparams, size_t body_len, size_t *len)
{
	char *bytes = malloc(target_len + headers_len + body_len + 2000);
	size_t at = (size_t) sprintf(bytes, "%s /?", body_len > 0 ? "POST" : "GET");
	size_t from = at - 2;
	size_t i;

	for (i = 0; i < nparams; i++)
		at += (size_t) sprintf(bytes + at, "a&");
	while (at < from + target_len)
		bytes[at++] = 'a';
	at += (size_t) sprintf(bytes + at, " HTTP/1.1\r\n");
	from = at;
	at += (size_t) sprintf(bytes + at, "Host: a\r\n%s", body_len > 0 ? "Transfer-Encoding: chunked\r\n" : "");
	for (i = body_len > 0 ? 2 : 1; i < nheaders; i++)
	{
		size_t line = (headers_len - 2 - (at - from)) / (nheaders - i);

		at += (size_t) sprintf(bytes + at, "X: ");
		memset(bytes + at, 'b', line - 5);
		at += line - 5;
		at += (size_t) sprintf(bytes + at, "\r\n");
	}
	at += (size_t) sprintf(bytes + at, "\r\n");
	if (body_len > 0)
	{
		at += (size_t) sprintf(bytes + at, "%zx\r\n", body_len);
		memset(bytes + at, 'c', body_len);
		at += body_len;
		at += (size_t) sprintf(bytes + at, "\r\n0\r\n");
		for (i = 0; i < GW_FRAMING_TRAILERS_MAX; i++)
			at += (size_t) sprintf(bytes + at, "Y: %0120d\r\n", 0);
		at += (size_t) sprintf(bytes + at, "\r\n");
	}
	*len = at;
	return bytes;
}

/* Whatever the guard lets through fits into the library's memory. */
static void
test_large(size_t target_len, size_t headers_len, size_t nheaders, size_t nparams, size_t body_len)
{
	size_t len;
	char *bytes = large_request(target_len, headers_len, nheaders, nparams, body_len, &len);
	char *reply = calloc(1, 16384);
	char body[32];
	int client = open_connection();

	exchange(client, bytes, len, 40000, reply, 16384);
	snprintf(body, sizeof(body), " %zu]", body_len);
	if (!ok(strncmp(reply, "HTTP/1.1 200 ", 13) == 0 && strstr(reply, body) != NULL,
			"%zu bytes of target, %zu of headers, %zu headers, %zu parameters, body of %zu", target_len, headers_len,
			nheaders, nparams, body_len))
		printf("# %.300s\n", reply);
	close_connection(client);
	free(bytes);
	free(reply);
}

static void
test_all_large(void)
{
	static const size_t targets[] = {100, 4000, 8192};
	static const size_t headers[] = {4000, 10000, 16384};
	static const size_t fields[] = {3, 16, 100};
	static const size_t params[] = {0, 40};
	size_t t, h, f, p;

	for (t = 0; t < 3; t++)
		for (h = 0; h < 3; h++)
			for (f = 0; f < 3; f++)
				for (p = 0; p < 2; p++)
				{
					test_large(targets[t], headers[h], fields[f], params[p], 0);
					test_large(targets[t], headers[h], fields[f], params[p], 100000);
				}
}

/* A long train of requests, with much read behind the one under way. */
static void
test_train(size_t nrequests, size_t headers_len, size_t nheaders, size_t body_len, size_t step)
{
	size_t len, i;
	char *one = large_request(50, headers_len, nheaders, 0, body_len, &len);
	char *all = malloc(len * nrequests + 1);
	char *reply = calloc(1, 1 << 20);
	int client = open_connection();

	for (i = 0; i < nrequests; i++)
		memcpy(all + len * i, one, len);
	exchange(client, all, len * nrequests, step, reply, 1 << 20);
	if (!ok(count(reply, "HTTP/1.1 200 ") == (int) nrequests && refusals == 0,
			"%zu requests in a row with %zu bytes in %zu headers and a body of %zu, %zu bytes at a time", nrequests, headers_len, nheaders,
			body_len, step))
		printf("# %d replies, %d refusals\n", count(reply, "HTTP/1.1 200 "), refusals);
	close_connection(client);
	free(one);
	free(all);
	free(reply);
}

/* Descriptors of others are told as they were given, wherever their pointers point. */
static void
test_others(void)
{
	static char text[] = "anywhere";
	void *const pointers[] = {text, text + 1, text + 2, text + 3, (void *) (UINTPTR_MAX / 2 + 1), (void *) UINTPTR_MAX};
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	int ends[2];
	bool are_same = true;

	if (!ok(epoll >= 0 && pipe(ends) == 0 && write(ends[1], "x", 1) == 1, "a pipe is readable"))
		return;
	for (size_t i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++)
	{
		struct epoll_event given = {.events = EPOLLIN, .data.ptr = pointers[i]};
		struct epoll_event told = {0};

		are_same &= epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &given) == 0 && epoll_wait(epoll, &told, 1, 0) == 1 && told.data.ptr == pointers[i] &&
					epoll_ctl(epoll, EPOLL_CTL_DEL, ends[0], NULL) == 0;
	}
	ok(are_same, "and is told by the pointer that it was given, whatever its bits");
	close(ends[0]);
	close(ends[1]);
	close(epoll);
}

int
main(void)
{
	if (!gw_guard_init(1024))
		return 1;
	ok(gw_guard_verify(stderr), "the library reads through the guard");
	daemon_under_test = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, NULL,
										 MHD_OPTION_NOTIFY_CONNECTION, changed, NULL, MHD_OPTION_NOTIFY_COMPLETED, completed, NULL,
										 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) GW_GUARD_MEMORY, MHD_OPTION_END);
	if (daemon_under_test == NULL)
		return 1;
	test_others();
	test_accepted();
	test_refused();
	test_request_id();
	test_pipelined_fault(1);
	test_pipelined_fault(13);
	test_pipelined_fault(100000);
	test_pipelined_wait();
	test_comes_while_suspended(true);
	test_comes_while_suspended(false);
	test_goes_while_suspended();
	test_half_closed("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 1);
	test_half_closed("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", 1);
	test_half_closed("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n", 3);
	test_half_closed("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTT", 1);
	test_half_closed("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhe", 0);
	test_quiet();
	test_client_goes_away();
	test_no_memory();
	test_timeouts();
	test_deaf_client();
	test_all_large();
	test_train(50, 500, 20, 0, 1 << 20);
	test_train(50, 2000, 100, 0, 30000);
	test_train(20, 15000, 100, 0, 20000);
	test_train(20, 15000, 100, 5000, 1 << 20);
	test_train(50, 100, 3, 10, 1000);
	MHD_stop_daemon(daemon_under_test);
	return done();
}
