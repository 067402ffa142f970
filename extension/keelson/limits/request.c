/*
 * request.c
 *	  The limits that one request meets: which they are, what was decided, and
 *	  what the reply says of it.
 *
 * Before authentication a request without a credential is decided for good; of
 * one with a credential only those limits are looked at that do not depend on
 * who it proves. Afterwards everything is decided together and charged together
 * or not at all, once per request. The state lasts until the transaction ends:
 * the headers need it, and so does what is to be given back when it commits.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/timestamp.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/identity.h"
#include "core/shmem.h"
#include "limits/limits.h"
#include "limits/load.h"
#include "limits/networks.h"
#include "limits/principal.h"
#include "limits/request.h"
#include "limits/rules.h"
#include "limits/store.h"
#include "limits/violations.h"

#define US_PER_SECOND INT64CONST(1000000)

/* How often the audit trail hears of refusals: of one caller, and of all. */
#define NEWS_OF_ONE_US (600 * US_PER_SECOND)
#define NEWS_OF_ALL 100
#define NEWS_OF_ALL_US (60 * US_PER_SECOND)

/* Written by begin, admit and take; cleared at the end of the transaction. */
static KsLimitsState state;

static void end_transaction(XactEvent event, void *arg);
static void forget(void);
static bool are_on(void);
static int32 number(const char *text);
static void note_repeated(int32 count);
static bool refuse_blocked(TimestampTz expires_at, KsLimitsRefusal *refusal);
static void set_email(const char *email);
static void collect(const KsLimitsSubject *who, bool only_unnamed);
static bool applies(const KsLimitRule *rule);
static const KsPrincipal *principal_of(const KsLimitRule *rule, const KsLimitsSubject *who, bool is_own);
static const KsPrincipal *user_principal(const KsLimitsSubject *who, bool is_own);
static void add_item(const KsLimitRule *rule, const KsLimitTerms *terms, const KsPrincipal *principal, int32 cost, int rank, int top_rank);
static bool decide(bool charge, const KsLimitsSubject *who, KsLimitsRefusal *refusal);
static void note_violations(const KsLimitsSubject *who, int from);
static void make_refusal(KsLimitsRefusal *refusal);
static bool is_news(const KsPrincipal *who);
static bool within(const KsBlockRule *rule, const KsPrincipal *principal, int32 count);
static void watch_refusals(int32 count);
static void watch_accounts(void);
static void refund(bool marked_only);

void
ks_limits_init(void)
{
	ks_store_init();
	ks_principal_init();
	ks_violations_init();
	ks_load_init();
	RegisterXactCallback(end_transaction, NULL);
}

/* What was given back takes effect when its reason has committed. */
static void
end_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			refund(true);
			forget();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget();
			break;
		default:
			break;
	}
}

/* The state of no request; what stands in the lists beyond their count does not matter. */
static void
forget(void)
{
	memset(&state, 0, offsetof(KsLimitsState, items));
}

/* Whatever was set before the environment was, limits hold in production. */
static bool
are_on(void)
{
	return ks_guc_rate_limits || ks_guc_environment == KS_PRODUCTION;
}

const KsLimitsState *
ks_limits_state(void)
{
	return &state;
}

bool
ks_limits_begin(const KsLimitsRoute *route, const char *email, bool has_credential, KsLimitsRefusal *refusal)
{
	const char *ip = ks_caller()->ip;
	TimestampTz expires_at;

	ks_require_shmem();
	if (ks_caller()->queue != NULL)
		ks_load_queue(number(ks_caller()->queue));
	forget();
	state.is_open = true;
	state.route = *route;
	state.has_ip = ip != NULL && ks_ip_parse(ip, state.ip);
	if (state.has_ip && ks_network_is_blocked(state.ip, &expires_at))
		return refuse_blocked(expires_at, refusal);
	if (ks_caller()->repeat != NULL)
	{
		state.is_exempt = true;
		return true;
	}
	if (!are_on() || (state.has_ip && ks_network_is_exempt(state.ip)))
	{
		state.is_exempt = true;
		ks_violation_exempt();
		return true;
	}
	if (state.has_ip)
		ks_ip_principal(state.ip, &state.by_ip);
	if (ks_caller()->held != NULL)
		note_repeated(number(ks_caller()->held));
	if (email != NULL)
		set_email(email);
	collect(NULL, has_credential);
	state.is_charged = !has_credential;
	return decide(!has_credential, NULL, refusal);
}

/* A number that the gateway tells; it is not worth an error. */
static int32
number(const char *text)
{
	return Min(Max(strtol(text, NULL, 10), 0), KS_LIMITS_MOST);
}

