/*
 * guard: reads every connection's bytes before libmicrohttpd does.
 *
 * recv() below takes the place of libc's for the whole process, because the
 * dynamic linker finds the executable's symbol first. Calls for descriptors
 * without a guard (libpq's sockets) go straight on to the kernel.
 *
 * What recv() does for a guarded connection:
 *
 *   head ──complete──► body ──complete──► busy ──gw_guard_reply_done──► head
 *     └─────fault───────┴──► refused (reply out, half closed)
 *
 * While a head comes, while busy and when refused, the library is told "nothing
 * there now". With the end of a head it gets its own version of it, and then
 * the bytes of the body as they come. It takes a read that fills its buffer for
 * one that may have left something, and any other for the last until the next
 * event: so a read goes on as long as there is room and the kernel has more.
 */
#include <errno.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "guard.h"
#include "reply.h"

#define THROW_AWAY_MAX (1024 * 1024) /* bytes that a refused client may still send */
#define READ_SIZE 8192               /* of a head at a time; what is read too much waits */
#define REPLY_SIZE 2048
#define VERIFY_FIELD "X-Verify: yes\r\n"

/* Guards by descriptor. Set once by gw_guard_init; an entry is written by the loop that owns the descriptor. */
static struct GwGuard *_Atomic *table;
static size_t table_size;

/* The library's buffer, and how much of it is filled. */
struct Out
{
	char *data;
	size_t len, size;
};

static ssize_t hand_on(struct GwGuard *guard, struct Out *out);
static ssize_t take_head(struct GwGuard *guard, struct Out *out, bool *is_good);
static ssize_t take_body(struct GwGuard *guard, struct Out *out, bool *is_good);
static ssize_t receive(struct GwGuard *guard, void *buffer, size_t size);
static bool read_head(struct GwGuard *guard, const char *data, size_t len, struct Out *out);
static bool read_body(struct GwGuard *guard, const char *data, size_t len, struct Out *out);
static size_t feed(struct GwGuard *guard, const char *data, size_t len, enum GwFramingStop *stop);
static bool keep(struct GwGuard *guard, const char *data, size_t len);
static ssize_t cut(struct GwGuard *guard);
static ssize_t linger(struct GwGuard *guard);
static void refuse(struct GwGuard *guard);
static void answer(struct GwGuard *guard, int status, const char *code, const char *message);
static bool verify_reply(struct MHD_Daemon *daemon, int fd, const char *request, size_t len, const char *end);

/* The monotonic clock to the nearest tick, which is enough for deadlines of seconds and costs a fifth. */
static int64_t
coarse_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* What libc's recv() does, but for looking after a thread that might be cancelled, which ours never are. */
static ssize_t
ask_kernel(int fd, void *buffer, size_t size, int flags)
{
	return syscall(SYS_recvfrom, fd, buffer, size, flags, NULL, NULL);
}

/* Stands in for libc's recv; same contract. */
ssize_t
recv(int fd, void *buffer, size_t size, int flags)
{
	struct GwGuard *guard = gw_guard_of(fd);
	struct Out out = {buffer, 0, size};

	if (guard == NULL)
		return ask_kernel(fd, buffer, size, flags);
	if (guard->is_refused)
		return linger(guard);
	if (guard->is_busy || guard->is_resting)
	{
		guard->is_resting = false;
		/* Having been interrupted the library goes on to believe that there is something, and asks again after the reply. */
		errno = gw_guard_holds_more(guard) ? EINTR : EAGAIN;
		return -1;
	}
	return hand_on(guard, &out);
}

void
gw_guard_suspended(struct GwGuard *guard)
{
	guard->is_resting = guard->is_drained && guard->behind.len == 0;
}

bool
gw_guard_holds_more(const struct GwGuard *guard)
{
	return !guard->is_drained || guard->behind.len > 0;
}

void
gw_guard_sent(struct GwGuard *guard, ssize_t sent, size_t wanted)
{
	if (sent < 0 || (size_t) sent < wanted)
		guard->is_resting = false;
}

struct GwGuard *
gw_guard_of(int fd)
{
	if (fd < 0 || (size_t) fd >= table_size)
		return NULL;
	return atomic_load_explicit(&table[fd], memory_order_acquire);
}

void *
gw_guard_place(int fd)
{
	return (void *) &table[fd];
}

