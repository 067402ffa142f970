/*
 * framing: an incremental, strict reader of HTTP/1.x message framing.
 *
 * One function per state reads as many bytes as belong to it and moves on, at
 * once where a line is there as a whole. Nothing is kept but counters, the name
 * of the field under way and the request id. Limits are met by shortening what
 * a state may read, so that a verdict is the same however the bytes are cut.
 *
 * Where the RFCs leave a choice, the strict one is taken: exactly one space
 * between the parts of the request line, CR LF at the end of every line, no
 * white space after a length, no transfer coding but "chunked". Extensions of
 * chunks, which the RFC has us ignore, are refused: nobody sends them but who
 * wants two readers to disagree, and libmicrohttpd 1.0.1 miscounts them.
 */
#include "framing.h"

#include <string.h>

#include "framing_byte.h"
#include "framing_field.h"
#include "text.h"
#include "uuid.h"

#define EMPTY_LINES_MAX 2
#define CHUNK_DIGITS_MAX 8

enum State
{
	START,
	START_LF, /* CR of an empty line seen */
	METHOD,
	TARGET,
	VERSION,
	VERSION_CR,
	VERSION_LF,
	FIELD, /* at the begin of a field line, or of the empty line */
	NAME,
	VALUE_SPACE, /* white space before a value */
	VALUE,
	VALUE_LF,
	END_LF, /* CR of the empty line seen */
	BODY,
	CHUNK_SIZE,
	CHUNK_SIZE_LF,
	CHUNK_DATA,
	CHUNK_DATA_CR,
	CHUNK_DATA_LF,
	REFUSED
};

typedef const char *(*Reader)(struct GwFraming *framing, const char *at, const char *end);

