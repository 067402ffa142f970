/*
 * splice: puts a reply's header fields into the head that libmicrohttpd sends.
 *
 * The library keeps each field in three pieces of memory and looks at each
 * several times: that was half of what the gateway did for a reply. So it is
 * given those alone that it must know, and the others are written as one text.
 * send() and sendmsg() below take the place of libc's for the whole process, as
 * recv() does in guard.c. Where a connection has fields to be sent, they go out
 * in front of the empty line that ends the head:
 *
 *   the library sends   HTTP/1.1 200 OK ⏎ Content-Length: 2 ⏎        ⏎ {}
 *   the client gets     HTTP/1.1 200 OK ⏎ Content-Length: 2 ⏎ fields ⏎ {}
 *
 * The library learns of its own bytes only. Where the socket takes a part, it
 * is told of the part of those, and sends the rest when there is room.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guard.h"

#define END "\r\n" /* of the head: the empty line */
#define END_LEN 2

static size_t total(const struct iovec *parts, size_t count);
static bool ends_head(const struct iovec *part);
static ssize_t send_with_fields(struct GwFields *fields, int fd, const struct iovec *head, const struct iovec *body, int flags);

/* Stands in for libc's send; same contract. */
ssize_t
send(int fd, const void *data, size_t len, int flags)
{
	struct GwGuard *guard = gw_guard_of(fd);
	struct iovec head = {(void *) data, len};
	ssize_t sent;

	if (guard == NULL)
		return sendto(fd, data, len, flags, NULL, 0);
	if (guard->fields.data != NULL && ends_head(&head))
		sent = send_with_fields(&guard->fields, fd, &head, NULL, flags);
	else
		sent = sendto(fd, data, len, flags, NULL, 0);
	gw_guard_sent(guard, sent, len);
	return sent;
}

/* Stands in for libc's sendmsg; same contract. */
ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
	struct GwGuard *guard = gw_guard_of(fd);
	const struct iovec *parts = message->msg_iov;
	size_t count = message->msg_iovlen;
	ssize_t sent;

	if (guard == NULL)
		return syscall(SYS_sendmsg, fd, message, flags);
	if (guard->fields.data != NULL && count >= 1 && count <= 2 && ends_head(&parts[0]))
		sent = send_with_fields(&guard->fields, fd, &parts[0], count == 2 ? &parts[1] : NULL, flags);
	else
		sent = syscall(SYS_sendmsg, fd, message, flags);
	gw_guard_sent(guard, sent, total(parts, count));
	return sent;
}

static size_t
total(const struct iovec *parts, size_t count)
{
	size_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += parts[i].iov_len;
	return sum;
}

static bool
ends_head(const struct iovec *part)
{
	return part->iov_len >= END_LEN && memcmp((const char *) part->iov_base + part->iov_len - END_LEN, END, END_LEN) == 0;
}

/* Sends the head (or what is left of it), the fields (or what is left of them) before its end, and the body. */
static ssize_t
send_with_fields(struct GwFields *fields, int fd, const struct iovec *head, const struct iovec *body, int flags)
{
	size_t before = head->iov_len - END_LEN;
	size_t left = fields->len - fields->sent;
	struct iovec parts[] = {
		{head->iov_base, before},
		{(void *) (fields->data + fields->sent), left},
		{(char *) head->iov_base + before, END_LEN},
		{body != NULL ? body->iov_base : NULL, body != NULL ? body->iov_len : 0},
	};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = sizeof(parts) / sizeof(parts[0])};
	ssize_t sent = syscall(SYS_sendmsg, fd, &message, flags);
	size_t n = (size_t) sent;

	if (sent < 0 || n < before)
		return sent;
	n -= before;
	if (n < left)
	{
		fields->sent += n;
		n = 0;
	}
	else
	{
		fields->data = NULL;
		n -= left;
	}
	if (before + n > 0)
		return (ssize_t) (before + n);
	errno = EAGAIN;
	return -1;
}
