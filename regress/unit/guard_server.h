/*
 * guard_server: the library behind our recv(), over real sockets, for tests:
 * one daemon, and one connection at a time.
 *
 * The server answers each request with what it is; it suspends "/wait", and
 * the test resumes it.
 */
#ifndef KEELSON_GUARD_SERVER_H
#define KEELSON_GUARD_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guard.h"
#include "head.h"
#include "tap.h"

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

/* Proves the library, and starts the daemon; false if there can be no test. */
static bool
start_server(void)
{
	if (!gw_guard_init(1024))
		return false;
	ok(gw_guard_verify(stderr), "the library reads through the guard");
	daemon_under_test = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, NULL,
										 MHD_OPTION_NOTIFY_CONNECTION, changed, NULL, MHD_OPTION_NOTIFY_COMPLETED, completed, NULL,
										 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) GW_GUARD_MEMORY, MHD_OPTION_END);
	return daemon_under_test != NULL;
}

/* Stops the daemon and prints the plan; returns the exit status. */
static int
stop_server(void)
{
	MHD_stop_daemon(daemon_under_test);
	return done();
}

#endif
