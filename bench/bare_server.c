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
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define HEAD_MAX 4096

static const char reply[] =
	"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 16\r\n\r\n{\"success\":true}";

static uint16_t port;

/* A listening socket of this thread's own; the kernel shares connections out. */
static int
listen_here(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int on = 1;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) != 0 ||
		bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 || listen(fd, 1024) != 0)
		err(1, "port %u", port);
	return fd;
}

static void
accept_all(int epoll, int listener)
{
	int on = 1;
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
	{
		struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

		(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
			close(fd);
	}
}

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
	int listener = listen_here();
	struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.fd = listener}};

	(void) unused;
	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]) != 0)
		err(1, "epoll");
	for (;;)
	{
		int ready = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++)
			if (events[i].data.fd == listener)
				accept_all(epoll, listener);
			else
				answer(events[i].data.fd);
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
