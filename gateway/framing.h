/*
 * framing: an incremental, strict reader of HTTP/1.x message framing.
 *
 * Knows no socket and no library: bytes in, verdict out. It follows every
 * request of a connection, pipelined ones included, with constant memory, and
 * may be fed any number of bytes at a time. It is stricter than the library
 * behind it, so that both can never disagree where a request ends.
 *
 *   START ─► METHOD ─► TARGET ─► VERSION ─► fields ─► (body | chunks ─► trailers) ─► START
 *      any state ─► REFUSED (final)
 */
#ifndef GW_FRAMING_H
#define GW_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_FRAMING_TARGET_MAX 8192  /* longer: 414 */
#define GW_FRAMING_HEADER_MAX 16384 /* header section of a request; longer: 431 */
#define GW_FRAMING_TRAILER_MAX 1024 /* trailer section; longer: 431 */
#define GW_FRAMING_FIELDS_MAX 100   /* header fields of a request; more: 431 */
#define GW_FRAMING_TRAILERS_MAX 8   /* trailer fields */
#define GW_FRAMING_PARAMS_MAX 64    /* "&" in a target; more: 400 */

/*
 * What a head may cost: its bytes (those of cookies twice, as the library copies
 * them) and GW_FRAMING_COST_ITEM for each field, parameter and cookie; more: 431.
 * The library keeps all of it in a connection's GW_FRAMING_MEMORY, and hangs or
 * answers with a page of its own when it does not fit. The largest target and
 * header section together are within it, with up to 16 fields.
 */
#define GW_FRAMING_COST_MAX 25600
#define GW_FRAMING_MEMORY (32 * 1024) /* with room for the reply's head; it is cleared with each request */
#define GW_FRAMING_COST_ITEM 64

enum GwFramingFault
{
	GW_FRAMING_OK,
	GW_FRAMING_BAD_METHOD,      /* not a token */
	GW_FRAMING_UNLISTED_METHOD, /* a token, but not of capital letters or over 16 long: 405 */
	GW_FRAMING_BAD_TARGET,
	GW_FRAMING_LONG_TARGET, /* 414 */
	GW_FRAMING_MANY_PARAMS,
	GW_FRAMING_BAD_VERSION,
	GW_FRAMING_BARE_CR,
	GW_FRAMING_BARE_LF,
	GW_FRAMING_NUL,
	GW_FRAMING_FOLDED,
	GW_FRAMING_BAD_NAME,
	GW_FRAMING_SPACE_BEFORE_COLON,
	GW_FRAMING_BAD_VALUE,
	GW_FRAMING_NO_HOST,
	GW_FRAMING_BAD_HOST,
	GW_FRAMING_TWO_HOSTS,
	GW_FRAMING_BAD_LENGTH,
	GW_FRAMING_TWO_LENGTHS,
	GW_FRAMING_LENGTH_AND_ENCODING,
	GW_FRAMING_BAD_ENCODING,
	GW_FRAMING_BAD_CHUNK,
	GW_FRAMING_BAD_TRAILER,
	GW_FRAMING_LONG_HEADER, /* 431 */
	GW_FRAMING_LARGE_HEAD,  /* 431 */
	GW_FRAMING_MANY_FIELDS, /* 431 */
	GW_FRAMING_LONG_BODY,   /* a length of more than 18 digits: 413 */
	GW_FRAMING_FAULTS
};

/* Where the reader stands, coarsely; what the deadlines need. */
enum GwFramingPhase
{
	GW_FRAMING_IDLE, /* between requests, no byte of the next one seen */
	GW_FRAMING_HEAD, /* inside a request line or header section */
	GW_FRAMING_BODY, /* inside a body, chunk framing or trailers */
	GW_FRAMING_REFUSED
};

struct GwFraming
{
	uint8_t state; /* enum in framing.c */
	uint8_t fault; /* enum GwFramingFault, once refused */
	/* Of the request under way, zeroed between requests: */
	uint8_t field;       /* which of the fields we read is under way */
	uint8_t name_len;    /* of the field name under way, at most one more than fits */
	uint8_t value_len;   /* bytes of a value that we read, at most 255 */
	uint8_t matched;     /* of a literal under way */
	uint8_t empty_lines; /* before the request line */
	uint8_t method_len;
	uint8_t minor;          /* version: 0 or 1 */
	uint8_t digits;         /* significant ones of the length under way */
	uint8_t request_id_len; /* 37: too long */
	bool has_host, has_length, is_chunked, in_trailers;
	uint16_t fields;
	uint16_t params;
	uint16_t cookies;
	uint32_t target_len;
	uint32_t header_len; /* bytes of field lines so far */
	uint32_t cookie_len; /* of those, in cookies, which the library copies */
	uint64_t left;       /* bytes of body or chunk still to come; or the length under way */
	char name[20];       /* lower-case */
	char request_id[37]; /* X-Request-ID as far as seen */
	/* Of the connection: */
	uint64_t requests; /* seen whole */
};

void gw_framing_init(struct GwFraming *framing);

/*
 * Reads len bytes. Returns how many were read without fault: all of them, or
 * fewer, and then framing->fault says why (every later call returns 0).
 * *boundary, if not NULL, is set to the offset in data where the message under
 * way at the end (or at the fault) began, 0 if it began in an earlier call; the
 * bytes before it are whole messages, or the end of one. The verdict does not
 * depend on how the bytes are cut into calls.
 */
size_t gw_framing_feed(struct GwFraming *framing, const char *data, size_t len, size_t *boundary);

enum GwFramingPhase gw_framing_phase(const struct GwFraming *framing);

/* The client's X-Request-ID of the request under way if it was seen whole and is a UUID, else NULL. */
const char *gw_framing_request_id(const struct GwFraming *framing);

/* HTTP status, error code and message of a fault. */
int gw_framing_status(enum GwFramingFault fault);
const char *gw_framing_code(enum GwFramingFault fault);
const char *gw_framing_message(enum GwFramingFault fault);

#endif
