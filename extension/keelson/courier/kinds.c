/*
 * kinds.c
 *	  The registry of kinds, and calling them so that one delivery's error is
 *	  its own.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "courier/kinds.h"

#define MAX_KINDS 16

/* Filled while the library is loaded, fixed afterwards. */
static const KsCourierKind *kinds[MAX_KINDS];
static int kind_count;

typedef void (*Step)(KsDelivery **deliveries, int count);

static void build_unknown(KsDelivery **deliveries, int count);
static const char *try(Step step, KsDelivery **deliveries, int count);
static void each_kind(KsDelivery **deliveries, int count, void (*run)(const KsCourierKind *kind, KsDelivery **these, int count));
static void build_kind(const KsCourierKind *kind, KsDelivery **these, int count);
static void settle_kind(const KsCourierKind *kind, KsDelivery **these, int count);

/* Of deliveries that a newer version of the code, or a module that is gone, has left. */
static const KsCourierKind unknown = {.name = "unknown", .build = build_unknown, .schedule_length = 0};

void
ks_courier_kind_register(const KsCourierKind *kind)
{
	if (kind_count == MAX_KINDS)
		elog(ERROR, "too many kinds of deliveries");
	kinds[kind_count++] = kind;
}

const KsCourierKind *
ks_kind_find(const char *name)
{
	for (int i = 0; i < kind_count; i++)
		if (strcmp(kinds[i]->name, name) == 0)
			return kinds[i];
	return &unknown;
}

static void
build_unknown(KsDelivery **deliveries, int count)
{
	for (int i = 0; i < count; i++)
	{
		deliveries[i]->request.refusal = "nothing is known of this kind of delivery";
		deliveries[i]->verdict = KS_EXHAUSTED;
	}
}

void
ks_kinds_build(KsDelivery **deliveries, int count)
{
	each_kind(deliveries, count, build_kind);
}

void
ks_kinds_settled(KsDelivery **deliveries, int count)
{
	each_kind(deliveries, count, settle_kind);
}

/* Call it for each kind with the deliveries of that kind. */
static void
each_kind(KsDelivery **deliveries, int count, void (*run)(const KsCourierKind *kind, KsDelivery **these, int count))
{
	KsDelivery **these = palloc(Max(count, 1) * sizeof(KsDelivery *));

	for (int k = -1; k < kind_count; k++)
	{
		const KsCourierKind *kind = k < 0 ? &unknown : kinds[k];
		int chosen = 0;

		for (int i = 0; i < count; i++)
			if (deliveries[i]->kind == kind)
				these[chosen++] = deliveries[i];
		if (chosen > 0)
			run(kind, these, chosen);
	}
}

/* All at once; where that fails one by one, so that each has its own error. */
static void
build_kind(const KsCourierKind *kind, KsDelivery **these, int count)
{
	if (try(kind->build, these, count) == NULL)
		return;
	for (int i = 0; i < count; i++)
	{
		const char *error;

		memset(&these[i]->request, 0, sizeof(KsRequest));
		these[i]->verdict = KS_RETRY;
		error = try(kind->build, &these[i], 1);
		if (error != NULL)
		{
			memset(&these[i]->request, 0, sizeof(KsRequest));
			these[i]->request.refusal = "the request could not be made: see the server's log";
			ereport(LOG,
					(errmsg("a delivery of kind \"%s\" could not be made: %s", kind->name, error)));
		}
	}
}

static void
settle_kind(const KsCourierKind *kind, KsDelivery **these, int count)
{
	if (kind->settled == NULL || try(kind->settled, these, count) == NULL)
		return;
	for (int i = 0; i < count; i++)
	{
		const char *error = try(kind->settled, &these[i], 1);

		if (error != NULL)
			ereport(LOG,
					(errmsg("what a delivery of kind \"%s\" has brought could not be recorded: %s", kind->name, error)));
	}
}

/* Do the step in a subtransaction; returns the error that undid it, or NULL. */
static const char *
try(Step step, KsDelivery **deliveries, int count)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const char *volatile message = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		step(deliveries, count);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		/* Not the delivery's: we are to end. */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		message = error->message;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return message;
}
