/*
 * framing: an incremental, strict reader of HTTP/1.x message framing.
 *
 * One function per state reads as many bytes as belong to it and moves on. No
 * byte is looked at twice, nothing is kept but counters, the name of the field
 * under way and the request id. Limits are met by shortening what a state may
 * read, so that a verdict is the same however the bytes are cut.
 *
 * Where the RFCs leave a choice, the strict one is taken: exactly one space
 * between the parts of the request line, CR LF at the end of every line, no
 * white space after a length, no transfer coding but "chunked".
 */
#include "framing.h"

#include <string.h>

#include "text.h"
#include "uuid.h"

#define METHOD_MAX 16
#define EMPTY_LINES_MAX 2
#define LENGTH_DIGITS_MAX 18
#define CHUNK_DIGITS_MAX 8
#define CHUNK_EXTENSION_MAX 128

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
	CHUNK_EXTENSION,
	CHUNK_SIZE_LF,
	CHUNK_DATA,
	CHUNK_DATA_CR,
	CHUNK_DATA_LF,
	REFUSED
};

enum Field
{
	OTHER,
	HOST,
	CONTENT_LENGTH,
	TRANSFER_ENCODING,
	X_REQUEST_ID,
	COOKIE
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
static const char *read_chunk_extension(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_size_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_data(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_data_cr(struct GwFraming *framing, const char *at, const char *end);
static const char *read_chunk_data_lf(struct GwFraming *framing, const char *at, const char *end);
static const char *read_section(struct GwFraming *framing, Reader reader, const char *at, const char *end);
static const char *refuse(struct GwFraming *framing, enum GwFramingFault fault, const char *at);
static const char *refuse_byte(struct GwFraming *framing, enum GwFramingFault fault, const char *at);
static bool field_begin(struct GwFraming *framing);
static enum GwFramingFault value_byte(struct GwFraming *framing, unsigned char byte);
static enum GwFramingFault value_end(struct GwFraming *framing);
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
	[CHUNK_EXTENSION] = read_chunk_extension,
	[CHUNK_SIZE_LF] = read_chunk_size_lf,
	[CHUNK_DATA] = read_chunk_data,
	[CHUNK_DATA_CR] = read_chunk_data_cr,
	[CHUNK_DATA_LF] = read_chunk_data_lf,
};

/* What a byte may be: see the masks. */
#define IN_TOKEN 1 /* of a method or a field name */
#define IN_VALUE 2
#define IN_TARGET 4
#define IN_HOST 8

static const unsigned char classes[256] = {
	['\t'] = IN_VALUE,
	[' '] = IN_VALUE,
	['!'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['"'] = IN_VALUE | IN_TARGET,
	['#'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['$'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['%'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	['&'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['\''] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['('] = IN_VALUE | IN_TARGET,
	[')'] = IN_VALUE | IN_TARGET,
	['*'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['+'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	[','] = IN_VALUE | IN_TARGET,
	['-'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	['.'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	['/'] = IN_VALUE | IN_TARGET,
	['0' ... '9'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	[':'] = IN_VALUE | IN_TARGET | IN_HOST,
	[';' ... '@'] = IN_VALUE | IN_TARGET,
	['A' ... 'Z'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	['['] = IN_VALUE | IN_TARGET | IN_HOST,
	['\\'] = IN_VALUE | IN_TARGET,
	[']'] = IN_VALUE | IN_TARGET | IN_HOST,
	['^'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['_'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	['`'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['a' ... 'z'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	['{'] = IN_VALUE | IN_TARGET,
	['|'] = IN_TOKEN | IN_VALUE | IN_TARGET,
	['}'] = IN_VALUE | IN_TARGET,
	['~'] = IN_TOKEN | IN_VALUE | IN_TARGET | IN_HOST,
	[0x80 ... 0xFF] = IN_VALUE,
};

#define IS(byte, mask) ((classes[(unsigned char) (byte)] & (mask)) != 0)

void
gw_framing_init(struct GwFraming *framing)
{
	memset(framing, 0, sizeof(*framing));
	framing->state = START;
}

size_t
gw_framing_feed(struct GwFraming *framing, const char *data, size_t len, size_t *boundary)
{
	const char *at = data;
	const char *end = data + len;
	const char *began = data;

	while (at < end && framing->state != REFUSED)
	{
		uint8_t state = framing->state;

		if (gw_framing_phase(framing) == GW_FRAMING_IDLE)
			began = at;
		if (state >= FIELD && state <= END_LF)
			at = read_section(framing, readers[state], at, end);
		else
			at = readers[state](framing, at, end);
	}
	if (gw_framing_phase(framing) == GW_FRAMING_IDLE)
		began = at;
	if (boundary != NULL)
		*boundary = (size_t) (began - data);
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

static const char *
read_start(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at == '\r' && framing->empty_lines < EMPTY_LINES_MAX)
	{
		/* Empty lines before a request line are a known habit of old clients. */
		framing->empty_lines++;
		framing->state = START_LF;
		return at + 1;
	}
	if (!IS(*at, IN_TOKEN))
		return refuse_byte(framing, GW_FRAMING_BAD_METHOD, at);
	framing->state = METHOD;
	return at;
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
		{
			framing->state = TARGET;
			return at + 1;
		}
		if (!IS(*at, IN_TOKEN))
			return refuse_byte(framing, GW_FRAMING_BAD_METHOD, at);
		if (*at < 'A' || *at > 'Z' || framing->method_len == METHOD_MAX)
			return refuse(framing, GW_FRAMING_UNLISTED_METHOD, at);
		framing->method_len++;
	}
	return at;
}

static const char *
read_target(struct GwFraming *framing, const char *at, const char *end)
{
	for (; at < end; at++)
	{
		if (*at == ' ' && framing->target_len > 0)
		{
			framing->state = VERSION;
			return at + 1;
		}
		if (*at == '\r' && framing->target_len > 0)
			return refuse(framing, GW_FRAMING_BAD_VERSION, at);
		if (!IS(*at, IN_TARGET))
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
			framing->state = VERSION_CR;
			return at + 1;
		}
		else
			return refuse_byte(framing, GW_FRAMING_BAD_VERSION, at);
	}
	return at;
}

static const char *
read_version_cr(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at != '\r')
		return refuse_byte(framing, GW_FRAMING_BAD_VERSION, at);
	framing->state = VERSION_LF;
	return at + 1;
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

/* How many bytes the limits leave a header or trailer section; 0 with *fault set if none. */
static size_t
section_left(const struct GwFraming *framing, enum GwFramingFault *fault)
{
	size_t cost = framing->target_len + framing->header_len + framing->cookie_len +
				  (size_t) GW_FRAMING_COST_ITEM * ((size_t) framing->fields + framing->params + framing->cookies);
	size_t most = framing->in_trailers ? GW_FRAMING_TRAILER_MAX : GW_FRAMING_HEADER_MAX;
	size_t left = most - framing->header_len;

	*fault = left == 0 ? GW_FRAMING_LONG_HEADER : GW_FRAMING_LARGE_HEAD;
	if (framing->in_trailers)
		return left;
	if (cost >= GW_FRAMING_COST_MAX)
		return 0;
	return left < GW_FRAMING_COST_MAX - cost ? left : GW_FRAMING_COST_MAX - cost;
}

/* Lets a reader have no more of a section than the limits leave. */
static const char *
read_section(struct GwFraming *framing, Reader reader, const char *at, const char *end)
{
	enum GwFramingFault fault;
	size_t left = section_left(framing, &fault);
	const char *next;

	/* A byte of a cookie counts twice, see read_value. */
	if (framing->field == COOKIE && left > 1)
		left /= 2;
	if (left == 0)
		return refuse(framing, fault, at);
	next = reader(framing, at, (size_t) (end - at) > left ? at + left : end);
	/* The end of the section starts the count anew for the next request. */
	if (framing->state >= FIELD && framing->state <= END_LF)
		framing->header_len += (uint32_t) (next - at);
	return next;
}

static const char *
read_field(struct GwFraming *framing, const char *at, const char *end)
{
	(void) end;
	if (*at == '\r')
	{
		framing->state = END_LF;
		return at + 1;
	}
	if (*at == ' ' || *at == '\t')
		return refuse(framing, GW_FRAMING_FOLDED, at);
	if (!IS(*at, IN_TOKEN))
		return refuse_byte(framing, GW_FRAMING_BAD_NAME, at);
	if (framing->fields == (framing->in_trailers ? GW_FRAMING_TRAILERS_MAX : GW_FRAMING_FIELDS_MAX))
		return refuse(framing, GW_FRAMING_MANY_FIELDS, at);
	framing->fields++;
	framing->name_len = 0;
	framing->state = NAME;
	return at;
}

static const char *
read_name(struct GwFraming *framing, const char *at, const char *end)
{
	for (; at < end; at++)
	{
		if (*at == ':')
		{
			if (!field_begin(framing))
				return at;
			framing->state = VALUE_SPACE;
			return at + 1;
		}
		if (*at == ' ' || *at == '\t')
			return refuse(framing, GW_FRAMING_SPACE_BEFORE_COLON, at);
		if (!IS(*at, IN_TOKEN))
			return refuse_byte(framing, GW_FRAMING_BAD_NAME, at);
		if (framing->name_len < sizeof(framing->name))
			framing->name[framing->name_len] = (char) (*at >= 'A' && *at <= 'Z' ? *at | 0x20 : *at);
		if (framing->name_len <= sizeof(framing->name))
			framing->name_len++;
	}
	return at;
}

/* Why the field whose name is known may not be here. */
static enum GwFramingFault
field_fault(const struct GwFraming *framing)
{
	bool is_framing = framing->field == CONTENT_LENGTH || framing->field == TRANSFER_ENCODING;

	if (framing->in_trailers && (is_framing || framing->field == HOST))
		return GW_FRAMING_BAD_TRAILER;
	if (framing->field == HOST && framing->has_host)
		return GW_FRAMING_TWO_HOSTS;
	if (framing->field == CONTENT_LENGTH && framing->has_length)
		return GW_FRAMING_TWO_LENGTHS;
	if (framing->field == TRANSFER_ENCODING && (framing->is_chunked || framing->minor == 0))
		return GW_FRAMING_BAD_ENCODING;
	if (is_framing && (framing->has_length || framing->is_chunked))
		return GW_FRAMING_LENGTH_AND_ENCODING;
	return GW_FRAMING_OK;
}

/* Recognises the field whose name is complete; false if it may not be here. */
static bool
field_begin(struct GwFraming *framing)
{
	static const struct
	{
		const char *name;
		enum Field field;
	} known[] = {
		{"host", HOST},
		{"content-length", CONTENT_LENGTH},
		{"transfer-encoding", TRANSFER_ENCODING},
		{"x-request-id", X_REQUEST_ID},
		{"cookie", COOKIE},
	};
	enum GwFramingFault fault;
	size_t i;

	framing->field = OTHER;
	framing->value_len = 0;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (framing->name_len == strlen(known[i].name) && memcmp(framing->name, known[i].name, framing->name_len) == 0)
			framing->field = (uint8_t) known[i].field;
	fault = field_fault(framing);
	if (framing->in_trailers || (framing->field == X_REQUEST_ID && framing->request_id_len > 0))
		framing->field = OTHER;
	framing->has_host |= framing->field == HOST;
	framing->has_length |= framing->field == CONTENT_LENGTH;
	framing->is_chunked |= framing->field == TRANSFER_ENCODING;
	if (fault != GW_FRAMING_OK)
		refuse(framing, fault, NULL);
	return fault == GW_FRAMING_OK;
}

static const char *
read_value_space(struct GwFraming *framing, const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	if (at < end)
		framing->state = VALUE;
	return at;
}

static const char *
read_value(struct GwFraming *framing, const char *at, const char *end)
{
	enum GwFramingFault fault;

	/* Most of a request is a token and cookies that only others read. */
	if (framing->field == OTHER)
		at += gw_text_plain(at, (size_t) (end - at));
	for (; at < end; at++)
	{
		if (*at == '\r')
		{
			fault = value_end(framing);
			if (fault != GW_FRAMING_OK)
				return refuse(framing, fault, at);
			framing->state = VALUE_LF;
			return at + 1;
		}
		if (!IS(*at, IN_VALUE))
			return refuse_byte(framing, GW_FRAMING_BAD_VALUE, at);
		if (framing->field != OTHER)
		{
			fault = value_byte(framing, (unsigned char) *at);
			if (fault != GW_FRAMING_OK)
				return refuse(framing, fault, at);
			/* Every cookie costs: the limits are looked at anew. */
			if (framing->field == COOKIE && *at == ';')
				return at + 1;
		}
	}
	return at;
}

/* Takes a byte of the value of a field that we read. */
static enum GwFramingFault
value_byte(struct GwFraming *framing, unsigned char byte)
{
	static const char chunked[] = "chunked";

	switch ((enum Field) framing->field)
	{
		case HOST:
			if (!IS(byte, IN_HOST))
				return GW_FRAMING_BAD_HOST;
			break;
		case CONTENT_LENGTH:
			if (byte < '0' || byte > '9')
				return GW_FRAMING_BAD_LENGTH;
			if (framing->digits == LENGTH_DIGITS_MAX)
				return GW_FRAMING_LONG_BODY;
			if (byte != '0' || framing->digits > 0)
				framing->digits++;
			framing->left = framing->left * 10 + (byte - '0');
			break;
		case TRANSFER_ENCODING:
			if (framing->value_len >= sizeof(chunked) - 1 || (byte | 0x20) != chunked[framing->value_len])
				return GW_FRAMING_BAD_ENCODING;
			break;
		case X_REQUEST_ID:
			if (framing->request_id_len < 36)
				framing->request_id[framing->request_id_len] = (char) byte;
			if (framing->request_id_len < 37)
				framing->request_id_len++;
			break;
		case COOKIE:
			framing->cookie_len++;
			framing->cookies += byte == ';';
			break;
		case OTHER:
			break;
	}
	if (framing->value_len < UINT8_MAX)
		framing->value_len++;
	return GW_FRAMING_OK;
}

/* Judges the value of a field that has ended. */
static enum GwFramingFault
value_end(struct GwFraming *framing)
{
	if (framing->field == HOST && framing->value_len == 0)
		return GW_FRAMING_BAD_HOST;
	if (framing->field == CONTENT_LENGTH && framing->value_len == 0)
		return GW_FRAMING_BAD_LENGTH;
	if (framing->field == TRANSFER_ENCODING && framing->value_len != 7)
		return GW_FRAMING_BAD_ENCODING;
	return GW_FRAMING_OK;
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
	else if (framing->left > 0)
		framing->state = BODY;
	else
		message_end(framing);
	return at + 1;
}

/* Makes ready for the next request of the connection. */
static void
message_end(struct GwFraming *framing)
{
	uint64_t requests = framing->requests + 1;

	gw_framing_init(framing);
	framing->requests = requests;
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

/* The value of a hexadecimal digit, or -1. */
static int
hex_digit(unsigned char byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static const char *
read_chunk_size(struct GwFraming *framing, const char *at, const char *end)
{
	for (; at < end; at++)
	{
		unsigned char byte = (unsigned char) *at;
		int digit = hex_digit(byte);

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
		{
			framing->matched = 0;
			framing->state = CHUNK_EXTENSION;
			return at + 1;
		}
		else
			return refuse_byte(framing, GW_FRAMING_BAD_CHUNK, at);
	}
	return at;
}

static const char *
read_chunk_extension(struct GwFraming *framing, const char *at, const char *end)
{
	for (; at < end; at++)
	{
		if (*at == '\r')
		{
			framing->state = CHUNK_SIZE_LF;
			return at + 1;
		}
		if (!IS(*at, IN_VALUE) || framing->matched == CHUNK_EXTENSION_MAX)
			return refuse_byte(framing, GW_FRAMING_BAD_CHUNK, at);
		framing->matched++;
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
