/*
 * guard: reads every connection's bytes before libmicrohttpd does.
 *
 * guard.c defines recv(), which the library (and libpq) call instead of libc's.
 * For an attached descriptor the bytes go through a GwFraming first; for any
 * other descriptor the call goes straight to the kernel. The guard keeps the
 * head of a request for the application, and hands the library a short one of
 * its own (gw_framing_write_head), so that a connection of the library needs
 * little memory, and bytes of a client it has to understand are of bodies alone.
 *
 * The library gets one request at a time: what a client sends behind it waits,
 * here or in the kernel, until the reply is out. A refused connection
 * gets our JSON reply written straight to the socket, its sending side is shut
 * down, what the client still sends is thrown away (bounded), and the library
 * sees an end of file when the client closes, or when the loop, after the
 * linger time, calls shutdown(fd, SHUT_RDWR).
 *
 * In the other direction splice.c puts the header fields of a reply, and its
 * body, into what the library sends: gw_guard_put_reply(). And interest.c keeps
 * a connection in the kernel's interest list for the time that it is suspended.
 *
 * Threading: a descriptor is attached, read and detached by one loop. The table
 * of descriptors is shared; each entry is written by its loop only.
 */
#ifndef GW_GUARD_H
#define GW_GUARD_H

#include "config.h"
#include "framing.h"
#include "text.h"

#define GW_GUARD_MEMORY (4 * 1024) /* of the library's for a connection; it is cleared with each request */
#define GW_GUARD_LINGER_MS 2000    /* how long a refused connection may stay, for the client to read why */

/* What the loop is told about a refusal, for log and metrics. */
struct GwGuardRefusal
{
	int status;
	const char *code;
	const char *reason;     /* the message sent */
	const char *request_id; /* 36 characters, valid during the call only */
	size_t bytes;           /* of the reply */
};

/* A reply that is spliced into what the library sends, see splice.c. */
struct GwSplice
{
	bool is_waiting;       /* not all of it is out */
	char start[128];       /* the status line and the length */
	size_t start_len;      /* 0: the library's own, since it makes the body */
	struct GwSlice fields; /* lines, each with its CR LF */
	struct GwSlice body;
	size_t sent;
};

/* A connection in the kernel's interest list, see interest.c. */
struct GwInterest
{
	int epoll;       /* the set that it is in, or -1 */
	void *owner;     /* what the library wants to be told with an event */
	bool is_hidden;  /* the library believes it is out */
	bool has_missed; /* events, since it is hidden */
};

struct GwGuard;
typedef void (*GwGuardHook)(struct GwGuard *guard, const struct GwGuardRefusal *refusal);

/* One connection's guard. Embedded in the loop's own connection struct. Read-only outside guard.c. */
struct GwGuard
{
	struct GwFraming framing;
	struct GwText head;   /* of the request under way, as the client sent it; the application may change it in its place */
	struct GwText behind; /* what was read and not looked at yet */
	int fd;               /* -1 when not attached */
	bool is_busy;         /* a whole request is with the library, its reply is not out */
	bool is_refused;      /* our reply is out; lingering */
	bool is_half_closed;  /* the client sends nothing more; a read finds the end behind its last byte */
	bool is_drained;      /* the last read took all that there was, and there will be an event for what comes */
	bool is_resting;      /* suspended since, see gw_guard_suspended() */
	bool is_gone;         /* the client closed, or was thrown out, after the refusal */
	uint64_t bytes_in;
	uint64_t thrown_away; /* bytes read after the refusal */
	int64_t since_us;     /* CLOCK_MONOTONIC: begin of the present phase, see gw_guard_phase() */
	struct GwSplice splice;
	struct GwInterest interest;
	GwGuardHook hook;
	void *owner; /* for the hook: the loop's connection */
	const struct GwConfig *config;
};

/* Allocates the table for descriptors below max_fds (RLIMIT_NOFILE). Once, before any loop. */
bool gw_guard_init(size_t max_fds) __attribute__((warn_unused_result));

/* Frees the table, when no connection is left. */
void gw_guard_free(void);

