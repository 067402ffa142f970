/*
 * loop.c
 *	  One event loop: a thread, an epoll set, an HTTP daemon, database links.
 *
 * The daemon runs without a thread of its own; its epoll descriptor is one of
 * ours.  Two of its rules shape a turn: after a connection was resumed it must
 * run, and when it asks for a timeout of zero it has work that no descriptor
 * will report (its sockets are edge-triggered inside).
 */
#include "loop.h"

#include "gateway.h"
#include "hold.h"
#include "guard.h"
#include "gzip.h"
#include "http.h"
#include "linger.h"
#include "pool.h"
#include "request.h"

#include <errno.h>
#include <linux/filter.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_MAX 128

/* Connections over our limit that are accepted to be told so. */
#define CONNECTIONS_TO_REFUSE 64

/* How often the daemon may run in a turn before the other descriptors have theirs. */
#define RUNS_MAX 8

/* How often the daemon is asked in vain to let in who waits, before they are given up. */
#define ACCEPT_TRIES 16

/* How long a line of the log may wait for others: a write costs as much as a tenth of a request. */
#define LOG_DELAY GW_MS(10)
#define LOG_BATCH (16 * 1024)

/*
 * While so many calls wait for a connection that the database has enough to do,
 * clients are served together, and not each when its call is answered: one more
 * millisecond is little of what they wait then, and a look at all of them is
 * dear where there are many.
 */
#define CROWD 64
#define PUT_OFF GW_MS(1)

/* After the drain time is over: for the refusals to go out. */
#define LAST_WORDS GW_MS(500)

static struct MHD_Daemon *start_daemon(struct GwLoop *loop);
static bool open_pools(struct GwLoop *loop);
static void *loop_main(void *argument);
static void turn(struct GwLoop *loop);
static int wait_ms(const struct GwLoop *loop);
static bool is_put_off(struct GwLoop *loop);
static void serve(struct GwLoop *loop);
static bool is_over(struct GwLoop *loop);
static int64_t drain_deadline(const struct GwLoop *loop);
static void drain_is_over(struct GwTimer *timer);
static void log_is_due(struct GwTimer *timer);
static void flush_log(struct GwLoop *loop);
static void wake_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events);
static void http_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events);
static void deliver_mail(struct GwLoop *loop);
static void stop_listening(struct GwLoop *loop);
static uint64_t arrivals(struct GwLoop *loop);
static void log_of_library(void *cls, const char *fmt, va_list arguments) __attribute__((format(printf, 2, 0)));

/* Makes all that the loop needs; its listener is open already.  False: gw_loop_close() frees what there is. */
bool
gw_loop_open(struct GwLoop *loop, struct GwGateway *gateway, int index)
{
	const union MHD_DaemonInfo *info;
	int wake;

	loop->gateway = gateway;
	loop->index = index;
	loop->now = gw_monotonic_us();
	loop->wake = (struct GwWatch){.fd = -1, .ready = wake_is_ready};
	loop->http = (struct GwWatch){.fd = -1, .ready = http_is_ready};
	loop->mail_last = &loop->mail_first;
	loop->epoll = -1;
	pthread_mutex_init(&loop->mail_lock, NULL);
	if (!gw_log_init(&loop->log, gateway->config.log_level) || !gw_metrics_init(&loop->metrics))
		return false;
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!gw_timer_open(&loop->timers, &loop->drain, drain_is_over) || !gw_timer_open(&loop->timers, &loop->log_due, log_is_due))
		return false;
	if (loop->epoll < 0 || wake < 0 || !gw_loop_watch(loop, &loop->wake, wake, EPOLLIN))
		return false;
	if (!open_pools(loop) || !gw_questions_open(loop))
		return false;
	loop->daemon = start_daemon(loop);
	if (loop->daemon == NULL)
		return false;
	info = MHD_get_daemon_info(loop->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	loop->wants_run = true;
	return info != NULL && gw_loop_watch(loop, &loop->http, info->listen_fd, EPOLLIN);
}

