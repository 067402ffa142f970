/*
 * screen.c
 *	  What can be said of a request from its head alone.
 *
 * Each check either answers the request, and then nothing follows, or lets it
 * pass.  Who may do what is not asked here: that is the database's.
 */
#include "screen.h"

#include "gateway.h"
#include "hold.h"
#include "watch.h"

#include <openssl/crypto.h>

#define ALL_METHODS "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

static void read_head(struct GwRequest *request);
static bool has_sound_head(struct GwRequest *request);
static bool is_builtin(struct GwRequest *request, const struct GwTarget *target);
static bool may_read_metrics(const struct GwRequest *request);
static bool is_served(struct GwRequest *request);
static bool has_route(struct GwRequest *request, const struct GwTarget *target, struct GwMatch *match);
static bool is_over_tls(struct GwRequest *request);
static bool has_fitting_body(struct GwRequest *request);
static bool has_arguments(struct GwRequest *request, const struct GwTarget *target, const struct GwMatch *match);
static void write_load(const struct GwRequest *request, struct GwText *out);
static void write_fields(const struct GwRequest *request, struct GwText *out);
static void write_members(struct GwText *out, const char *name, const struct GwParam *params, size_t n);
static void refuse_with_allow(struct GwRequest *request, enum GwCode code, const char *allow);
static void options(struct GwRequest *request, const char *allow);
static bool is_method(const struct GwRequest *request, const char *method);

void
gw_screen(struct GwRequest *request)
{
	struct GwTarget target;
	struct GwMatch match;
	enum GwTargetFault fault;
	char decoded[GW_FRAMING_TARGET_MAX + 1];

	read_head(request);
	/* Decoding is done in place, and a redirect needs the target as it came. */
	memcpy(decoded, request->head.target, request->head.target_len + 1);
	fault = gw_target_parse(&target, decoded, request->head.target_len);
	if (is_method(request, "TRACE"))
		refuse_with_allow(request, GW_METHOD_NOT_ALLOWED, ALL_METHODS);
	else if (target.is_asterisk && !is_method(request, "OPTIONS"))
		gw_request_refuse(request, GW_BAD_REQUEST, gw_target_message(GW_TARGET_NO_PATH));
	else if (fault != GW_TARGET_OK)
		gw_request_refuse(request, fault == GW_TARGET_DEEP ? GW_NOT_FOUND : GW_BAD_REQUEST, gw_target_message(fault));
	else if (target.is_asterisk)
		options(request, ALL_METHODS);
	else
		(void) (has_sound_head(request) && !is_builtin(request, &target) && is_served(request) &&
				has_route(request, &target, &match) && is_over_tls(request) && !gw_hold_answers(request) && has_fitting_body(request) &&
				has_arguments(request, &target, &match));
}

/* Reads the fields, and what the reply and the log must know whatever comes. */
static void
read_head(struct GwRequest *request)
{
	const struct GwConfig *config = &request->loop->gateway->config;
	struct GwHead *head = &request->head;

	gw_head_read(head, &request->http->guard.head);
	if (head->forwarded_for == NULL && head->forwarded_proto == NULL)
		request->client = request->http->client;
	else
		gw_client_find(&request->client, config, (const struct sockaddr *) &request->http->peer,
					   head->forwarded_for, head->forwarded_proto);
	gw_request_id(request->request_id, head->request_id);
	gw_traceparent(request->traceparent, head->traceparent);
	request->has_body = gw_head_has_body(head, &request->declared);
	request->ask = (struct GwAsk){
		.config = config,
		.request_id = request->request_id,
		.fields = &request->fields,
		.body = &request->reply_body,
		.origin = head->origin,
		.accepts_gzip = gw_accepts_gzip(head->accept_encoding),
		.accepts_problem = gw_accepts_problem(head->accept),
		.is_https = request->client.is_https,
		.has_credential = head->via != NULL,
		/* The library closes the connection of a request whose body it has not read. */
		.closes = request->has_body || request->loop->state != GW_LOOP_RUNNING,
	};
}

