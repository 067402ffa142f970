/*
 * control.c
 *	  The thread that keeps the route table and the readiness up to date.
 *
 * It has a database connection of its own, on which it listens for changes of
 * the routes and asks once a second whether the database may be served.  When
 * only this connection is lost, or gives no answer and is given up for another,
 * what was known goes on to hold: the loops see for themselves whether the
 * database is there.
 *
 * A new route table is built once and handed to every loop by mail; the old one
 * goes with the last request that uses it.
 */
#include "control.h"

#include "client.h"

#include <malloc.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CHECK_MS 1000
#define CHECK_NOT_READY_MS 250
#define CONNECT_TIMEOUT_MS 5000
#define QUERY_TIMEOUT_MS 10000
#define RECONNECT_MS 50
#define TRIM_FROM 256 /* connections */
#define RECONNECT_MAX_MS 200

struct GwControl
{
	struct GwGateway *gateway;
	pthread_t thread;
	int wake; /* eventfd: stop or reload */
	atomic_bool is_stopping;
	atomic_bool must_reload;
	PGconn *connection;
	bool is_spent; /* the connection: a statement got no answer in time, and none can follow it */
	struct GwLog log;
	bool has_routes;
	uint64_t connections_peak; /* since memory was last given back */
	char fault[256];           /* last one told to the log */
};

struct RoutesMail
{
	struct GwMail mail;
	struct GwRoutes *routes;
};

static const char routes_sql[] =
	"select id, method, template, kind, pool, body_limit, timeout_ms, is_raw, "
	"pg_catalog.array_to_string(content_types, ','), is_public, version, "
	"extract(epoch from deprecated_at)::bigint, extract(epoch from sunset_at)::bigint, successor "
	"from keelson.gateway_routes()";

static void *control_main(void *argument);
static void serve_connection(struct GwControl *control);
static bool open_connection(struct GwControl *control);
static bool wait_for(struct GwControl *control, short events, int64_t until);
static PGresult *ask(struct GwControl *control, const char *sql);
static void load_routes(struct GwControl *control);
static bool read_route(const PGresult *result, int row, struct GwRoute *route);
static char **split(char *list);
static void free_routes(struct GwRoute *routes, int n);
static void publish(struct GwControl *control, struct GwRoutes *routes);
static void take_routes(struct GwLoop *loop, struct GwMail *mail);
static void check_ready(struct GwControl *control);
static void trim_memory(struct GwControl *control);
static void set_state(struct GwControl *control, const char *reason);
static void tell_fault(struct GwControl *control, const char *event, const char *fault);
static void say_nothing(void *argument, const PGresult *result);

struct GwControl *
gw_control_start(struct GwGateway *gateway)
{
	struct GwControl *control = calloc(1, sizeof(*control));

	if (control == NULL)
		return NULL;
	control->gateway = gateway;
	control->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->wake < 0 || !gw_log_init(&control->log, gateway->config.log_level) ||
		pthread_create(&control->thread, NULL, control_main, control) != 0)
	{
		if (control->wake >= 0)
			close(control->wake);
		gw_log_free(&control->log);
		free(control);
		return NULL;
	}
	return control;
}

/* Loads the routes again. */
void
gw_control_reload(struct GwControl *control)
{
	uint64_t one = 1;

	atomic_store(&control->must_reload, true);
	(void) !write(control->wake, &one, sizeof(one));
}

void
gw_control_stop(struct GwControl *control)
{
	uint64_t one = 1;

	if (control == NULL)
		return;
	atomic_store(&control->is_stopping, true);
	(void) !write(control->wake, &one, sizeof(one));
	pthread_join(control->thread, NULL);
	close(control->wake);
	gw_log_free(&control->log);
	free(control);
}

