/*
 * charge.h
 *	  Charging quotas for what is recorded.
 */
#ifndef KS_USAGE_CHARGE_H
#define KS_USAGE_CHARGE_H

#include "postgres.h"

#include "usage/event.h"

/*
 * Charge the quotas of the users for the events that are no duplicates and lie
 * in the current period; 429 QUOTA_EXCEEDED over a hard one. Inside SPI.
 */
extern void ks_quota_charge(const KsUsageBatch *batch);

#endif /* KS_USAGE_CHARGE_H */
