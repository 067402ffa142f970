/*
 * quota.h
 *	  Charging usage to hard quotas.
 */
#ifndef KS_TIERS_QUOTA_H
#define KS_TIERS_QUOTA_H

#include "postgres.h"

#include "utils/uuid.h"

/* Does the user's tier have a hard limit of minutes, of the whole or of any feature? */
extern bool ks_quota_is_hard(const pg_uuid_t *user_id);

/* Charge minutes of a feature, used now, where a hard limit counts them; 429 QUOTA_EXCEEDED when they do not fit. */
extern void ks_quota_charge_minutes(const pg_uuid_t *user_id, Datum feature, Datum minutes);

#endif /* KS_TIERS_QUOTA_H */
