/*
 * days.h
 *	  Which days' partitions may hold events that are not sealed.
 */
#ifndef KS_AUDIT_DAYS_H
#define KS_AUDIT_DAYS_H

#include "postgres.h"

/*
 * An event of that day (since 1970) was inserted; called by whoever inserts
 * it, with a transaction id and before the transaction ends.
 */
extern void ks_audit_day_written(int64 day);

extern void ks_audit_days_init(void);

#endif /* KS_AUDIT_DAYS_H */
