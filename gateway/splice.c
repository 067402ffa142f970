/*
 * splice: puts a reply's header fields, and its body, into what libmicrohttpd sends.
 *
 * The library keeps each field in three pieces of memory and looks at each
 * several times, makes an object of each reply, and takes twenty divisions to
 * write its length: that was more than half of what the gateway did for one. So
 * it is told that there is no content, and our own text goes out in place of its
 * head. send() and sendmsg() below take the place of libc's for the whole
 * process, as recv() does in guard.c. Of the library's head there remains what
 * it says of the connection, and where it makes the body, all of it:
 *
 *   the library sends   HTTP/1.1 204 No Content ⏎ Connection: close ⏎ ⏎
 *   the client gets     HTTP/1.1 200 OK ⏎ Content-Length: 2 ⏎ Connection: close ⏎ fields ⏎ ⏎ {}
 *
 *   a streamed body     HTTP/1.1 200 OK ⏎ Transfer-Encoding: chunked ⏎ ⏎ 2 ⏎ {} …
 *   the client gets     HTTP/1.1 200 OK ⏎ Transfer-Encoding: chunked ⏎ fields ⏎ ⏎ 2 ⏎ {} …
 *
 * As long as the socket has not taken all of this the library believes that it
 * has taken nothing, and sends its head again when there is room.
 */
#include <errno.h>
#include <microhttpd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guard.h"

#define END "\r\n" /* of the head: the empty line */
#define END_LEN 2
#define PHRASE_MAX 64

/* Up to here the kernel takes one piece for less than it takes several and a copy costs. */
#define SMALL 2048

static size_t total(const struct iovec *parts, size_t count);
static bool ends_head(const struct iovec *part);
static void write_start(struct GwSplice *splice, int status, size_t len);
static char *put(char *at, const char *text, size_t len);
static ssize_t send_spliced(struct GwSplice *splice, int fd, const struct iovec *head, const struct iovec *body, int flags);
static size_t list_parts(const struct GwSplice *splice, const struct iovec *head, struct iovec *parts);
static ssize_t send_parts(int fd, struct iovec *parts, size_t count, int flags);

/* Stands in for libc's send; same contract. */
ssize_t
send(int fd, const void *data, size_t len, int flags)
{
	struct GwGuard *guard = gw_guard_of(fd);
	struct iovec head = {(void *) data, len};
	ssize_t sent;

	if (guard == NULL)
		return syscall(SYS_sendto, fd, data, len, flags, NULL, 0);
	if (guard->splice.is_waiting && ends_head(&head))
		sent = send_spliced(&guard->splice, fd, &head, NULL, flags);
	else
		sent = syscall(SYS_sendto, fd, data, len, flags, NULL, 0);
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
	if (guard->splice.is_waiting && count >= 1 && count <= 2 && ends_head(&parts[0]))
		sent = send_spliced(&guard->splice, fd, &parts[0], count == 2 ? &parts[1] : NULL, flags);
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

unsigned
gw_guard_put_reply(struct GwGuard *guard, int status, const struct GwText *fields, const struct GwText *body, bool is_head)
{
	struct GwSplice *splice = &guard->splice;

	splice->is_waiting = true;
	splice->sent = 0;
	splice->start_len = 0;
	splice->fields = (struct GwSlice){fields->data, fields->len};
	splice->body = (struct GwSlice){NULL, 0};
	if (body == NULL)
		return (unsigned) status;
	write_start(splice, status, body->len);
	if (!is_head)
		splice->body = (struct GwSlice){body->data, body->len};
	return MHD_HTTP_NO_CONTENT;
}

static void
write_start(struct GwSplice *splice, int status, size_t len)
{
	const char *phrase = MHD_get_reason_phrase_for((unsigned) status);
	char *at = splice->start;

	at = put(at, "HTTP/1.1 ", 9);
	at += gw_digits(at, status);
	at = put(at, " ", 1);
	at = put(at, phrase, strnlen(phrase, PHRASE_MAX));
	/* Of 304 it would be that of the content which the client has. */
	if (status != MHD_HTTP_NO_CONTENT && status != MHD_HTTP_NOT_MODIFIED)
	{
		at = put(at, "\r\nContent-Length: ", 18);
		at += gw_digits(at, (int64_t) len);
	}
	at = put(at, END, END_LEN);
	splice->start_len = (size_t) (at - splice->start);
}

static char *
put(char *at, const char *text, size_t len)
{
	memcpy(at, text, len);
	return at + len;
}

/* Sends what is left of the reply, and behind it the library's body. */
static ssize_t
send_spliced(struct GwSplice *splice, int fd, const struct iovec *head, const struct iovec *body, int flags)
{
	struct iovec parts[6];
	size_t count = list_parts(splice, head, parts);
	size_t left = total(parts, count);
	ssize_t sent;

	if (splice->start_len == 0 && body != NULL)
		parts[count++] = *body;
	sent = send_parts(fd, parts, count, flags);
	if (sent < 0)
		return sent;
	if ((size_t) sent < left)
	{
		splice->sent += (size_t) sent;
		errno = EAGAIN;
		return -1;
	}
	splice->is_waiting = false;
	return (ssize_t) (head->iov_len + (size_t) sent - left);
}

/* Lists what is left of the reply: start, what stays of the library's head, fields, end of the head, body. Returns how many parts. */
static size_t
list_parts(const struct GwSplice *splice, const struct iovec *head, struct iovec *parts)
{
	const char *lines = head->iov_base;
	const char *end = lines + head->iov_len - END_LEN;
	const char *first = splice->start_len > 0 ? memchr(lines, '\n', head->iov_len) + 1 : lines;
	const struct GwSlice all[] = {
		{splice->start, splice->start_len},
		{first, first < end ? (size_t) (end - first) : 0},
		splice->fields,
		{END, END_LEN},
		splice->body,
	};
	size_t skip = splice->sent;
	size_t count = 0;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
	{
		if (skip >= all[i].len)
		{
			skip -= all[i].len;
			continue;
		}
		parts[count++] = (struct iovec){(void *) (all[i].data + skip), all[i].len - skip};
		skip = 0;
	}
	return count;
}

static ssize_t
send_parts(int fd, struct iovec *parts, size_t count, int flags)
{
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
	char whole[SMALL];
	size_t len = 0;

	if (total(parts, count) > sizeof(whole))
		return syscall(SYS_sendmsg, fd, &message, flags);
	for (size_t i = 0; i < count; i++)
	{
		memcpy(whole + len, parts[i].iov_base, parts[i].iov_len);
		len += parts[i].iov_len;
	}
	return syscall(SYS_sendto, fd, whole, len, flags, NULL, 0);
}
