/*
 * splice: puts a reply's header fields, and its body, into what libmicrohttpd sends.
 *
 * The library keeps each field in three pieces of memory and looks at each
 * several times, and makes an object of each reply: that was more than half of
 * what the gateway did for one. So it is given the status and nothing else, and
 * our own text goes out in the same call of the kernel. send() and sendmsg()
 * below take the place of libc's for the whole process, as recv() does in
 * guard.c. What the library ends its head with is held back, and ours sent:
 *
 *   the library sends   HTTP/1.1 200 OK ⏎ Content-Length: 0 ⏎ ⏎
 *   the client gets     HTTP/1.1 200 OK ⏎ Content-Length: 2 ⏎ fields ⏎ ⏎ {}
 *
 *   a streamed body     HTTP/1.1 200 OK ⏎ Transfer-Encoding: chunked ⏎ ⏎ 2 ⏎ {} …
 *   the client gets     HTTP/1.1 200 OK ⏎ Transfer-Encoding: chunked ⏎ fields ⏎ ⏎ 2 ⏎ {} …
 *
 * The library learns of its own bytes only, and of those held back when all of
 * ours are out: as long as the socket takes a part, it sends the rest when there
 * is room.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guard.h"

#define END "\r\n" /* of the head: the empty line */
#define LENGTH "\r\nContent-Length: "
#define NO_BODY "0\r\n" END

/* Up to here the kernel takes one piece for less than it takes several and a copy costs. */
#define SMALL 2048

#define LEN(literal) (sizeof(literal) - 1)

static size_t total(const struct iovec *parts, size_t count);
static bool ends_with(const struct iovec *part, const char *end, size_t len);
static void begin(struct GwSplice *splice, const struct iovec *head);
static ssize_t send_spliced(struct GwSplice *splice, int fd, const struct iovec *head, const struct iovec *body, int flags);
static size_t list_ours(const struct GwSplice *splice, struct iovec *parts, size_t *left);
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
	if (guard->splice.is_waiting && ends_with(&head, END, LEN(END)))
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
	if (guard->splice.is_waiting && count >= 1 && count <= 2 && ends_with(&parts[0], END, LEN(END)))
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
ends_with(const struct iovec *part, const char *end, size_t len)
{
	return part->iov_len >= len && memcmp((const char *) part->iov_base + part->iov_len - len, end, len) == 0;
}

void
gw_guard_put_reply(struct GwGuard *guard, const struct GwText *fields, const struct GwText *body, bool is_head)
{
	struct GwSplice *splice = &guard->splice;

	splice->is_waiting = true;
	splice->held_back = splice->sent = 0;
	splice->fields = (struct GwSlice){fields->data, fields->len};
	splice->length = splice->body = (struct GwSlice){NULL, 0};
	if (body == NULL)
		return;
	splice->length = (struct GwSlice){splice->number, gw_digits(splice->number, (int64_t) body->len) + LEN(END)};
	memcpy(splice->number + splice->length.len - LEN(END), END, LEN(END));
	if (!is_head)
		splice->body = (struct GwSlice){body->data, body->len};
}

/* The library begins to send: what of its head is held back, and what of ours goes out instead. */
static void
begin(struct GwSplice *splice, const struct iovec *head)
{
	if (splice->length.len > 0 && ends_with(head, LENGTH NO_BODY, LEN(LENGTH NO_BODY)))
	{
		splice->held_back = LEN(NO_BODY);
		return;
	}
	/* A status that has no body, or one that the library makes. */
	splice->held_back = LEN(END);
	splice->length = splice->body = (struct GwSlice){NULL, 0};
}

/* Sends the head (or what is left of it) but what is held back, and ours (or what is left of it). */
static ssize_t
send_spliced(struct GwSplice *splice, int fd, const struct iovec *head, const struct iovec *body, int flags)
{
	struct iovec parts[7];
	size_t before, left, count, n;
	ssize_t sent;

	if (splice->held_back == 0)
		begin(splice, head);
	before = head->iov_len - splice->held_back;
	parts[0] = (struct iovec){head->iov_base, before};
	count = 1 + list_ours(splice, parts + 1, &left);
	/* A body of the library's own goes on behind the fields. */
	if (splice->length.len == 0 && body != NULL)
		parts[count++] = *body;
	sent = send_parts(fd, parts, count, flags);
	if (sent < 0 || (size_t) sent < before)
		return sent;
	n = (size_t) sent - before;
	splice->sent += n < left ? n : left;
	if (n >= left)
	{
		splice->is_waiting = false;
		before += splice->held_back + n - left;
	}
	if (before > 0)
		return (ssize_t) before;
	errno = EAGAIN;
	return -1;
}

/* Lists what is left of ours: length, fields, end of the head, body. Returns how many parts; *left is how many bytes. */
static size_t
list_ours(const struct GwSplice *splice, struct iovec *parts, size_t *left)
{
	const struct GwSlice ours[] = {splice->length, splice->fields, {END, LEN(END)}, splice->body};
	size_t skip = splice->sent;
	size_t count = 0;

	*left = 0;
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
	{
		if (skip >= ours[i].len)
		{
			skip -= ours[i].len;
			continue;
		}
		parts[count++] = (struct iovec){(void *) (ours[i].data + skip), ours[i].len - skip};
		*left += ours[i].len - skip;
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
