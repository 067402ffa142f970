/*
 * charge.h
 *	  Charging quotas for what is recorded, and the period of a user: what this
 *	  capability asks of the one that keeps tiers.
 */
#ifndef KS_USAGE_CHARGE_H
#define KS_USAGE_CHARGE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "usage/event.h"

/* A user's current period. The strings and numbers live in the caller's context. */
typedef struct KsUsagePeriod
{
	const char *tier; /* NULL without one */
	TimestampTz start;
	TimestampTz end;
	bool is_limited;
	Datum minutes_limit; /* numeric, when limited */
	const char *time_zone;
} KsUsagePeriod;

/*
 * Charge the quotas of the users for the events that are no duplicates and lie
 * in the current period; 429 QUOTA_EXCEEDED over a hard one. Inside SPI.
 */
extern void ks_quota_charge(const KsUsageBatch *batch);

/* Read the user's period as of now. Inside SPI, as keelson_system. */
extern void ks_usage_period(const pg_uuid_t *user_id, KsUsagePeriod *period, MemoryContext cxt);

#endif /* KS_USAGE_CHARGE_H */
