/*
 * client: who is calling, as far as HTTP tells: address, scheme, request id, trace.
 */
#ifndef GW_CLIENT_H
#define GW_CLIENT_H

#include <sys/socket.h>

#include "config.h"
#include "uuid.h"

#define GW_TRACE_SIZE 56 /* "00-<32>-<16>-<2>" and NUL */

struct GwClient
{
	char ip[46];
	bool is_https;        /* the client's own connection was TLS, as far as known */
	bool is_trusted_peer; /* the TCP peer is a trusted proxy */
	bool is_proxy;        /* so is the client, as far as is known: it may stand for many */
};

/*
 * Finds the client behind trusted proxies. forwarded_for and forwarded_proto
 * are all values of X-Forwarded-For and -Proto, joined by "," in order of
 * appearance (NULL if absent); they count only if the peer is trusted.
 * X-Forwarded-For is read right to left past trusted addresses; an entry that
 * is no address ends the walk at the one to its right.
 */
void gw_client_find(struct GwClient *client, const struct GwConfig *config, const struct sockaddr *peer,
					const char *forwarded_for, const char *forwarded_proto);

/* The request's id: the client's if it is a UUID, else a new one. given may be NULL. */
void gw_request_id(char out[GW_UUID_SIZE], const char *given);

/*
 * The trace context to hand on: the given traceparent if it is valid (same
 * trace, our own span id, same flags), else a new one that is not sampled.
 */
void gw_traceparent(char out[GW_TRACE_SIZE], const char *given);

/* CLOCK_REALTIME and CLOCK_MONOTONIC in microseconds. */
int64_t gw_unix_us(void);
int64_t gw_monotonic_us(void);

#endif
