/*
 * framing_field: the header fields that framing itself reads, and the head that
 * tells the library behind it what they say.
 */
#include "framing_field.h"

#include <string.h>
#include <strings.h>

#include "framing_byte.h"
#include "text.h"

static enum GwFramingFault field_fault(const struct GwFraming *framing);
static void count_value(struct GwFraming *framing, size_t len);
static void word_byte(struct GwFraming *framing, unsigned char byte);
static void word_end(struct GwFraming *framing);

/* Why the field whose name is known may not be here. */
static enum GwFramingFault
field_fault(const struct GwFraming *framing)
{
	bool is_framing = framing->field == GW_FIELD_CONTENT_LENGTH || framing->field == GW_FIELD_TRANSFER_ENCODING;

	if (framing->in_trailers && (is_framing || framing->field == GW_FIELD_HOST))
		return GW_FRAMING_BAD_TRAILER;
	if (framing->field == GW_FIELD_HOST && framing->has_host)
		return GW_FRAMING_TWO_HOSTS;
	if (framing->field == GW_FIELD_CONTENT_LENGTH && framing->has_length)
		return GW_FRAMING_TWO_LENGTHS;
	if (framing->field == GW_FIELD_TRANSFER_ENCODING && (framing->is_chunked || framing->minor == 0))
		return GW_FRAMING_BAD_ENCODING;
	if (is_framing && (framing->has_length || framing->is_chunked))
		return GW_FRAMING_LENGTH_AND_ENCODING;
	return GW_FRAMING_OK;
}

enum GwFramingFault
gw_framing_field_begin(struct GwFraming *framing)
{
	static const struct
	{
		const char *name;
		enum GwField field;
	} known[] = {
		{"host", GW_FIELD_HOST},
		{"content-length", GW_FIELD_CONTENT_LENGTH},
		{"transfer-encoding", GW_FIELD_TRANSFER_ENCODING},
		{"x-request-id", GW_FIELD_X_REQUEST_ID},
		{"connection", GW_FIELD_CONNECTION},
		{"expect", GW_FIELD_EXPECT},
	};
	enum GwFramingFault fault;
	size_t i;

	framing->field = GW_FIELD_OTHER;
	framing->value_len = 0;
	framing->word_len = 0;
	framing->is_word_over = false;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (framing->name_len == strlen(known[i].name) && strncasecmp(framing->name, known[i].name, framing->name_len) == 0)
			framing->field = (uint8_t) known[i].field;
	fault = field_fault(framing);
	if (framing->in_trailers || (framing->field == GW_FIELD_X_REQUEST_ID && framing->request_id_len > 0))
		framing->field = GW_FIELD_OTHER;
	framing->has_host |= framing->field == GW_FIELD_HOST;
	framing->has_length |= framing->field == GW_FIELD_CONTENT_LENGTH;
	framing->is_chunked |= framing->field == GW_FIELD_TRANSFER_ENCODING;
	return fault;
}

const char *
gw_framing_host_bytes(struct GwFraming *framing, const char *at, const char *end)
{
	const char *from = at;

	at = gw_framing_skip(at, end, GW_IN_HOST);
	count_value(framing, (size_t) (at - from));
	return at;
}

enum GwFramingFault
gw_framing_value_byte(struct GwFraming *framing, unsigned char byte)
{
	static const char chunked[] = "chunked";

	switch ((enum GwField) framing->field)
	{
		case GW_FIELD_HOST:
			if (!GW_FRAMING_IS(byte, GW_IN_HOST))
				return GW_FRAMING_BAD_HOST;
			break;
		case GW_FIELD_CONTENT_LENGTH:
			if (byte < '0' || byte > '9')
				return GW_FRAMING_BAD_LENGTH;
			if (framing->digits == GW_FRAMING_LENGTH_DIGITS)
				return GW_FRAMING_LONG_BODY;
			if (byte != '0' || framing->digits > 0)
				framing->digits++;
			framing->length = framing->length * 10 + (byte - '0');
			break;
		case GW_FIELD_TRANSFER_ENCODING:
			if (framing->value_len >= sizeof(chunked) - 1 || (byte | 0x20) != chunked[framing->value_len])
				return GW_FRAMING_BAD_ENCODING;
			break;
		case GW_FIELD_X_REQUEST_ID:
			if (framing->request_id_len < 36)
				framing->request_id[framing->request_id_len] = (char) byte;
			if (framing->request_id_len < 37)
				framing->request_id_len++;
			break;
		case GW_FIELD_CONNECTION:
		case GW_FIELD_EXPECT:
			word_byte(framing, byte);
			break;
		case GW_FIELD_OTHER:
			break;
	}
	count_value(framing, 1);
	return GW_FRAMING_OK;
}

