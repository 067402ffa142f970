/*
 * builtin: the endpoints that the gateway answers itself.
 */
#include <ctype.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <unistd.h>

#include "assets.h"
#include "builtin.h"

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define DOCS_CSP                                                                                          \
	"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " \
	"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

static struct MHD_Response *reply_live(const struct GwAsk *ask, struct GwNote *note);
static struct MHD_Response *reply_ready(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, struct GwNote *note);
static struct MHD_Response *reply_health(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, bool is_detailed,
										 struct GwNote *note);
static struct MHD_Response *reply_metrics(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, struct GwNote *note);
static struct MHD_Response *reply_docs(const struct GwAsk *ask, const struct GwTarget *target, struct GwNote *note);
static const char *why_not_ready(const struct GwBuiltinFacts *facts);
static void write_health(struct GwText *text, const struct GwBuiltinFacts *facts, bool is_detailed);
static void write_gateway(struct GwText *text, const struct GwBuiltinFacts *facts);
static struct MHD_Response *reply_state(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, struct GwText *health,
										struct GwNote *note);

/* The segments behind an optional "api" and "v1". */
static size_t
first_segment(const struct GwTarget *target)
{
	size_t at = target->nsegments > 0 && gw_slice_is(target->segments[0], "api") ? 1 : 0;

	if (at < target->nsegments && gw_slice_is(target->segments[at], "v1"))
		at++;
	return at;
}

enum GwBuiltin
gw_builtin_find(const struct GwTarget *target)
{
	static const struct
	{
		const char *name;
		enum GwBuiltin builtin;
	} names[] = {
		{"live", GW_BUILTIN_LIVE},
		{"ready", GW_BUILTIN_READY},
		{"health", GW_BUILTIN_HEALTH},
		{"metrics", GW_BUILTIN_METRICS},
		{"docs", GW_BUILTIN_DOCS},
	};
	size_t at = first_segment(target);
	size_t left = target->nsegments - at;
	const char *type;
	size_t len, i;

	if (left == 0 || left > 2 || target->is_asterisk)
		return GW_BUILTIN_NONE;
	if (left == 2 && gw_slice_is(target->segments[at], "health") && gw_slice_is(target->segments[at + 1], "detailed"))
		return GW_BUILTIN_HEALTH_DETAILED;
	if (left == 2 && gw_slice_is(target->segments[at], "docs") && target->segments[at + 1].len > 0 &&
		gw_asset_find(target->segments[at + 1], &type, &len) != NULL)
		return GW_BUILTIN_DOCS;
	for (i = 0; left == 1 && i < sizeof(names) / sizeof(names[0]); i++)
		if (gw_slice_is(target->segments[at], names[i].name))
			return names[i].builtin;
	return GW_BUILTIN_NONE;
}

const char *
gw_builtin_name(enum GwBuiltin builtin)
{
	switch (builtin)
	{
		case GW_BUILTIN_LIVE:
			return "live";
		case GW_BUILTIN_READY:
			return "ready";
		case GW_BUILTIN_HEALTH:
			return "health";
		case GW_BUILTIN_HEALTH_DETAILED:
			return "health/detailed";
		case GW_BUILTIN_METRICS:
			return "metrics";
		case GW_BUILTIN_DOCS:
			return "docs";
		case GW_BUILTIN_NONE:
			break;
	}
	return "-";
}

void
gw_builtin_write_metrics(struct GwText *out, const struct GwBuiltinFacts *facts, const struct GwSample *samples, size_t nsamples)
{
	gw_text_printf(out, "# HELP keelson_gateway_ready Whether requests are served.\n# TYPE keelson_gateway_ready gauge\n"
						"keelson_gateway_ready %d\n",
				   why_not_ready(facts) == NULL);
	gw_metrics_text(out, facts->metrics, facts->nmetrics, samples, nsamples);
}

struct MHD_Response *
gw_builtin_reply(enum GwBuiltin builtin, const struct GwAsk *ask, const struct GwTarget *target,
				 const struct GwBuiltinFacts *facts, struct GwNote *note)
{
	switch (builtin)
	{
		case GW_BUILTIN_LIVE:
			return reply_live(ask, note);
		case GW_BUILTIN_READY:
			return reply_ready(ask, facts, note);
		case GW_BUILTIN_HEALTH:
			return reply_health(ask, facts, false, note);
		case GW_BUILTIN_HEALTH_DETAILED:
			return reply_health(ask, facts, true, note);
		case GW_BUILTIN_METRICS:
			return reply_metrics(ask, facts, note);
		case GW_BUILTIN_DOCS:
			return reply_docs(ask, target, note);
		case GW_BUILTIN_NONE:
			break;
	}
	return gw_reply_refusal(ask, GW_NOT_FOUND, NULL, NULL, note);
}

static struct MHD_Response *
reply_live(const struct GwAsk *ask, struct GwNote *note)
{
	static const char data[] = "{\"status\":\"live\"}";

	return gw_reply_data(ask, 200, data, sizeof(data) - 1, note);
}

/* NULL when the gateway may be sent requests. */
static const char *
why_not_ready(const struct GwBuiltinFacts *facts)
{
	if (facts->is_draining)
		return "The gateway is shutting down";
	if (!facts->is_ready)
		return facts->reason != NULL ? facts->reason : "The database does not answer";
	return NULL;
}

