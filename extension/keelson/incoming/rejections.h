/*
 * rejections.h
 *	  Counting requests whose signature was refused, without a row for each.
 */
#ifndef KS_INCOMING_REJECTIONS_H
#define KS_INCOMING_REJECTIONS_H

#include "postgres.h"

extern void ks_rejections_init(void);

/* Write down in the database what has been counted since; in the worker, outside of any transaction. */
extern void ks_rejections_flush(void);

#endif /* KS_INCOMING_REJECTIONS_H */