static void *
control_main(void *argument)
{
	struct GwControl *control = argument;
	int pause_ms = RECONNECT_MS;

	while (!atomic_load(&control->is_stopping))
	{
		if (open_connection(control))
		{
			pause_ms = RECONNECT_MS;
			serve_connection(control);
		}
		else if (control->connection != NULL && !control->has_routes)
			set_state(control, "the database has not been reached yet");
		PQfinish(control->connection);
		control->connection = NULL;
		gw_log_flush(&control->log);
		(void) wait_for(control, 0, gw_monotonic_us() + GW_MS(pause_ms));
		pause_ms = pause_ms * 2 < RECONNECT_MAX_MS ? pause_ms * 2 : RECONNECT_MAX_MS;
	}
	return NULL;
}

/* Works on an open connection until it is lost or the thread is to end. */
static void
serve_connection(struct GwControl *control)
{
	PGresult *result = ask(control, "listen keelson_routes");

	PQclear(result);
	if (result == NULL)
		return;
	load_routes(control);
	check_ready(control);
	while (!atomic_load(&control->is_stopping) && !control->is_spent && PQstatus(control->connection) == CONNECTION_OK)
	{
		bool must_load = atomic_exchange(&control->must_reload, false);
		bool is_ready = atomic_load(&control->gateway->is_ready);
		PGnotify *notice;

		gw_log_flush(&control->log);
		if (!must_load && wait_for(control, POLLIN, gw_monotonic_us() + GW_MS(is_ready ? CHECK_MS : CHECK_NOT_READY_MS)) &&
			!PQconsumeInput(control->connection))
			return;
		while ((notice = PQnotifies(control->connection)) != NULL)
		{
			must_load = true;
			PQfreemem(notice);
		}
		if (must_load || !control->has_routes)
			load_routes(control);
		check_ready(control);
		trim_memory(control);
	}
}

static bool
open_connection(struct GwControl *control)
{
	const char *const names[] = {"dbname", "application_name", "client_encoding", NULL};
	const char *const values[] = {control->gateway->config.database_url, "keelson_gateway control", "UTF8", NULL};
	int64_t until = gw_monotonic_us() + GW_MS(CONNECT_TIMEOUT_MS);
	PostgresPollingStatusType step = PGRES_POLLING_WRITING;

	control->is_spent = false;
	control->connection = PQconnectStartParams(names, values, 1);
	if (control->connection == NULL)
		return false;
	if (PQstatus(control->connection) != CONNECTION_BAD)
		while (step == PGRES_POLLING_READING || step == PGRES_POLLING_WRITING)
		{
			if (!wait_for(control, step == PGRES_POLLING_READING ? POLLIN : POLLOUT, until))
			{
				if (atomic_load(&control->is_stopping) || gw_monotonic_us() >= until)
					break;
				continue;
			}
			step = PQconnectPoll(control->connection);
		}
	if (step == PGRES_POLLING_OK)
	{
		control->fault[0] = '\0';
		(void) PQsetNoticeReceiver(control->connection, say_nothing, NULL);
		return PQsetnonblocking(control->connection, 1) == 0;
	}
	tell_fault(control, "control_connection", PQerrorMessage(control->connection));
	return false;
}

/* Waits for the connection's socket, for a moment, or for being woken; true: the socket is ready. */
static bool
wait_for(struct GwControl *control, short events, int64_t until)
{
	struct pollfd fds[2] = {
		{.fd = control->wake, .events = POLLIN},
		{.fd = events != 0 ? PQsocket(control->connection) : -1, .events = events},
	};
	int64_t left = until - gw_monotonic_us();
	uint64_t count;

	if (poll(fds, 2, left > 0 ? (int) (left / 1000 + 1) : 0) <= 0)
		return false;
	if (fds[0].revents != 0)
		(void) !read(control->wake, &count, sizeof(count));
	return fds[1].revents != 0;
}

