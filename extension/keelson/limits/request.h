/*
 * request.h
 *	  What was decided for the running request.
 */
#ifndef KS_LIMITS_REQUEST_H
#define KS_LIMITS_REQUEST_H

#include "postgres.h"

#include "limits/limits.h"
#include "limits/principal.h"
#include "limits/rules.h"

/* A limit that the request meets, beside its request and decision. */
typedef struct KsLimitsItem
{
	char name[KS_LIMIT_NAME_LENGTH];
	int rate_class;
	int32 most; /* as written, without what load takes away */
	KsCountedBy counted_by;
	bool is_to_refund; /* when the transaction commits */
	uint8 partition_key[KS_PARTITION_KEY_LENGTH];
} KsLimitsItem;

/* A tier's id, as keelson.tiers has it, and its end. */
#define KS_TIER_LENGTH 41

typedef struct KsLimitsState
{
	bool is_open;    /* a request has begun */
	bool is_exempt;  /* nothing is counted */
	bool is_charged; /* decided for good */
	bool is_refused;
	bool is_shed;       /* refused only for the load that there is */
	bool is_repetition; /* the refusal need not be told again */
	bool is_blocked;    /* refused since the address is */
	int64 retry_us;     /* of a refusal; -1: never */
	int64 wait_us;      /* the gateway may hold the request so long and ask again; 0: not */
	KsLimitsRoute route;
	bool has_ip;
	bool has_email;
	bool has_user;
	uint8 ip[16];
	KsPrincipal by_ip;
	KsPrincipal by_email;
	KsPrincipal by_user;
	KsPrincipal by_key;
	char tier[KS_TIER_LENGTH]; /* the user's; empty: not asked for */
	int count;
	KsLimitsItem items[KS_LIMITS_TOGETHER];
	KsLimitRequest requests[KS_LIMITS_TOGETHER];
	KsLimitDecision decisions[KS_LIMITS_TOGETHER];
} KsLimitsState;

extern const KsLimitsState *ks_limits_state(void);

/* Charge a limit of the class custom; raises 429 when it has no room. */
extern void ks_limits_take(const KsLimitRule *rule, const KsPrincipal *principal, int32 cost);

/* Has a limit of the class custom room for one more of the request's address? With charge it is counted. */
extern bool ks_limits_fits(const KsLimitRule *rule, bool charge);

/* When the transaction commits, take back what the limits of the class were charged. */
extern void ks_limits_give_back(KsRateClass rate_class);

#endif /* KS_LIMITS_REQUEST_H */
