/*
 * request.h
 *	  A request, from its first byte to the last of its reply.
 *
 *		NEW ──► RECEIVING ──► CALLING ◄──► WAITING (to try again)
 *		 │          │            │
 *		 │          │            ├──► STREAMING ──► completed
 *		 ▼          ▼            ▼
 *		 ANSWERED (a reply is made) ──► REPLYING (it is sent) ──► completed
 *
 * CALLING and WAITING are suspended: the library leaves the connection alone
 * until the loop resumes it.  The request owns all that it allocates and is
 * freed in one place, the library's completed callback.
 */
#ifndef GW_REQUEST_H
#define GW_REQUEST_H

#include "builtin.h"
#include "call.h"
#include "client.h"
#include "head.h"
#include "http.h"
#include "reply.h"

#define GW_ERROR_SIZE 256

/* What a request that is kept for the next one may hold in each of its buffers. */
#define GW_REQUEST_SPARE ((size_t) 16 * 1024)

enum GwRequestState
{
	GW_REQUEST_NEW,
	GW_REQUEST_RECEIVING,
	GW_REQUEST_CALLING,
	GW_REQUEST_WAITING,
	GW_REQUEST_ANSWERED,
	GW_REQUEST_REPLYING,
	GW_REQUEST_STREAMING
};

struct GwRequest
{
	enum GwRequestState state;
	struct GwHttp *http;
	struct GwLoop *loop;
	struct MHD_Connection *connection;
	struct GwRequest *next_spare;
	bool is_active;                   /* counted; its head has been read */
	bool is_suspended, was_suspended; /* the connection, now or ever */
	bool is_head;                     /* HEAD: the reply has no body */
	int64_t started_at;
	int64_t deadline; /* of the present state */

	const char *method; /* the library's */
	struct GwHead head;
	struct GwClient client;
	char request_id[GW_UUID_SIZE];
	char traceparent[GW_TRACE_SIZE];

	enum GwBuiltin builtin;
	struct GwRoutes *routes;     /* referenced, for "route" */
	const struct GwRoute *route; /* NULL for built-in endpoints and refusals */

	bool has_body;
	uint64_t declared; /* Content-Length; 0 when chunked */
	char *body;        /* kept for the next request while small */
	size_t body_len, body_size;

	struct GwText params;                    /* credential, path and query, caller: each with its NUL, at: */
	long credential_at, query_at, caller_at; /* -1: null */
	struct GwCall call;
	struct GwTimer retry;
	int attempts; /* of all kinds */
	int retries;  /* of those, after a race was lost */
	int64_t called_at;
	int64_t database_us;         /* -1: not asked */
	struct GwQuestion *question; /* to one of our own endpoints: whose answer it waits for */
	struct GwRequest *previous_asker, *next_asker;
	uint64_t held;   /* refusals that were repeated to this caller and are over */
	bool is_waiting; /* for room under a rate limit; counted */
	int64_t waited_us;

	struct GwText fields, reply_body; /* of the reply; kept for the next request while small */
	size_t reply_held;                /* counted by the loop while it is sent */
	struct GwAsk ask;
	struct GwNote note;
	struct MHD_Response *response; /* made, not yet queued */
	struct GwStream *stream;       /* the response's; it outlives the request by a little */
	struct GwWatcher *watcher;
	struct GwPerIpKey stream_key; /* the address that the event stream, or what may become one, counts for */
	bool is_stream_counted;
	char error[GW_ERROR_SIZE]; /* for the log only */
};

/* Callbacks of the library; cls is the loop. */
void *gw_request_born(void *cls, const char *target, struct MHD_Connection *connection);
enum MHD_Result gw_request_handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
								  const char *version, const char *data, size_t *data_len, void **context);
void gw_request_completed(void *cls, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode code);

/* For its connection. */
bool gw_request_is_active(const struct GwRequest *request);
int64_t gw_request_deadline(const struct GwRequest *request);
void gw_request_overdue(struct GwRequest *request);

/* The loop drains: ends what would go on for ever; or, at last, everything. */
void gw_request_drain(struct GwLoop *loop, bool is_last);
void gw_request_free_spare(struct GwLoop *loop);

/* Takes the call's answer as the reply (answer.c); the connection goes on. */
void gw_request_answer(struct GwRequest *request, struct MHD_Response *response);
void gw_request_refuse(struct GwRequest *request, enum GwCode code, const char *message);
void gw_request_expect(struct GwRequest *request, int64_t deadline);

#endif