bool
gw_guard_has_place(const void *pointer, struct GwGuard **guard)
{
	uintptr_t distance = (uintptr_t) pointer - (uintptr_t) table;

	if (distance >= table_size * sizeof(*table))
		return false;
	*guard = gw_guard_of((int) (distance / sizeof(*table)));
	return true;
}

/* Reads on, until the request is whole, the buffer is full or nothing is left; returns what recv returns. */
static ssize_t
hand_on(struct GwGuard *guard, struct Out *out)
{
	bool is_good = true;
	ssize_t got;

	do
		got = gw_framing_phase(&guard->framing) == GW_FRAMING_BODY ? take_body(guard, out, &is_good) : take_head(guard, out, &is_good);
	while (got > 0 && is_good && !guard->is_busy && out->len < out->size && gw_guard_holds_more(guard));
	if (guard->framing.fault != GW_FRAMING_OK)
	{
		refuse(guard);
		return linger(guard);
	}
	if (!is_good)
		return cut(guard);
	/* Of a request that breaks off the library is told the end alone: it would not read again. */
	if (out->len > 0 && (got != 0 || guard->is_busy))
		return (ssize_t) out->len;
	if (got > 0)
	{
		errno = EAGAIN;
		got = -1;
	}
	return got;
}

static ssize_t
take_head(struct GwGuard *guard, struct Out *out, bool *is_good)
{
	char data[READ_SIZE];
	ssize_t got = receive(guard, data, sizeof(data));

	if (got > 0)
		*is_good = read_head(guard, data, (size_t) got, out);
	return got;
}

/* A body needs no second copy. */
static ssize_t
take_body(struct GwGuard *guard, struct Out *out, bool *is_good)
{
	char *data = out->data + out->len;
	ssize_t got = receive(guard, data, out->size - out->len);

	if (got > 0)
		*is_good = read_body(guard, data, (size_t) got, out);
	return got;
}

/* Takes what was read too much before, or reads; returns what recv returns. */
static ssize_t
receive(struct GwGuard *guard, void *buffer, size_t size)
{
	struct GwText *behind = &guard->behind;
	size_t len = behind->len < size ? behind->len : size;
	ssize_t got;

	if (len > 0)
	{
		memcpy(buffer, behind->data, len);
		memmove(behind->data, behind->data + len, behind->len - len);
		behind->len -= len;
		if (behind->len == 0)
			gw_text_free(behind);
		return (ssize_t) len;
	}
	got = ask_kernel(guard->fd, buffer, size, 0);
	guard->is_drained = got < (ssize_t) size && !guard->is_half_closed;
	guard->bytes_in += got > 0 ? (size_t) got : 0;
	return got;
}

/* Keeps bytes of a head; at its end hands on the library's version, and what of the body came with it. */
static bool
read_head(struct GwGuard *guard, const char *data, size_t len, struct Out *out)
{
	enum GwFramingStop stop;
	size_t used = feed(guard, data, len, &stop);
	char head[GW_FRAMING_HEAD_SIZE];
	size_t head_len;

	if (stop == GW_FRAMING_FAULT)
		return false;
	gw_text_add(&guard->head, data, used);
	if (stop == GW_FRAMING_MORE)
		return !guard->head.failed;
	/* Behind it stands a NUL, for those who read lines. */
	gw_text_add(&guard->head, "", 1);
	head_len = gw_framing_write_head(&guard->framing, head);
	if (guard->head.failed || out->size - out->len < head_len)
		return false;
	memcpy(out->data + out->len, head, head_len);
	out->len += head_len;
	if (stop == GW_FRAMING_END)
		return keep(guard, data + used, len - used);
	return read_body(guard, data + used, len - used, out);
}

/* Hands on bytes of a body, which may stand at the end of "out" already, and keeps what there is no room for or what comes behind it. */
static bool
read_body(struct GwGuard *guard, const char *data, size_t len, struct Out *out)
{
	size_t room = out->size - out->len;
	enum GwFramingStop stop;
	size_t used = feed(guard, data, len < room ? len : room, &stop);

	if (stop == GW_FRAMING_FAULT)
		return false;
	memmove(out->data + out->len, data, used);
	out->len += used;
	return keep(guard, data + used, len - used);
}

/* Has the framing read on, and minds the time. */
static size_t
feed(struct GwGuard *guard, const char *data, size_t len, enum GwFramingStop *stop)
{
	enum GwFramingPhase phase = gw_framing_phase(&guard->framing);
	size_t used = gw_framing_feed(&guard->framing, data, len, stop);

	guard->is_busy = *stop == GW_FRAMING_END;
	if (guard->is_busy || gw_framing_phase(&guard->framing) != phase)
		guard->since_us = coarse_us();
	return used;
}

