/*
 * bare_gateway.c
 *	  The least that a gateway can do: epoll, libpq in pipeline mode, one call per request.
 *
 * One thread per core, each with a few database connections. A request's bearer
 * token and body are passed to keelson.dispatch() with a fixed route and
 * caller; the reply's body goes back. No checks, no limits, no logs, no
 * headers but the least. What this reaches beside pgbench is what any gateway
 * in front of this server can hope for on this machine: the yardstick for ours.
 *
 *	  bare-gateway PORT THREADS LINKS ROUTE CALLER    (database from PGHOST, PGPORT, PGDATABASE)
 */
#define _GNU_SOURCE
#include "bare_listen.h"

#include <libpq-fe.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS 128
#define REQUEST_MAX 4096
#define DEPTH 4 /* requests under way on one connection */
#define LINKS_MAX 64

struct Client
{
	int fd; /* -1: it has left while its request was under way */
	bool is_waiting;
	size_t len;
	struct Client *next; /* in the queue */
	char request[REQUEST_MAX];
};

struct Link
{
	PGconn *connection;
	unsigned first, used;
	struct Client *waiting[DEPTH];
};

struct Loop
{
	int epoll, listener;
	struct Link links[LINKS_MAX];
	struct Client *queue, **queue_end;
};

static uint16_t port;
static int nlinks;
static uint32_t route;
static const char *caller;

static void
open_links(struct Loop *loop)
{
	static const Oid types[] = {23, 25, 114, 17, 114};

	for (int i = 0; i < nlinks; i++)
	{
		struct Link *link = &loop->links[i];
		PGresult *prepared;

		link->connection = PQconnectdb("");
		if (PQstatus(link->connection) != CONNECTION_OK)
			errx(1, "%s", PQerrorMessage(link->connection));
		prepared = PQprepare(link->connection, "dispatch", "select (keelson.dispatch($1, $2, $3, $4, $5)).body", 5, types);
		if (PQresultStatus(prepared) != PGRES_COMMAND_OK)
			errx(1, "%s", PQerrorMessage(link->connection));
		PQclear(prepared);
		PQsetnonblocking(link->connection, 1);
		PQenterPipelineMode(link->connection);
		bare_watch(loop->epoll, PQsocket(link->connection), (epoll_data_t){.ptr = link});
	}
}

static void
accept_all(struct Loop *loop)
{
	int fd;

	while ((fd = bare_accept(loop->listener)) >= 0)
	{
		struct Client *client = calloc(1, sizeof(*client));

		if (client == NULL)
			errx(1, "out of memory");
		client->fd = fd;
		bare_watch(loop->epoll, fd, (epoll_data_t){.ptr = client});
	}
}

static void
call(struct Link *link, struct Client *client)
{
	char *token = strcasestr(client->request, "Bearer ") + 7;
	char *body = strstr(client->request, "\r\n\r\n") + 4;
	size_t body_len = client->len - (size_t) (body - client->request);
	const char *values[] = {(const char *) &route, token, NULL, body_len > 0 ? body : NULL, caller};
	int lengths[] = {sizeof(route), 0, 0, (int) body_len, 0};
	static const int formats[] = {1, 0, 0, 1, 0};

	*strchrnul(token, '\r') = '\0';
	link->waiting[(link->first + link->used++) % DEPTH] = client;
	if (PQsendQueryPrepared(link->connection, "dispatch", 5, values, lengths, formats, 0) != 1 ||
		PQpipelineSync(link->connection) != 1 || PQflush(link->connection) != 0)
		errx(1, "%s", PQerrorMessage(link->connection));
}

/* The least busy link with room. */
static struct Link *
choose(struct Loop *loop)
{
	struct Link *best = NULL;

	for (int i = 0; i < nlinks; i++)
		if (loop->links[i].used < DEPTH && (best == NULL || loop->links[i].used < best->used))
			best = &loop->links[i];
	return best;
}

static void
send_queued(struct Loop *loop)
{
	struct Link *link;

	while (loop->queue != NULL && (link = choose(loop)) != NULL)
	{
		struct Client *client = loop->queue;

		loop->queue = client->next;
		if (loop->queue == NULL)
			loop->queue_end = &loop->queue;
		call(link, client);
	}
}

static void
leave(struct Client *client)
{
	close(client->fd);
	client->fd = -1;
	if (!client->is_waiting)
		free(client);
}

/* wrk sends a request at once and waits for its reply, so one read has it all. */
static void
request(struct Loop *loop, struct Client *client)
{
	ssize_t got = recv(client->fd, client->request, REQUEST_MAX - 1, 0);

	if (got <= 0)
	{
		leave(client);
		return;
	}
	client->is_waiting = true;
	client->len = (size_t) got;
	client->request[got] = '\0';
	client->next = NULL;
	*loop->queue_end = client;
	loop->queue_end = &client->next;
	send_queued(loop);
}

static void
answer(struct Client *client, PGresult *result)
{
	char reply[REQUEST_MAX];
	int len;

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		errx(1, "%s", PQresultErrorMessage(result));
	len = snprintf(reply, sizeof(reply), "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s",
				   PQgetlength(result, 0, 0), PQgetvalue(result, 0, 0));
	client->is_waiting = false;
	if (client->fd < 0)
		free(client);
	else if (send(client->fd, reply, (size_t) len, MSG_NOSIGNAL) != len)
		leave(client);
}

static void
results(struct Loop *loop, struct Link *link)
{
	if (PQconsumeInput(link->connection) != 1)
		errx(1, "%s", PQerrorMessage(link->connection));
	while (link->used > 0 && !PQisBusy(link->connection))
	{
		PGresult *result = PQgetResult(link->connection);

		if (result == NULL)
			continue;
		if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
		{
			link->first = (link->first + 1) % DEPTH;
			link->used--;
		}
		else
			answer(link->waiting[link->first], result);
		PQclear(result);
	}
	send_queued(loop);
}

static void *
serve(void *unused)
{
	struct Loop *loop = calloc(1, sizeof(*loop));
	struct epoll_event events[EVENTS];

	(void) unused;
	loop->epoll = epoll_create1(0);
	loop->queue_end = &loop->queue;
	open_links(loop);
	loop->listener = bare_listen(port);
	bare_watch(loop->epoll, loop->listener, (epoll_data_t){.ptr = loop});
	for (;;)
	{
		int ready = epoll_wait(loop->epoll, events, EVENTS, -1);

		for (int i = 0; i < ready; i++)
		{
			void *what = events[i].data.ptr;

			if (what == loop)
				accept_all(loop);
			else if ((struct Link *) what >= loop->links && (struct Link *) what < loop->links + LINKS_MAX)
				results(loop, what);
			else
				request(loop, what);
		}
	}
	return NULL;
}

int
main(int argc, char **argv)
{
	if (argc != 6)
		errx(2, "usage: bare-gateway PORT THREADS LINKS ROUTE CALLER");
	port = (uint16_t) atoi(argv[1]);
	nlinks = atoi(argv[3]);
	route = htonl((uint32_t) atoi(argv[4]));
	caller = argv[5];
	for (int thread = atoi(argv[2]); thread > 1; thread--)
	{
		pthread_t id;

		if (pthread_create(&id, NULL, serve, NULL) != 0)
			errx(1, "no thread");
	}
	serve(NULL);
	return 0;
}
