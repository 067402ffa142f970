/*
 * trial.c
 *	  Decisions by SQL, at a time of the caller's choice, for tests and
 *	  benchmarks.
 *
 * The functions here are private: granted to nobody but the owner roles.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "limits/decide.h"
#include "limits/principal.h"

static int text_array(ArrayType *array, char **out);
static void int_array(ArrayType *array, int n, int64 *out);
static void fill(KsLimitRequest *request, const char *key, int64 most, int64 window_us, int64 cost, bool is_protected);
static void return_decision(ReturnSetInfo *rsinfo, bool admitted, const KsLimitDecision *decision);

PG_FUNCTION_INFO_V1(ks_limits_try);

/* keelson._limits_try(keys text[], most int[], window_us bigint[], costs int[], at_us bigint, is_protected boolean, charge boolean) */
Datum
ks_limits_try(PG_FUNCTION_ARGS)
{
	char *keys[KS_LIMITS_TOGETHER];
	int64 most[KS_LIMITS_TOGETHER];
	int64 windows[KS_LIMITS_TOGETHER];
	int64 costs[KS_LIMITS_TOGETHER];
	KsLimitRequest requests[KS_LIMITS_TOGETHER];
	KsLimitDecision decisions[KS_LIMITS_TOGETHER];
	int n = text_array(PG_GETARG_ARRAYTYPE_P(0), keys);
	bool admitted;

	int_array(PG_GETARG_ARRAYTYPE_P(1), n, most);
	int_array(PG_GETARG_ARRAYTYPE_P(2), n, windows);
	int_array(PG_GETARG_ARRAYTYPE_P(3), n, costs);
	for (int i = 0; i < n; i++)
		fill(&requests[i], keys[i], most[i], windows[i], costs[i], PG_GETARG_BOOL(5));
	admitted = ks_limits_decide_at(requests, n, PG_GETARG_BOOL(6), PG_GETARG_INT64(4), decisions);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
		return_decision((ReturnSetInfo *) fcinfo->resultinfo, admitted, &decisions[i]);
	return (Datum) 0;
}

/* The strings of the array; their number. */
static int
text_array(ArrayType *array, char **out)
{
	Datum *values;
	int n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &n);
	if (n > KS_LIMITS_TOGETHER)
		elog(ERROR, "too many limits: %d", n);
	for (int i = 0; i < n; i++)
		out[i] = TextDatumGetCString(values[i]);
	return n;
}

/* The n numbers of the array. */
static void
int_array(ArrayType *array, int n, int64 *out)
{
	Datum *values;
	int count;

	deconstruct_array(array, INT8OID, 8, true, TYPALIGN_DOUBLE, &values, NULL, &count);
	if (count != n)
		elog(ERROR, "the arrays differ in length");
	for (int i = 0; i < n; i++)
		out[i] = DatumGetInt64(values[i]);
}

static void
fill(KsLimitRequest *request, const char *key, int64 most, int64 window_us, int64 cost, bool is_protected)
{
	KsPrincipal principal;
	char *id = psprintf("%s:" INT64_FORMAT ":%d", key, window_us, most > KS_LIMITS_EXACT);

	ks_principal(KS_PRINCIPAL_OTHER, id, strlen(id), &principal);
	*request = (KsLimitRequest){
		.key = principal.key,
		.window_us = window_us,
		.most = (int32) most,
		.cost = (int32) cost,
		.is_coarse = most > KS_LIMITS_EXACT,
		.is_protected = is_protected,
	};
}

static void
return_decision(ReturnSetInfo *rsinfo, bool admitted, const KsLimitDecision *decision)
{
	Datum values[6] = {
		BoolGetDatum(admitted),
		BoolGetDatum(decision->fits),
		Int32GetDatum(decision->remaining),
		Int64GetDatum(decision->more_us),
		Int64GetDatum(decision->retry_us),
		Int64GetDatum(decision->charged),
	};
	bool nulls[6] = {false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(ks_limits_untry);

/* keelson._limits_refund(key text, most bigint, window_us bigint, cost bigint, charged bigint, is_protected boolean) */
Datum
ks_limits_untry(PG_FUNCTION_ARGS)
{
	KsLimitRequest request;
	KsLimitDecision decision = {.charged = PG_GETARG_INT64(4)};

	fill(&request, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT64(1), PG_GETARG_INT64(2), PG_GETARG_INT64(3), PG_GETARG_BOOL(5));
	ks_limits_refund(&request, &decision);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ks_limits_clock_sql);

/* keelson._limits_clock() */
Datum
ks_limits_clock_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(ks_limits_clock());
}

PG_FUNCTION_INFO_V1(ks_limits_speed);

/* keelson._limits_speed(rounds int, limits int, keys int, most int) */
Datum
ks_limits_speed(PG_FUNCTION_ARGS)
{
	int rounds = PG_GETARG_INT32(0);
	int n = PG_GETARG_INT32(1);
	int keys = PG_GETARG_INT32(2);
	KsLimitRequest requests[KS_LIMITS_TOGETHER];
	KsLimitDecision decisions[KS_LIMITS_TOGETHER];
	KsLimitKey limits[KS_LIMITS_TOGETHER];
	instr_time start;
	instr_time end;

	if (rounds < 1 || n < 1 || n > KS_LIMITS_TOGETHER || keys < 1)
		elog(ERROR, "there are rounds, keys, and 1 to %d limits", KS_LIMITS_TOGETHER);
	for (int i = 0; i < n; i++)
	{
		fill(&requests[i], psprintf("speed %d", i), PG_GETARG_INT32(3), 60000000, 1, false);
		limits[i] = requests[i].key;
	}
	INSTR_TIME_SET_CURRENT(start);
	for (int round = 0; round < rounds; round++)
	{
		int who = round % keys;
		KsPrincipal principal;

		/* As in a request: one digest, one decision of all limits. */
		ks_principal(KS_PRINCIPAL_OTHER, &who, sizeof(who), &principal);
		for (int i = 0; i < n; i++)
			requests[i].key = ks_principal_key(&principal, &limits[i]);
		ks_limits_decide(requests, n, true, decisions);
		if (round % 10000 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_DOUBLE(end) * 1e6 / rounds);
}
