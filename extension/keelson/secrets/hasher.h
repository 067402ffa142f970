/*
 * hasher.h
 *	  The background worker that hashes passwords, out of the way of others.
 */
#ifndef KS_HASHER_H
#define KS_HASHER_H

#include "postgres.h"

extern void ks_hasher_init(void);
extern PGDLLEXPORT void ks_hasher_main(Datum arg);

#endif /* KS_HASHER_H */
