/*
 * target: a request target, taken apart and percent-decoded in place.
 *
 * Decoding shortens, so that the decoded bytes always fit in front of the ones
 * still to be read.
 */
#include <strings.h>

#include "target.h"

enum Part
{
	IN_PATH,
	IN_QUERY
};

static enum GwTargetFault parse_path(struct GwTarget *target, char *path, size_t len);
static enum GwTargetFault add_segment(struct GwTarget *target, char *data, size_t len);
static enum GwTargetFault parse_query(struct GwTarget *target, char *query, size_t len);
static enum GwTargetFault decode(struct GwSlice *out, char *data, size_t len, enum Part part);
static size_t origin_offset(const char *raw, size_t len);

enum GwTargetFault
gw_target_parse(struct GwTarget *target, char *raw, size_t len)
{
	enum GwTargetFault fault;
	size_t path_len;
	size_t offset;
	char *query;

	target->is_asterisk = len == 1 && raw[0] == '*';
	target->nsegments = 0;
	target->nparams = 0;
	if (target->is_asterisk)
		return GW_TARGET_OK;
	if (memchr(raw, '#', len) != NULL)
		return GW_TARGET_BAD_ESCAPE;
	offset = origin_offset(raw, len);
	raw += offset;
	len -= offset;
	query = memchr(raw, '?', len);
	path_len = query != NULL ? (size_t) (query - raw) : len;
	/* An absolute form may have no path at all, which means the root. */
	if (path_len == 0 ? offset == 0 : raw[0] != '/')
		return GW_TARGET_NO_PATH;
	fault = path_len > 1 ? parse_path(target, raw + 1, path_len - 1) : GW_TARGET_OK;
	if (fault == GW_TARGET_OK && query != NULL)
		fault = parse_query(target, query + 1, len - path_len - 1);
	return fault;
}

/* How many bytes of scheme and authority stand in front of the path. */
static size_t
origin_offset(const char *raw, size_t len)
{
	size_t at;

	if (len > 7 && strncasecmp(raw, "http://", 7) == 0)
		at = 7;
	else if (len > 8 && strncasecmp(raw, "https://", 8) == 0)
		at = 8;
	else
		return 0;
	while (at < len && raw[at] != '/' && raw[at] != '?')
		at++;
	return at;
}

static enum GwTargetFault
parse_path(struct GwTarget *target, char *path, size_t len)
{
	enum GwTargetFault fault = GW_TARGET_OK;
	char *end = path + len;

	if (len > 0 && end[-1] == '/')
		end--;
	while (fault == GW_TARGET_OK)
	{
		char *slash = memchr(path, '/', (size_t) (end - path));
		char *stop = slash != NULL ? slash : end;

		fault = add_segment(target, path, (size_t) (stop - path));
		if (slash == NULL)
			break;
		path = slash + 1;
	}
	return fault;
}

static enum GwTargetFault
add_segment(struct GwTarget *target, char *data, size_t len)
{
	struct GwSlice segment;
	enum GwTargetFault fault;

	if (target->nsegments == GW_TARGET_SEGMENTS)
		return GW_TARGET_DEEP;
	fault = decode(&segment, data, len, IN_PATH);
	if (fault != GW_TARGET_OK)
		return fault;
	if (gw_slice_is(segment, ".") || gw_slice_is(segment, ".."))
		return GW_TARGET_BAD_ESCAPE;
	target->segments[target->nsegments++] = segment;
	return GW_TARGET_OK;
}

static enum GwTargetFault
parse_query(struct GwTarget *target, char *query, size_t len)
{
	char *end = query + len;
	enum GwTargetFault fault = GW_TARGET_OK;

	while (query < end && fault == GW_TARGET_OK)
	{
		char *amp = memchr(query, '&', (size_t) (end - query));
		char *stop = amp != NULL ? amp : end;
		char *equals = memchr(query, '=', (size_t) (stop - query));
		struct GwParam *param = &target->params[target->nparams];

		if (stop > query)
		{
			if (target->nparams == GW_TARGET_PARAMS)
				return GW_TARGET_MANY_PARAMS;
			fault = decode(&param->name, query, (size_t) ((equals != NULL ? equals : stop) - query), IN_QUERY);
			param->value = (struct GwSlice){stop, 0};
			if (fault == GW_TARGET_OK && equals != NULL)
				fault = decode(&param->value, equals + 1, (size_t) (stop - equals - 1), IN_QUERY);
			target->nparams++;
		}
		query = amp != NULL ? amp + 1 : end;
	}
	return fault;
}

/*
 * Decodes one segment, name or value in place. In a path no control character
 * or slash may hide behind an escape, and a backslash, which some take for a
 * slash, stands nowhere; in a query "+" is a space.
 */
static enum GwTargetFault
decode(struct GwSlice *out, char *data, size_t len, enum Part part)
{
	char *to = data;
	const char *from = data;
	const char *end = data + len;
	bool is_ascii = true;

	while (from < end)
	{
		char c = *from++;

		if (c == '+' && part == IN_QUERY)
			c = ' ';
		else if (c == '%')
		{
			int high = end - from >= 2 ? gw_hex_digit(from[0]) : -1;
			int low = high >= 0 ? gw_hex_digit(from[1]) : -1;

			if (low < 0)
				return GW_TARGET_BAD_ESCAPE;
			c = (char) (high * 16 + low);
			from += 2;
			if (c == '\0' || (part == IN_PATH && ((unsigned char) c < 0x20 || c == 0x7F || c == '/')))
				return GW_TARGET_BAD_ESCAPE;
		}
		if (c == '\\' && part == IN_PATH)
			return GW_TARGET_BAD_ESCAPE;
		is_ascii &= (unsigned char) c < 0x80;
		*to++ = c;
	}
	*out = (struct GwSlice){data, (size_t) (to - data)};
	return is_ascii || gw_utf8_is_valid(out->data, out->len) ? GW_TARGET_OK : GW_TARGET_BAD_UTF8;
}

const char *
gw_target_message(enum GwTargetFault fault)
{
	switch (fault)
	{
		case GW_TARGET_NO_PATH:
			return "The request target is not a path";
		case GW_TARGET_BAD_ESCAPE:
			return "The request target has an escape or a segment that is not allowed";
		case GW_TARGET_BAD_UTF8:
			return "The request target is not UTF-8";
		case GW_TARGET_MANY_PARAMS:
			return "The request target has too many query parameters";
		case GW_TARGET_DEEP:
			return "There is no such endpoint: /api/docs shows those that there are";
		case GW_TARGET_OK:
			break;
	}
	return "The request target is in order";
}
