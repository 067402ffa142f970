/*
 * watch.h
 *	  Kind "watch": server-sent events, by asking again and again.
 */
#ifndef GW_WATCH_H
#define GW_WATCH_H

#include "request.h"

/* Says whether the loop can take one more. */
bool gw_watch_has_room(const struct GwLoop *loop);

/* Counts what may become an event stream for its client's address, until the request ends; false: refused. */
bool gw_watch_admit(struct GwRequest *request);

/* The first call was answered well: opens the event stream with its body; false without memory. */
bool gw_watch_begin(struct GwRequest *request, const struct GwRow *row) __attribute__((warn_unused_result));

/* The stream is to end, because the gateway drains; or the request has ended. */
void gw_watch_end(struct GwRequest *request);
void gw_watch_free(struct GwRequest *request);

#endif
