/*
 * router: the route table, immutable once built, shared by all loops.
 *
 * Templates form a tree by segments: literal children sorted by name, at most
 * one child for a parameter. Where a literal and a parameter both fit, the
 * literal is followed first, and the parameter only if that leads nowhere. A
 * path that a literal template knows is known: another method there is 405,
 * not the parameter's template.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "metrics.h"
#include "router.h"

#define METHODS 7

static const char *const methods[METHODS] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

enum
{
	METHOD_GET = 0,
	METHOD_HEAD = 1,
	METHOD_OPTIONS = 6
};

struct Node
{
	char *name;             /* of the literal that leads here */
	struct Node **literals; /* sorted by name */
	size_t nliterals;
	struct Node *param;
	const struct GwRoute **routes; /* that end here */
	size_t nroutes;
};

struct GwRoutes
{
	atomic_size_t references;
	struct GwRoute *rows;
	size_t nrows;
	struct Node *root;
};

/* A search under way. */
struct Search
{
	const struct GwTarget *target;
	struct GwSlice version; /* empty: newest stable */
	struct GwSlice values[GW_ROUTE_PARAMS];
	size_t nvalues;
	const struct Node *found;
};

static bool row_copy(struct GwRoute *to, const struct GwRoute *from, const char *public_url);
static void row_free(struct GwRoute *row);
static bool row_insert(struct GwRoutes *routes, struct GwRoute *row, char **fault);
static struct Node *node_child(struct Node *node, struct GwSlice segment);
static void node_free(struct Node *node);
static bool search(struct Search *search, const struct Node *node, size_t at);
static bool node_serves(const struct Node *node, struct GwSlice version);
static const struct GwRoute *pick(const struct Node *node, int method, struct GwSlice version);
static void write_allow(const struct Node *node, struct GwSlice version, char *allow);
static void name_params(struct GwMatch *out, const struct Search *found);
static size_t skip_prefix(const struct GwRoutes *routes, const struct GwTarget *target, struct GwSlice *version);
static int method_number(const char *method);
static long version_number(struct GwSlice version, bool *is_stable);
static bool next_segment(const char **template, struct GwSlice *segment);

bool
gw_kind_parse(enum GwKind *kind, const char *word)
{
	static const char *const words[] = {"once", "rows", "watch"};
	int i;

	for (i = 0; i < 3; i++)
		if (strcmp(word, words[i]) == 0)
		{
			*kind = (enum GwKind) i;
			return true;
		}
	return false;
}

bool
gw_lane_parse(enum GwLane *lane, const char *word)
{
	static const char *const words[] = {"fast", "slow", "upstream"};
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(word, words[i]) == 0)
		{
			*lane = (enum GwLane) i;
			return true;
		}
	return false;
}

struct GwRoutes *
gw_routes_build(const struct GwRoute *rows, size_t n, const char *public_url, char **fault)
{
	struct GwRoutes *routes = calloc(1, sizeof(*routes));
	size_t i;

	*fault = NULL;
	if (routes == NULL)
		goto failed;
	atomic_init(&routes->references, 1);
	routes->rows = calloc(n > 0 ? n : 1, sizeof(*routes->rows));
	routes->root = calloc(1, sizeof(*routes->root));
	if (routes->rows == NULL || routes->root == NULL)
		goto failed;
	for (i = 0; i < n; i++)
	{
		routes->nrows = i + 1;
		if (!row_copy(&routes->rows[i], &rows[i], public_url) || !row_insert(routes, &routes->rows[i], fault))
			goto failed;
	}
	return routes;

failed:
	if (*fault == NULL)
		*fault = strdup("out of memory");
	gw_routes_unref(routes);
	return NULL;
}

