/*
 * owner.c
 *	  Owners of foreign resources: structs whose release function runs with
 *	  their memory context's end.
 */
#include "postgres.h"

#include "core/owner.h"

void *
ks_owner_create(MemoryContext cxt, Size size, void (*release)(void *))
{
	MemoryContextCallback *callback = MemoryContextAllocZero(cxt, MAXALIGN(sizeof(MemoryContextCallback)) + size);
	void *owned = (char *) callback + MAXALIGN(sizeof(MemoryContextCallback));

	callback->func = release;
	callback->arg = owned;
	MemoryContextRegisterResetCallback(cxt, callback);
	return owned;
}
