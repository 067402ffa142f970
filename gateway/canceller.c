/*
 * canceller.c
 *	  The thread that sends cancel requests, which libpq can only do blocking.
 *
 * A request names the link only to tell its loop afterwards; what is needed to
 * cancel is copied out of the connection first, so that the link may be lost
 * and connected again meanwhile.  The loops outlive this thread.
 */
#include "canceller.h"

#include <stdlib.h>

struct Request
{
	struct Request *next;
	PGcancel *cancel;
	struct GwLoop *loop;
	struct GwMail *mail;
};

struct GwCanceller
{
	pthread_t thread;
	pthread_mutex_t lock; /* over all below */
	pthread_cond_t has_work;
	struct Request *first, **last;
	bool is_stopping;
};

static void *canceller_main(void *argument);
static struct Request *next_request(struct GwCanceller *canceller);

struct GwCanceller *
gw_canceller_start(void)
{
	struct GwCanceller *canceller = calloc(1, sizeof(*canceller));

	if (canceller == NULL)
		return NULL;
	canceller->last = &canceller->first;
	pthread_mutex_init(&canceller->lock, NULL);
	pthread_cond_init(&canceller->has_work, NULL);
	if (pthread_create(&canceller->thread, NULL, canceller_main, canceller) != 0)
	{
		pthread_cond_destroy(&canceller->has_work);
		pthread_mutex_destroy(&canceller->lock);
		free(canceller);
		return NULL;
	}
	return canceller;
}

/* Cancels what the link's server runs now; link->cancelled is delivered in any case. */
void
gw_canceller_send(struct GwCanceller *canceller, struct GwLink *link)
{
	struct Request *request = malloc(sizeof(*request));

	if (request == NULL)
	{
		gw_loop_post(link->loop, &link->cancelled);
		return;
	}
	*request = (struct Request){.cancel = PQgetCancel(link->connection), .loop = link->loop, .mail = &link->cancelled};
	pthread_mutex_lock(&canceller->lock);
	*canceller->last = request;
	canceller->last = &request->next;
	pthread_cond_signal(&canceller->has_work);
	pthread_mutex_unlock(&canceller->lock);
}

/* Sends what is waiting and ends the thread. */
void
gw_canceller_stop(struct GwCanceller *canceller)
{
	if (canceller == NULL)
		return;
	pthread_mutex_lock(&canceller->lock);
	canceller->is_stopping = true;
	pthread_cond_signal(&canceller->has_work);
	pthread_mutex_unlock(&canceller->lock);
	pthread_join(canceller->thread, NULL);
	pthread_cond_destroy(&canceller->has_work);
	pthread_mutex_destroy(&canceller->lock);
	free(canceller);
}

static void *
canceller_main(void *argument)
{
	struct GwCanceller *canceller = argument;
	struct Request *request;

	while ((request = next_request(canceller)) != NULL)
	{
		char fault[256];

		if (request->cancel != NULL)
			(void) PQcancel(request->cancel, fault, sizeof(fault));
		PQfreeCancel(request->cancel);
		gw_loop_post(request->loop, request->mail);
		free(request);
	}
	return NULL;
}

/* Waits for a request; NULL when the thread is to end. */
static struct Request *
next_request(struct GwCanceller *canceller)
{
	struct Request *request;

	pthread_mutex_lock(&canceller->lock);
	while (canceller->first == NULL && !canceller->is_stopping)
		pthread_cond_wait(&canceller->has_work, &canceller->lock);
	request = canceller->first;
	if (request != NULL)
	{
		canceller->first = request->next;
		if (canceller->first == NULL)
			canceller->last = &canceller->first;
	}
	pthread_mutex_unlock(&canceller->lock);
	return request;
}
