/*
 * fold.h
 *	  Folding: events become part of the rollups.
 */
#ifndef KS_USAGE_FOLD_H
#define KS_USAGE_FOLD_H

#include "postgres.h"

/* The advisory lock of whoever writes rollups. */
#define KS_USAGE_LOCK INT64CONST(0x4b656c736f6e5531)

/* Make the keeper fold now. */
extern void ks_fold_wake(void);

extern void ks_fold_init(void);

#endif /* KS_USAGE_FOLD_H */