/* The texts of the Deprecation, Sunset and Link headers. */
static bool
row_headers(struct GwRoute *row, const char *public_url)
{
	struct GwText link = {0};
	time_t sunset = (time_t) row->sunset_at;
	char date[40];
	struct tm parts;

	if (row->sunset_at > 0)
	{
		gmtime_r(&sunset, &parts);
		strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &parts);
		row->sunset_header = strdup(date);
		if (row->sunset_header == NULL)
			return false;
		gw_text_printf(&link, "<%s/api/docs>; rel=\"sunset\"", public_url);
	}
	if (row->deprecated_at > 0)
	{
		snprintf(date, sizeof(date), "@%lld", (long long) row->deprecated_at);
		row->deprecation_header = strdup(date);
		if (row->deprecation_header == NULL)
			return false;
		gw_text_printf(&link, "%s<%s/api/docs>; rel=\"deprecation\"", link.len > 0 ? ", " : "", public_url);
	}
	if (row->successor != NULL)
	{
		const char *path = strchr(row->successor, ' ');

		path = path != NULL ? path + 1 : row->successor;
		while (*path == '/')
			path++;
		if (strncmp(path, "api/", 4) == 0)
			path += 4;
		gw_text_printf(&link, "%s<%s/api/%s>; rel=\"successor-version\"", link.len > 0 ? ", " : "", public_url, path);
	}
	if (link.len > 0 || link.failed)
		row->link_header = gw_text_take(&link, NULL);
	return !link.failed && (link.len == 0 || row->link_header != NULL);
}

static bool
copy_types(struct GwRoute *to, char *const *types)
{
	size_t n = 0;
	size_t i;

	while (types[n] != NULL)
		n++;
	to->content_types = calloc(n + 1, sizeof(*to->content_types));
	for (i = 0; i < n && to->content_types != NULL; i++)
		if ((to->content_types[i] = strdup(types[i])) == NULL)
			return false;
	return to->content_types != NULL;
}

/* Copies a row; after a failure what there is can be freed by row_free. */
static bool
row_copy(struct GwRoute *to, const struct GwRoute *from, const char *public_url)
{
	*to = *from;
	to->content_types = NULL;
	to->deprecation_header = to->sunset_header = to->link_header = NULL;
	to->pace = calloc(1, sizeof(*to->pace));
	to->method = strdup(from->method);
	to->template = strdup(from->template);
	to->version = strdup(from->version != NULL ? from->version : "v1");
	to->successor = from->successor != NULL && from->successor[0] != '\0' ? strdup(from->successor) : NULL;
	if (to->pace == NULL || to->method == NULL || to->template == NULL || to->version == NULL ||
		(from->successor != NULL && from->successor[0] != '\0' && to->successor == NULL))
		return false;
	if (from->content_types != NULL && !copy_types(to, from->content_types))
		return false;
	to->metric = gw_metrics_slot(to->method, to->version, to->template);
	return row_headers(to, public_url != NULL ? public_url : "");
}

static void
row_free(struct GwRoute *row)
{
	size_t i;

	for (i = 0; row->content_types != NULL && row->content_types[i] != NULL; i++)
		free(row->content_types[i]);
	free(row->content_types);
	free(row->pace);
	free(row->method);
	free(row->template);
	free(row->version);
	free(row->successor);
	free(row->deprecation_header);
	free(row->sunset_header);
	free(row->link_header);
}

static void
complain(char **fault, const struct GwRoute *row, const char *what)
{
	struct GwText text = {0};

	gw_text_printf(&text, "route %s %s (%s): %s", row->method, row->template, row->version, what);
	*fault = gw_text_take(&text, NULL);
}

static bool
row_insert(struct GwRoutes *routes, struct GwRoute *row, char **fault)
{
	struct Node *node = routes->root;
	const char *template = row->template;
	struct GwSlice segment;
	const struct GwRoute **grown;
	size_t depth = 0, params = 0;
	size_t i;
	bool is_stable;

	if (method_number(row->method) < 0)
		complain(fault, row, "the method is not known");
	else if (version_number((struct GwSlice){row->version, strlen(row->version)}, &is_stable) < 0)
		complain(fault, row, "the version is not of the form v1");
	while (*fault == NULL && next_segment(&template, &segment))
	{
		params += segment.data[0] == ':';
		if (++depth > GW_TARGET_SEGMENTS || params > GW_ROUTE_PARAMS)
			complain(fault, row, "the template is too long");
		else if ((node = node_child(node, segment)) == NULL)
			return false;
	}
	for (i = 0; *fault == NULL && i < node->nroutes; i++)
		if (strcmp(node->routes[i]->method, row->method) == 0 && strcmp(node->routes[i]->version, row->version) == 0)
			complain(fault, row, "there is another route of the same shape");
	if (*fault != NULL)
		return false;
	grown = realloc(node->routes, (node->nroutes + 1) * sizeof(*grown));
	if (grown == NULL)
		return false;
	node->routes = grown;
	node->routes[node->nroutes++] = row;
	return true;
}

