/*
 * rows.c
 *	  Kind "rows": the reply is read from the database row by row and sent as it comes.
 *
 * The first row decides: a refusal becomes an ordinary reply, else its status
 * and headers open a stream and its body is the first chunk.  A client that
 * reads slowly stops the reading of rows, and through the socket the server.  An
 * error after the first row cuts the connection: the last chunk is missing, or,
 * where HTTP/1.0 knows no chunks, it is reset, so that the client can tell that
 * it has not got everything.
 */
#include "rows.h"

#include "answer.h"
#include "pool.h"
#include "stream.h"

static void take_row(struct GwCall *call, const PGresult *result);
static void begin_stream(struct GwRequest *request, const struct GwRow *row);
static void call_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result);
static void stream_is_drained(struct GwStream *stream);

void
gw_rows_prepare(struct GwRequest *request)
{
	request->call.is_streamed = true;
	request->call.row = take_row;
	request->call.done = call_ended;
	/* A slow reader keeps its connection: not one that others log in by. */
	if (request->call.kind == GW_CALL_DISPATCH && request->route->lane != GW_LANE_UPSTREAM)
		request->call.pool = request->loop->pools[GW_LANE_ROWS];
}

static void
take_row(struct GwCall *call, const PGresult *result)
{
	struct GwRequest *request = gw_container_of(call, struct GwRequest, call);
	struct GwStream *stream = request->stream;
	struct GwRow row;

	if (request->response != NULL && stream == NULL)
		return;
	if (!gw_call_row(result, 0, &row))
	{
		snprintf(request->error, sizeof(request->error), "keelson.dispatch returned another shape");
		if (stream != NULL)
			gw_stream_fail(stream);
		return;
	}
	if (stream == NULL && (row.status < 200 || row.status > 299))
	{
		request->response = gw_reply_row(&request->ask, row.status, row.headers.data, row.headers.len,
										 row.body.data, row.body.len, &request->note);
		return;
	}
	if (stream == NULL)
	{
		begin_stream(request, &row);
		stream = request->stream;
		if (stream == NULL)
			return;
	}
	if (row.body.data != NULL)
		gw_text_add(&stream->buffer, row.body.data, row.body.len);
	gw_stream_push(stream);
	if (gw_stream_waiting(stream) > GW_STREAM_HIGH)
		gw_pool_pause(call, true);
}

static void
begin_stream(struct GwRequest *request, const struct GwRow *row)
{
	struct GwStream *stream = gw_stream_begin(request, row->status, "application/json; charset=utf-8", row->headers);

	if (stream == NULL)
	{
		gw_pool_abandon(&request->call);
		gw_request_answer(request, NULL);
		return;
	}
	stream->drained = stream_is_drained;
	/* What is out is not taken back: if the connection dies now, the call is not sent again. */
	request->call.is_read = false;
	gw_request_answer(request, request->response);
}

static void
call_ended(struct GwCall *call, enum GwCallEnd end, const PGresult *result)
{
	struct GwRequest *request = gw_container_of(call, struct GwRequest, call);
	struct GwStream *stream = request->stream;

	request->database_us += request->loop->now - request->called_at;
	if (stream == NULL)
	{
		struct MHD_Response *response = request->response;

		if (response != NULL && end == GW_CALL_ANSWERED && gw_call_sqlstate(result) == NULL)
		{
			request->response = NULL;
			gw_request_answer(request, response);
		}
		else if (!gw_answer_is_retried(request, end, result))
		{
			gw_reply_drop(response);
			request->response = NULL;
			gw_request_answer(request, gw_answer_reply(request, end, result));
		}
		return;
	}
	if (end == GW_CALL_ANSWERED && gw_call_sqlstate(result) == NULL)
		gw_stream_end(stream);
	else
	{
		gw_answer_note_error(request->loop, request->error, result);
		gw_stream_fail(stream);
	}
}

static void
stream_is_drained(struct GwStream *stream)
{
	gw_pool_pause(&stream->request->call, false);
}