static void
count_value(struct GwFraming *framing, size_t len)
{
	size_t sum = framing->value_len + len;

	framing->value_len = sum < UINT8_MAX ? (uint8_t) sum : UINT8_MAX;
}

/* Takes a byte of a list of options. */
static void
word_byte(struct GwFraming *framing, unsigned char byte)
{
	if (byte == ',')
		word_end(framing);
	else if (byte == ' ' || byte == '\t')
		framing->is_word_over = framing->word_len > 0;
	else if (framing->is_word_over || framing->word_len >= sizeof(framing->word))
		framing->word_len = sizeof(framing->word) + 1;
	else
		framing->word[framing->word_len++] = (char) (byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte);
}

static void
word_end(struct GwFraming *framing)
{
	static const char close[] = "close", keep_alive[] = "keep-alive", expectation[] = "100-continue";
	size_t len = framing->word_len;

#define IS_WORD(known) (len == sizeof(known) - 1 && memcmp(framing->word, known, len) == 0)
	framing->closes |= framing->field == GW_FIELD_CONNECTION && IS_WORD(close);
	framing->keeps_alive |= framing->field == GW_FIELD_CONNECTION && IS_WORD(keep_alive);
	framing->expects |= framing->field == GW_FIELD_EXPECT && IS_WORD(expectation);
#undef IS_WORD
	framing->word_len = 0;
	framing->is_word_over = false;
}

enum GwFramingFault
gw_framing_value_end(struct GwFraming *framing)
{
	word_end(framing);
	if (framing->field == GW_FIELD_HOST && framing->value_len == 0)
		return GW_FRAMING_BAD_HOST;
	if (framing->field == GW_FIELD_CONTENT_LENGTH && framing->value_len == 0)
		return GW_FRAMING_BAD_LENGTH;
	if (framing->field == GW_FIELD_TRANSFER_ENCODING && framing->value_len != 7)
		return GW_FRAMING_BAD_ENCODING;
	return GW_FRAMING_OK;
}

#define PUT(at, literal) ((char *) memcpy((at), "" literal, sizeof(literal) - 1) + sizeof(literal) - 1)

size_t
gw_framing_write_head(const struct GwFraming *framing, char out[GW_FRAMING_HEAD_SIZE])
{
	char *at = (char *) memcpy(out, framing->method, framing->method_len) + framing->method_len;

	at = PUT(at, " / HTTP/1.");
	*at++ = (char) ('0' + framing->minor);
	at = PUT(at, "\r\n");
	if (framing->has_host)
		at = PUT(at, "Host: -\r\n");
	if (framing->has_length)
	{
		at = PUT(at, "Content-Length: ");
		at += gw_digits(at, (int64_t) framing->length);
		at = PUT(at, "\r\n");
	}
	if (framing->is_chunked)
		at = PUT(at, "Transfer-Encoding: chunked\r\n");
	if (framing->closes)
		at = PUT(at, "Connection: close\r\n");
	else if (framing->keeps_alive)
		at = PUT(at, "Connection: Keep-Alive\r\n");
	if (framing->expects)
		at = PUT(at, "Expect: 100-continue\r\n");
	at = PUT(at, "\r\n");
	return (size_t) (at - out);
}
