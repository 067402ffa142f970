/*
 * framing: an incremental, strict reader of HTTP/1.x message framing.
 *
 * Knows no socket and no library: bytes in, verdict out. It follows the
 * requests of a connection, one after the other, with constant memory, and may
 * be fed any number of bytes at a time. Of a head that is complete it writes
 * another that says the same of the message's framing and nothing else, for the
 * library behind it, so that both can never disagree where a request ends.
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

#define GW_FRAMING_METHOD_MAX 16
#define GW_FRAMING_HEAD_SIZE 192 /* of the head written for the library, at most */

enum GwFramingFault
{
	GW_FRAMING_OK,
	GW_FRAMING_BAD_METHOD,      /* not a token */
	GW_FRAMING_UNLISTED_METHOD, /* a token, but not of capital letters or over 16 long: 405 */
	GW_FRAMING_CONNECT,         /* 405 */
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
	GW_FRAMING_CHUNK_EXTENSION,
	GW_FRAMING_BAD_TRAILER,
	GW_FRAMING_LONG_HEADER, /* 431 */
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

/* What a feeding came to. */
enum GwFramingStop
{
	GW_FRAMING_MORE,     /* all bytes were read, and the message goes on */
	GW_FRAMING_HEAD_END, /* the head is complete; the body follows */
	GW_FRAMING_END,      /* the message is complete; so is its head if it had no body */
	GW_FRAMING_FAULT
};

struct GwFraming
{
	uint8_t state; /* enum in framing.c */
	uint8_t fault; /* enum GwFramingFault, once refused */
	/* Of the request under way, or of the last one until the next begins: */
	uint8_t field;       /* enum GwField: which of the fields we read is under way */
	uint8_t name_len;    /* of the field name under way, at most one more than fits */
	uint8_t value_len;   /* bytes of a value that we read, at most 255 */
	uint8_t word_len;    /* of the option under way; more than fits: none that we know */
	uint8_t matched;     /* of a literal under way */
	uint8_t empty_lines; /* before the request line */
	uint8_t method_len;
	uint8_t minor;          /* version: 0 or 1 */
	uint8_t digits;         /* significant ones of the length under way */
	uint8_t request_id_len; /* 37: too long */
	bool has_host, has_length, is_chunked, in_trailers;
	bool closes, keeps_alive; /* Connection */
	bool expects;             /* Expect: 100-continue */
	bool is_word_over;        /* white space behind the option under way */
	uint16_t fields;
	uint16_t params;
	uint32_t target_len;
	uint32_t header_len; /* bytes of field lines so far */
	uint64_t length;     /* the Content-Length */
	uint64_t left;       /* bytes of body or chunk still to come */
	char method[GW_FRAMING_METHOD_MAX];
	char name[20];
	char word[12];       /* lower-case */
	char request_id[37]; /* X-Request-ID as far as seen */
	/* Of the connection: */
	uint64_t requests; /* seen whole */
};

void gw_framing_init(struct GwFraming *framing);

/*
 * Reads up to len bytes, to the end of a head or of a message at most. Returns
 * how many; *stop, if not NULL, says why not more. After a fault framing->fault says which,
 * and every later call reads nothing. The verdict does not depend on how the
 * bytes are cut into calls.
 */
size_t gw_framing_feed(struct GwFraming *framing, const char *data, size_t len, enum GwFramingStop *stop);

/*
 * Writes the head of the request whose head has ended last as the library shall
 * see it: the method, "/" for the target, and of the fields those alone that
 * frame the message. Returns its length.
 */
size_t gw_framing_write_head(const struct GwFraming *framing, char out[GW_FRAMING_HEAD_SIZE]);

enum GwFramingPhase gw_framing_phase(const struct GwFraming *framing);

/* The client's X-Request-ID of the request under way, or of the last one, if it was seen whole and is a UUID, else NULL. */
const char *gw_framing_request_id(const struct GwFraming *framing);

/* HTTP status, error code and message of a fault. */
int gw_framing_status(enum GwFramingFault fault);
const char *gw_framing_code(enum GwFramingFault fault);
const char *gw_framing_message(enum GwFramingFault fault);

#endif