/* Keeps bytes for later, in front of what is kept already. */
static bool
keep(struct GwGuard *guard, const char *data, size_t len)
{
	struct GwText *behind = &guard->behind;

	if (len == 0)
		return true;
	if (!gw_text_reserve(behind, len))
		return false;
	memmove(behind->data + len, behind->data, behind->len);
	memcpy(behind->data, data, len);
	behind->len += len;
	return true;
}

/* There is no memory for what the client sends: ends the connection. Returns what recv returns. */
static ssize_t
cut(struct GwGuard *guard)
{
	shutdown(guard->fd, SHUT_RDWR);
	errno = ENOMEM;
	return -1;
}

/* Sends the reply for the framing's fault. */
static void
refuse(struct GwGuard *guard)
{
	enum GwFramingFault fault = guard->framing.fault;

	answer(guard, gw_framing_status(fault), gw_framing_code(fault), gw_framing_message(fault));
}

/*
 * Sends a reply past the library and closes our direction, so that the client
 * reads it to its end. Should the socket's buffer not take it whole, the
 * connection is cut: half a reply must not look like one.
 */
static void
answer(struct GwGuard *guard, int status, const char *code, const char *message)
{
	char reply[REPLY_SIZE];
	char made[GW_UUID_SIZE];
	const char *request_id = gw_framing_request_id(&guard->framing);
	struct GwGuardRefusal refusal = {.status = status, .code = code, .reason = message};

	if (request_id == NULL)
	{
		gw_uuid7(made);
		request_id = made;
	}
	refusal.request_id = request_id;
	refusal.bytes = gw_reply_raw_refusal(reply, sizeof(reply), guard->config, status, code, message, request_id);
	if (send(guard->fd, reply, refusal.bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t) refusal.bytes)
		shutdown(guard->fd, SHUT_WR);
	else
		shutdown(guard->fd, SHUT_RDWR);
	guard->is_refused = true;
	guard->since_us = coarse_us();
	if (guard->hook != NULL)
		guard->hook(guard, &refusal);
}

/*
 * Throws away what a refused client still sends: closing with unread bytes
 * would reset the connection and take our reply with it. Returns what recv returns.
 */
static ssize_t
linger(struct GwGuard *guard)
{
	char waste[4096];
	ssize_t got;

	do
	{
		got = ask_kernel(guard->fd, waste, sizeof(waste), MSG_DONTWAIT);
		if (got > 0)
			guard->thrown_away += (uint64_t) got;
	} while (got > 0 && guard->thrown_away < THROW_AWAY_MAX);
	if (got > 0)
	{
		shutdown(guard->fd, SHUT_RDWR);
		got = 0;
	}
	if (got == 0)
		guard->is_gone = true;
	return got;
}

bool
gw_guard_init(size_t max_fds)
{
	table = calloc(max_fds, sizeof(*table));
	table_size = table != NULL ? max_fds : 0;
	return table != NULL;
}

void
gw_guard_free(void)
{
	table_size = 0;
	free(table);
	table = NULL;
}

bool
gw_guard_attach(struct GwGuard *guard, int fd, const struct GwConfig *config, GwGuardHook hook, void *owner)
{
	memset(guard, 0, sizeof(*guard));
	guard->fd = -1;
	guard->interest.epoll = -1;
	guard->is_drained = true;
	if (fd < 0 || (size_t) fd >= table_size)
		return false;
	gw_framing_init(&guard->framing);
	guard->fd = fd;
	guard->config = config;
	guard->hook = hook;
	guard->owner = owner;
	guard->since_us = coarse_us();
	atomic_store_explicit(&table[fd], guard, memory_order_release);
	return true;
}

void
gw_guard_detach(struct GwGuard *guard)
{
	if (guard->fd >= 0)
	{
		gw_guard_unlist(guard);
		atomic_store_explicit(&table[guard->fd], NULL, memory_order_release);
	}
	guard->fd = -1;
	gw_text_free(&guard->head);
	gw_text_free(&guard->behind);
}

void
gw_guard_reply_done(struct GwGuard *guard)
{
	guard->is_busy = false;
	guard->splice.is_waiting = false;
	gw_text_free(&guard->head);
	if (!guard->is_refused)
		guard->since_us = coarse_us();
}

