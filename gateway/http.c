/*
 * http.c
 *	  A client's connection: its guard, its deadlines, its place in the limits.
 *
 * The library knows only inactivity, so the deadlines are ours, and absolute:
 * for a head, for a body, between requests.  Each connection has one timer,
 * which is moved only when a deadline comes nearer; when it fires too early it
 * is set again.  A connection is ended by shutting its socket down, which the
 * library notices and cleans up after.
 */
#include "http.h"

#include "gateway.h"
#include "linger.h"
#include "request.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define HEAD_TIMEOUT GW_SECONDS(10)
#define KEEP_ALIVE GW_SECONDS(10)
#define DRAIN_KEEP_ALIVE GW_MS(500)

/*
 * Connections that one address may have open; loopback and trusted proxies are
 * free. So many more are told that they are too many, which keeps them open for
 * a while, and counts. Others are ended without a word: else whoever opens them
 * fast enough had all places.
 */
#define PER_IP_MAX 512
#define PER_IP_TOLD 64

static void begin(struct GwLoop *loop, struct MHD_Connection *connection, void **context);
static bool is_let_in(struct GwHttp *http, bool *is_over_limits);
static void end(struct GwHttp *http);
static bool has_unread(const struct GwHttp *http);
static void guard_has_refused(struct GwGuard *guard, const struct GwGuardRefusal *refusal);
static int64_t deadline_of(const struct GwHttp *http);
static void timer_fired(struct GwTimer *timer);
static void be_late(struct GwHttp *http);

void
gw_http_event(void *cls, struct MHD_Connection *connection, void **context, enum MHD_ConnectionNotificationCode code)
{
	if (code == MHD_CONNECTION_NOTIFY_STARTED)
		begin(cls, connection, context);
	else if (*context != NULL)
	{
		end(*context);
		*context = NULL;
	}
}

struct GwHttp *
gw_http_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info == NULL ? NULL : info->socket_context;
}

void
gw_http_expect(struct GwHttp *http, int64_t deadline)
{
	if (http->timer.slot == 0 || deadline < http->timer.at)
		gw_timer_set(&http->loop->timers, &http->timer, deadline);
}

void
gw_http_cut(struct GwHttp *http)
{
	(void) shutdown(http->fd, SHUT_RDWR);
	http->loop->wants_run = true;
}

void
gw_http_break_off(struct GwHttp *http)
{
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};

	if (http->guard.framing.minor == 0)
		(void) connect(http->fd, &nobody, sizeof(nobody));
}

void
gw_http_drain(struct GwLoop *loop)
{
	for (struct GwHttp *http = loop->connections; http != NULL; http = http->next)
		gw_http_expect(http, loop->now + DRAIN_KEEP_ALIVE);
}

/* A connection was accepted. */
static void
begin(struct GwLoop *loop, struct MHD_Connection *connection, void **context)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	int fd = info->connect_fd;
	struct GwHttp *http = malloc(sizeof(*http));
	socklen_t len = sizeof(http->peer);
	bool is_over_limits = false;

	*context = NULL;
	if (http == NULL)
		goto refused;
	http->loop = loop;
	http->connection = connection;
	http->fd = fd;
	http->is_counted = false;
	http->lingers = false;
	http->request = NULL;
	memset(&http->peer, 0, sizeof(http->peer));
	(void) getpeername(fd, (struct sockaddr *) &http->peer, &len);
	gw_client_find(&http->client, &loop->gateway->config, (const struct sockaddr *) &http->peer, NULL, NULL);
	if (!is_let_in(http, &is_over_limits))
		goto refused;
	if (!gw_timer_open(&loop->timers, &http->timer, timer_fired))
		goto refused;
	if (!gw_guard_attach(&http->guard, fd, &loop->gateway->config, guard_has_refused, http))
	{
		gw_timer_close(&loop->timers, &http->timer);
		goto refused;
	}
	http->previous = NULL;
	http->next = loop->connections;
	if (http->next != NULL)
		http->next->previous = http;
	loop->connections = http;
	loop->nconnections++;
	gw_metrics_add(&loop->metrics, GW_COUNT_CONNECTIONS, 1);
	gw_metrics_add(&loop->metrics, GW_COUNT_ACCEPTED, 1);
	*context = http;
	if (is_over_limits)
	{
		gw_metrics_add(&loop->metrics, GW_COUNT_TURNED_AWAY, 1);
		gw_guard_overload(&http->guard);
	}
	gw_http_expect(http, deadline_of(http));
	return;

refused:
	gw_metrics_add(&loop->metrics, GW_COUNT_TURNED_AWAY, 1);
	if (http != NULL && http->is_counted)
		gw_perip_remove(&loop->gateway->connections_per_ip, &http->key);
	free(http);
	(void) shutdown(fd, SHUT_RDWR);
}

