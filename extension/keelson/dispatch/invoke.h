/*
 * invoke.h
 *	  Calling the endpoint's function, and shaping what it returns.
 */
#ifndef KS_INVOKE_H
#define KS_INVOKE_H

#include "postgres.h"

#include "utils/tuplestore.h"

#include "dispatch/call.h"

/* The rows of a route of kind rows, to be sent chunk by chunk. */
typedef struct KsRows
{
	Tuplestorestate *store; /* NULL for no rows at all */
	TupleTableSlot *slot;
	KsWriter *writer;
	bool is_row;
	bool is_raw; /* text or bytea, sent as it is */
	bool is_begun;
	bool is_done;
} KsRows;

/*
 * Call the route's function with the bound arguments and make the reply of
 * its result. For a route of kind rows, *rows is set, in its own memory
 * `cxt`, and the reply has no body yet.
 */
extern void ks_invoke(KsCall *call, MemoryContext cxt, KsRows **rows);

/* The next chunk; is_done is set with the last one. */
extern bytea *ks_rows_chunk(KsRows *rows);

#endif /* KS_INVOKE_H */
