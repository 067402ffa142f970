/*
 * route_cache.h
 *	  The routes that this backend has called, ready to be called again.
 */
#ifndef KS_ROUTE_CACHE_H
#define KS_ROUTE_CACHE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"

#include "dispatch/arguments.h"
#include "dispatch/counters.h"
#include "dispatch/json_out.h"
#include "limits/limits.h"

typedef enum KsRouteKind
{
	KS_ROUTE_ONCE,
	KS_ROUTE_ROWS,
	KS_ROUTE_WATCH
} KsRouteKind;

typedef enum KsResult
{
	KS_RESULT_VOID,
	KS_RESULT_REPLY, /* keelson.reply: it says itself what is sent */
	KS_RESULT_VALUE,
	KS_RESULT_SET
} KsResult;

typedef struct KsRoute
{
	int32 id; /* key of the cache */
	MemoryContext cxt;
	bool is_stale;

	const char *method;
	const char *template;
	const char *name; /* "GET user/profile v1", for the log */
	Oid role;
	const char *permission; /* NULL: none demanded */
	const char *scope;
	bool is_scope_open; /* any user may give it to an access key */
	const char *tier;   /* NULL: any will do */
	bool needs_verified_email;
	int factor_within_s; /* since a second factor was shown, at most; 0: none demanded */
	bool is_public;
	bool is_unsafe;   /* changes something, by its method */
	bool is_security; /* its failures go into the audit trail */
	bool is_raw;
	const char *content_type; /* what a raw route sends; NULL: what fits the result */
	KsLimitsRoute limits;
	bool is_fast;     /* on the pool that everybody shares: it waits for nobody else */
	bool is_upstream; /* on the pool of those that wait for another service */
	int timeout_ms;
	int body_limit;
	KsRouteKind kind;
	int status;

	Oid function;
	uint32 function_hash;
	FmgrInfo call;
	bool is_sql; /* written in SQL */
	bool is_strict;
	KsResult result;
	Oid result_type;
	TupleDesc result_desc; /* of a set's rows, where the type does not tell */
	bool is_row;           /* the result is composite, or a set of such */
	bool is_bytes;         /* it is text or bytea, which a raw route sends as it is */
	bool is_binary;        /* bytea */
	KsWriter *writer;
	int argument_count;
	KsArgument *arguments;
	KsCounter *counter;
} KsRoute;

/*
 * The route, or NULL when there is none with this id. Valid until the next
 * call of this function.
 */
extern KsRoute *ks_route_find(int32 id);

#endif /* KS_ROUTE_CACHE_H */