/* Counts the connection; false if it is not even to be told that there are too many. */
static bool
is_let_in(struct GwHttp *http, bool *is_over_limits)
{
	struct GwGateway *gateway = http->loop->gateway;

	*is_over_limits = http->loop->nconnections >= gateway->connections_max;
	if (*is_over_limits || http->client.is_proxy || !gw_perip_key(&http->key, (const struct sockaddr *) &http->peer))
		return true;
	http->is_counted = gw_perip_add(&gateway->connections_per_ip, &http->key, PER_IP_MAX);
	if (http->is_counted)
		return true;
	*is_over_limits = true;
	http->is_counted = gw_perip_add(&gateway->connections_per_ip, &http->key, PER_IP_MAX + PER_IP_TOLD);
	return http->is_counted;
}

/* A connection has ended; the library closes its socket after this. */
static void
end(struct GwHttp *http)
{
	struct GwLoop *loop = http->loop;

	if (http->lingers || has_unread(http))
		gw_linger_begin(loop, http->fd);
	gw_guard_detach(&http->guard);
	if (http->is_counted)
		gw_perip_remove(&loop->gateway->connections_per_ip, &http->key);
	gw_timer_close(&loop->timers, &http->timer);
	if (http->next != NULL)
		http->next->previous = http->previous;
	if (http->previous != NULL)
		http->previous->next = http->next;
	else
		loop->connections = http->next;
	loop->nconnections--;
	gw_metrics_add(&loop->metrics, GW_COUNT_CONNECTIONS, -1);
	free(http);
}

/* Says whether the client sent more than is answered: closing would reset the connection, and take with it what is not sent yet. */
static bool
has_unread(const struct GwHttp *http)
{
	int len = 0;

	return http->guard.behind.len > 0 || (ioctl(http->fd, FIONREAD, &len) == 0 && len > 0);
}

/* The guard has answered in our place. */
static void
guard_has_refused(struct GwGuard *guard, const struct GwGuardRefusal *refusal)
{
	struct GwHttp *http = guard->owner;
	struct GwLoop *loop = http->loop;
	struct GwLogRequest line = {
		.request_id = refusal->request_id,
		.route = "-",
		.status = refusal->status,
		.code = refusal->code,
		.error = refusal->reason,
		.database_us = -1,
		.bytes = refusal->bytes,
		.ip = http->client.ip,
	};

	gw_log_request(&loop->log, &line);
	gw_metrics_add(&loop->metrics, GW_COUNT_GUARD_REFUSED, 1);
	gw_metrics_request(&loop->metrics, GW_METRICS_NO_ROUTE, refusal->status, 0);
	gw_http_expect(http, loop->now + GW_MS(GW_GUARD_LINGER_MS));
}

/* When the connection has to have moved on. */
static int64_t
deadline_of(const struct GwHttp *http)
{
	const struct GwLoop *loop = http->loop;
	int64_t since = http->guard.since_us;

	if (http->guard.is_refused)
		return since + GW_MS(GW_GUARD_LINGER_MS);
	if (http->request != NULL && gw_request_is_active(http->request))
		return gw_request_deadline(http->request);
	if (gw_guard_phase(&http->guard) != GW_FRAMING_IDLE)
		return since + HEAD_TIMEOUT;
	if (loop->state == GW_LOOP_RUNNING)
		return since + KEEP_ALIVE;
	return (since > loop->drain_since ? since : loop->drain_since) + DRAIN_KEEP_ALIVE;
}

static void
timer_fired(struct GwTimer *timer)
{
	struct GwHttp *http = gw_container_of(timer, struct GwHttp, timer);
	struct GwLoop *loop = http->loop;
	int64_t deadline = deadline_of(http);

	if (deadline <= loop->now)
	{
		be_late(http);
		deadline = deadline_of(http);
		if (deadline <= loop->now)
			deadline = loop->now + GW_MS(GW_GUARD_LINGER_MS);
	}
	gw_http_expect(http, deadline);
}

/* The deadline has passed. */
static void
be_late(struct GwHttp *http)
{
	if (http->guard.is_refused)
		gw_http_cut(http);
	else if (http->request != NULL && gw_request_is_active(http->request))
		gw_request_overdue(http->request);
	else if (gw_guard_phase(&http->guard) == GW_FRAMING_IDLE)
	{
		/* What has come while we were held up came in time. */
		if (!has_unread(http))
			gw_http_cut(http);
	}
	else
	{
		gw_metrics_add(&http->loop->metrics, GW_COUNT_TIMED_OUT, 1);
		gw_guard_timeout(&http->guard);
	}
}
