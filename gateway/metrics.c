/*
 * metrics: counters, and their text for Prometheus.
 *
 * A counter has one writer, its loop, which loads and stores without a locked
 * instruction; readers may see a sample that is a few requests behind. Slots of
 * routes are given out once and kept, so that counters outlive a reload.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "json.h"
#include "metrics.h"

#define CLASSES 5

/* Upper bounds in microseconds, and as Prometheus has them. */
static const struct
{
	int64_t us;
	const char *le;
} bounds[GW_METRICS_BUCKETS] = {
	{500, "0.0005"},
	{1000, "0.001"},
	{2500, "0.0025"},
	{5000, "0.005"},
	{10000, "0.01"},
	{25000, "0.025"},
	{50000, "0.05"},
	{100000, "0.1"},
	{250000, "0.25"},
	{500000, "0.5"},
	{1000000, "1"},
	{2500000, "2.5"},
	{10000000, "10"},
	{INT64_MAX, "+Inf"},
};

static const char *const class_names[CLASSES] = {"1xx", "2xx", "3xx", "4xx", "5xx"};

/* Series of one name stand together; label is NULL or `lane="fast"`. */
static const struct
{
	enum GwCount count;
	const char *name;
	const char *label;
	const char *type;
	const char *help;
} counts[GW_COUNTS] = {
	{GW_COUNT_CONNECTIONS, "keelson_gateway_connections", NULL, "gauge", "Open client connections."},
	{GW_COUNT_ACCEPTED, "keelson_gateway_connections_accepted_total", NULL, "counter", "Client connections accepted."},
	{GW_COUNT_TURNED_AWAY, "keelson_gateway_connections_refused_total", NULL, "counter", "Client connections over a limit."},
	{GW_COUNT_GUARD_REFUSED, "keelson_gateway_malformed_requests_total", NULL, "counter", "Requests refused for their framing."},
	{GW_COUNT_TIMED_OUT, "keelson_gateway_client_timeouts_total", NULL, "counter", "Connections closed because the client was too slow."},
	{GW_COUNT_ABORTED, "keelson_gateway_client_aborts_total", NULL, "counter", "Clients gone before their reply."},
	{GW_COUNT_IN_FLIGHT, "keelson_gateway_requests_in_flight", NULL, "gauge", "Requests being answered."},
	{GW_COUNT_STREAMS, "keelson_gateway_streams", NULL, "gauge", "Open streams of rows and of events."},
	{GW_COUNT_BYTES_IN, "keelson_gateway_received_bytes_total", NULL, "counter", "Bytes of request bodies."},
	{GW_COUNT_BYTES_OUT, "keelson_gateway_sent_bytes_total", NULL, "counter", "Bytes of reply bodies."},
	{GW_COUNT_FAST_CONNECTIONS, "keelson_gateway_pool_connections", "lane=\"fast\"", "gauge", "Usable database connections."},
	{GW_COUNT_SLOW_CONNECTIONS, "keelson_gateway_pool_connections", "lane=\"slow\"", "gauge", NULL},
	{GW_COUNT_UPSTREAM_CONNECTIONS, "keelson_gateway_pool_connections", "lane=\"upstream\"", "gauge", NULL},
	{GW_COUNT_ROWS_CONNECTIONS, "keelson_gateway_pool_connections", "lane=\"rows\"", "gauge", NULL},
	{GW_COUNT_FAST_BUSY, "keelson_gateway_pool_busy", "lane=\"fast\"", "gauge", "Database calls sent and not answered."},
	{GW_COUNT_SLOW_BUSY, "keelson_gateway_pool_busy", "lane=\"slow\"", "gauge", NULL},
	{GW_COUNT_UPSTREAM_BUSY, "keelson_gateway_pool_busy", "lane=\"upstream\"", "gauge", NULL},
	{GW_COUNT_ROWS_BUSY, "keelson_gateway_pool_busy", "lane=\"rows\"", "gauge", NULL},
	{GW_COUNT_FAST_QUEUED, "keelson_gateway_pool_queued", "lane=\"fast\"", "gauge", "Database calls waiting for a connection."},
	{GW_COUNT_SLOW_QUEUED, "keelson_gateway_pool_queued", "lane=\"slow\"", "gauge", NULL},
	{GW_COUNT_UPSTREAM_QUEUED, "keelson_gateway_pool_queued", "lane=\"upstream\"", "gauge", NULL},
	{GW_COUNT_ROWS_QUEUED, "keelson_gateway_pool_queued", "lane=\"rows\"", "gauge", NULL},
	{GW_COUNT_QUEUE_FULL, "keelson_gateway_pool_full_total", NULL, "counter", "Database calls refused because a queue was full."},
	{GW_COUNT_CALLS, "keelson_gateway_calls_total", NULL, "counter", "Database calls."},
	{GW_COUNT_RETRIES, "keelson_gateway_call_retries_total", NULL, "counter", "Database calls tried again after a conflict."},
	{GW_COUNT_WAITING, "keelson_gateway_limit_queue", NULL, "gauge", "Requests over a rate limit that wait for room."},
	{GW_COUNT_WAITED, "keelson_gateway_limit_waits_total", NULL, "counter", "Times a request waited for room under a rate limit."},
	{GW_COUNT_REPEATED_REFUSALS, "keelson_gateway_repeated_refusals_total", NULL, "counter", "Refusals repeated without asking the database."},
	{GW_COUNT_DATABASE_ERRORS, "keelson_gateway_call_errors_total", NULL, "counter", "Database calls ended by an error that is not the client's."},
	{GW_COUNT_DATABASE_US, "keelson_gateway_call_seconds_total", NULL, "counter", "Time of database calls."},
	{GW_COUNT_RECONNECTS, "keelson_gateway_pool_reconnects_total", NULL, "counter", "Database connections made anew."},
	{GW_COUNT_ROUTE_LOADS, "keelson_gateway_route_loads_total", NULL, "counter", "Times the route table was read."},
	{GW_COUNT_LOG_DROPPED, "keelson_gateway_log_lines_dropped_total", NULL, "counter", "Log lines that could not be written."},
};

