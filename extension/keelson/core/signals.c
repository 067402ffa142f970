/*
 * signals.c
 *	  Keeping the server's signals out of threads.
 *
 * The server's handlers are made for a process of one thread. A fault is no
 * signal that could wait: blocked, it ends the process without a word from
 * whoever would report it.
 */
#include "postgres.h"

#include <pthread.h>

#include "libpq/pqsignal.h"

#include "core/signals.h"

void
ks_signals_block(sigset_t *saved)
{
	/* All but faults, and in the server's children SIGQUIT. */
	sigset_t sent = BlockSig;

	sigaddset(&sent, SIGQUIT);
	pthread_sigmask(SIG_SETMASK, &sent, saved);
}

void
ks_signals_restore(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}
