/*
 * clock.h
 *	  A clock of the kernel's, as one number.
 */
#ifndef KS_CLOCK_H
#define KS_CLOCK_H

#include <time.h>

/* Nanoseconds; safe in a signal handler, where clock_gettime() is. */
static inline int64
ks_clock_ns(clockid_t clock)
{
	struct timespec now;

	(void) clock_gettime(clock, &now);
	return now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

#endif /* KS_CLOCK_H */