/* The gateway has repeated refusals: they count as if they had been asked for here. */
static void
note_repeated(int32 count)
{
	if (count == 0)
		return;
	ks_violation_add(NULL, state.has_ip ? state.ip : NULL, state.route.id, KS_VIOLATION_REPEATED, false, count);
	if (state.has_ip)
		watch_refusals(count);
}

static bool
refuse_blocked(TimestampTz expires_at, KsLimitsRefusal *refusal)
{
	state.is_blocked = true;
	state.retry_us = TIMESTAMP_IS_NOEND(expires_at) ? -1 : Max(expires_at - GetCurrentTimestamp(), US_PER_SECOND);
	ks_violation_add(NULL, state.ip, state.route.id, KS_VIOLATION_BLOCK, false, 1);
	ks_ip_principal(state.ip, &state.by_ip);
	state.is_repetition = !is_news(&state.by_ip);
	*refusal = (KsLimitsRefusal){403, "IP_BLOCKED", "requests from your address are refused", NULL};
	return false;
}

/* An e-mail address counts as what it is folded to where users are looked up. */
static void
set_email(const char *email)
{
	char *folded = str_tolower(email, strlen(email), C_COLLATION_OID);

	state.has_email = true;
	ks_principal(KS_PRINCIPAL_EMAIL, folded, strlen(folded), &state.by_email);
	pfree(folded);
}

bool
ks_limits_by_tier(void)
{
	const KsLimitRules *rules = ks_limit_rules();

	return rules->has_tier_terms || (rules->rank_count > 0 && ks_load_pressure() > 0);
}

bool
ks_limits_admit(const KsLimitsSubject *who, KsLimitsRefusal *refusal)
{
	if (state.is_exempt || state.is_charged)
		return true;
	state.has_user = false;
	if (who != NULL && who->tier != NULL)
		strlcpy(state.tier, who->tier, sizeof(state.tier));
	collect(who, false);
	state.is_charged = true;
	return decide(true, who, refusal);
}

/*
 * Gather the limits that the request meets. `only_unnamed`: those alone for
 * which it does not matter who is calling.
 */
static void
collect(const KsLimitsSubject *who, bool only_unnamed)
{
	const KsLimitRules *rules = ks_limit_rules();
	int rank = ks_tier_rank(rules, who ? who->tier : NULL);
	bool has_exemption = false;

	state.count = 0;
	for (int i = 0; i < rules->count; i++)
	{
		const KsLimitRule *rule = &rules->rules[i];
		const KsPrincipal *principal;
		KsLimitTerms terms;
		bool is_own;

		if (!applies(rule) || (only_unnamed && rule->counted_by == KS_BY_CALLER))
			continue;
		terms = ks_limit_terms(rules, rule, who, &is_own);
		principal = principal_of(rule, who, is_own);
		if (terms.most == 0)
			has_exemption = true;
		else if (principal != NULL)
			add_item(rule, &terms, principal, state.route.cost, rank, rules->top_rank);
	}
	if (has_exemption)
		ks_violation_exempt();
}

static bool
applies(const KsLimitRule *rule)
{
	return rule->rate_class == KS_RATE_GENERAL || rule->rate_class == (int) state.route.rate_class;
}

/* Whom the rule counts here, or NULL where it counts nobody. */
static const KsPrincipal *
principal_of(const KsLimitRule *rule, const KsLimitsSubject *who, bool is_own)
{
	switch (rule->counted_by)
	{
		case KS_BY_CALLER:
			if (who != NULL && who->user_id != NULL)
				return user_principal(who, is_own);
			return state.has_ip ? &state.by_ip : NULL;
		case KS_BY_IP:
			return state.has_ip ? &state.by_ip : NULL;
		case KS_BY_EMAIL:
			return state.has_email ? &state.by_email : NULL;
		case KS_BY_KEY:
			break;
	}
	return NULL;
}

/* The user or, where it has terms of its own, the access key. */
static const KsPrincipal *
user_principal(const KsLimitsSubject *who, bool is_own)
{
	if (is_own)
	{
		ks_principal(KS_PRINCIPAL_ACCESS_KEY, who->access_key_id, sizeof(pg_uuid_t), &state.by_key);
		return &state.by_key;
	}
	if (!state.has_user)
		ks_principal(KS_PRINCIPAL_USER, who->user_id, sizeof(pg_uuid_t), &state.by_user);
	state.has_user = true;
	return &state.by_user;
}

