/*
 * metrics: counters, and their text for Prometheus.
 *
 * Each loop owns one GwMetrics and is its only writer, without locks; the loop
 * that answers /metrics reads all of them (relaxed atomics).
 */
#ifndef GW_METRICS_H
#define GW_METRICS_H

#include <stdatomic.h>

#include "text.h"

#define GW_METRICS_ROUTES 1024
#define GW_METRICS_NO_ROUTE 0 /* slot of requests that matched nothing */
#define GW_METRICS_BUILTIN 1  /* slot of /live and its like */
#define GW_METRICS_BUCKETS 14

/* Counters (names with _total) and gauges of a loop; names and helps are in metrics.c. */
enum GwCount
{
	GW_COUNT_CONNECTIONS,   /* gauge: open client connections */
	GW_COUNT_ACCEPTED,      /* client connections accepted */
	GW_COUNT_TURNED_AWAY,   /* over the connection limits */
	GW_COUNT_GUARD_REFUSED, /* requests refused before the library saw them */
	GW_COUNT_TIMED_OUT,     /* heads, bodies and idle connections closed by a deadline */
	GW_COUNT_ABORTED,       /* clients gone before their reply */
	GW_COUNT_IN_FLIGHT,     /* gauge: requests being answered */
	GW_COUNT_STREAMS,       /* gauge: open streams (rows, watch) */
	GW_COUNT_BYTES_IN,
	GW_COUNT_BYTES_OUT,
	GW_COUNT_FAST_CONNECTIONS, /* gauges: usable database connections by lane */
	GW_COUNT_SLOW_CONNECTIONS,
	GW_COUNT_UPSTREAM_CONNECTIONS,
	GW_COUNT_ROWS_CONNECTIONS,
	GW_COUNT_FAST_BUSY, /* gauges: calls sent and not answered */
	GW_COUNT_SLOW_BUSY,
	GW_COUNT_UPSTREAM_BUSY,
	GW_COUNT_ROWS_BUSY,
	GW_COUNT_FAST_QUEUED, /* gauges: calls waiting for a connection */
	GW_COUNT_SLOW_QUEUED,
	GW_COUNT_UPSTREAM_QUEUED,
	GW_COUNT_ROWS_QUEUED,
	GW_COUNT_QUEUE_FULL,        /* calls refused because the queue was full */
	GW_COUNT_CALLS,             /* database calls */
	GW_COUNT_RETRIES,           /* calls tried again after 40001, 40P01 */
	GW_COUNT_WAITING,           /* gauge: requests over a rate limit that wait for room */
	GW_COUNT_WAITED,            /* requests that had to */
	GW_COUNT_REPEATED_REFUSALS, /* refusals repeated without asking the database */
	GW_COUNT_DATABASE_ERRORS,   /* calls ended by an error that is not the client's */
	GW_COUNT_DATABASE_US,       /* time of calls, microseconds; shown as seconds */
	GW_COUNT_RECONNECTS,
	GW_COUNT_ROUTE_LOADS,
	GW_COUNT_LOG_DROPPED,
	GW_COUNTS
};

struct GwRouteMetrics
{
	_Atomic uint64_t buckets[5][GW_METRICS_BUCKETS]; /* by status class, not cumulative */
	_Atomic uint64_t sum_us[5];
};

struct GwMetrics
{
	_Atomic uint64_t counts[GW_COUNTS];
	struct GwRouteMetrics *routes; /* GW_METRICS_ROUTES of them */
};

bool gw_metrics_init(struct GwMetrics *metrics) __attribute__((warn_unused_result));
void gw_metrics_free(struct GwMetrics *metrics);

/*
 * The slot of a route, by method, version and template; the same for the
 * process's life. Takes a lock: for building tables. Full: GW_METRICS_NO_ROUTE.
 */
unsigned gw_metrics_slot(const char *method, const char *version, const char *template);

/* Forgets all slots, at the end of the process. */
void gw_metrics_free_slots(void);

/* Records a finished request. Owner only. */
void gw_metrics_request(struct GwMetrics *metrics, unsigned slot, int status, int64_t duration_us);

/* Adds (or with a negative delta subtracts). Owner only. */
static inline void
gw_metrics_add(struct GwMetrics *metrics, enum GwCount count, int64_t delta)
{
	uint64_t old = atomic_load_explicit(&metrics->counts[count], memory_order_relaxed);

	atomic_store_explicit(&metrics->counts[count], old + (uint64_t) delta, memory_order_relaxed);
}

/* The sum of a count over all loops. Any thread. */
uint64_t gw_metrics_sum(struct GwMetrics *const *all, size_t n, enum GwCount count);

/* Resident memory of this process in bytes, 0 if unknown. */
int64_t gw_process_memory(void);

/* A sample of the database's own metrics; strings are the caller's. */
struct GwSample
{
	const char *name;
	const char *labels; /* JSON object text or NULL */
	const char *value;
	const char *type; /* counter, gauge, histogram */
	const char *help;
};

/* Writes the exposition text (version 0.0.4) of all loops, the process, and the samples. */
void gw_metrics_text(struct GwText *out, struct GwMetrics *const *all, size_t n,
					 const struct GwSample *samples, size_t nsamples);

#endif
