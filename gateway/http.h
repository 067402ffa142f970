/*
 * http.h
 *	  A client's connection: its guard, its deadlines, its place in the limits.
 */
#ifndef GW_HTTP_H
#define GW_HTTP_H

#include <netinet/in.h>

#include "client.h"
#include "guard.h"
#include "loop.h"
#include "perip.h"

struct GwRequest;

struct GwHttp
{
	struct GwGuard guard;
	struct GwLoop *loop;
	struct MHD_Connection *connection;
	int fd;
	struct sockaddr_in6 peer; /* large enough for both families */
	struct GwClient client;   /* the peer, where no header field tells of another */
	struct GwPerIpKey key;
	bool is_counted;           /* in the table of addresses */
	bool lingers;              /* refused before its body was read: see linger.h */
	struct GwTimer timer;      /* never later than the deadline, often earlier */
	struct GwRequest *request; /* under way, or NULL */
	struct GwHttp *previous, *next;
};

/* MHD_OPTION_NOTIFY_CONNECTION; cls is the loop. */
void gw_http_event(void *cls, struct MHD_Connection *connection, void **context, enum MHD_ConnectionNotificationCode code);

/* The connection that a library's connection belongs to. */
struct GwHttp *gw_http_of(struct MHD_Connection *connection);

/* Makes sure that the deadline of the connection's request is not missed. */
void gw_http_expect(struct GwHttp *http, int64_t deadline);

/* Ends the connection at once. */
void gw_http_cut(struct GwHttp *http);

/*
 * Before it ends in the midst of a reply whose length nobody knows: to a client
 * of HTTP/1.0 the end of the connection is that of the reply, so it is reset.
 */
void gw_http_break_off(struct GwHttp *http);

/* The loop drains: lets go of idle connections soon. */
void gw_http_drain(struct GwLoop *loop);

#endif