static void
add_item(const KsLimitRule *rule, const KsLimitTerms *terms, const KsPrincipal *principal, int32 cost, int rank, int top_rank)
{
	int32 most = rule->is_adaptive ? ks_load_limit(terms->most, rank, top_rank) : terms->most;
	KsLimitsItem *item = &state.items[state.count];

	if (state.count == KS_LIMITS_TOGETHER)
		elog(ERROR, "a request meets too many rate limits");
	strlcpy(item->name, rule->name, sizeof(item->name));
	item->rate_class = rule->rate_class;
	item->most = terms->most;
	item->counted_by = rule->counted_by;
	item->is_to_refund = false;
	memcpy(item->partition_key, principal->partition_key, sizeof(item->partition_key));
	state.requests[state.count++] = (KsLimitRequest){
		.key = ks_principal_key(principal, &terms->key),
		.window_us = terms->window_us,
		.most = most,
		/* What costs more than the whole limit takes the whole limit. */
		.cost = Min(cost, most),
		.is_coarse = terms->most > KS_LIMITS_EXACT,
		.is_protected = rule->rate_class == KS_RATE_AUTH || rule->rate_class == KS_RATE_RESET,
		.is_shadow = rule->is_shadow,
	};
}

static bool
decide(bool charge, const KsLimitsSubject *who, KsLimitsRefusal *refusal)
{
	state.is_refused = !ks_limits_decide(state.requests, state.count, charge, state.decisions);
	if (charge || state.is_refused)
		note_violations(who, 0);
	if (state.is_refused)
	{
		make_refusal(refusal);
		state.is_repetition = !is_news(state.has_user ? &state.by_user : &state.by_ip);
		if (state.has_ip && state.wait_us == 0)
			watch_refusals(1);
		return false;
	}
	if (charge && state.has_ip && state.has_email && state.route.rate_class == KS_RATE_AUTH)
		watch_accounts();
	return true;
}

/* Count what was refused, or would have been, from this item on. */
static void
note_violations(const KsLimitsSubject *who, int from)
{
	const pg_uuid_t *user_id = who ? who->user_id : NULL;
	int64 retry_us = 0;

	for (int i = from; i < state.count; i++)
		if (!state.decisions[i].fits && !state.requests[i].is_shadow)
			retry_us = Max(retry_us, state.decisions[i].retry_us);
	state.retry_us = retry_us;
	state.wait_us = retry_us <= state.route.wait_ms * INT64CONST(1000) ? retry_us : 0;
	for (int i = from; i < state.count; i++)
		if (!state.decisions[i].fits && (state.requests[i].is_shadow || state.wait_us == 0))
			ks_violation_add(user_id, state.has_ip ? state.ip : NULL, state.route.id, state.items[i].name, state.requests[i].is_shadow, 1);
}

static void
make_refusal(KsLimitsRefusal *refusal)
{
	StringInfoData extra;
	const char *separator = "";

	state.is_shed = true;
	initStringInfo(&extra);
	appendStringInfoString(&extra, ",\"violated-policies\":[");
	for (int i = 0; i < state.count; i++)
	{
		if (state.decisions[i].fits || state.requests[i].is_shadow)
			continue;
		appendStringInfo(&extra, "%s\"%s\"", separator, state.items[i].name);
		separator = ",";
		state.is_shed &= state.decisions[i].used + state.requests[i].cost <= state.items[i].most;
	}
	appendStringInfoChar(&extra, ']');
	*refusal = (KsLimitsRefusal){
		.status = state.is_shed ? 503 : 429,
		.code = state.is_shed ? "UNAVAILABLE" : "RATE_LIMITED",
		.message = state.is_shed ? "the service is busy, try again soon" : "too many requests",
		.extra = extra.data,
	};
}

/* Count for a rule of automatic blocks; false when that is one too many. */
static bool
within(const KsBlockRule *rule, const KsPrincipal *principal, int32 count)
{
	KsLimitRequest request = {
		.key = ks_principal_key(principal, &rule->terms.key),
		.window_us = rule->terms.window_us,
		.most = rule->terms.most,
		.cost = count,
		.is_coarse = rule->terms.most > KS_LIMITS_EXACT,
		.is_protected = true,
	};
	KsLimitDecision decision;

	return ks_limits_decide(&request, 1, true, &decision);
}

/*
 * Is a refusal of this caller worth telling? Once in a while, and all callers
 * together not too often.
 */
