/*
 * interest: what the kernel reports of a connection while it is suspended, of
 * one whose client has ended, and of descriptors that are none of ours.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "guard_server.h"

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
	if (!start_server())
		return 1;
	test_others();
	test_comes_while_suspended(true);
	test_comes_while_suspended(false);
	test_goes_while_suspended();
	test_half_closed("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 1);
	test_half_closed("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", 1);
	test_half_closed("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n", 3);
	test_half_closed("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTT", 1);
	test_half_closed("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhe", 0);
	test_quiet();
	return stop_server();
}
