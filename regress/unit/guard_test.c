/*
 * guard: what the client gets, that the library never sees a refused request,
 * that the order of replies holds when requests are pipelined, and that
 * whatever the guard lets through fits into the library's memory.
 */
#define _GNU_SOURCE
#include "client.h"
#include "guard_server.h"

#define ID "0190a7b2-0000-7000-8000-00000000000a"

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
int
main(void)
{
	if (!start_server())
		return 1;
	test_accepted();
	test_refused();
	test_request_id();
	test_pipelined_fault(1);
	test_pipelined_fault(13);
	test_pipelined_fault(100000);
	test_pipelined_wait();
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
	return stop_server();
}