static bool
is_news(const KsPrincipal *who)
{
	static const KsPrincipal everybody = {{0, 0}};
	const KsPrincipal *whom[] = {who, &everybody};
	const KsLimitTerms terms[] = {
		{.most = 1, .window_us = NEWS_OF_ONE_US},
		{.most = NEWS_OF_ALL, .window_us = NEWS_OF_ALL_US},
	};
	KsLimitRequest requests[lengthof(terms)];
	KsLimitDecision decisions[lengthof(terms)];

	for (int i = 0; i < lengthof(terms); i++)
	{
		KsLimitKey key = ks_terms_key("news", terms[i].window_us, terms[i].most);

		requests[i] = (KsLimitRequest){
			.key = ks_principal_key(whom[i], &key),
			.window_us = terms[i].window_us,
			.most = terms[i].most,
			.cost = 1,
		};
	}
	return ks_limits_decide(requests, lengthof(requests), true, decisions);
}

bool
ks_limits_is_repetition(void)
{
	return state.is_repetition;
}

/* Block an address that goes on and on although it is refused. */
static void
watch_refusals(int32 count)
{
	const KsBlockRule *rule = &ks_limit_rules()->blocks[KS_BLOCK_REFUSALS];

	if (rule->is_enabled && !ks_ip_is_loopback(state.ip) && !within(rule, &state.by_ip, count))
		ks_block_request(state.ip, KS_BLOCK_REFUSALS);
}

/*
 * Block an address that tries many accounts. A pair of address and account
 * counts once a window: that is a limit of one, too.
 */
static void
watch_accounts(void)
{
	const KsBlockRule *rule = &ks_limit_rules()->blocks[KS_BLOCK_ACCOUNTS];
	KsBlockRule once = {.terms = {.most = 1}};
	struct
	{
		KsLimitKey ip;
		KsLimitKey email;
	} pair = {state.by_ip.key, state.by_email.key};
	KsPrincipal account;

	if (!rule->is_enabled || ks_ip_is_loopback(state.ip))
		return;
	ks_principal(KS_PRINCIPAL_ACCOUNT, &pair, sizeof(pair), &account);
	once.terms.window_us = rule->terms.window_us;
	once.terms.key = rule->terms.key;
	if (within(&once, &account, 1) && !within(rule, &state.by_ip, 1))
		ks_block_request(state.ip, KS_BLOCK_ACCOUNTS);
}

void
ks_limits_take(const KsLimitRule *rule, const KsPrincipal *principal, int32 cost)
{
	const KsIdentity *identity = ks_identity();
	KsLimitsSubject who = {
		.user_id = identity->has_user ? &identity->user_id : NULL,
		.access_key_id = identity->has_access_key ? &identity->access_key_id : NULL,
		.tier = state.is_open && state.tier[0] != '\0' ? state.tier : NULL};
	const KsLimitRules *rules = ks_limit_rules();
	KsLimitsRefusal refusal;
	KsLimitTerms terms;
	bool is_own;
	int place;

	if (!are_on() || (state.is_open && state.is_exempt))
		return;
	terms = ks_limit_terms(rules, rule, &who, &is_own);
	if (terms.most == 0)
		return;
	/* One after another: only the latest has to be told. */
	if (state.count == KS_LIMITS_TOGETHER)
		state.count--;
	place = state.count;
	add_item(rule, &terms, principal, cost, 0, 0);
	if (ks_limits_decide(&state.requests[place], 1, true, &state.decisions[place]))
		return;
	state.is_refused = true;
	note_violations(&who, place);
	make_refusal(&refusal);
	state.is_repetition = !is_news(principal);
	ks_raise(refusal.status, refusal.code, psprintf("Try again in %d seconds.", (int) ((state.retry_us + US_PER_SECOND - 1) / US_PER_SECOND)), "%s", refusal.message);
}

bool
ks_limits_fits(const KsLimitRule *rule, bool charge)
{
	KsLimitRequest request = {
		.window_us = rule->terms.window_us,
		.most = rule->terms.most,
		.cost = 1,
		.is_coarse = rule->terms.most > KS_LIMITS_EXACT,
		.is_protected = true,
	};
	KsLimitDecision decision;

	if (!are_on() || !state.has_ip || state.is_exempt)
		return true;
	request.key = ks_principal_key(&state.by_ip, &rule->terms.key);
	return ks_limits_decide(&request, 1, charge, &decision);
}

void
ks_limits_give_back(KsRateClass rate_class)
{
	for (int i = 0; i < state.count; i++)
		if (state.items[i].rate_class == (int) rate_class)
			state.items[i].is_to_refund = true;
}

void
ks_limits_undo(void)
{
	refund(false);
}

/* Take back what was charged, or what of it has been marked. */
static void
refund(bool marked_only)
{
	for (int i = 0; i < state.count; i++)
	{
		if (marked_only && !state.items[i].is_to_refund)
			continue;
		ks_limits_refund(&state.requests[i], &state.decisions[i]);
		state.decisions[i].charged = -1;
	}
}
