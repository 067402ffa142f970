/*
 * interest: a connection stays in the kernel's interest list while it is suspended.
 *
 * The library takes the descriptor of a connection that it suspends out of its
 * epoll set, and puts it back afterwards: two calls of the kernel for each
 * request, a tenth of what it costs. epoll_ctl() and epoll_wait() below take
 * the place of libc's for the whole process, as recv() does in guard.c. For a
 * guarded connection they leave the kernel alone and hold back what it reports
 * meanwhile:
 *
 *   ──ADD──► listed ──DEL──► hidden ──ADD──► listed (if it missed something, the kernel is asked to report it again)
 *
 * Events are the kernel's edges (EPOLLET), so that one held back comes once. So
 * does the one that tells of a client's last bytes and of its end together: that
 * the end is still to be read after those is noted for guard.c.
 * The kernel gets the guard's place in the table of guards instead of the library's
 * pointer, which points to something of its own, whatever its bits.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard.h"

/* The loop of this thread knows that its library's set has nothing to report, see gw_guard_quiet(). */
static _Thread_local bool is_quiet;

static int list(struct GwGuard *guard, int epfd, struct epoll_event *event);
static int hide(struct GwGuard *guard, int epfd);
static bool show(struct epoll_event *event);

/* Stands in for libc's epoll_ctl; same contract. */
int
epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct GwGuard *guard = gw_guard_of(fd);

	if (guard != NULL && op == EPOLL_CTL_ADD)
		return list(guard, epfd, event);
	if (guard != NULL && op == EPOLL_CTL_DEL)
		return hide(guard, epfd);
	return (int) syscall(SYS_epoll_ctl, epfd, op, fd, event);
}

/* Stands in for libc's epoll_wait; same contract. */
int
epoll_wait(int epfd, struct epoll_event *events, int size, int timeout)
{
	int kept = 0;
	int n;

	if (is_quiet && timeout == 0)
		return 0;
	n = (int) syscall(SYS_epoll_pwait, epfd, events, size, timeout, NULL, (size_t) 0);
	for (int i = 0; i < n; i++)
	{
		struct epoll_event event = events[i];

		if (show(&event))
			events[kept++] = event;
	}
	return n < 0 ? n : kept;
}

void
gw_guard_quiet(bool is_so)
{
	is_quiet = is_so;
}

void
gw_guard_unlist(struct GwGuard *guard)
{
	if (guard->interest.is_hidden)
		(void) syscall(SYS_epoll_ctl, guard->interest.epoll, EPOLL_CTL_DEL, guard->fd, NULL);
	guard->interest = (struct GwInterest){.epoll = -1};
}

static int
list(struct GwGuard *guard, int epfd, struct epoll_event *event)
{
	struct GwInterest *interest = &guard->interest;
	struct epoll_event marked = {.events = event->events | EPOLLRDHUP, .data.ptr = gw_guard_place(guard->fd)};
	bool is_new = interest->epoll != epfd;

	interest->owner = event->data.ptr;
	if ((is_new || interest->has_missed) &&
		syscall(SYS_epoll_ctl, epfd, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, guard->fd, &marked) != 0)
		return -1;
	interest->epoll = epfd;
	interest->is_hidden = interest->has_missed = false;
	return 0;
}

static int
hide(struct GwGuard *guard, int epfd)
{
	if (guard->interest.epoll != epfd)
		return (int) syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_DEL, guard->fd, NULL);
	guard->interest.is_hidden = true;
	return 0;
}

/* Gives an event the library's pointer back; false if it is one to be held back. */
static bool
show(struct epoll_event *event)
{
	struct GwGuard *guard;

	if (!gw_guard_has_place(event->data.ptr, &guard))
		return true;
	if (guard == NULL)
		return false;
	if ((event->events & EPOLLRDHUP) != 0)
		guard->is_half_closed = true;
	if (guard->interest.is_hidden)
	{
		guard->interest.has_missed = true;
		guard->is_resting = false;
		return false;
	}
	event->data.ptr = guard->interest.owner;
	return true;
}