/* Names of the slots given out; guarded by the lock, never shrinking. */
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static struct Slot
{
	char *method;
	char *version;
	char *template;
} slots[GW_METRICS_ROUTES];
static unsigned nslots = 2;

static void write_head(struct GwText *out, const char *name, const char *type, const char *help);
static void write_counts(struct GwText *out, struct GwMetrics *const *all, size_t n);
static void write_routes(struct GwText *out, struct GwMetrics *const *all, size_t n);
static void write_route(struct GwText *out, struct GwMetrics *const *all, size_t n, unsigned slot, int status_class);
static void write_process(struct GwText *out);
static void write_samples(struct GwText *out, const struct GwSample *samples, size_t n);
static void write_label(struct GwText *out, const char *value, size_t len);

bool
gw_metrics_init(struct GwMetrics *metrics)
{
	size_t i;

	for (i = 0; i < GW_COUNTS; i++)
		atomic_init(&metrics->counts[i], 0);
	/* Mapped, not allocated: only slots that are used take memory. */
	metrics->routes = mmap(NULL, GW_METRICS_ROUTES * sizeof(*metrics->routes), PROT_READ | PROT_WRITE,
						   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (metrics->routes == MAP_FAILED)
		metrics->routes = NULL;
	return metrics->routes != NULL;
}

void
gw_metrics_free(struct GwMetrics *metrics)
{
	if (metrics->routes != NULL)
		munmap(metrics->routes, GW_METRICS_ROUTES * sizeof(*metrics->routes));
	metrics->routes = NULL;
}

unsigned
gw_metrics_slot(const char *method, const char *version, const char *template)
{
	unsigned slot;

	pthread_mutex_lock(&slots_lock);
	for (slot = 2; slot < nslots; slot++)
		if (strcmp(slots[slot].template, template) == 0 && strcmp(slots[slot].method, method) == 0 &&
			strcmp(slots[slot].version, version) == 0)
			break;
	if (slot == GW_METRICS_ROUTES)
		slot = GW_METRICS_NO_ROUTE;
	else if (slot == nslots)
	{
		struct Slot *made = &slots[slot];

		made->method = strdup(method);
		made->version = strdup(version);
		made->template = strdup(template);
		if (made->method != NULL && made->version != NULL && made->template != NULL)
			nslots++;
		else
			slot = GW_METRICS_NO_ROUTE;
	}
	pthread_mutex_unlock(&slots_lock);
	return slot;
}

void
gw_metrics_free_slots(void)
{
	pthread_mutex_lock(&slots_lock);
	while (nslots > 2)
	{
		nslots--;
		free(slots[nslots].method);
		free(slots[nslots].version);
		free(slots[nslots].template);
	}
	pthread_mutex_unlock(&slots_lock);
}

void
gw_metrics_request(struct GwMetrics *metrics, unsigned slot, int status, int64_t duration_us)
{
	struct GwRouteMetrics *route = &metrics->routes[slot < GW_METRICS_ROUTES ? slot : GW_METRICS_NO_ROUTE];
	int status_class = status >= 100 && status < 600 ? status / 100 - 1 : 4;
	_Atomic uint64_t *bucket = route->buckets[status_class];
	_Atomic uint64_t *sum = &route->sum_us[status_class];
	int i;

	for (i = 0; duration_us > bounds[i].us; i++)
		;
	atomic_store_explicit(&bucket[i], atomic_load_explicit(&bucket[i], memory_order_relaxed) + 1, memory_order_relaxed);
	atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + (uint64_t) duration_us, memory_order_relaxed);
}