/* Cuts the next segment off a template; slashes are no segments. */
static bool
next_segment(const char **template, struct GwSlice *segment)
{
	const char *at = *template;

	while (*at == '/')
		at++;
	segment->data = at;
	segment->len = strcspn(at, "/");
	*template = at + segment->len;
	return segment->len > 0;
}

static int
compare(struct GwSlice segment, const char *name)
{
	size_t len = strlen(name);
	int order = memcmp(segment.data, name, segment.len < len ? segment.len : len);

	return order != 0 ? order : (segment.len > len) - (segment.len < len);
}

/* Where a literal stands, or would stand, among a node's children. */
static size_t
literal_place(const struct Node *node, struct GwSlice segment, bool *is_there)
{
	size_t low = 0, high = node->nliterals;

	*is_there = false;
	while (low < high)
	{
		size_t middle = (low + high) / 2;
		int order = compare(segment, node->literals[middle]->name);

		if (order == 0)
		{
			*is_there = true;
			return middle;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* The child for a template's segment, made if there is none; NULL: no memory. */
static struct Node *
node_child(struct Node *node, struct GwSlice segment)
{
	struct Node *child;
	struct Node **grown;
	bool is_there;
	size_t place;

	if (segment.data[0] == ':')
	{
		if (node->param == NULL)
			node->param = calloc(1, sizeof(*node->param));
		return node->param;
	}
	place = literal_place(node, segment, &is_there);
	if (is_there)
		return node->literals[place];
	grown = realloc(node->literals, (node->nliterals + 1) * sizeof(*grown));
	if (grown == NULL)
		return NULL;
	node->literals = grown;
	child = calloc(1, sizeof(*child));
	if (child == NULL || (child->name = strndup(segment.data, segment.len)) == NULL)
	{
		free(child);
		return NULL;
	}
	memmove(grown + place + 1, grown + place, (node->nliterals - place) * sizeof(*grown));
	grown[place] = child;
	node->nliterals++;
	return child;
}

static void
node_free(struct Node *node)
{
	size_t i;

	if (node == NULL)
		return;
	for (i = 0; i < node->nliterals; i++)
		node_free(node->literals[i]);
	node_free(node->param);
	free(node->literals);
	free(node->routes);
	free(node->name);
	free(node);
}

struct GwRoutes *
gw_routes_ref(struct GwRoutes *routes)
{
	atomic_fetch_add_explicit(&routes->references, 1, memory_order_relaxed);
	return routes;
}

void
gw_routes_unref(struct GwRoutes *routes)
{
	size_t i;

	if (routes == NULL || atomic_fetch_sub_explicit(&routes->references, 1, memory_order_acq_rel) > 1)
		return;
	node_free(routes->root);
	for (i = 0; i < routes->nrows; i++)
		row_free(&routes->rows[i]);
	free(routes->rows);
	free(routes);
}

size_t
gw_routes_count(const struct GwRoutes *routes)
{
	return routes->nrows;
}

enum GwMatched
gw_routes_match(const struct GwRoutes *routes, const char *method, const struct GwTarget *target, struct GwMatch *out)
{
	struct Search found = {.target = target};
	int number = method_number(method);
	size_t at = skip_prefix(routes, target, &found.version);

	out->route = NULL;
	out->nparams = 0;
	out->allow[0] = '\0';
	if (!search(&found, routes->root, at))
		return GW_MATCH_NOT_FOUND;
	if (number >= 0)
		out->route = pick(found.found, number, found.version);
	if (out->route == NULL && number == METHOD_HEAD)
		out->route = pick(found.found, METHOD_GET, found.version);
	if (out->route == NULL)
	{
		write_allow(found.found, found.version, out->allow);
		return GW_MATCH_METHOD;
	}
	name_params(out, &found);
	return GW_MATCH_FOUND;
}

/* Steps over "api" and a version that some route has; returns the first segment to match. */
static size_t
skip_prefix(const struct GwRoutes *routes, const struct GwTarget *target, struct GwSlice *version)
{
	size_t at = target->nsegments > 0 && gw_slice_is(target->segments[0], "api") ? 1 : 0;
	bool is_stable;
	size_t i;

	*version = (struct GwSlice){"", 0};
	if (at == target->nsegments || version_number(target->segments[at], &is_stable) < 0)
		return at;
	for (i = 0; i < routes->nrows; i++)
		if (gw_slice_is(target->segments[at], routes->rows[i].version))
		{
			*version = target->segments[at];
			return at + 1;
		}
	return at;
}

/* Finds the most literal node that serves the rest of the path. Depth is bounded by GW_TARGET_SEGMENTS. */
static bool
search(struct Search *search_state, const struct Node *node, size_t at)
{
	struct GwSlice segment;
	bool is_there;
	size_t place;

	if (at == search_state->target->nsegments)
	{
		search_state->found = node;
		return node_serves(node, search_state->version);
	}
	segment = search_state->target->segments[at];
	place = literal_place(node, segment, &is_there);
	if (is_there && search(search_state, node->literals[place], at + 1))
		return true;
	if (node->param == NULL || segment.len == 0 || search_state->nvalues == GW_ROUTE_PARAMS)
		return false;
	search_state->values[search_state->nvalues++] = segment;
	if (search(search_state, node->param, at + 1))
		return true;
	search_state->nvalues--;
	return false;
}

/* Whether a route may answer a request for the version: that one, or, if empty, a stable one. */
static bool
version_fits(const struct GwRoute *route, struct GwSlice version, long *number)
{
	bool is_stable;

	*number = version_number((struct GwSlice){route->version, strlen(route->version)}, &is_stable);
	return version.len > 0 ? gw_slice_is(version, route->version) : is_stable;
}

static bool
node_serves(const struct Node *node, struct GwSlice version)
{
	long number;
	size_t i;

	for (i = 0; i < node->nroutes; i++)
		if (version_fits(node->routes[i], version, &number))
			return true;
	return false;
}

static const struct GwRoute *
pick(const struct Node *node, int method, struct GwSlice version)
{
	const struct GwRoute *best = NULL;
	long best_number = -1;
	size_t i;

	for (i = 0; i < node->nroutes; i++)
	{
		const struct GwRoute *route = node->routes[i];
		long number;

		if (strcmp(route->method, methods[method]) == 0 && version_fits(route, version, &number) && number > best_number)
		{
			best = route;
			best_number = number;
		}
	}
	return best;
}

static void
write_allow(const struct Node *node, struct GwSlice version, char *allow)
{
	size_t len = 0;
	int i;

	for (i = 0; i < METHODS; i++)
		if (i == METHOD_OPTIONS || pick(node, i, version) != NULL ||
			(i == METHOD_HEAD && pick(node, METHOD_GET, version) != NULL))
			len += (size_t) snprintf(allow + len, GW_ALLOW_SIZE - len, "%s%s", len > 0 ? ", " : "", methods[i]);
}

/* Pairs the values found with the names in the route's template. */
static void
name_params(struct GwMatch *out, const struct Search *found)
{
	const char *template = out->route->template;
	struct GwSlice segment;

	while (next_segment(&template, &segment))
		if (segment.data[0] == ':')
		{
			out->params[out->nparams].name = (struct GwSlice){segment.data + 1, segment.len - 1};
			out->params[out->nparams].value = found->values[out->nparams];
			out->nparams++;
		}
}

static int
method_number(const char *method)
{
	int i;

	for (i = 0; i < METHODS; i++)
		if (strcmp(method, methods[i]) == 0)
			return i;
	return -1;
}

/* The number in "v2" or "v2beta1", -1 if it is no version; stable is what has nothing after the number. */
static long
version_number(struct GwSlice version, bool *is_stable)
{
	long number = 0;
	size_t at = 1;

	if (version.len < 2 || version.len > 16 || version.data[0] != 'v' || version.data[1] < '0' || version.data[1] > '9')
		return -1;
	for (; at < version.len && at < 8 && version.data[at] >= '0' && version.data[at] <= '9'; at++)
		number = number * 10 + (version.data[at] - '0');
	*is_stable = at == version.len;
	for (; at < version.len; at++)
		if (!((version.data[at] >= 'a' && version.data[at] <= 'z') || (version.data[at] >= '0' && version.data[at] <= '9')))
			return -1;
	return number;
}