/* Runs a statement; NULL, with the connection's error told, when there is no good answer in time. */
static PGresult *
ask(struct GwControl *control, const char *sql)
{
	PGconn *connection = control->connection;
	int64_t until = gw_monotonic_us() + GW_MS(QUERY_TIMEOUT_MS);
	PGresult *result = NULL;
	PGresult *next;
	int left;

	if (control->is_spent || !PQsendQuery(connection, sql))
		return NULL;
	while ((left = PQflush(connection)) > 0 || PQisBusy(connection))
	{
		if (atomic_load(&control->is_stopping) || gw_monotonic_us() >= until)
		{
			control->is_spent = true;
			if (!atomic_load(&control->is_stopping))
				tell_fault(control, "control_connection", "no answer in time");
			return NULL;
		}
		if (wait_for(control, left > 0 ? POLLIN | POLLOUT : POLLIN, until) && !PQconsumeInput(connection))
			return NULL;
	}
	while ((next = PQgetResult(connection)) != NULL)
	{
		PQclear(result);
		result = next;
	}
	if (PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK)
		return result;
	tell_fault(control, "database", PQresultErrorMessage(result));
	PQclear(result);
	return NULL;
}

/* Loads the route table and hands it to the loops.  A table that cannot be used leaves the old one standing. */
static void
load_routes(struct GwControl *control)
{
	PGresult *result = ask(control, routes_sql);
	int n = PQntuples(result);
	struct GwRoute *rows = calloc((size_t) n + 1, sizeof(*rows));
	struct GwRoutes *routes = NULL;
	char *fault = NULL;
	bool is_sound = result != NULL && rows != NULL;

	for (int i = 0; is_sound && i < n; i++)
		is_sound = read_route(result, i, &rows[i]);
	if (is_sound)
		routes = gw_routes_build(rows, (size_t) n, control->gateway->config.public_url, &fault);
	if (routes != NULL)
		publish(control, routes);
	else if (result != NULL)
		gw_log_event(&control->log, GW_LOG_ERROR, "routes_unusable", "%s",
					 fault != NULL ? fault : "a route has an unknown kind or pool, or memory is short");
	free(fault);
	if (rows != NULL)
		free_routes(rows, n);
	PQclear(result);
}

static bool
read_route(const PGresult *result, int row, struct GwRoute *route)
{
	const char *values[14];

	for (int i = 0; i < 14; i++)
		values[i] = PQgetisnull(result, row, i) ? NULL : PQgetvalue(result, row, i);
	for (int i = 0; i < 8; i++)
		if (values[i] == NULL)
			return false;
	*route = (struct GwRoute){
		.id = atoi(values[0]),
		.method = strdup(values[1]),
		.template = strdup(values[2]),
		.version = strdup(values[10] != NULL ? values[10] : "v1"),
		.body_limit = (size_t) strtoull(values[5], NULL, 10),
		.timeout_ms = atoi(values[6]),
		.is_raw = values[7][0] == 't',
		.is_public = values[9] != NULL && values[9][0] == 't',
		.content_types = values[8] != NULL ? split(PQgetvalue(result, row, 8)) : NULL,
		.deprecated_at = values[11] != NULL ? strtoll(values[11], NULL, 10) : 0,
		.sunset_at = values[12] != NULL ? strtoll(values[12], NULL, 10) : 0,
		.successor = values[13] != NULL ? strdup(values[13]) : NULL,
	};
	return route->method != NULL && route->template != NULL && route->version != NULL &&
		   gw_kind_parse(&route->kind, values[3]) && gw_lane_parse(&route->lane, values[4]);
}

/* The parts of a comma-separated list, which is taken apart, as a NULL-terminated array. */
static char **
split(char *list)
{
	size_t n = 1;
	char **parts;
	char *rest = list;

	for (const char *at = list; *at != '\0'; at++)
		n += *at == ',';
	parts = calloc(n + 1, sizeof(*parts));
	for (size_t i = 0; parts != NULL && i < n; i++)
		parts[i] = strdup(strsep(&rest, ","));
	return parts;
}

