/*
 * fence.h
 *	  Knowing that the database has come back from a backup.
 */
#ifndef KS_COURIER_FENCE_H
#define KS_COURIER_FENCE_H

#include "postgres.h"

/*
 * Raise the counter of starts, in the file and then in its row, and quarantine
 * what waits if the two say that the database was restored. Inside a
 * transaction of the first courier. False: the file cannot be written, and
 * nothing may be sent. `table` is keelson.courier_fence's.
 */
extern bool ks_fence_raise(Oid table);

/* Note in the file how far the database has come; only once the counter was raised, by this process or one before it. */
extern void ks_fence_note(void);

#endif /* KS_COURIER_FENCE_H */