/* 200 with the state, or 503 with the reason and the state as member "health". Frees health. */
static struct MHD_Response *
reply_state(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, struct GwText *health, struct GwNote *note)
{
	const char *reason = why_not_ready(facts);
	struct GwText body = {0};
	struct MHD_Response *response = NULL;
	char sentence[512];

	if (reason != NULL)
	{
		snprintf(sentence, sizeof(sentence), "%s", reason);
		sentence[0] = (char) toupper((unsigned char) sentence[0]);
		gw_text_lit(&body, "{\"error\":");
		gw_text_json(&body, sentence, strlen(sentence));
		gw_text_lit(&body, ",\"code\":\"UNAVAILABLE\",\"health\":");
		gw_text_add(&body, health->data, health->len);
		gw_text_lit(&body, "}");
	}
	else
		gw_text_add(&body, health->data, health->len);
	if (!body.failed && !health->failed)
		response = gw_reply_row(ask, reason != NULL ? 503 : 200, NULL, 0, body.data, body.len, note);
	gw_text_free(&body);
	gw_text_free(health);
	return response;
}

static struct MHD_Response *
reply_ready(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, struct GwNote *note)
{
	struct GwText state = {0};

	gw_text_printf(&state, "{\"status\":\"%s\"}", why_not_ready(facts) == NULL ? "ready" : "not ready");
	return reply_state(ask, facts, &state, note);
}

static struct MHD_Response *
reply_health(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, bool is_detailed, struct GwNote *note)
{
	struct GwText state = {0};

	write_health(&state, facts, is_detailed);
	return reply_state(ask, facts, &state, note);
}

static void
write_health(struct GwText *text, const struct GwBuiltinFacts *facts, bool is_detailed)
{
	gw_text_printf(text, "{\"status\":\"%s\",\"uptimeSeconds\":%lld,\"startedAt\":\"",
				   why_not_ready(facts) == NULL ? "ok" : "unavailable",
				   (long long) (gw_unix_us() - facts->started_us) / 1000000);
	gw_text_time(text, facts->started_us);
	gw_text_lit(text, "\",\"version\":\"" GW_VERSION "\",\"database\":");
	if (!is_detailed)
		gw_text_printf(text, "{\"status\":\"%s\"}", facts->health != NULL ? "ok" : "unavailable");
	else if (facts->health != NULL)
		gw_text_add(text, facts->health, facts->health_len);
	else
		gw_text_lit(text, "{\"status\":\"unavailable\"}");
	if (is_detailed)
		write_gateway(text, facts);
	gw_text_lit(text, "}");
}

/* The gateway's own part of the detailed health. */
static void
write_gateway(struct GwText *text, const struct GwBuiltinFacts *facts)
{
	static const struct
	{
		const char *name;
		enum GwCount connections, busy, queued;
	} lanes[] = {
		{"fast", GW_COUNT_FAST_CONNECTIONS, GW_COUNT_FAST_BUSY, GW_COUNT_FAST_QUEUED},
		{"slow", GW_COUNT_SLOW_CONNECTIONS, GW_COUNT_SLOW_BUSY, GW_COUNT_SLOW_QUEUED},
		{"upstream", GW_COUNT_UPSTREAM_CONNECTIONS, GW_COUNT_UPSTREAM_BUSY, GW_COUNT_UPSTREAM_QUEUED},
		{"rows", GW_COUNT_ROWS_CONNECTIONS, GW_COUNT_ROWS_BUSY, GW_COUNT_ROWS_QUEUED},
	};
	size_t i;

#define SUM(count) (long long) gw_metrics_sum(facts->metrics, facts->nmetrics, (count))
	gw_text_printf(text, ",\"gateway\":{\"loops\":%zu,\"connections\":%lld,\"requestsInFlight\":%lld,\"streams\":%lld",
				   facts->nmetrics, SUM(GW_COUNT_CONNECTIONS), SUM(GW_COUNT_IN_FLIGHT), SUM(GW_COUNT_STREAMS));
	gw_text_printf(text, ",\"memoryBytes\":%lld", (long long) gw_process_memory());
	gw_text_printf(text, ",\"versions\":{\"gateway\":\"" GW_VERSION "\",\"libmicrohttpd\":\"%s\",\"libpq\":%d},\"pool\":{",
				   MHD_get_version(), PQlibVersion());
	for (i = 0; i < sizeof(lanes) / sizeof(lanes[0]); i++)
		gw_text_printf(text, "%s\"%s\":{\"connections\":%lld,\"busy\":%lld,\"queued\":%lld}", i > 0 ? "," : "", lanes[i].name,
					   SUM(lanes[i].connections), SUM(lanes[i].busy), SUM(lanes[i].queued));
	gw_text_lit(text, "}}");
#undef SUM
}

static struct MHD_Response *
reply_metrics(const struct GwAsk *ask, const struct GwBuiltinFacts *facts, struct GwNote *note)
{
	const struct GwText *text = facts->metrics_text;

	return text->failed ? NULL : gw_reply_plain(ask, 200, METRICS_TYPE, NULL, NULL, text->data, text->len, note);
}

static struct MHD_Response *
reply_docs(const struct GwAsk *ask, const struct GwTarget *target, struct GwNote *note)
{
	size_t at = first_segment(target) + 1;
	struct GwSlice name = at < target->nsegments ? target->segments[at] : (struct GwSlice){"", 0};
	const char *type;
	size_t len;
	const char *data = gw_asset_find(name, &type, &len);

	if (data == NULL)
		return gw_reply_refusal(ask, GW_NOT_FOUND, NULL, NULL, note);
	return gw_reply_plain(ask, 200, type, "no-cache", DOCS_CSP, data, len, note);
}
