/*
 * admin.c
 *	  Limits by SQL: taking, giving back, and what the metrics show.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/inet.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/shmem.h"
#include "limits/load.h"
#include "limits/request.h"
#include "limits/store.h"
#include "limits/violations.h"

static const KsLimitRule *find_custom_rule(const char *name);

PG_FUNCTION_INFO_V1(ks_rate_limit_take);

/* keelson.rate_limit_take(name text, key text, cost int) */
Datum
ks_rate_limit_take(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text *key = PG_GETARG_TEXT_PP(1);
	int32 cost = PG_GETARG_INT32(2);
	const KsLimitRule *rule;
	KsPrincipal principal;

	if (cost < 1)
		ks_raise_field(400, "VALIDATION_FAILED", "cost", NULL, "a request costs at least 1");
	ks_require_shmem();
	rule = find_custom_rule(name);
	if (rule == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("rate limit \"%s\" of the class custom does not exist or is not enabled", name),
				 errhint("Make it with keelson.rate_limit_set().")));
	ks_principal(KS_PRINCIPAL_OTHER, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), &principal);
	ks_limits_take(rule, &principal, cost);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks_rate_limit_fits);

/* keelson._rate_limit_fits(name text, charge boolean) */
Datum
ks_rate_limit_fits(PG_FUNCTION_ARGS)
{
	const KsLimitRule *rule;

	ks_require_shmem();
	rule = find_custom_rule(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_BOOL(rule == NULL || ks_limits_fits(rule, PG_GETARG_BOOL(1)));
}

/* The limit of the class custom that is enabled under this name, or NULL. */
static const KsLimitRule *
find_custom_rule(const char *name)
{
	const KsLimitRules *rules = ks_limit_rules();

	for (int i = 0; i < rules->count; i++)
		if (rules->rules[i].counted_by == KS_BY_KEY && strcmp(rules->rules[i].name, name) == 0)
			return &rules->rules[i];
	return NULL;
}

PG_FUNCTION_INFO_V1(ks_rate_limit_refund);

/* keelson._rate_limit_refund(rate_class text) */
Datum
ks_rate_limit_refund(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	KsRateClass rate_class;

	if (!ks_rate_class_find(name, &rate_class))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rate class \"%s\" does not exist", name)));
	ks_limits_give_back(rate_class);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks_limits_status);

/* keelson._limits_status() */
Datum
ks_limits_status(PG_FUNCTION_ARGS)
{
	KsLimitStats stats;
	TupleDesc desc;
	Datum values[10];
	bool nulls[10] = {false};

	ks_require_shmem();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	ks_store_stats(&stats);
	values[0] = Int64GetDatum(stats.entries);
	values[1] = Int64GetDatum(stats.capacity);
	values[2] = Int64GetDatum(stats.admitted);
	values[3] = Int64GetDatum(stats.refused);
	values[4] = Int64GetDatum(stats.evicted[0]);
	values[5] = Int64GetDatum(stats.evicted[1]);
	values[6] = Int64GetDatum(stats.exhausted);
	values[7] = Int64GetDatum(ks_violations_exempted());
	values[8] = Int64GetDatum(ks_violations_merged());
	values[9] = Float8GetDatum(ks_load_pressure());
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

PG_FUNCTION_INFO_V1(ks_limit_left);

/* keelson._limit_left(most integer, rank integer, top_rank integer) */
Datum
ks_limit_left(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	PG_RETURN_INT32(ks_load_limit(PG_GETARG_INT32(0), PG_GETARG_INT32(1), PG_GETARG_INT32(2)));
}
