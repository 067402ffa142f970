/*
 * signals.h
 *	  Keeping the server's signals out of threads.
 */
#ifndef KS_SIGNALS_H
#define KS_SIGNALS_H

#include <signal.h>

/*
 * Block every signal that somebody sends while a thread is started, which
 * inherits the mask, or while a library runs that starts some; and unblock.
 * What a fault raises stays unblocked: a sanitizer reports it then.
 */
extern void ks_signals_block(sigset_t *saved);
extern void ks_signals_restore(const sigset_t *saved);

#endif /* KS_SIGNALS_H */