bool
gw_loop_start(struct GwLoop *loop)
{
	return pthread_create(&loop->thread, NULL, loop_main, loop) == 0;
}

/* Frees all that a loop has; its thread has ended, and so have all others. */
void
gw_loop_close(struct GwLoop *loop)
{
	if (loop->gateway == NULL)
		return;
	if (loop->daemon != NULL)
		MHD_stop_daemon(loop->daemon);
	else if (loop->listener >= 0)
		close(loop->listener);
	gw_linger_end(loop);
	for (int i = 0; i < GW_LANES; i++)
		gw_pool_close(loop->pools[i]);
	gw_request_free_spare(loop);
	gw_holds_free(loop);
	gw_routes_unref(loop->routes);
	if (loop->wake.fd >= 0)
		close(loop->wake.fd);
	if (loop->epoll >= 0)
		close(loop->epoll);
	gw_timers_free(&loop->timers);
	gw_metrics_free(&loop->metrics);
	gw_log_free(&loop->log);
	pthread_mutex_destroy(&loop->mail_lock);
}

void
gw_loop_post(struct GwLoop *loop, struct GwMail *mail)
{
	bool was_empty;
	uint64_t one = 1;

	mail->next = NULL;
	pthread_mutex_lock(&loop->mail_lock);
	was_empty = loop->mail_first == NULL;
	*loop->mail_last = mail;
	loop->mail_last = &mail->next;
	pthread_mutex_unlock(&loop->mail_lock);
	if (was_empty)
		(void) !write(loop->wake.fd, &one, sizeof(one));
}

/* Watches fd for the events, or changes what it is watched for. */
bool
gw_loop_watch(struct GwLoop *loop, struct GwWatch *watch, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	if (watch->fd == fd && watch->events == events)
		return true;
	/* A descriptor that was closed and opened again keeps its number but not its place. */
	if (watch->fd == fd && epoll_ctl(loop->epoll, EPOLL_CTL_MOD, fd, &event) == 0)
	{
		watch->events = events;
		return true;
	}
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		return false;
	watch->fd = fd;
	watch->events = events;
	return true;
}

void
gw_loop_unwatch(struct GwLoop *loop, struct GwWatch *watch)
{
	if (watch->fd >= 0)
		(void) epoll_ctl(loop->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->fd = -1;
	watch->events = 0;
}

/* Resumes a suspended connection in this turn. */
void
gw_loop_resume(struct GwLoop *loop, struct MHD_Connection *connection)
{
	MHD_resume_connection(connection);
	loop->wants_run = true;
}

/* Begins to drain: no new connections, every reply closes its own.  From the loop's thread. */
void
gw_loop_drain(struct GwLoop *loop)
{
	if (loop->state != GW_LOOP_RUNNING)
		return;
	loop->drain_since = loop->now;
	stop_listening(loop);
	loop->state = GW_LOOP_DRAINING;
	gw_timer_set(&loop->timers, &loop->drain, drain_deadline(loop));
	gw_http_drain(loop);
	gw_request_drain(loop, false);
}

static struct MHD_Daemon *
start_daemon(struct GwLoop *loop)
{
	unsigned limit = (unsigned) loop->gateway->connections_max + CONNECTIONS_TO_REFUSE;

	return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_SUPPRESS_DATE_NO_CLOCK, 0,
							NULL, NULL, gw_request_handle, loop,
							MHD_OPTION_EXTERNAL_LOGGER, log_of_library, loop,
							MHD_OPTION_LISTEN_SOCKET, loop->listener,
							MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) GW_GUARD_MEMORY,
							MHD_OPTION_CONNECTION_LIMIT, limit,
							MHD_OPTION_STRICT_FOR_CLIENT, 1,
							MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
							MHD_OPTION_NOTIFY_CONNECTION, gw_http_event, loop,
							MHD_OPTION_NOTIFY_COMPLETED, gw_request_completed, loop,
							MHD_OPTION_URI_LOG_CALLBACK, gw_request_born, loop,
							MHD_OPTION_END);
}

