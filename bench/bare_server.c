/*
 * bare_server.c
 *	  The least that a server can do: epoll, one thread per core, one reply.
 *
 * It reads until the head of a request ends and writes the bytes of a fixed
 * reply: no parsing, no database, no limits. What it costs is what the kernel
 * and the client cost on this machine, the yardstick for the gateway's own.
 *
 *	  bare-server PORT THREADS
 */
#define _GNU_SOURCE
#include "bare_listen.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS 256
#define HEAD_MAX 4096

static const char reply[] =
	"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 16\r\n\r\n{\"success\":true}";

static uint16_t port;

/* wrk sends a request at once and waits for its reply, so one read has it all. */
static void
answer(int fd)
{
	char head[HEAD_MAX];
	ssize_t got = read(fd, head, sizeof(head));

	if (got <= 0 || memmem(head, got, "\r\n\r\n", 4) == NULL || write(fd, reply, sizeof(reply) - 1) < 0)
		close(fd);
}

static void *
serve(void *unused)
{
	int epoll = epoll_create1(0);
	int listener = bare_listen(port);
	struct epoll_event events[EVENTS];
	int fd;

	(void) unused;
	bare_watch(epoll, listener, (epoll_data_t){.fd = listener});
	for (;;)
	{
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++)
			if (events[i].data.fd != listener)
				answer(events[i].data.fd);
			else
				while ((fd = bare_accept(listener)) >= 0)
					bare_watch(epoll, fd, (epoll_data_t){.fd = fd});
	}
	return NULL;
}

int
main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: bare-server PORT THREADS");
	port = (uint16_t) atoi(argv[1]);
	for (int thread = atoi(argv[2]); thread > 1; thread--)
	{
		pthread_t id;

		if (pthread_create(&id, NULL, serve, NULL) != 0)
			errx(1, "no thread");
	}
	serve(NULL);
	return 0;
}