static const char *read_start(struct GwFraming *framing, const char *at, const char *end);
static const char *read_start_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *read_method(struct GwFraming *framing, const char *at, const char *end);
static const char *read_target(struct GwFraming *framing, const char *at, const char *end);
static const char *read_version(struct GwFraming *framing, const char *at, const char *end);
static const char *read_version_cr(struct GwFraming *framing, const char *at, const char *end);
static const char *read_version_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *read_field(struct GwFraming *framing, const char *at, const char *end);
static const char *read_name(struct GwFraming *framing, const char *at, const char *end);
static const char *read_value_space(struct GwFraming *framing, const char *at, const char *end);
static const char *read_value(struct GwFraming *framing, const char *at, const char *end);
static const char *read_value_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *read_end_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *read_body(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_size(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_size_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_data(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_data_cr(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_data_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *go_on(struct GwFraming *framing, enum State state, Reader reader, const char *at, const char *end);
static const char *read_section(struct GwFraming *framing, Reader reader, const char *at, const char *end);
static const char *refuse(struct GwFraming *framing, enum GwFramingFault fault, const char *at);
static const char *refuse_byte(struct GwFraming *framing, enum GwFramingFault fault, const char *at);
static bool is_connect(const struct GwFraming *framing);
static void keep_name(struct GwFraming *framing, const char *piece, size_t len);
static void message_begin(struct GwFraming *framing);
static void message_end(struct GwFraming *framing);

static const Reader readers[] = {
	[START] = read_start,
	[START_LF] = read_start_lf,
	[METHOD] = read_method,
	[TARGET] = read_target,
	[VERSION] = read_version,
	[VERSION_CR] = read_version_cr,
	[VERSION_LF] = read_version_lf,
	[FIELD] = read_field,
	[NAME] = read_name,
	[VALUE_SPACE] = read_value_space,
	[VALUE] = read_value,
	[VALUE_LF] = read_value_lf,
	[END_LF] = read_end_lf,
	[BODY] = read_body,
	[CHUNK_SIZE] = read_chunk_size,
	[CHUNK_SIZE_LF] = read_chunk_size_lf,
	[CHUNK_DATA] = read_chunk_data,
	[CHUNK_DATA_CR] = read_chunk_data_cr,
	[CHUNK_DATA_LF] = read_chunk_data_lf,
};

void
gw_framing_init(struct GwFraming *framing)
{
	memset(framing, 0, sizeof(*framing));
	framing->state = START;
}

size_t
gw_framing_feed(struct GwFraming *framing, const char *data, size_t len, enum GwFramingStop *stop)
{
	const char *at = data;
	const char *end = data + len;
	uint64_t requests = framing->requests;
	enum GwFramingStop why = GW_FRAMING_MORE;

	while (at < end && framing->state != REFUSED && why == GW_FRAMING_MORE)
	{
		uint8_t state = framing->state;

		if (state == START && framing->empty_lines == 0)
			message_begin(framing);
		if (state >= FIELD && state <= END_LF)
			at = read_section(framing, readers[state], at, end);
		else
			at = readers[state](framing, at, end);
		if (framing->requests != requests)
			why = GW_FRAMING_END;
		else if (state == END_LF)
			why = GW_FRAMING_HEAD_END;
	}
	if (framing->state == REFUSED)
		why = GW_FRAMING_FAULT;
	if (stop != NULL)
		*stop = why;
	return (size_t) (at - data);
}

enum GwFramingPhase
gw_framing_phase(const struct GwFraming *framing)
{
	if (framing->state == START && framing->empty_lines == 0)
		return GW_FRAMING_IDLE;
	if (framing->state == REFUSED)
		return GW_FRAMING_REFUSED;
	if (framing->state < BODY && !framing->in_trailers)
		return GW_FRAMING_HEAD;
	return GW_FRAMING_BODY;
}

const char *
gw_framing_request_id(const struct GwFraming *framing)
{
	if (framing->request_id_len != 36 || !gw_uuid_is_valid(framing->request_id))
		return NULL;
	return framing->request_id;
}

/* Enters a state, and has it read what is there. */
static inline const char *
go_on(struct GwFraming *framing, enum State state, Reader reader, const char *at, const char *end)
{
	framing->state = (uint8_t) state;
	return at < end ? reader(framing, at, end) : at;
}

static const char *
read_start(struct GwFraming *framing, const char *at, const char *end)
{
	if (*at == '\r' && framing->empty_lines < EMPTY_LINES_MAX)
	{
		/* Empty lines before a request line are a known habit of old clients. */
		framing->empty_lines++;
		framing->state = START_LF;
		return at + 1;
	}
	if (!GW_FRAMING_IS(*at, GW_IN_TOKEN))
		return refuse_byte(framing, GW_FRAMING_BAD_METHOD, at);
	return go_on(framing, METHOD, read_method, at, end);
}

static const char *
read_start_lf(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\n')
		return refuse(framing, GW_FRAMING_BARE_CR, at);
	framing->state = START;
	return at + 1;
}

static const char *
read_method(struct GwFraming *framing, const char *at, const char *end)
{
	for (; at < end; at++)
	{
		if (*at == ' ')
			return is_connect(framing) ? refuse(framing, GW_FRAMING_CONNECT, at) : go_on(framing, TARGET, read_target, at + 1, end);
		if (!GW_FRAMING_IS(*at, GW_IN_TOKEN))
			return refuse_byte(framing, GW_FRAMING_BAD_METHOD, at);
		if (*at < 'A' || *at > 'Z' || framing->method_len == sizeof(framing->method))
			return refuse(framing, GW_FRAMING_UNLISTED_METHOD, at);
		framing->method[framing->method_len++] = *at;
	}
	return at;
}

/* What stands behind such a request is meant for others, and no request to us. */
static bool
is_connect(const struct GwFraming *framing)
{
	static const char connect[] = "CONNECT";

	return framing->method_len == sizeof(connect) - 1 && memcmp(framing->method, connect, sizeof(connect) - 1) == 0;
}

static const char *
read_target(struct GwFraming *framing, const char *at, const char *end)
{
	for (; at < end; at++)
	{
		if (*at == ' ' && framing->target_len > 0)
			return go_on(framing, VERSION, read_version, at + 1, end);
		if (*at == '\r' && framing->target_len > 0)
			return refuse(framing, GW_FRAMING_BAD_VERSION, at);
		if (!GW_FRAMING_IS(*at, GW_IN_TARGET))
			return refuse_byte(framing, GW_FRAMING_BAD_TARGET, at);
		if (framing->target_len == GW_FRAMING_TARGET_MAX)
			return refuse(framing, GW_FRAMING_LONG_TARGET, at);
		framing->target_len++;
		if (*at == '&' && ++framing->params > GW_FRAMING_PARAMS_MAX)
			return refuse(framing, GW_FRAMING_MANY_PARAMS, at);
	}
	return at;
}

static const char *
read_version(struct GwFraming *framing, const char *at, const char *end)
{
	static const char name[] = "HTTP/1.";

	for (; at < end; at++)
	{
		if (framing->matched < sizeof(name) - 1)
		{
			if (*at != name[framing->matched])
				return refuse_byte(framing, GW_FRAMING_BAD_VERSION, at);
			framing->matched++;
		}
		else if (*at == '0' || *at == '1')
		{
			framing->minor = (uint8_t) (*at - '0');
			return go_on(framing, VERSION_CR, read_version_cr, at + 1, end);
		}
		else
			return refuse_byte(framing, GW_FRAMING_BAD_VERSION, at);
	}
	return at;
}

static const char *
read_version_cr(struct GwFraming *framing, const char *at, const char *end)
{
	if (*at != '\r')
		return refuse_byte(framing, GW_FRAMING_BAD_VERSION, at);
	return go_on(framing, VERSION_LF, read_version_lf, at + 1, end);
}

static const char *
read_version_lf(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\n')
		return refuse(framing, GW_FRAMING_BARE_CR, at);
	framing->state = FIELD;
	return at + 1;
}

/* Lets a reader have no more of a section than the limits leave. */
static const char *
read_section(struct GwFraming *framing, Reader reader, const char *at, const char *end)
{
	size_t most = framing->in_trailers ? GW_FRAMING_TRAILER_MAX : GW_FRAMING_HEADER_MAX;
	size_t left = most - framing->header_len;
	const char *next;

	if (left == 0)
		return refuse(framing, GW_FRAMING_LONG_HEADER, at);
	next = reader(framing, at, (size_t) (end - at) > left ? at + left : end);
	framing->header_len += (uint32_t) (next - at);
	return next;
}

static const char *
read_field(struct GwFraming *framing, const char *at, const char *end)
{
	if (*at == '\r')
	{
		framing->state = END_LF;
		return at + 1;
	}
	if (*at == ' ' || *at == '\t')
		return refuse(framing, GW_FRAMING_FOLDED, at);
	if (!GW_FRAMING_IS(*at, GW_IN_TOKEN))
		return refuse_byte(framing, GW_FRAMING_BAD_NAME, at);
	if (framing->fields == (framing->in_trailers ? GW_FRAMING_TRAILERS_MAX : GW_FRAMING_FIELDS_MAX))
		return refuse(framing, GW_FRAMING_MANY_FIELDS, at);
	framing->fields++;
	framing->name_len = 0;
	return go_on(framing, NAME, read_name, at, end);
}

static const char *
read_name(struct GwFraming *framing, const char *at, const char *end)
{
	const char *from = at;

	at = gw_framing_skip(at, end, GW_IN_TOKEN);
	keep_name(framing, from, (size_t) (at - from));
	if (at == end)
		return at;
	if (*at == ':')
	{
		enum GwFramingFault fault = gw_framing_field_begin(framing);

		if (fault != GW_FRAMING_OK)
			return refuse(framing, fault, at);
		return go_on(framing, VALUE_SPACE, read_value_space, at + 1, end);
	}
	if (*at == ' ' || *at == '\t')
		return refuse(framing, GW_FRAMING_SPACE_BEFORE_COLON, at);
	return refuse_byte(framing, GW_FRAMING_BAD_NAME, at);
}

/* Keeps a piece of a name; of one that is too long to be known, that it is. */
static void
keep_name(struct GwFraming *framing, const char *piece, size_t len)
{
	size_t room = sizeof(framing->name) - framing->name_len;

	if (framing->name_len > sizeof(framing->name) || len > room)
	{
		framing->name_len = sizeof(framing->name) + 1;
		return;
	}
	memcpy(framing->name + framing->name_len, piece, len);
	framing->name_len += (uint8_t) len;
}

static const char *
read_value_space(struct GwFraming *framing, const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	return at < end ? go_on(framing, VALUE, read_value, at, end) : at;
}

static const char *
read_value(struct GwFraming *framing, const char *at, const char *end)
{
	enum GwFramingFault fault;

	/* Most of a request is a token and cookies, which only others read. */
	if (framing->field == GW_FIELD_OTHER)
		at += gw_text_plain(at, (size_t) (end - at));
	else if (framing->field == GW_FIELD_HOST)
		at = gw_framing_host_bytes(framing, at, end);
	for (; at < end; at++)
	{
		if (*at == '\r')
		{
			fault = gw_framing_value_end(framing);
			if (fault != GW_FRAMING_OK)
				return refuse(framing, fault, at);
			return go_on(framing, VALUE_LF, read_value_lf, at + 1, end);
		}
		if (!GW_FRAMING_IS(*at, GW_IN_VALUE))
			return refuse_byte(framing, GW_FRAMING_BAD_VALUE, at);
		if (framing->field != GW_FIELD_OTHER)
		{
			fault = gw_framing_value_byte(framing, (unsigned char) *at);
			if (fault != GW_FRAMING_OK)
				return refuse(framing, fault, at);
		}
	}
	return at;
}

static const char *
read_value_lf(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\n')
		return refuse(framing, GW_FRAMING_BARE_CR, at);
	framing->state = FIELD;
	return at + 1;
}

static const char *
read_end_lf(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\n')
		return refuse(framing, GW_FRAMING_BARE_CR, at);
	if (framing->in_trailers)
		message_end(framing);
	else if (!framing->has_host && framing->minor == 1)
		return refuse(framing, GW_FRAMING_NO_HOST, at);
	else if (framing->is_chunked)
	{
		framing->digits = 0;
		framing->left = 0;
		framing->state = CHUNK_SIZE;
	}
	else if (framing->length > 0)
	{
		framing->left = framing->length;
		framing->state = BODY;
	}
	else
		message_end(framing);
	return at + 1;
}

/* Forgets the last request of the connection. */
static void
message_begin(struct GwFraming *framing)
{
	uint64_t requests = framing->requests;

	gw_framing_init(framing);
	framing->requests = requests;
}

static void
message_end(struct GwFraming *framing)
{
	framing->requests++;
	framing->empty_lines = 0;
	framing->in_trailers = false;
	framing->state = START;
}

static const char *
read_body(struct GwFraming *framing, const char *at, const char *end)
{
	size_t len = (size_t) (end - at);

	if (len > framing->left)
		len = (size_t) framing->left;
	framing->left -= len;
	if (framing->left == 0)
		message_end(framing);
	return at + len;
}

static const char *
read_chunk_size(struct GwFraming *framing, const char *at, const char *end)
{
	for (; at < end; at++)
	{
		unsigned char byte = (unsigned char) *at;
		int digit = gw_hex_digit(*at);

		if (digit >= 0 && framing->digits < CHUNK_DIGITS_MAX)
		{
			framing->digits++;
			framing->left = framing->left * 16 + (unsigned) digit;
		}
		else if (byte == '\r' && framing->digits > 0)
		{
			framing->state = CHUNK_SIZE_LF;
			return at + 1;
		}
		else if (byte == ';' && framing->digits > 0)
			return refuse(framing, GW_FRAMING_CHUNK_EXTENSION, at);
		else
			return refuse_byte(framing, GW_FRAMING_BAD_CHUNK, at);
	}
	return at;
}

static const char *
read_chunk_size_lf(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\n')
		return refuse(framing, GW_FRAMING_BARE_CR, at);
	framing->state = CHUNK_DATA;
	if (framing->left == 0)
	{
		framing->state = FIELD;
		framing->in_trailers = true;
		framing->header_len = 0;
		framing->fields = 0;
	}
	return at + 1;
}

static const char *
read_chunk_data(struct GwFraming *framing, const char *at, const char *end)
{
	size_t len = (size_t) (end - at);

	if (len > framing->left)
		len = (size_t) framing->left;
	framing->left -= len;
	if (framing->left == 0)
		framing->state = CHUNK_DATA_CR;
	return at + len;
}

static const char *
read_chunk_data_cr(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\r')
		return refuse_byte(framing, GW_FRAMING_BAD_CHUNK, at);
	framing->state = CHUNK_DATA_LF;
	return at + 1;
}

static const char *
read_chunk_data_lf(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\n')
		return refuse(framing, GW_FRAMING_BARE_CR, at);
	framing->digits = 0;
	framing->left = 0;
	framing->state = CHUNK_SIZE;
	return at + 1;
}

/* Ends the reading; returns at. */
static const char *
refuse(struct GwFraming *framing, enum GwFramingFault fault, const char *at)
{
	framing->fault = (uint8_t) fault;
	framing->state = REFUSED;
	return at;
}

/* The same, naming line ends and NUL for what they are. */
static const char *
refuse_byte(struct GwFraming *framing, enum GwFramingFault fault, const char *at)
{
	if (*at == '\0')
		fault = GW_FRAMING_NUL;
	else if (*at == '\n')
		fault = GW_FRAMING_BARE_LF;
	else if (*at == '\r')
		fault = GW_FRAMING_BARE_CR;
	return refuse(framing, fault, at);
}
