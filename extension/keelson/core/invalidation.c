/*
 * invalidation.c
 *	  One callback of the relation cache, passed on to all that want it; and the
 *	  caches of the catalogue emptied on demand.
 */
#include "postgres.h"

#include "fmgr.h"

#include "core/invalidation.h"

#define MAX_LISTENERS 64

/* Who is told, in the order that they came; grows by registering alone. */
static struct
{
	RelcacheCallbackFunction function;
	Datum arg;
} listeners[MAX_LISTENERS];
static int listener_count;

static void pass_on(Datum arg, Oid relation);

void
ks_on_relation_change(RelcacheCallbackFunction function, Datum arg)
{
	if (listener_count == MAX_LISTENERS)
		elog(FATAL, "too many listen to changes of relations");
	if (listener_count == 0)
		CacheRegisterRelcacheCallback(pass_on, (Datum) 0);
	listeners[listener_count].function = function;
	listeners[listener_count].arg = arg;
	listener_count++;
}

static void
pass_on(Datum arg, Oid relation)
{
	for (int i = 0; i < listener_count; i++)
		listeners[i].function(listeners[i].arg, relation);
}

PG_FUNCTION_INFO_V1(ks__caches_forget);

/*
 * keelson._caches_forget()
 *
 * A transaction that commits is seen by new snapshots a moment before it tells
 * other processes what to invalidate. Who compares what a snapshot sees with
 * what the caches of the catalogue say calls this in between.
 */
Datum
ks__caches_forget(PG_FUNCTION_ARGS)
{
	InvalidateSystemCaches();
	PG_RETURN_VOID();
}