/*
 * Proves that libmicrohttpd reads through our recv(), and sends through our
 * send() and sendmsg(): serves requests of a socket pair by a throw-away daemon.
 * False, with a line on "faults", if not.
 */
bool gw_guard_verify(FILE *faults) __attribute__((warn_unused_result));

/*
 * The library suspends the connection: its descriptor leaves the epoll set, and
 * is put back when a read finds nothing, which reports what has come meanwhile.
 * So the next read, had the last one taken all, is answered without the kernel.
 * Only a reply that the socket does not take at once puts it back earlier.
 */
void gw_guard_suspended(struct GwGuard *guard);

/*
 * Says whether more of the client's bytes may be there already, of which the
 * library is told by no event: it has to be suspended and resumed for once
 * before it replies to a request for which it was not suspended.
 */
bool gw_guard_holds_more(const struct GwGuard *guard);

/*
 * Tells, for the calling thread, that the library's epoll set had nothing to
 * report when the loop last looked: until it is told otherwise, the library's
 * own looks find nothing without asking the kernel.
 */
void gw_guard_quiet(bool is_so);

/* Takes the connection out of the interest list, if the library believes that it is out. */
void gw_guard_unlist(struct GwGuard *guard);

/* Tells how much of what the library sends the kernel has taken. */
void gw_guard_sent(struct GwGuard *guard, ssize_t sent, size_t wanted);

/*
 * Starts guarding fd; call from MHD_OPTION_NOTIFY_CONNECTION (started). guard
 * need not be zeroed and must stay valid until gw_guard_detach. Returns false
 * if fd is beyond the table: the caller shuts the socket down.
 */
bool gw_guard_attach(struct GwGuard *guard, int fd, const struct GwConfig *config,
					 GwGuardHook hook, void *owner) __attribute__((warn_unused_result));

/* Stops guarding; call from MHD_OPTION_NOTIFY_CONNECTION (closed), before the library closes fd. */
void gw_guard_detach(struct GwGuard *guard);

/*
 * Tells that the library finished a request (reply sent, or given up); call
 * from MHD_OPTION_NOTIFY_COMPLETED. Frees the request's head, and lets the
 * next request in.
 */
void gw_guard_reply_done(struct GwGuard *guard);

/*
 * Has the status and the fields sent in the head of the next reply, and the body
 * behind it; NULL: the library makes the body. Of the reply to HEAD only the
 * length is sent. Returns the status for MHD_queue_response, which is called next:
 * the library is told that there is no content where it has none.
 * All stays the caller's and must live until gw_guard_reply_done.
 */
unsigned gw_guard_put_reply(struct GwGuard *guard, int status, const struct GwText *fields, const struct GwText *body,
							bool is_head) __attribute__((warn_unused_result));

/* The guard of a descriptor, NULL if it has none. */
struct GwGuard *gw_guard_of(int fd);

/* The place of a guarded descriptor in the table; and whether a pointer is such a place, whose guard it is then, NULL if it has gone. */
void *gw_guard_place(int fd);
bool gw_guard_has_place(const void *pointer, struct GwGuard **guard);

/*
 * What the connection is doing and since when (guard->since_us, monotonic µs).
 * The loop closes with shutdown(fd, SHUT_RDWR): GW_FRAMING_HEAD after 10 s
 * (first gw_guard_timeout, to answer 408), GW_FRAMING_REFUSED after GW_GUARD_LINGER_MS,
 * GW_FRAMING_IDLE after the keep-alive time. since_us of BODY is when the body began.
 */
enum GwFramingPhase gw_guard_phase(const struct GwGuard *guard);

/*
 * Refuses from outside: a head (or body that the library still waits for) not
 * complete in time. Sends 408 REQUEST_TIMEOUT, then lingers as after any refusal.
 */
void gw_guard_timeout(struct GwGuard *guard);

/* Refuses a connection that is over a limit (503 UNAVAILABLE with Retry-After), as first thing on it. */
void gw_guard_overload(struct GwGuard *guard);

#endif
