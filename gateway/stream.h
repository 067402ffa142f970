/*
 * stream.h
 *	  A reply whose body is made while it is sent, for kinds "rows" and "watch".
 *
 * Bytes are put in as they come and leave at the client's pace.  While there
 * are none the connection is suspended.  The stream belongs to the library's
 * response and may outlive its request, which it then no longer points to.
 */
#ifndef GW_STREAM_H
#define GW_STREAM_H

#include "request.h"

/* Above this much waiting for the client its source should pause; below the other it may go on. */
#define GW_STREAM_HIGH (256 * 1024)
#define GW_STREAM_LOW (64 * 1024)

struct GwStream
{
	struct GwRequest *request; /* NULL once completed */
	struct GwText buffer;
	size_t sent;           /* of the buffer */
	int64_t send_deadline; /* the client has to have taken something */
	bool is_suspended;     /* the library waits for more */
	bool has_ended;
	bool has_failed;                          /* the connection is cut, so that the client sees that it has not got all */
	void (*drained)(struct GwStream *stream); /* the buffer is below GW_STREAM_LOW; may be NULL */
};

/* Makes the request's stream and its response; NULL when there is no memory. */
struct GwStream *gw_stream_begin(struct GwRequest *request, int status, const char *content_type, struct GwSlice headers) __attribute__((warn_unused_result));

/* After bytes were added to the buffer: sets the connection going. */
void gw_stream_push(struct GwStream *stream);
size_t gw_stream_waiting(const struct GwStream *stream);

/* Ends the body, well or badly. */
void gw_stream_end(struct GwStream *stream);
void gw_stream_fail(struct GwStream *stream);

/* The request has ended. */
void gw_stream_detach(struct GwStream *stream);

#endif
