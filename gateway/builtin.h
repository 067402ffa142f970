/*
 * builtin: the endpoints that the gateway answers itself.
 *
 * Which endpoint a target is, and the shape of its reply. The facts (readiness,
 * the database's health, pools) are brought by the caller.
 */
#ifndef GW_BUILTIN_H
#define GW_BUILTIN_H

#include "metrics.h"
#include "reply.h"

enum GwBuiltin
{
	GW_BUILTIN_NONE,
	GW_BUILTIN_LIVE,            /* no database */
	GW_BUILTIN_READY,           /* needs facts->is_ready, from keelson.gateway_ready() */
	GW_BUILTIN_HEALTH,          /* the same, and facts->health from keelson.gateway_health() */
	GW_BUILTIN_HEALTH_DETAILED, /* the same */
	GW_BUILTIN_METRICS,         /* facts->metrics_text, of gw_builtin_write_metrics() */
	GW_BUILTIN_DOCS             /* no database */
};

struct GwBuiltinFacts
{
	bool is_ready;
	const char *reason; /* why not; NULL when ready */
	const char *health; /* JSON object text, or NULL when the database does not answer */
	size_t health_len;
	const struct GwText *metrics_text;
	struct GwMetrics *const *metrics; /* of all loops */
	size_t nmetrics;
	int64_t started_us; /* gw_unix_us() at the start of the process */
	bool is_draining;
};

/*
 * Which built-in endpoint a target is; GW_BUILTIN_NONE: ask the router. Only
 * GET and HEAD are served (OPTIONS by gw_reply_options, others 405) with GW_BUILTIN_ALLOW.
 */
enum GwBuiltin gw_builtin_find(const struct GwTarget *target);

#define GW_VERSION "1.0"
#define GW_BUILTIN_ALLOW "GET, HEAD, OPTIONS"

/* The template for log and metrics: "live", "health/detailed", "docs". */
const char *gw_builtin_name(enum GwBuiltin builtin);

/* Writes the text of all metrics, once for all who ask; samples are of keelson.gateway_metrics(), none if the database is away. */
void gw_builtin_write_metrics(struct GwText *out, const struct GwBuiltinFacts *facts, const struct GwSample *samples, size_t nsamples);

/* Makes the reply. target is needed for GW_BUILTIN_DOCS, facts for all but LIVE and DOCS. */
struct MHD_Response *gw_builtin_reply(enum GwBuiltin builtin, const struct GwAsk *ask,
									  const struct GwTarget *target, const struct GwBuiltinFacts *facts,
									  struct GwNote *note);

#endif
