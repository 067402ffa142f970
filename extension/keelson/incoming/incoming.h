/*
 * incoming.h
 *	  Webhooks that others send to us: received, kept, handled.
 */
#ifndef KS_INCOMING_H
#define KS_INCOMING_H

#include "postgres.h"

/* The last of the workers' slots. */
#define KS_INCOMING_SLOT 15

extern void ks_incoming_init(void);
extern PGDLLEXPORT void ks_incoming_main(Datum arg);

#endif /* KS_INCOMING_H */