static void
free_routes(struct GwRoute *routes, int n)
{
	for (int i = 0; i < n; i++)
	{
		for (char **type = routes[i].content_types; type != NULL && *type != NULL; type++)
			free(*type);
		free(routes[i].content_types);
		free(routes[i].method);
		free(routes[i].template);
		free(routes[i].version);
		free(routes[i].successor);
	}
	free(routes);
}

/* Hands a table to every loop, a reference to each; the caller's goes. */
static void
publish(struct GwControl *control, struct GwRoutes *routes)
{
	for (int i = 0; i < control->gateway->nloops; i++)
	{
		struct RoutesMail *letter = malloc(sizeof(*letter));

		if (letter == NULL)
		{
			/* Asked for again by the next turn, for all loops. */
			atomic_store(&control->must_reload, true);
			continue;
		}
		*letter = (struct RoutesMail){.mail.deliver = take_routes, .routes = gw_routes_ref(routes)};
		gw_loop_post(&control->gateway->loops[i], &letter->mail);
	}
	gw_log_event(&control->log, GW_LOG_INFO, "routes_loaded", "%zu routes", gw_routes_count(routes));
	control->has_routes = true;
	gw_routes_unref(routes);
}

/* In the loop's thread. */
static void
take_routes(struct GwLoop *loop, struct GwMail *mail)
{
	struct RoutesMail *letter = gw_container_of(mail, struct RoutesMail, mail);

	gw_routes_unref(loop->routes);
	loop->routes = letter->routes;
	gw_metrics_add(&loop->metrics, GW_COUNT_ROUTE_LOADS, 1);
	free(letter);
}

static void
check_ready(struct GwControl *control)
{
	PGresult *result = ask(control, "select is_ready, reason from keelson.gateway_ready()");

	if (result == NULL)
	{
		/* No answer says nothing about the database; a refusal does. */
		if (PQstatus(control->connection) == CONNECTION_OK && !control->is_spent)
			set_state(control, "the database refuses the readiness check");
		return;
	}
	if (PQntuples(result) != 1)
		set_state(control, "the readiness check returned no row");
	else if (PQgetvalue(result, 0, 0)[0] != 't')
		set_state(control, PQgetisnull(result, 0, 1) ? "the database is not ready" : PQgetvalue(result, 0, 1));
	else if (!control->has_routes)
		set_state(control, "the route table could not be loaded");
	else
		set_state(control, NULL);
	PQclear(result);
}

/* Gives memory back to the system after a flood of connections has gone, since the allocator keeps it. */
static void
trim_memory(struct GwControl *control)
{
	uint64_t count = gw_metrics_sum(control->gateway->metrics, (size_t) control->gateway->nloops, GW_COUNT_CONNECTIONS);

	if (count > control->connections_peak)
		control->connections_peak = count;
	if (control->connections_peak < TRIM_FROM || count > control->connections_peak / 4)
		return;
	control->connections_peak = count;
	(void) malloc_trim(0);
}

static void
set_state(struct GwControl *control, const char *reason)
{
	bool was_ready = atomic_load(&control->gateway->is_ready);

	if (!gw_gateway_set_state(control->gateway, reason) && was_ready == (reason == NULL))
		return;
	if (reason == NULL)
	{
		control->fault[0] = '\0';
		gw_log_event(&control->log, GW_LOG_INFO, "ready", "the database may be served");
	}
	else
		gw_log_event(&control->log, GW_LOG_WARN, "not_ready", "%s", reason);
}

/* Logs a fault, unless it is the last one again. */
static void
tell_fault(struct GwControl *control, const char *event, const char *fault)
{
	char line[sizeof(control->fault)];

	snprintf(line, sizeof(line), "%.*s", (int) strcspn(fault, "\n"), fault);
	if (strcmp(line, control->fault) == 0)
		return;
	memcpy(control->fault, line, sizeof(line));
	gw_log_event(&control->log, GW_LOG_WARN, event, "%s", line);
}

static void
say_nothing(void *argument, const PGresult *result)
{
	(void) argument;
	(void) result;
}
