/*
 * stream.c
 *	  A reply whose body is made while it is sent, for kinds "rows" and "watch".
 */
#include "stream.h"

#include <stdlib.h>

/* A client has to take at least so much in a second, or this long for anything. */
#define SEND_TIMEOUT GW_SECONDS(10)
#define SEND_RATE 16384

static void expect(struct GwStream *stream, size_t n);
static ssize_t read_stream(void *cls, uint64_t position, char *buffer, size_t size);
static void free_stream(void *cls);

struct GwStream *
gw_stream_begin(struct GwRequest *request, int status, const char *content_type, struct GwSlice headers)
{
	struct GwStream *stream = calloc(1, sizeof(*stream));

	if (stream == NULL)
		return NULL;
	stream->request = request;
	stream->send_deadline = request->loop->now + SEND_TIMEOUT;
	request->response = gw_reply_stream(&request->ask, status, content_type, headers.data, headers.len,
										read_stream, stream, free_stream, &request->note);
	if (request->response == NULL)
		return NULL;
	/* The library would send the last chunk of a body that it does not send. */
	if (request->is_head)
		(void) MHD_set_response_options(request->response, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
	request->stream = stream;
	gw_metrics_add(&request->loop->metrics, GW_COUNT_STREAMS, 1);
	return stream;
}

void
gw_stream_push(struct GwStream *stream)
{
	if (stream->buffer.failed)
		stream->has_failed = true;
	if (!stream->is_suspended || stream->request == NULL)
		return;
	stream->is_suspended = false;
	expect(stream, 0);
	gw_loop_resume(stream->request->loop, stream->request->connection);
}

size_t
gw_stream_waiting(const struct GwStream *stream)
{
	return stream->buffer.len - stream->sent;
}

void
gw_stream_end(struct GwStream *stream)
{
	stream->has_ended = true;
	gw_stream_push(stream);
}

void
gw_stream_fail(struct GwStream *stream)
{
	stream->has_failed = true;
	gw_stream_push(stream);
}

void
gw_stream_detach(struct GwStream *stream)
{
	gw_metrics_add(&stream->request->loop->metrics, GW_COUNT_STREAMS, -1);
	stream->request = NULL;
}

/* The client has so long to take n bytes. */
static void
expect(struct GwStream *stream, size_t n)
{
	stream->send_deadline = stream->request->loop->now + SEND_TIMEOUT + GW_SECONDS(n) / SEND_RATE;
	gw_http_expect(stream->request->http, stream->send_deadline);
}

/* The library wants bytes for the client: some, the end, a failure, or suspended until there are some. */
static ssize_t
read_stream(void *cls, uint64_t position, char *buffer, size_t size)
{
	struct GwStream *stream = cls;
	struct GwRequest *request = stream->request;
	size_t n = gw_stream_waiting(stream);

	(void) position;
	if (request == NULL)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (stream->has_failed)
	{
		gw_http_break_off(request->http);
		return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	if (n == 0)
	{
		if (stream->has_ended)
			return MHD_CONTENT_READER_END_OF_STREAM;
		stream->is_suspended = true;
		stream->send_deadline = GW_NEVER;
		MHD_suspend_connection(request->connection);
		return 0;
	}
	if (n > size)
		n = size;
	memcpy(buffer, stream->buffer.data + stream->sent, n);
	stream->sent += n;
	request->note.bytes += n;
	expect(stream, n);
	if (stream->sent == stream->buffer.len)
		stream->sent = stream->buffer.len = 0;
	else if (stream->sent >= GW_STREAM_LOW)
	{
		stream->buffer.len -= stream->sent;
		memmove(stream->buffer.data, stream->buffer.data + stream->sent, stream->buffer.len);
		stream->sent = 0;
	}
	if (stream->drained != NULL && gw_stream_waiting(stream) < GW_STREAM_LOW)
		stream->drained(stream);
	return (ssize_t) n;
}

static void
free_stream(void *cls)
{
	struct GwStream *stream = cls;

	gw_text_free(&stream->buffer);
	free(stream);
}
