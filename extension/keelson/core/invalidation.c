/*
 * invalidation.c
 *	  One callback of the relation cache, passed on to all that want it.
 */
#include "postgres.h"

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