uint64_t
gw_metrics_sum(struct GwMetrics *const *all, size_t n, enum GwCount count)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < n; i++)
		sum += atomic_load_explicit(&all[i]->counts[count], memory_order_relaxed);
	return sum;
}

void
gw_metrics_text(struct GwText *out, struct GwMetrics *const *all, size_t n, const struct GwSample *samples, size_t nsamples)
{
	write_routes(out, all, n);
	write_counts(out, all, n);
	write_process(out);
	write_samples(out, samples, nsamples);
}

static void
write_head(struct GwText *out, const char *name, const char *type, const char *help)
{
	const char *at;

	gw_text_printf(out, "# HELP %s ", name);
	for (at = help != NULL ? help : ""; *at != '\0'; at++)
		if (*at == '\n')
			gw_text_lit(out, "\\n");
		else if (*at == '\\')
			gw_text_lit(out, "\\\\");
		else
			gw_text_add(out, at, 1);
	gw_text_printf(out, "\n# TYPE %s %s\n", name, type);
}

static void
write_counts(struct GwText *out, struct GwMetrics *const *all, size_t n)
{
	size_t i;

	for (i = 0; i < GW_COUNTS; i++)
	{
		uint64_t value = gw_metrics_sum(all, n, counts[i].count);

		if (counts[i].help != NULL)
			write_head(out, counts[i].name, counts[i].type, counts[i].help);
		gw_text_puts(out, counts[i].name);
		if (counts[i].label != NULL)
			gw_text_printf(out, "{%s}", counts[i].label);
		if (counts[i].count == GW_COUNT_DATABASE_US)
			gw_text_printf(out, " %.6f\n", (double) value / 1e6);
		else
			gw_text_printf(out, " %lld\n", (long long) value);
	}
}

static void
write_routes(struct GwText *out, struct GwMetrics *const *all, size_t n)
{
	unsigned used, slot;
	int status_class;

	pthread_mutex_lock(&slots_lock);
	used = nslots;
	pthread_mutex_unlock(&slots_lock);
	write_head(out, "keelson_http_request_duration_seconds", "histogram", "Time from a request's head to its reply, by route and status.");
	for (slot = 0; slot < used; slot++)
		for (status_class = 0; status_class < CLASSES; status_class++)
			write_route(out, all, n, slot, status_class);
}

/* The labels of a slot and status class, without braces. */
static void
write_labels(struct GwText *out, unsigned slot, int status_class)
{
	if (slot >= 2)
	{
		gw_text_puts(out, "method=");
		write_label(out, slots[slot].method, strlen(slots[slot].method));
		gw_text_puts(out, ",route=");
		write_label(out, slots[slot].template, strlen(slots[slot].template));
		gw_text_puts(out, ",version=");
		write_label(out, slots[slot].version, strlen(slots[slot].version));
	}
	else
		gw_text_printf(out, "method=\"\",route=\"%s\",version=\"\"", slot == GW_METRICS_BUILTIN ? "builtin" : "none");
	gw_text_printf(out, ",status=\"%s\"", class_names[status_class]);
}

static void
write_route(struct GwText *out, struct GwMetrics *const *all, size_t n, unsigned slot, int status_class)
{
	uint64_t buckets[GW_METRICS_BUCKETS] = {0};
	uint64_t total = 0, sum_us = 0;
	size_t loop;
	int i;

	for (loop = 0; loop < n; loop++)
	{
		struct GwRouteMetrics *route = &all[loop]->routes[slot];

		for (i = 0; i < GW_METRICS_BUCKETS; i++)
			buckets[i] += atomic_load_explicit(&route->buckets[status_class][i], memory_order_relaxed);
		sum_us += atomic_load_explicit(&route->sum_us[status_class], memory_order_relaxed);
	}
	for (i = 0; i < GW_METRICS_BUCKETS; i++)
		total += buckets[i];
	if (total == 0)
		return;
	total = 0;
	for (i = 0; i < GW_METRICS_BUCKETS; i++)
	{
		total += buckets[i];
		gw_text_puts(out, "keelson_http_request_duration_seconds_bucket{");
		write_labels(out, slot, status_class);
		gw_text_printf(out, ",le=\"%s\"} %llu\n", bounds[i].le, (unsigned long long) total);
	}
	gw_text_puts(out, "keelson_http_request_duration_seconds_sum{");
	write_labels(out, slot, status_class);
	gw_text_printf(out, "} %.6f\n", (double) sum_us / 1e6);
	gw_text_puts(out, "keelson_http_request_duration_seconds_count{");
	write_labels(out, slot, status_class);
	gw_text_printf(out, "} %llu\n", (unsigned long long) total);
}

