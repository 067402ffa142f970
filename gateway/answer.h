/*
 * answer.h
 *	  What a request asks of the database, and what becomes of the answer.
 */
#ifndef GW_ANSWER_H
#define GW_ANSWER_H

#include "request.h"

/* Sends the request's call, suspended or about to be; ends in gw_request_answer(), now or later. */
void gw_answer_begin(struct GwRequest *request);

/* The call has to have ended by this time. */
int64_t gw_answer_deadline(const struct GwRequest *request);

/* Opens the timer of the pauses between tries. */
bool gw_answer_open_timer(struct GwRequest *request) __attribute__((warn_unused_result));

/* Makes the reply from the end of a call, or plans another try (true: nothing to answer yet). */
bool gw_answer_is_retried(struct GwRequest *request, enum GwCallEnd end, const PGresult *result);
struct MHD_Response *gw_answer_reply(struct GwRequest *request, enum GwCallEnd end, const PGresult *result);

/* Notes why a call failed, for the log. */
void gw_answer_note_error(struct GwLoop *loop, char error[GW_ERROR_SIZE], const PGresult *result);

/* The request does not wait any more, if it did. */
void gw_answer_end_wait(struct GwRequest *request);

/* From now on the call is a repetition that no rate limit counts. */
void gw_answer_mark_repeat(struct GwRequest *request);

#endif