static bool
open_pools(struct GwLoop *loop)
{
	struct GwGateway *gateway = loop->gateway;

	for (int i = 0; i < GW_LANES; i++)
	{
		bool is_fast = i == GW_LANE_FAST;

		loop->pools[i] = gw_pool_open(loop, (enum GwLane) i, is_fast ? gateway->config.pool : 0,
									  is_fast ? NULL : &gateway->shared[i]);
		if (loop->pools[i] == NULL)
			return false;
	}
	return true;
}

static void *
loop_main(void *argument)
{
	struct GwLoop *loop = argument;
	uint64_t one = 1;

	while (!is_over(loop))
		turn(loop);
	loop->state = GW_LOOP_STOPPED;
	MHD_stop_daemon(loop->daemon);
	loop->daemon = NULL;
	loop->listener = -1;
	gw_reply_end();
	gw_gzip_end();
	gw_log_flush(&loop->log);
	(void) !write(loop->gateway->loop_ended, &one, sizeof(one));
	return NULL;
}

/* Waits for something to happen and deals with it. */
static void
turn(struct GwLoop *loop)
{
	struct epoll_event events[EVENTS_MAX];
	int n = epoll_wait(loop->epoll, events, EVENTS_MAX, wait_ms(loop));

	loop->now = gw_monotonic_us();
	for (int i = 0; i < n; i++)
	{
		struct GwWatch *watch = events[i].data.ptr;

		watch->ready(loop, watch, events[i].events);
	}
	gw_timers_run(&loop->timers, loop->now);
	if (loop->wants_run && !is_put_off(loop))
		serve(loop);
	if (loop->log.len >= LOG_BATCH)
		flush_log(loop);
	else if (loop->log.len > 0 && loop->log_due.slot == 0)
		gw_timer_set(&loop->timers, &loop->log_due, loop->now + LOG_DELAY);
}

static int
wait_ms(const struct GwLoop *loop)
{
	int64_t next = gw_timers_next(&loop->timers);
	int64_t now;

	if (loop->wants_run && loop->served_at == 0)
		return 0;
	if (loop->wants_run && loop->served_at < next)
		next = loop->served_at;
	if (next == GW_NEVER)
		return -1;
	now = gw_monotonic_us();
	return next <= now ? 0 : (int) ((next - now + 999) / 1000);
}

/* Says whether clients are served in a later turn. Meanwhile the loop is not woken for them. */
static bool
is_put_off(struct GwLoop *loop)
{
	if (loop->state != GW_LOOP_RUNNING || loop->pools[GW_LANE_FAST]->nqueued < CROWD)
		return false;
	if (loop->served_at == 0)
	{
		if (!gw_loop_watch(loop, &loop->http, loop->http.fd, 0))
			return false;
		loop->served_at = loop->now + PUT_OFF;
	}
	return loop->now < loop->served_at;
}

/* Runs the daemon until it has nothing left to do at once. */
static void
serve(struct GwLoop *loop)
{
	MHD_UNSIGNED_LONG_LONG timeout;

	if (loop->served_at != 0)
	{
		loop->served_at = 0;
		loop->http_has_events = true;
		(void) !gw_loop_watch(loop, &loop->http, loop->http.fd, EPOLLIN);
	}
	for (int i = 0; i < RUNS_MAX; i++)
	{
		gw_guard_quiet(!loop->http_has_events);
		loop->wants_run = loop->http_has_events = false;
		(void) MHD_run(loop->daemon);
		gw_guard_quiet(false);
		if (!loop->wants_run && (MHD_get_timeout(loop->daemon, &timeout) != MHD_YES || timeout > 0))
			return;
	}
	loop->wants_run = true;
}

