/*
 * timeout.h
 *	  The time that an endpoint's function may take.
 */
#ifndef KS_TIMEOUT_H
#define KS_TIMEOUT_H

#include "postgres.h"

/* Cancel the statement after so many milliseconds, until ks_timeout_end(). */
extern void ks_timeout_begin(int milliseconds);

/* Returns whether the time has passed; nothing is cancelled for it any more. Harmless when none was begun. */
extern bool ks_timeout_end(void);

#endif /* KS_TIMEOUT_H */
