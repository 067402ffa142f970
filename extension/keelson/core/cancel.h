/*
 * cancel.h
 *	  Cancelling the statement when a time of ours is over.
 */
#ifndef KS_CANCEL_H
#define KS_CANCEL_H

/* Cancel the statement, as by the user (57014). For a timeout's handler: it runs in a signal handler. */
extern void ks_cancel_statement(void);

/* Take the cancel back, if it has hit nothing yet: what comes next is not to be hit. Once the timeout is disabled. */
extern void ks_cancel_forget(void);

#endif /* KS_CANCEL_H */