static bool
has_sound_head(struct GwRequest *request)
{
	char message[96];

	if (request->head.is_cut_short)
		gw_request_refuse(request, GW_INTERNAL, NULL);
	else if (request->head.repeated != NULL)
	{
		snprintf(message, sizeof(message), "The header field %s may be given once only", request->head.repeated);
		gw_request_refuse(request, GW_BAD_REQUEST, message);
	}
	else
		return true;
	return false;
}

/* The gateway's own endpoints; those that need nothing of the database are answered here. */
static bool
is_builtin(struct GwRequest *request, const struct GwTarget *target)
{
	request->builtin = gw_builtin_find(target);
	if (request->builtin == GW_BUILTIN_NONE)
		return false;
	if (is_method(request, "OPTIONS"))
		options(request, GW_BUILTIN_ALLOW);
	else if (!is_method(request, "GET") && !request->is_head)
		refuse_with_allow(request, GW_METHOD_NOT_ALLOWED, GW_BUILTIN_ALLOW);
	else if (request->has_body)
		gw_request_refuse(request, GW_PAYLOAD_TOO_LARGE, NULL);
	else if (request->builtin == GW_BUILTIN_METRICS && !may_read_metrics(request))
		gw_request_refuse(request, GW_UNAUTHENTICATED, "The metrics need their token (KEELSON_METRICS_TOKEN)");
	else if (request->builtin == GW_BUILTIN_LIVE || request->builtin == GW_BUILTIN_DOCS)
	{
		struct GwBuiltinFacts facts = {.is_ready = true, .is_draining = request->loop->state != GW_LOOP_RUNNING};

		gw_request_answer(request, gw_builtin_reply(request->builtin, &request->ask, target, &facts, &request->note));
	}
	return true;
}

static bool
may_read_metrics(const struct GwRequest *request)
{
	const char *token = request->ask.config->metrics_token;
	struct GwSlice given = request->head.credential;

	return token == NULL || (given.len == strlen(token) && CRYPTO_memcmp(given.data, token, given.len) == 0);
}

/* Says whether the database has been found fit to be asked. */
static bool
is_served(struct GwRequest *request)
{
	struct GwLoop *loop = request->loop;

	if (loop->routes != NULL && atomic_load_explicit(&loop->gateway->is_ready, memory_order_relaxed))
		return true;
	gw_gateway_reason(loop->gateway, request->error);
	gw_request_refuse(request, GW_UNAVAILABLE, NULL);
	return false;
}

static bool
has_route(struct GwRequest *request, const struct GwTarget *target, struct GwMatch *match)
{
	switch (gw_routes_match(request->loop->routes, request->method, target, match))
	{
		case GW_MATCH_FOUND:
			request->routes = gw_routes_ref(request->loop->routes);
			request->route = match->route;
			request->ask.route = match->route;
			return true;
		case GW_MATCH_NOT_FOUND:
			gw_request_refuse(request, GW_NOT_FOUND, NULL);
			break;
		case GW_MATCH_METHOD:
			if (is_method(request, "OPTIONS"))
				options(request, match->allow);
			else
				refuse_with_allow(request, GW_METHOD_NOT_ALLOWED, match->allow);
			break;
	}
	return false;
}

/* Behind TLS nothing is served in clear: reads are sent on, and credentials never asked for. */
static bool
is_over_tls(struct GwRequest *request)
{
	if (!request->ask.config->is_behind_tls || request->client.is_https)
		return true;
	if ((is_method(request, "GET") || request->is_head) && strncmp(request->route->template, "auth/", 5) != 0)
		gw_request_answer(request, gw_reply_upgrade(&request->ask, request->head.target, &request->note));
	else
		gw_request_refuse(request, GW_HTTPS_REQUIRED, NULL);
	return false;
}

