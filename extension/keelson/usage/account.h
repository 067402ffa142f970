/*
 * account.h
 *	  What a user has used: rollups and the tail after the watermark, exact at
 *	  the snapshot of the statement that asks.
 */
#ifndef KS_USAGE_ACCOUNT_H
#define KS_USAGE_ACCOUNT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "core/roles.h"

typedef struct KsUsageSum
{
	Datum minutes; /* numeric, when there is anything */
	int64 requests;
} KsUsageSum;

typedef struct KsFeatureSum
{
	Datum feature; /* text */
	KsUsageSum sum;
} KsFeatureSum;

/* Sums by feature, in the order in which they were met. */
typedef struct KsFeatureSums
{
	KsFeatureSum *sums;
	int count;
	int room;
	int *places; /* by the hash of a feature's name: its number in sums, from 1 on; 0 for none. Twice as many as there is room for */
	KsUsageSum all;
} KsFeatureSums;

/* What a quarter of an hour, or a day, has of a feature. */
typedef struct KsUsagePart
{
	Datum feature; /* text */
	TimestampTz at;
	Datum minutes; /* numeric */
	int64 requests;
} KsUsagePart;

/* Parts that were read: a tail is the events after the watermark, one by one or by feature and quarter of an hour. */
typedef struct KsUsageParts
{
	KsUsagePart *parts;
	int count;
} KsUsageParts;

/* Takes one part; it is the reader's to keep. */
typedef void (*KsTakePart)(void *taker, const KsUsagePart *part);

/*
 * Begin to read, as keelson_system, and end: between them are all of these
 * called, inside SPI. What they read lives until SPI is finished.
 */
typedef struct KsAccount
{
	KsRoleSwitch save;
	int settings;
} KsAccount;

extern void ks_account_begin(KsAccount *account);
extern void ks_account_end(KsAccount *account);

extern void ks_usage_tail(const pg_uuid_t *user_id, KsUsageParts *tail);
extern void ks_usage_days(const pg_uuid_t *user_id, TimestampTz since, TimestampTz until, KsUsageParts *days);
/* The quarters of several times, which do not overlap. */
extern void ks_usage_quarters_in(const pg_uuid_t *user_id, const TimestampTz *since, const TimestampTz *until, int count, KsTakePart take, void *taker);
extern void ks_usage_totals(const pg_uuid_t *user_id, KsTakePart take, void *taker);

/* Hand over the parts of that time. */
extern void ks_usage_take(const KsUsageParts *parts, TimestampTz since, TimestampTz until, KsTakePart take, void *taker);

/* Add to a sum, in the current context. */
extern void ks_usage_add(KsUsageSum *sum, Datum minutes, int64 requests);

/* Take from a sum what was added to it, in the current context. */
extern void ks_usage_subtract(KsUsageSum *sum, Datum minutes, int64 requests);
extern void ks_feature_add(KsFeatureSums *sums, const KsUsagePart *part);

/*
 * What was used from since until until, both taken down to the quarter of an
 * hour: whole days of those given, which go from since's on, quarters of an hour
 * at the ends, the tail.
 */
extern void ks_usage_between(const pg_uuid_t *user_id, TimestampTz since, TimestampTz until, const KsUsageParts *tail, const KsUsageParts *days, KsTakePart take, void *taker);

/* The end of the last day in which anything can lie: some minutes from now. */
extern TimestampTz ks_usage_latest(void);

/* Taken down to the day. */
extern TimestampTz ks_day_floor(TimestampTz moment);

#endif /* KS_USAGE_ACCOUNT_H */
