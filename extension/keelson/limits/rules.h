/*
 * rules.h
 *	  What the limits say: a copy of the tables in each backend's memory.
 */
#ifndef KS_LIMITS_RULES_H
#define KS_LIMITS_RULES_H

#include "postgres.h"

#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "limits/decide.h"
#include "limits/limits.h"

#define KS_LIMIT_NAME_LENGTH 41

typedef enum KsCountedBy
{
	KS_BY_CALLER,
	KS_BY_IP,
	KS_BY_EMAIL,
	KS_BY_KEY
} KsCountedBy;

/* What a limit says for somebody. */
typedef struct KsLimitTerms
{
	int32 most; /* 0: exempt */
	int64 window_us;
	KsLimitKey key; /* differs by limit, window and exactness */
} KsLimitTerms;

typedef struct KsTierTerms
{
	const char *tier;
	KsLimitTerms terms;
} KsTierTerms;

typedef struct KsLimitRule
{
	int number; /* in the rules */
	char name[KS_LIMIT_NAME_LENGTH];
	int rate_class; /* KsRateClass, or KS_RATE_CLASS_COUNT: custom */
	KsCountedBy counted_by;
	bool is_shadow;
	bool is_adaptive;
	KsLimitTerms terms;
	int tier_count;
	KsTierTerms *tiers;
} KsLimitRule;

typedef struct KsBlockRule
{
	bool is_enabled;
	KsLimitTerms terms;
} KsBlockRule;

typedef enum KsBlockSignal
{
	KS_BLOCK_REFUSALS,
	KS_BLOCK_ACCOUNTS,
	KS_BLOCK_SIGNAL_COUNT
} KsBlockSignal;

extern const char *const ks_block_signals[KS_BLOCK_SIGNAL_COUNT];

typedef struct KsTierRank
{
	const char *tier;
	int rank;
} KsTierRank;

typedef struct KsLimitRules
{
	int count;
	KsLimitRule *rules;
	KsBlockRule blocks[KS_BLOCK_SIGNAL_COUNT];
	int rank_count;
	KsTierRank *ranks;
	int top_rank;
	bool has_tier_terms; /* has any tier? */
	bool has_user_terms; /* has anybody terms of his own? */
} KsLimitRules;

/* The rules in force, enabled ones only. Valid until the next call. */
extern const KsLimitRules *ks_limit_rules(void);

/*
 * What the rule says for a user or, with a key, an access key of his; *own is
 * set when the key's own terms are it, which then has its own counter.
 */
extern KsLimitTerms ks_limit_terms(const KsLimitRules *rules, const KsLimitRule *rule, const KsLimitsSubject *who, bool *own);

extern int ks_tier_rank(const KsLimitRules *rules, const char *tier);

/* The key of a limit's terms. */
extern KsLimitKey ks_terms_key(const char *name, int64 window_us, int32 most);

#endif /* KS_LIMITS_RULES_H */
