/*
 * tiers.h
 *	  The tiers, and which one a user has.
 */
#ifndef KS_TIERS_H
#define KS_TIERS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

typedef enum KsTierLimitKind
{
	KS_LIMIT_UNIT,
	KS_LIMIT_FEATURE,
	KS_LIMIT_CAP
} KsTierLimitKind;

/* How much a tier has of something. */
typedef struct KsTierLimit
{
	KsTierLimitKind kind;
	const char *name;
	Datum amount; /* numeric */
	bool is_hard;
} KsTierLimit;

typedef struct KsTier
{
	const char *id;
	const char *name;
	int rank;
	int feature_count;
	const char **features;
	int limit_count;
	KsTierLimit *limits;
	bool has_hard_minutes; /* of the whole, or of any feature */
} KsTier;

/* A user's subscription as it is now, whether or not the clockwork has written it down. */
typedef struct KsSubscription
{
	const char *tier;
	const char *status;
	TimestampTz period_start;
	TimestampTz period_end;
	bool is_limited;
	Datum minutes_limit; /* numeric, when limited */
	bool is_hard;
	bool had_trial;
	TimestampTz trial_ends_at; /* if there was one */
	const char *time_zone;
} KsSubscription;

/* The tier with this id, or NULL. Like all tiers valid until the next call of any of these. */
extern const KsTier *ks_tier_find(const char *id, int len);

/* The tier that the user has now: by the subscription's row, else the default. */
extern const KsTier *ks_tier_of(const pg_uuid_t *user_id);

/* The limit, or NULL where the tier does not limit it. */
extern const KsTierLimit *ks_tier_limit(const KsTier *tier, KsTierLimitKind kind, const char *name);

/* Read a user's subscription, into the current context; of who has none it is the default's. */
extern void ks_subscription_read(const pg_uuid_t *user_id, KsSubscription *subscription);

#endif /* KS_TIERS_H */
