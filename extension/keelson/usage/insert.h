/*
 * insert.h
 *	  Inserting usage events into their partitions.
 */
#ifndef KS_USAGE_INSERT_H
#define KS_USAGE_INSERT_H

#include "postgres.h"

#include "usage/event.h"

/* Insert events of one day, in the current transaction; the next statement sees them. */
extern void ks_usage_insert(KsUsageEvent *const *events, int count);

#endif /* KS_USAGE_INSERT_H */