int64_t
gw_process_memory(void)
{
	long pages = 0;
	FILE *statm = fopen("/proc/self/statm", "re");

	if (statm == NULL)
		return 0;
	if (fscanf(statm, "%*s %ld", &pages) != 1)
		pages = 0;
	fclose(statm);
	return (int64_t) pages * sysconf(_SC_PAGESIZE);
}

/* Memory and time of this process. */
static void
write_process(struct GwText *out)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	write_head(out, "process_resident_memory_bytes", "gauge", "Memory of the gateway.");
	gw_text_printf(out, "process_resident_memory_bytes %lld\n", (long long) gw_process_memory());
	write_head(out, "process_cpu_seconds_total", "counter", "CPU time of the gateway.");
	gw_text_printf(out, "process_cpu_seconds_total %.6f\n",
				   (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
					   (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

/* The length of the name that HELP and TYPE speak of: a histogram's without its suffix. */
static size_t
family_len(const struct GwSample *sample)
{
	static const char *const suffixes[] = {"_bucket", "_sum", "_count"};
	size_t len = strlen(sample->name);
	size_t i;

	if (sample->type == NULL || strcmp(sample->type, "histogram") != 0)
		return len;
	for (i = 0; i < 3; i++)
	{
		size_t suffix = strlen(suffixes[i]);

		if (len > suffix && strcmp(sample->name + len - suffix, suffixes[i]) == 0)
			return len - suffix;
	}
	return len;
}

static bool
is_name(const char *name, size_t len, bool with_colon)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') || name[i] == '_' ||
			  (with_colon && name[i] == ':') || (i > 0 && name[i] >= '0' && name[i] <= '9')))
			return false;
	return len > 0;
}

static void
write_label(struct GwText *out, const char *value, size_t len)
{
	size_t i;

	gw_text_lit(out, "\"");
	for (i = 0; i < len; i++)
		if (value[i] == '\n')
			gw_text_lit(out, "\\n");
		else if (value[i] == '"' || value[i] == '\\')
		{
			gw_text_lit(out, "\\");
			gw_text_add(out, value + i, 1);
		}
		else
			gw_text_add(out, value + i, 1);
	gw_text_lit(out, "\"");
}

static void
write_sample(struct GwText *out, const struct GwSample *sample)
{
	struct GwJsonCursor cursor;
	struct GwJsonMember member;
	enum GwJsonType type;
	const char *separator = "{";
	char value[512];

	gw_text_puts(out, sample->name);
	if (sample->labels != NULL && gw_json_open(&cursor, sample->labels, strlen(sample->labels)) && cursor.is_object)
	{
		while ((type = gw_json_next(&cursor, &member)) != GW_JSON_END && type != GW_JSON_BROKEN)
		{
			long len = type == GW_JSON_STRING ? gw_json_decode(member.raw, value, sizeof(value)) : -1;

			if (!is_name(member.name.data, member.name.len, false) || type == GW_JSON_NULL)
				continue;
			gw_text_puts(out, separator);
			separator = ",";
			gw_text_add(out, member.name.data, member.name.len);
			gw_text_lit(out, "=");
			write_label(out, len >= 0 ? value : member.raw.data, len >= 0 ? (size_t) len : member.raw.len);
		}
		if (separator[0] == ',')
			gw_text_lit(out, "}");
	}
	gw_text_printf(out, " %s\n", sample->value);
}

/* Whether a family is written here by the gateway itself, or was written for an earlier sample. */
static bool
is_written(const struct GwSample *samples, size_t at)
{
	size_t len = family_len(&samples[at]);
	size_t i;

	for (i = 0; i < at; i++)
		if (family_len(&samples[i]) == len && memcmp(samples[i].name, samples[at].name, len) == 0)
			return true;
	for (i = 0; i < GW_COUNTS; i++)
		if (strlen(counts[i].name) == len && memcmp(counts[i].name, samples[at].name, len) == 0)
			return true;
	return strncmp(samples[at].name, "keelson_http_request_duration_seconds", 37) == 0 ||
		   strncmp(samples[at].name, "process_", 8) == 0;
}

/* Families in order of their first sample, each with all of its samples. */
static void
write_samples(struct GwText *out, const struct GwSample *samples, size_t n)
{
	size_t i, j;

	for (i = 0; i < n; i++)
	{
		size_t len = family_len(&samples[i]);
		char name[256];

		if (!is_name(samples[i].name, len, true) || len >= sizeof(name) || is_written(samples, i))
			continue;
		memcpy(name, samples[i].name, len);
		name[len] = '\0';
		write_head(out, name, samples[i].type != NULL ? samples[i].type : "untyped", samples[i].help);
		for (j = i; j < n; j++)
			if (family_len(&samples[j]) == len && memcmp(samples[j].name, name, len) == 0 && samples[j].value != NULL)
				write_sample(out, &samples[j]);
	}
}