enum GwFramingPhase
gw_guard_phase(const struct GwGuard *guard)
{
	if (guard->is_refused)
		return GW_FRAMING_REFUSED;
	return gw_framing_phase(&guard->framing);
}

void
gw_guard_timeout(struct GwGuard *guard)
{
	if (guard->is_refused || guard->fd < 0)
		return;
	if (guard->is_busy)
	{
		shutdown(guard->fd, SHUT_RDWR);
		return;
	}
	answer(guard, 408, "REQUEST_TIMEOUT", "The request did not arrive in time");
	linger(guard);
}

void
gw_guard_overload(struct GwGuard *guard)
{
	if (guard->is_refused || guard->fd < 0)
		return;
	answer(guard, 503, "UNAVAILABLE", "There are too many connections, try again soon");
	linger(guard);
}

/* What the throw-away daemon answers: first with a body, then with a status that has none. */
static enum MHD_Result
verify_answer(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
			  const char *version, const char *data, size_t *size, void **state)
{
	struct GwText fields = {.data = (char *) VERIFY_FIELD, .len = sizeof(VERIFY_FIELD) - 1};
	struct GwText body = {.data = (char *) "{}", .len = 2};
	struct GwText none = {0};
	struct GwGuard *guard = cls;
	bool is_first = guard->framing.requests == 1;
	struct MHD_Response *response;
	enum MHD_Result result;
	unsigned status;

	(void) url, (void) method, (void) version, (void) data, (void) size;
	/* Answered on the first call, a connection is closed. */
	if (*state == NULL)
	{
		*state = guard;
		return MHD_YES;
	}
	status = gw_guard_put_reply(guard, is_first ? MHD_HTTP_OK : MHD_HTTP_NO_CONTENT, &fields, is_first ? &body : &none, false);
	response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static void
verify_done(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode code)
{
	(void) connection, (void) state, (void) code;
	gw_guard_reply_done(cls);
}

bool
gw_guard_verify(FILE *faults)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: self\r\n\r\n";
	struct GwGuard guard = {.fd = -1};
	struct MHD_Daemon *daemon;
	struct sockaddr_storage nowhere = {.ss_family = AF_UNIX};
	int pair[2] = {-1, -1};
	enum MHD_Result added;
	bool is_seen = false;
	bool has_fields = false;

	daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_SUPPRESS_DATE_NO_CLOCK, 0, NULL, NULL, verify_answer, &guard,
							  MHD_OPTION_NOTIFY_COMPLETED, verify_done, &guard, MHD_OPTION_END);
	if (daemon == NULL || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
		goto done;
	if (!gw_guard_attach(&guard, pair[0], NULL, NULL, NULL))
		goto done;
	added = MHD_add_connection(daemon, pair[0], (struct sockaddr *) &nowhere, sizeof(nowhere.ss_family));
	pair[0] = -1; /* the daemon closes it, accepted or not */
	if (added != MHD_YES)
		goto done;
	has_fields = verify_reply(daemon, pair[1], request, sizeof(request) - 1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" VERIFY_FIELD "\r\n{}") &&
				 verify_reply(daemon, pair[1], request, sizeof(request) - 1, "HTTP/1.1 204 No Content\r\n" VERIFY_FIELD "\r\n");
	is_seen = guard.framing.requests > 0;

done:
	if (!is_seen)
		fputs("libmicrohttpd does not read through the guard's recv(): it cannot be trusted with connections\n", faults);
	else if (!has_fields)
		fputs("libmicrohttpd does not send through our send() and sendmsg(): replies would lack their header fields\n", faults);
	gw_guard_detach(&guard);
	if (daemon != NULL)
		MHD_stop_daemon(daemon);
	if (pair[0] >= 0)
		close(pair[0]);
	if (pair[1] >= 0)
		close(pair[1]);
	return is_seen && has_fields;
}

/* Sends a request; says whether the reply ends as it should. */
static bool
verify_reply(struct MHD_Daemon *daemon, int fd, const char *request, size_t len, const char *end)
{
	char reply[1024];
	size_t got = 0;

	if (sendto(fd, request, len, MSG_NOSIGNAL, NULL, 0) != (ssize_t) len)
		return false;
	for (int turn = 0; turn < 8 && got < strlen(end); turn++)
	{
		ssize_t n;

		MHD_run(daemon);
		n = read(fd, reply + got, sizeof(reply) - got);
		got += n > 0 ? (size_t) n : 0;
	}
	return got >= strlen(end) && memcmp(reply + got - strlen(end), end, strlen(end)) == 0;
}
