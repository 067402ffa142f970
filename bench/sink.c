/*
 * sink.c
 *	  A receiver of webhooks that costs as little as can be, and tells when
 *	  they came.
 *
 * One thread, epoll, HTTP/1.1 with kept connections. The path says what a
 * request meets:
 *
 *	  /after/N…	  200 after N milliseconds	   /never…	 no answer
 *	  /figures	  what came since the last time, as words:
 *				  count, first and last (seconds since 1970), p50 and p99
 *	  /count	  how much came since then
 *	  all others  200 at once
 *
 * Percentiles are of the microseconds from the "at" of a body (microseconds
 * since 1970) to its arrival, and leave out the paths that begin with /never.
 *
 *	  sink PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define CONNECTIONS 65536
#define REQUEST_MAX 16384
#define SAMPLES_MAX 4000000

typedef struct Connection
{
	size_t length;
	uint32_t life; /* rises when the descriptor is given out again */
	char request[REQUEST_MAX];
} Connection;

/* An answer that is due later. */
typedef struct Later
{
	int64_t at;
	int fd;
	uint32_t life;
} Later;

static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static Connection *connections[CONNECTIONS];
static Later later[CONNECTIONS]; /* a heap, the earliest first */
static int later_count;
static int64_t count, first_at, last_at;
static int32_t *samples;
static int sample_count;

static int64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

static void
swap_later(int a, int b)
{
	Later save = later[a];

	later[a] = later[b];
	later[b] = save;
}

static void
push_later(int64_t at, int fd)
{
	int i = later_count++;

	later[i] = (Later){at, fd, connections[fd]->life};
	for (; i > 0 && later[(i - 1) / 2].at > later[i].at; i = (i - 1) / 2)
		swap_later(i, (i - 1) / 2);
}

static Later
pop_later(void)
{
	Later top = later[0];
	int i = 0;

	later[0] = later[--later_count];
	for (int child = 1; child < later_count; child = 2 * i + 1)
	{
		if (child + 1 < later_count && later[child + 1].at < later[child].at)
			child++;
		if (later[i].at <= later[child].at)
			break;
		swap_later(i, child);
		i = child;
	}
	return top;
}

static void
send_all(int fd, const char *bytes, size_t length)
{
	/* What the peer does not take is its own loss. */
	if (send(fd, bytes, length, MSG_NOSIGNAL) < 0)
		shutdown(fd, SHUT_RDWR);
}

static int
compare_samples(const void *a, const void *b)
{
	int32_t x = *(const int32_t *) a;
	int32_t y = *(const int32_t *) b;

	return x < y ? -1 : x > y;
}

static void
tell_figures(int fd)
{
	char body[256];
	char head[512];
	int length;

	qsort(samples, sample_count, sizeof(*samples), compare_samples);
	length = snprintf(body, sizeof(body), "count=%lld first=%.6f last=%.6f p50=%d p99=%d\n", (long long) count,
					  first_at / 1e6, last_at / 1e6, sample_count ? samples[sample_count / 2] : 0,
					  sample_count ? samples[(int) (sample_count * 0.99)] : 0);
	length = snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", length, body);
	send_all(fd, head, length);
	count = first_at = last_at = sample_count = 0;
}

static void
tell_count(int fd)
{
	char head[128];
	int digits = snprintf(NULL, 0, "%lld\n", (long long) count);
	int length = snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%lld\n", digits, (long long) count);

	send_all(fd, head, length);
}

static void
note(const char *body)
{
	const char *at = strstr(body, "\"at\":");

	last_at = now_us();
	if (count++ == 0)
		first_at = last_at;
	if (at != NULL && sample_count < SAMPLES_MAX)
		samples[sample_count++] = last_at - strtoll(at + 5 + strspn(at + 5, " "), NULL, 10);
}

static void
answer(int fd, const char *request, const char *body)
{
	const char *path = strchr(request, ' ');

	path = path == NULL ? "" : path + 1;
	if (strncmp(path, "/figures", 8) == 0)
		tell_figures(fd);
	else if (strncmp(path, "/count", 6) == 0)
		tell_count(fd);
	else if (strncmp(path, "/never", 6) != 0)
	{
		note(body);
		if (strncmp(path, "/after/", 7) == 0)
			push_later(last_at + atoi(path + 7) * 1000, fd);
		else
			send_all(fd, reply, sizeof(reply) - 1);
	}
}

static void
drop(int fd)
{
	connections[fd]->life++;
	connections[fd]->length = 0;
	close(fd);
}

/* Read what has come, and answer each whole request in it. */
static void
receive(int fd)
{
	Connection *connection = connections[fd];
	ssize_t got = read(fd, connection->request + connection->length, REQUEST_MAX - 1 - connection->length);

	if (got <= 0)
	{
		drop(fd);
		return;
	}
	connection->length += got;
	while (connection->length > 0)
	{
		char *end;
		const char *field;
		size_t whole;
		char next;

		connection->request[connection->length] = '\0';
		end = strstr(connection->request, "\r\n\r\n");
		if (end == NULL)
			return;
		field = strcasestr(connection->request, "\r\nContent-Length:");
		whole = end + 4 - connection->request + (field != NULL && field < end ? strtoul(field + 17, NULL, 10) : 0);
		if (whole > connection->length)
			return;
		next = connection->request[whole];
		connection->request[whole] = '\0';
		answer(fd, connection->request, end + 4);
		connection->request[whole] = next;
		connection->length -= whole;
		memmove(connection->request, connection->request + whole, connection->length);
	}
}

static void
accept_all(int epoll, int listener)
{
	int on = 1;
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
	{
		struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

		if (fd >= CONNECTIONS || (connections[fd] == NULL && (connections[fd] = calloc(1, sizeof(Connection))) == NULL))
		{
			close(fd);
			continue;
		}
		(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
			close(fd);
	}
}

static int
listen_at(uint16_t port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int on = 1;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
		bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 || listen(fd, 4096) != 0)
		err(1, "port %u", port);
	return fd;
}

/* Answer what is due; returns the milliseconds until the next is, or -1. */
static int
answer_due(void)
{
	int64_t now = later_count > 0 ? now_us() : 0;

	while (later_count > 0 && later[0].at <= now)
	{
		Later due = pop_later();

		if (connections[due.fd]->life == due.life)
			send_all(due.fd, reply, sizeof(reply) - 1);
	}
	return later_count == 0 ? -1 : (int) ((later[0].at - now + 999) / 1000);
}

int
main(int argc, char **argv)
{
	int epoll = epoll_create1(0);
	int listener;
	struct epoll_event events[EVENTS] = {{.events = EPOLLIN}};

	if (argc != 2)
		errx(2, "usage: sink PORT");
	samples = malloc(SAMPLES_MAX * sizeof(*samples));
	listener = events[0].data.fd = listen_at((uint16_t) atoi(argv[1]));
	if (samples == NULL || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]) != 0)
		err(1, "start");
	for (;;)
	{
		int ready = epoll_wait(epoll, events, EVENTS, answer_due());

		for (int i = 0; i < ready; i++)
			if (events[i].data.fd == listener)
				accept_all(epoll, listener);
			else
				receive(events[i].data.fd);
	}
}
