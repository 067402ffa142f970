/*
 * charge.c
 *	  Charge what is recorded to hard quotas.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "core/spi.h"
#include "tiers/quota.h"
#include "usage/charge.h"

static KsPlan charge_many_plan = {
	"select keelson._quota_charge_batch($1, $2, $3, $4)", 4, {UUIDARRAYOID, TEXTARRAYOID, NUMERICARRAYOID, TIMESTAMPTZARRAYOID}};

static int compare_charges(const void *a, const void *b);
static bool is_same_charge(const KsUsageEvent *a, const KsUsageEvent *b);
static bool is_any_hard(const KsUsageEvent **events, int count);
static void charge_many(const KsUsageEvent **events, int count);

void
ks_quota_charge(const KsUsageBatch *batch)
{
	const KsUsageEvent **events = palloc(batch->count * sizeof(KsUsageEvent *));
	int count = 0;

	for (int i = 0; i < batch->count; i++)
		if (!batch->events[i].is_duplicate)
			events[count++] = &batch->events[i];
	if (count == 1 && !events[0]->is_dated)
		ks_quota_charge_minutes(&events[0]->user_id, events[0]->feature, events[0]->minutes);
	else if (count > 0)
	{
		qsort(events, count, sizeof(KsUsageEvent *), compare_charges);
		if (is_any_hard(events, count))
			charge_many(events, count);
	}
}

/* By user and feature, what has no time of its own first. */
static int
compare_charges(const void *a, const void *b)
{
	const KsUsageEvent *left = *(const KsUsageEvent *const *) a;
	const KsUsageEvent *right = *(const KsUsageEvent *const *) b;
	text *left_feature = DatumGetTextPP(left->feature);
	text *right_feature = DatumGetTextPP(right->feature);
	int order = memcmp(&left->user_id, &right->user_id, UUID_LEN);

	if (order == 0)
		order = memcmp(VARDATA_ANY(left_feature), VARDATA_ANY(right_feature), Min(VARSIZE_ANY_EXHDR(left_feature), VARSIZE_ANY_EXHDR(right_feature)));
	if (order == 0)
		order = (int) VARSIZE_ANY_EXHDR(left_feature) - (int) VARSIZE_ANY_EXHDR(right_feature);
	return order != 0 ? order : (int) left->is_dated - (int) right->is_dated;
}

/* Are they charged together? */
static bool
is_same_charge(const KsUsageEvent *a, const KsUsageEvent *b)
{
	return !a->is_dated && !b->is_dated && compare_charges(&a, &b) == 0;
}

/* Has any of the users a hard limit? The events are sorted. */
static bool
is_any_hard(const KsUsageEvent **events, int count)
{
	for (int i = 0; i < count; i++)
		if ((i == 0 || memcmp(&events[i - 1]->user_id, &events[i]->user_id, UUID_LEN) != 0) && ks_quota_is_hard(&events[i]->user_id))
			return true;
	return false;
}

/* Charge the events of a batch, sorted: those that occur now added up by user and feature, the others with their time. */
static void
charge_many(const KsUsageEvent **events, int count)
{
	Datum *columns[4];
	Datum values[4];
	int charges = 0;

	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc(count * sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		if (i > 0 && is_same_charge(events[i - 1], events[i]))
		{
			columns[2][charges - 1] = DirectFunctionCall2(numeric_add, columns[2][charges - 1], events[i]->minutes);
			continue;
		}
		columns[0][charges] = UUIDPGetDatum(&events[i]->user_id);
		columns[1][charges] = events[i]->feature;
		columns[2][charges] = events[i]->minutes;
		columns[3][charges++] = TimestampTzGetDatum(events[i]->occurred_at);
	}
	values[0] = PointerGetDatum(construct_array(columns[0], charges, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[1] = PointerGetDatum(construct_array(columns[1], charges, TEXTOID, -1, false, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(columns[2], charges, NUMERICOID, -1, false, TYPALIGN_INT));
	values[3] = PointerGetDatum(construct_array(columns[3], charges, TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) ks_spi_execute(&charge_many_plan, values, NULL, false, 0);
}