/* Says whether a draining loop has nothing left to wait for. */
static bool
is_over(struct GwLoop *loop)
{
	if (loop->state == GW_LOOP_RUNNING)
		return false;
	if (loop->nconnections == 0 && loop->lingers == NULL)
		return true;
	return loop->now >= drain_deadline(loop) + LAST_WORDS;
}

static int64_t
drain_deadline(const struct GwLoop *loop)
{
	return loop->drain_since + GW_SECONDS(loop->gateway->config.drain_seconds);
}

/* Refuses what is still under way. */
static void
drain_is_over(struct GwTimer *timer)
{
	struct GwLoop *loop = gw_container_of(timer, struct GwLoop, drain);

	gw_request_drain(loop, true);
	gw_timer_set(&loop->timers, &loop->drain, loop->now + LAST_WORDS);
}

static void
log_is_due(struct GwTimer *timer)
{
	flush_log(gw_container_of(timer, struct GwLoop, log_due));
}

static void
flush_log(struct GwLoop *loop)
{
	gw_log_flush(&loop->log);
	gw_metrics_add(&loop->metrics, GW_COUNT_LOG_DROPPED, (int64_t) loop->log.dropped);
	loop->log.dropped = 0;
}

static void
wake_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events)
{
	uint64_t count;

	(void) events;
	(void) !read(watch->fd, &count, sizeof(count));
	deliver_mail(loop);
}

static void
http_is_ready(struct GwLoop *loop, struct GwWatch *watch, uint32_t events)
{
	(void) watch;
	(void) events;
	loop->wants_run = loop->http_has_events = true;
}

static void
deliver_mail(struct GwLoop *loop)
{
	struct GwMail *mail;

	pthread_mutex_lock(&loop->mail_lock);
	mail = loop->mail_first;
	loop->mail_first = NULL;
	loop->mail_last = &loop->mail_first;
	pthread_mutex_unlock(&loop->mail_lock);
	while (mail != NULL)
	{
		struct GwMail *next = mail->next;

		mail->deliver(loop, mail);
		mail = next;
	}
}

/*
 * Takes in every client that the kernel has accepted for us, then closes the
 * listener.  A filter that lets nothing pass keeps others from arriving in
 * between, who would be cut off by the closing; they try again and are refused.
 */
static void
stop_listening(struct GwLoop *loop)
{
	struct sock_filter nothing = {.code = BPF_RET | BPF_K, .k = 0};
	struct sock_fprog filter = {.len = 1, .filter = &nothing};
	struct pollfd waiting = {.fd = loop->listener, .events = POLLIN};

	(void) setsockopt(loop->listener, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter));
	/* Where no descriptor is left, nobody comes in, however often it is tried. */
	for (int tries = 0; tries < ACCEPT_TRIES && loop->nconnections <= loop->gateway->connections_max && poll(&waiting, 1, 0) > 0; tries++)
	{
		uint64_t before = arrivals(loop);

		(void) MHD_run(loop->daemon);
		if (arrivals(loop) > before)
			tries = 0;
	}
	(void) MHD_quiesce_daemon(loop->daemon);
	close(loop->listener);
	loop->listener = -1;
	loop->wants_run = true;
}

/* How many connections have been accepted. */
static uint64_t
arrivals(struct GwLoop *loop)
{
	return atomic_load_explicit(&loop->metrics.counts[GW_COUNT_ACCEPTED], memory_order_relaxed) +
		   atomic_load_explicit(&loop->metrics.counts[GW_COUNT_TURNED_AWAY], memory_order_relaxed);
}

static void
log_of_library(void *cls, const char *fmt, va_list arguments)
{
	struct GwLoop *loop = cls;
	char line[256];

	vsnprintf(line, sizeof(line), fmt, arguments);
	line[strcspn(line, "\n")] = '\0';
	gw_log_event(&loop->log, GW_LOG_DEBUG, "http_library", "%s", line);
}
