/*
 * arguments.h
 *	  The arguments of an endpoint's function, and their binding to a request.
 */
#ifndef KS_ARGUMENTS_H
#define KS_ARGUMENTS_H

#include "postgres.h"

#include "access/htup.h"
#include "nodes/primnodes.h"

#include "dispatch/input.h"

typedef enum KsSource
{
	KS_SOURCE_CLIENT,
	KS_SOURCE_BODY,         /* a raw route's body, */
	KS_SOURCE_CONTENT_TYPE, /* what it is, */
	KS_SOURCE_HEADERS       /* and the header fields */
} KsSource;

typedef struct KsArgument
{
	const char *name; /* in JSON */
	int name_len;
	const char *sql_name;
	KsSource source;
	KsInputType *type;
	bool has_default;
	Expr *default_expr; /* NULL when it is the constant below */
	Datum default_value;
	bool default_is_null;
} KsArgument;

struct KsCall;

/* The arguments of the function (a row of pg_proc). */
extern KsArgument *ks_arguments_load(MemoryContext cxt, HeapTuple function, bool is_raw, int *count);

/* Bind the call's arguments; false when it is refused. */
extern bool ks_arguments_bind(struct KsCall *call);

#endif /* KS_ARGUMENTS_H */
