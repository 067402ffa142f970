/*
 * question.h
 *	  What the database is asked for /ready, /health and /metrics, once for all who wait.
 *
 *		IDLE ──► ASKING ──► RESTING ──► IDLE, or ASKING for those who came meanwhile
 *
 * Anybody may ask, and an answer costs the database more than most requests do.
 * So a loop has one question of a kind under way at a time, and a rest behind
 * it. Whoever asks meanwhile gets the answer of the next: one that began after
 * they had asked, since who has changed something looks whether it can be seen.
 */
#ifndef GW_QUESTION_H
#define GW_QUESTION_H

#include "call.h"
#include "timer.h"

struct GwLoop;
struct GwRequest;

/* Requests, in the order in which they came. */
struct GwAskers
{
	struct GwRequest *first, *last;
};

struct GwQuestion
{
	struct GwLoop *loop;
	struct GwCall call;
	struct GwTimer timer;   /* RESTING: until then; ASKING: another lane is asked next */
	struct GwAskers asking; /* who gets the answer of what is under way; none: IDLE or RESTING */
	struct GwAskers later;  /* who came since */
	int64_t called_at;
};

/* Opens the loop's questions; false when there is no memory. */
bool gw_questions_open(struct GwLoop *loop) __attribute__((warn_unused_result));

/* Asks for the request to one of the gateway's own endpoints; ends in gw_request_answer(), now or later. */
void gw_question_ask(struct GwRequest *request);

/* The request does not wait for an answer any more, if it did. */
void gw_question_leave(struct GwRequest *request);

/* Says whether the database works at the answer for the request. */
bool gw_question_is_sent(const struct GwRequest *request);

#endif
