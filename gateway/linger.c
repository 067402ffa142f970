/*
 * linger.c
 *	  Sockets of clients that were refused, or told of an end, while they were still sending.
 */
#include "linger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_TIMEOUT GW_SECONDS(2)
#define LINGER_BYTES (16 * 1024 * 1024)
#define LINGERS_MAX 256

struct GwLinger
{
	struct GwWatch watch;
	struct GwTimer timer;
	struct GwLoop *loop;
	struct GwLinger *next;
	size_t bytes;
};

static void linger_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events);
static void linger_is_over(struct GwTimer *timer);
static void release(struct GwLinger *linger);

void
gw_linger_begin(struct GwLoop *loop, int fd)
{
	struct GwLinger *linger;
	size_t count = 0;
	int copy;

	for (linger = loop->lingers; linger != NULL; linger = linger->next)
		count++;
	if (count >= LINGERS_MAX || (copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
		return;
	linger = calloc(1, sizeof(*linger));
	if (linger == NULL || !gw_timer_open(&loop->timers, &linger->timer, linger_is_over))
	{
		free(linger);
		close(copy);
		return;
	}
	linger->loop = loop;
	linger->watch = (struct GwWatch){.fd = -1, .ready = linger_is_ready};
	linger->next = loop->lingers;
	loop->lingers = linger;
	(void) shutdown(copy, SHUT_WR);
	gw_timer_set(&loop->timers, &linger->timer, loop->now + LINGER_TIMEOUT);
	if (!gw_loop_watch(loop, &linger->watch, copy, EPOLLIN))
	{
		linger->watch.fd = copy;
		release(linger);
	}
}

void
gw_linger_end(struct GwLoop *loop)
{
	while (loop->lingers != NULL)
		release(loop->lingers);
}

static void
linger_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events)
{
	struct GwLinger *linger = gw_container_of(watch, struct GwLinger, watch);
	char waste[65536];
	ssize_t n = read(watch->fd, waste, sizeof(waste));

	(void) loop;
	(void) events;
	if (n > 0)
		linger->bytes += (size_t) n;
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || linger->bytes > LINGER_BYTES)
		release(linger);
}

static void
linger_is_over(struct GwTimer *timer)
{
	release(gw_container_of(timer, struct GwLinger, timer));
}

static void
release(struct GwLinger *linger)
{
	struct GwLoop *loop = linger->loop;
	struct GwLinger **place = &loop->lingers;
	int fd = linger->watch.fd;

	while (*place != linger)
		place = &(*place)->next;
	*place = linger->next;
	gw_loop_unwatch(loop, &linger->watch);
	gw_timer_close(&loop->timers, &linger->timer);
	close(fd);
	free(linger);
}
