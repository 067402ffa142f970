/*
 * framing_fault: what a client is told about each fault of request framing.
 */
#include "framing.h"

static const struct
{
	int status;
	const char *code;
	const char *message;
} faults[GW_FRAMING_FAULTS] = {
	[GW_FRAMING_OK] = {500, "INTERNAL", "The request is in order"},
	[GW_FRAMING_BAD_METHOD] = {400, "BAD_REQUEST", "The request line does not begin with a method"},
	[GW_FRAMING_UNLISTED_METHOD] = {405, "METHOD_NOT_ALLOWED", "The method is not known"},
	[GW_FRAMING_CONNECT] = {405, "METHOD_NOT_ALLOWED", "This is no proxy: nothing is connected to"},
	[GW_FRAMING_BAD_TARGET] = {400, "BAD_REQUEST", "The request target has a character that must be percent-encoded"},
	[GW_FRAMING_LONG_TARGET] = {414, "URI_TOO_LONG", "The request target is longer than 8192 bytes"},
	[GW_FRAMING_MANY_PARAMS] = {400, "BAD_REQUEST", "The request target has too many query parameters"},
	[GW_FRAMING_BAD_VERSION] = {400, "BAD_REQUEST", "The request line does not end with HTTP/1.1 or HTTP/1.0"},
	[GW_FRAMING_BARE_CR] = {400, "BAD_REQUEST", "A carriage return stands without a line feed"},
	[GW_FRAMING_BARE_LF] = {400, "BAD_REQUEST", "A line feed stands without a carriage return"},
	[GW_FRAMING_NUL] = {400, "BAD_REQUEST", "The request head has a NUL byte"},
	[GW_FRAMING_FOLDED] = {400, "BAD_REQUEST", "A header line begins with white space"},
	[GW_FRAMING_BAD_NAME] = {400, "BAD_REQUEST", "A header name is empty or has a character it must not have"},
	[GW_FRAMING_SPACE_BEFORE_COLON] = {400, "BAD_REQUEST", "A header name is followed by white space"},
	[GW_FRAMING_BAD_VALUE] = {400, "BAD_REQUEST", "A header value has a control character"},
	[GW_FRAMING_NO_HOST] = {400, "BAD_REQUEST", "The Host header is missing"},
	[GW_FRAMING_BAD_HOST] = {400, "BAD_REQUEST", "The Host header is not a host name"},
	[GW_FRAMING_TWO_HOSTS] = {400, "BAD_REQUEST", "There is more than one Host header"},
	[GW_FRAMING_BAD_LENGTH] = {400, "BAD_REQUEST", "The Content-Length header is not a number"},
	[GW_FRAMING_TWO_LENGTHS] = {400, "BAD_REQUEST", "There is more than one Content-Length header"},
	[GW_FRAMING_LENGTH_AND_ENCODING] = {400, "BAD_REQUEST", "Content-Length and Transfer-Encoding exclude each other"},
	[GW_FRAMING_BAD_ENCODING] = {400, "BAD_REQUEST", "The only transfer encoding is chunked, once, in HTTP/1.1"},
	[GW_FRAMING_BAD_CHUNK] = {400, "BAD_REQUEST", "The chunk framing of the body is broken"},
	[GW_FRAMING_CHUNK_EXTENSION] = {400, "BAD_REQUEST", "A chunk of the body has an extension, which is not accepted"},
	[GW_FRAMING_BAD_TRAILER] = {400, "BAD_REQUEST", "A trailer must not have framing fields"},
	[GW_FRAMING_LONG_HEADER] = {431, "HEADERS_TOO_LARGE", "The header section is larger than 16384 bytes, or the trailer section than 1024"},
	[GW_FRAMING_MANY_FIELDS] = {431, "HEADERS_TOO_LARGE", "There are more than 100 header fields, or 8 trailer fields"},
	[GW_FRAMING_LONG_BODY] = {413, "PAYLOAD_TOO_LARGE", "The body is too large"},
};

int
gw_framing_status(enum GwFramingFault fault)
{
	return faults[fault].status;
}

const char *
gw_framing_code(enum GwFramingFault fault)
{
	return faults[fault].code;
}

const char *
gw_framing_message(enum GwFramingFault fault)
{
	return faults[fault].message;
}