static bool
has_fitting_body(struct GwRequest *request)
{
	const struct GwRoute *route = request->route;
	bool is_fitting;

	if (!request->has_body)
		return true;
	if (request->declared > route->body_limit)
	{
		gw_request_refuse(request, GW_PAYLOAD_TOO_LARGE, NULL);
		return false;
	}
	if (route->is_raw)
		is_fitting = route->content_types == NULL || gw_head_is_one_of(&request->head, route->content_types);
	else
		is_fitting = gw_head_is_json(&request->head);
	if (!is_fitting)
	{
		gw_request_refuse(request, GW_UNSUPPORTED_MEDIA_TYPE, route->is_raw ? "This type of body is not accepted here" : NULL);
		return false;
	}
	return true;
}

/* Writes the arguments of the call. */
static bool
has_arguments(struct GwRequest *request, const struct GwTarget *target, const struct GwMatch *match)
{
	struct GwText *out = &request->params;

	if (request->route->kind == GW_KIND_WATCH && !gw_watch_admit(request))
		return false;
	request->credential_at = request->query_at = -1;
	if (request->head.via != NULL)
	{
		request->credential_at = (long) out->len;
		gw_text_add(out, request->head.credential.data, request->head.credential.len);
		gw_text_add(out, "", 1);
	}
	if (match->nparams > 0 || target->nparams > 0)
	{
		request->query_at = (long) out->len;
		gw_text_lit(out, "{");
		write_members(out, "path", match->params, match->nparams);
		if (match->nparams > 0 && target->nparams > 0)
			gw_text_lit(out, ",");
		write_members(out, "query", target->params, target->nparams);
		gw_text_add(out, "}", 2);
	}
	request->caller_at = (long) out->len;
	gw_head_caller(&request->head, &request->client, request->request_id, request->traceparent, out);
	write_load(request, out);
	write_fields(request, out);
	gw_text_add(out, "", 1);
	if (out->failed)
		gw_request_refuse(request, GW_INTERNAL, NULL);
	else
		request->ask.closes = request->loop->state != GW_LOOP_RUNNING;
	return !out->failed;
}

/* Appends to the caller what the database cannot know: refusals that were repeated, calls that wait. */
static void
write_load(const struct GwRequest *request, struct GwText *out)
{
	uint64_t queued = atomic_load_explicit(&request->loop->metrics.counts[GW_COUNT_FAST_QUEUED], memory_order_relaxed);

	if (request->held == 0 && queued == 0)
		return;
	if (out->failed)
		return;
	out->len--;
	if (request->held > 0)
		gw_text_printf(out, ",\"held\":\"%llu\"", (unsigned long long) request->held);
	if (queued > 0)
		gw_text_printf(out, ",\"queue\":\"%llu\"", (unsigned long long) queued);
	gw_text_lit(out, "}");
}

/* Appends "name":{…} of the parameters, if there are any. */
static void
write_members(struct GwText *out, const char *name, const struct GwParam *params, size_t n)
{
	if (n == 0)
		return;
	gw_text_json(out, name, strlen(name));
	gw_text_lit(out, ":{");
	for (size_t i = 0; i < n; i++)
	{
		if (i > 0)
			gw_text_lit(out, ",");
		gw_text_json(out, params[i].name.data, params[i].name.len);
		gw_text_lit(out, ":");
		gw_text_json(out, params[i].value.data, params[i].value.len);
	}
	gw_text_lit(out, "}");
}

/* Appends to the caller what a raw endpoint's function may ask for: the header fields. */
static void
write_fields(const struct GwRequest *request, struct GwText *out)
{
	if (!request->route->is_raw || out->failed)
		return;
	out->len--;
	gw_text_lit(out, ",\"headers\":");
	gw_head_fields(&request->head, out);
	gw_text_lit(out, "}");
}

static void
refuse_with_allow(struct GwRequest *request, enum GwCode code, const char *allow)
{
	gw_request_answer(request, gw_reply_refusal(&request->ask, code, NULL, allow, &request->note));
}

static void
options(struct GwRequest *request, const char *allow)
{
	gw_request_answer(request, gw_reply_options(&request->ask, allow, &request->note));
}

static bool
is_method(const struct GwRequest *request, const char *method)
{
	return strcmp(request->method, method) == 0;
}
