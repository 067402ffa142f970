/*
 * bare_listen.h
 *	  How the bare server and the bare gateway let clients in.
 */
#ifndef BARE_LISTEN_H
#define BARE_LISTEN_H

#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* A listening socket of the calling thread's own; the kernel shares connections out. */
static inline int
bare_listen(uint16_t port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int on = 1;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) != 0 ||
		bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 || listen(fd, 1024) != 0)
		err(1, "port %u", port);
	return fd;
}

/* The next client, or -1. */
static inline int
bare_accept(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	int on = 1;

	if (fd >= 0)
		(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static inline void
bare_watch(int epoll, int fd, epoll_data_t data)
{
	struct epoll_event event = {.events = EPOLLIN, .data = data};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		err(1, "epoll");
}

#endif
