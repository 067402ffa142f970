/*
 * router: the route table, immutable once built, shared by all loops.
 *
 * A loop (or a request) that uses it holds a reference. A new table replaces
 * the old one by a swap of the pointer under the swapper's lock; the old one is
 * freed with its last reference.
 */
#ifndef GW_ROUTER_H
#define GW_ROUTER_H

#include "target.h"

#define GW_ROUTE_PARAMS 8
#define GW_ALLOW_SIZE 96

enum GwKind
{
	GW_KIND_ONCE,
	GW_KIND_ROWS,
	GW_KIND_WATCH
};

enum GwLane
{
	GW_LANE_FAST,
	GW_LANE_SLOW,
	GW_LANE_UPSTREAM,
	GW_LANE_ROWS, /* of the kind, not of the route: whoever reads slowly keeps a connection */
	GW_LANES
};

/* How long the database takes for a route's calls: a running mean in microseconds, 0 not known yet. */
struct GwPace
{
	_Atomic unsigned mean_us;
};

struct GwRoute
{
	int id;
	char *method;   /* upper-case */
	char *template; /* without leading slash and "api/" */
	char *version;  /* "v1" */
	enum GwKind kind;
	enum GwLane lane;
	size_t body_limit;
	int timeout_ms;
	bool is_raw; /* any body, handed on as it is */
	bool is_public;
	char **content_types;  /* NULL-terminated list of what a raw route takes, or NULL: any */
	int64_t deprecated_at; /* Unix seconds, 0 = not */
	int64_t sunset_at;     /* Unix seconds, 0 = none */
	char *successor;       /* "GET v2/…" or NULL */
	/* made by gw_routes_build: */
	struct GwPace *pace;
	unsigned metric;          /* slot in GwMetrics, the same for a route in every table */
	char *deprecation_header; /* "@1688169599" or NULL */
	char *sunset_header;      /* HTTP date or NULL */
	char *link_header;        /* or NULL */
};

struct GwRoutes; /* opaque */

struct GwMatch
{
	const struct GwRoute *route; /* valid as long as the table is referenced */
	size_t nparams;
	struct GwParam params[GW_ROUTE_PARAMS]; /* names belong to the table, values to the target */
	char allow[GW_ALLOW_SIZE];              /* for GW_MATCH_METHOD, and for OPTIONS: "GET, HEAD, PUT, OPTIONS" */
};

enum GwMatched
{
	GW_MATCH_FOUND,
	GW_MATCH_NOT_FOUND,
	GW_MATCH_METHOD /* 405, or the answer to OPTIONS */
};

/* Kind and lane from the words of the route table; false if unknown. */
bool gw_kind_parse(enum GwKind *kind, const char *word);
bool gw_lane_parse(enum GwLane *lane, const char *word);

/*
 * Builds a table from n rows (deep copies; the caller keeps its own; the
 * "made by" members are ignored). One reference belongs to the caller. NULL
 * with *fault set (malloc'ed, caller frees) if memory is short or two routes collide.
 */
struct GwRoutes *gw_routes_build(const struct GwRoute *rows, size_t n, const char *public_url, char **fault)
	__attribute__((warn_unused_result));

struct GwRoutes *gw_routes_ref(struct GwRoutes *routes); /* any thread; returns routes */
void gw_routes_unref(struct GwRoutes *routes);           /* any thread; NULL is allowed */
size_t gw_routes_count(const struct GwRoutes *routes);

/*
 * Finds the route of a method and target. An optional leading "api" and then
 * an optional version segment are skipped; without a version the newest stable
 * one is taken. Literals win over parameters. HEAD finds GET. No allocation.
 */
enum GwMatched gw_routes_match(const struct GwRoutes *routes, const char *method,
							   const struct GwTarget *target, struct GwMatch *out);

#endif
