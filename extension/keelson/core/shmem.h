/*
 * shmem.h
 *	  Areas of shared memory, one for each who registers.
 */
#ifndef KS_SHMEM_H
#define KS_SHMEM_H

#include "postgres.h"

/*
 * Ask for an area of shared memory; called from a capability's init function.
 * When shared memory is made, *pointer is set, and init(area, found) fills the
 * area unless it was found filled. `name` must live for ever.
 */
extern void ks_shmem_register(const char *name, Size size, void (*init)(void *area, bool found), void **pointer);

/*
 * Raise an error that says what to set, unless the library was preloaded and
 * this is the database that Keelson lives in.
 */
extern void ks_require_shmem(void);

extern void ks_shmem_init(void);

#endif /* KS_SHMEM_H */
