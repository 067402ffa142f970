/*
 * locked.h
 *	  Pages for keys: never swapped, never in a core dump.
 */
#ifndef KS_LOCKED_H
#define KS_LOCKED_H

#include "postgres.h"

/*
 * Map zeroed pages of at least `size` bytes, shared with the children of this
 * process or private to it, for the life of the process. Returns NULL, with
 * errno set, when there is no memory. Locking them can fail for want of
 * RLIMIT_MEMLOCK: *is_locked (may be NULL) says; out of core dumps they stay.
 */
extern void *ks_locked_create(Size size, bool shared, bool *is_locked);

#endif /* KS_LOCKED_H */
