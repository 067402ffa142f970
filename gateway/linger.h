/*
 * linger.h
 *	  Sockets of clients that were refused, or told of an end, while they were still sending.
 *
 * Closing a socket that has unread input resets the connection, and the client
 * may never see why.  So the socket is kept a little longer, what arrives is
 * thrown away, and then it is closed.
 */
#ifndef GW_LINGER_H
#define GW_LINGER_H

#include "loop.h"

/* Keeps a duplicate of fd, which the caller is about to close. */
void gw_linger_begin(struct GwLoop *loop, int fd);

/* Closes all. */
void gw_linger_end(struct GwLoop *loop);

#endif
