/*
 * framing: what is accepted, what is refused and why, and that neither depends
 * on how the bytes are cut.
 */
#include <stdlib.h>

#include "framing.h"
#include "tap.h"

#define HEAD "GET / HTTP/1.1\r\nHost: a\r\n"

struct Case
{
	const char *name;
	const char *bytes;
	size_t len;
	enum GwFramingFault fault;
	unsigned requests; /* seen whole before the fault or the end */
};

#define CASE(name, bytes, fault, requests)              \
	{                                                   \
		name, bytes, sizeof(bytes) - 1, fault, requests \
	}

static const struct Case cases[] = {
	CASE("a plain request", HEAD "\r\n", GW_FRAMING_OK, 1),
	CASE("HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", GW_FRAMING_OK, 1),
	CASE("a body by length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", GW_FRAMING_OK, 1),
	CASE("a body not yet whole", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nhello", GW_FRAMING_OK, 0),
	CASE("length zero", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", GW_FRAMING_OK, 1),
	CASE("a length with leading zeros", "POST / HTTP/1.1\r\nHost: a\r\ncontent-length:0000000000000000000000001\r\n\r\nx", GW_FRAMING_OK, 1),
	CASE("chunks and a trailer", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n", GW_FRAMING_OK, 1),
	CASE("pipelined requests", HEAD "\r\n"
									"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /" HEAD "\r\n",
		 GW_FRAMING_OK, 3),
	CASE("a smuggled request stays a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 27\r\n\r\n" HEAD "\r\n", GW_FRAMING_OK, 1),
	CASE("empty lines before a request", "\r\n\r\n" HEAD "\r\n", GW_FRAMING_OK, 1),
	CASE("too many empty lines", "\r\n\r\n\r\n" HEAD "\r\n", GW_FRAMING_BARE_CR, 0),
	CASE("a value with tabs and high bytes", HEAD "X: \ta\tb\303\251\r\nY:\r\n\r\n", GW_FRAMING_OK, 1),
	CASE("absolute form", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_OK, 1),
	CASE("a method that only the router can judge", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_OK, 1),
	CASE("a host with a port", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", GW_FRAMING_OK, 1),

	CASE("length and encoding", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", GW_FRAMING_LENGTH_AND_ENCODING, 0),
	CASE("encoding and length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", GW_FRAMING_LENGTH_AND_ENCODING, 0),
	CASE("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", GW_FRAMING_TWO_LENGTHS, 0),
	CASE("two equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", GW_FRAMING_TWO_LENGTHS, 0),
	CASE("a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", GW_FRAMING_BAD_LENGTH, 0),
	CASE("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", GW_FRAMING_BAD_LENGTH, 0),
	CASE("a negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", GW_FRAMING_BAD_LENGTH, 0),
	CASE("a hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", GW_FRAMING_BAD_LENGTH, 0),
	CASE("an empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", GW_FRAMING_BAD_LENGTH, 0),
	CASE("white space after a length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 \r\n\r\n", GW_FRAMING_BAD_LENGTH, 0),
	CASE("a huge length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n", GW_FRAMING_LONG_BODY, 0),
	CASE("encoding gzip, chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("encoding chunked, chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("encoding identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("an empty encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("half of an encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunk\r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("white space after an encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked \r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("two encodings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("an encoding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", GW_FRAMING_BAD_ENCODING, 0),
	CASE("a folded header", HEAD "X: a\r\n b\r\n\r\n", GW_FRAMING_FOLDED, 0),
	CASE("white space before the first header", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", GW_FRAMING_FOLDED, 0),
	CASE("bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", GW_FRAMING_BARE_LF, 0),
	CASE("bare LF after a header", HEAD "X: a\nY: b\r\n\r\n", GW_FRAMING_BARE_LF, 0),
	CASE("bare LF at the end", HEAD "\n", GW_FRAMING_BARE_LF, 0),
	CASE("bare CR in a value", HEAD "X: a\rb\r\n\r\n", GW_FRAMING_BARE_CR, 0),
	CASE("bare CR at the end", HEAD "\rX", GW_FRAMING_BARE_CR, 0),
	CASE("bare CR after the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n", GW_FRAMING_BARE_CR, 0),
	CASE("NUL in a value", HEAD "X: a\0b\r\n\r\n", GW_FRAMING_NUL, 0),
	CASE("NUL in a name", HEAD "X\0Y: a\r\n\r\n", GW_FRAMING_NUL, 0),
	CASE("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_NUL, 0),
	CASE("NUL in the method", "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_NUL, 0),
	CASE("control character in a value", HEAD "X: a\001\r\n\r\n", GW_FRAMING_BAD_VALUE, 0),
	CASE("DEL in a value", HEAD "X: a\177\r\n\r\n", GW_FRAMING_BAD_VALUE, 0),
	CASE("space before the colon", HEAD "X : a\r\n\r\n", GW_FRAMING_SPACE_BEFORE_COLON, 0),
	CASE("tab before the colon", HEAD "Content-Length\t: 5\r\n\r\n", GW_FRAMING_SPACE_BEFORE_COLON, 0),
	CASE("no colon", HEAD "X\r\n\r\n", GW_FRAMING_BARE_CR, 0),
	CASE("an empty name", HEAD ": a\r\n\r\n", GW_FRAMING_BAD_NAME, 0),
	CASE("a name with a slash", HEAD "X/Y: a\r\n\r\n", GW_FRAMING_BAD_NAME, 0),
	CASE("a name with a high byte", HEAD "X\303\251: a\r\n\r\n", GW_FRAMING_BAD_NAME, 0),
	CASE("no Host", "GET / HTTP/1.1\r\n\r\n", GW_FRAMING_NO_HOST, 0),
	CASE("two Hosts", HEAD "Host: a\r\n\r\n", GW_FRAMING_TWO_HOSTS, 0),
	CASE("an empty Host", "GET / HTTP/1.1\r\nHost: \r\n\r\n", GW_FRAMING_BAD_HOST, 0),
	CASE("a Host with two names", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", GW_FRAMING_BAD_HOST, 0),
	CASE("a Host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", GW_FRAMING_BAD_HOST, 0),
	CASE("a method in small letters", "get / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_UNLISTED_METHOD, 0),
	CASE("a long method", "AAAAAAAAAAAAAAAAA / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_UNLISTED_METHOD, 0),
	CASE("a request for a tunnel", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_CONNECT, 0),
	CASE("a method that begins like it", "CONNECTED / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_OK, 1),
	CASE("a method that is no token", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_METHOD, 0),
	CASE("a space first", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_METHOD, 0),
	CASE("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_TARGET, 0),
	CASE("a high byte in the target", "GET /\303\251 HTTP/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_TARGET, 0),
	CASE("no version", "GET /\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_VERSION, 0),
	CASE("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_VERSION, 0),
	CASE("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_VERSION, 0),
	CASE("HTTP/1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_VERSION, 0),
	CASE("http/1.1", "GET / http/1.1\r\nHost: a\r\n\r\n", GW_FRAMING_BAD_VERSION, 0),
	CASE("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GW_FRAMING_BAD_VERSION, 0),
	CASE("the hello of TLS", "\026\003\001\002\000\001\000", GW_FRAMING_BAD_METHOD, 0),
	CASE("an empty chunk size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", GW_FRAMING_BARE_CR, 0),
	CASE("a chunk size that is no number", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", GW_FRAMING_BAD_CHUNK, 0),
	CASE("a chunk size with 0x", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n", GW_FRAMING_BAD_CHUNK, 0),
	CASE("a chunk size with white space", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n", GW_FRAMING_BAD_CHUNK, 0),
	CASE("a negative chunk size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", GW_FRAMING_BAD_CHUNK, 0),
	CASE("a chunk size that overflows", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100000005\r\nhello\r\n", GW_FRAMING_BAD_CHUNK, 0),
	CASE("a chunk with an extension", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n", GW_FRAMING_CHUNK_EXTENSION, 0),
	CASE("an extension of the last chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;a\r\n\r\n", GW_FRAMING_CHUNK_EXTENSION, 0),
	CASE("an extension without a size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n;a\r\n\r\n", GW_FRAMING_BAD_CHUNK, 0),
	CASE("a chunk longer than its size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n", GW_FRAMING_BAD_CHUNK, 0),
	CASE("bare LF after a chunk size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n", GW_FRAMING_BARE_LF, 0),
	CASE("bare LF after a chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n", GW_FRAMING_BARE_LF, 0),
	CASE("a length among the trailers", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", GW_FRAMING_BAD_TRAILER, 0),
	CASE("more trailers than may be", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
									  "a:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\n\r\n",
		 GW_FRAMING_MANY_FIELDS, 0),
	CASE("a fault in the second request", HEAD "\r\n"
											   "GET / HTTP/1.1\r\n\r\n",
		 GW_FRAMING_NO_HOST, 1),
	CASE("a fault behind a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\nGET", GW_FRAMING_BARE_LF, 1),
};

/* Feeds in pieces of "step" bytes; returns the offset of the fault, or all. */
static size_t
feed(struct GwFraming *framing, const char *bytes, size_t len, size_t step)
{
	size_t at = 0;

	gw_framing_init(framing);
	while (at < len && framing->fault == GW_FRAMING_OK)
	{
		size_t piece = len - at < step ? len - at : step;

		at += gw_framing_feed(framing, bytes + at, piece, NULL);
	}
	return at;
}

static void
test_cases(void)
{
	size_t i, step;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		const struct Case *c = &cases[i];
		struct GwFraming whole, part;
		size_t at = feed(&whole, c->bytes, c->len, c->len);
		bool is_same = true;

		if (!ok(whole.fault == c->fault && whole.requests == c->requests, "%s", c->name))
			printf("# fault %d (%s), expected %d; requests %llu, expected %u\n", whole.fault, gw_framing_message(whole.fault),
				   c->fault, (unsigned long long) whole.requests, c->requests);
		for (step = 1; step < 8; step++)
			is_same &= feed(&part, c->bytes, c->len, step) == at && part.fault == whole.fault && part.requests == whole.requests;
		ok(is_same, "%s, cut into pieces", c->name);
	}
}

/* A head with a target of target_len bytes and one header of value_len bytes. */
static char *
long_head(size_t target_len, size_t value_len, size_t *len)
{
	char *head = malloc(target_len + value_len + 100);
	size_t at = (size_t) sprintf(head, "GET /");

	memset(head + at, 'a', target_len - 1);
	at += target_len - 1;
	at += (size_t) sprintf(head + at, " HTTP/1.1\r\nHost: a\r\nX: ");
	memset(head + at, 'b', value_len);
	at += value_len;
	at += (size_t) sprintf(head + at, "\r\n\r\n");
	*len = at;
	return head;
}

static void
test_one_limit(const char *name, size_t target_len, size_t value_len, enum GwFramingFault fault)
{
	size_t len;
	char *head = long_head(target_len, value_len, &len);
	struct GwFraming whole, part;
	size_t at = feed(&whole, head, len, len);

	is_number(whole.fault, fault, name);
	ok(feed(&part, head, len, 1) == at && part.fault == whole.fault, "%s, byte by byte", name);
	free(head);
}

static void
test_limits(void)
{
	/* "Host: a\r\n", "X: ", "\r\n" and "\r\n" are 16 bytes of the header section. */
	test_one_limit("the longest target", GW_FRAMING_TARGET_MAX, 1, GW_FRAMING_OK);
	test_one_limit("a byte more", GW_FRAMING_TARGET_MAX + 1, 1, GW_FRAMING_LONG_TARGET);
	test_one_limit("the largest header section", 1, GW_FRAMING_HEADER_MAX - 16, GW_FRAMING_OK);
	test_one_limit("a byte more", 1, GW_FRAMING_HEADER_MAX - 15, GW_FRAMING_LONG_HEADER);
	test_one_limit("both at once", GW_FRAMING_TARGET_MAX, GW_FRAMING_HEADER_MAX - 16, GW_FRAMING_OK);
}

/* n header lines (Host is one) or n query separators. */
static enum GwFramingFault
many(size_t headers, size_t separators)
{
	char *head = malloc(headers * 8 + separators * 2 + 100);
	struct GwFraming framing;
	size_t at = (size_t) sprintf(head, "GET /?");
	size_t i;

	for (i = 0; i < separators; i++)
		at += (size_t) sprintf(head + at, "a&");
	at += (size_t) sprintf(head + at, " HTTP/1.1\r\nHost: a\r\n");
	for (i = 1; i < headers; i++)
		at += (size_t) sprintf(head + at, "X: a\r\n");
	at += (size_t) sprintf(head + at, "\r\n");
	feed(&framing, head, at, at);
	free(head);
	return framing.fault;
}

static void
test_counts(void)
{
	is_number(many(GW_FRAMING_FIELDS_MAX, 0), GW_FRAMING_OK, "as many header lines as may be");
	is_number(many(GW_FRAMING_FIELDS_MAX + 1, 0), GW_FRAMING_MANY_FIELDS, "one more");
	is_number(many(1, GW_FRAMING_PARAMS_MAX), GW_FRAMING_OK, "as many query parameters as may be");
	is_number(many(GW_FRAMING_FIELDS_MAX, GW_FRAMING_PARAMS_MAX), GW_FRAMING_OK, "both at once");
	is_number(many(1, GW_FRAMING_PARAMS_MAX + 1), GW_FRAMING_MANY_PARAMS, "one more");
}

/* Reads go to the end of a head and of a message, and no further. */
static void
test_stops(void)
{
	static const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
	static const char train[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" HEAD "\r\nGET / HTTP/1.1\r\nX : a\r\n\r\n";
	struct GwFraming framing;
	enum GwFramingStop stop;
	const char *at = train;
	const char *end = train + sizeof(train) - 1;

	gw_framing_init(&framing);
	is_number((long long) gw_framing_feed(&framing, at, 10, &stop), 10, "half of a head is read");
	is_number(stop, GW_FRAMING_MORE, "and there is more of it");
	at += 10;
	at += gw_framing_feed(&framing, at, (size_t) (end - at), &stop);
	ok(stop == GW_FRAMING_HEAD_END && at == train + sizeof(head) - 1, "then its end");
	at += gw_framing_feed(&framing, at, (size_t) (end - at), &stop);
	ok(stop == GW_FRAMING_END && at == train + sizeof(head) - 1 + 5, "the end of the body is that of the message");
	at += gw_framing_feed(&framing, at, (size_t) (end - at), &stop);
	ok(stop == GW_FRAMING_END && framing.requests == 2, "so is the end of a head without one");
	at += gw_framing_feed(&framing, at, (size_t) (end - at), &stop);
	ok(stop == GW_FRAMING_FAULT && *at == ' ', "a fault ends the reading");
	is_number((long long) gw_framing_feed(&framing, at, 1, &stop), 0, "for good");
	is_number(stop, GW_FRAMING_FAULT, "and stays one");
}

/* The head that the library gets, of one that came in pieces. */
static void
test_head(const char *given, const char *expected)
{
	for (size_t step = 1; step < 100; step += 33)
	{
		struct GwFraming framing;
		enum GwFramingStop stop = GW_FRAMING_MORE;
		size_t at = 0, len = strlen(given);
		char head[GW_FRAMING_HEAD_SIZE + 1];

		gw_framing_init(&framing);
		while (at < len && (stop == GW_FRAMING_MORE))
			at += gw_framing_feed(&framing, given + at, len - at < step ? len - at : step, &stop);
		head[gw_framing_write_head(&framing, head)] = '\0';
		is_string(head, expected, "a head as the library sees it");
	}
}

static void
test_heads(void)
{
	test_head("GET /a?b=c HTTP/1.1\r\nAuthorization: Bearer x\r\nHost: a.example:80\r\n\r\n", "GET / HTTP/1.1\r\nHost: -\r\n\r\n");
	test_head("\r\nOPTIONS * HTTP/1.0\r\n\r\n", "OPTIONS / HTTP/1.0\r\n\r\n");
	test_head("GET / HTTP/1.0\r\nconnection: \tfoo , KEEP-alive\t\r\n\r\n", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
	test_head(HEAD "Connection: keep-alive,close , x\r\n\r\n", "GET / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n");
	test_head(HEAD "Connection: Close\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "GET / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n");
	test_head(HEAD "Connection: closed, clo se, close-not-at-all, keep-alivex, \"close\"\r\n\r\n", "GET / HTTP/1.1\r\nHost: -\r\n\r\n");
	test_head("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 000\r\n\r\n", "PUT / HTTP/1.1\r\nHost: -\r\nContent-Length: 0\r\n\r\n");
	test_head("PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length:\t00999999999999999999\r\n\r\n",
			  "PUT / HTTP/1.1\r\nHost: -\r\nContent-Length: 999999999999999999\r\nExpect: 100-continue\r\n\r\n");
	test_head("ABCDEFGHIJKLMNOP /x HTTP/1.1\r\nTransfer-Encoding: CHUNKED\r\nConnection: keep-alive\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
			  "ABCDEFGHIJKLMNOP / HTTP/1.1\r\nHost: -\r\nTransfer-Encoding: chunked\r\nConnection: Keep-Alive\r\nExpect: 100-continue\r\n\r\n");
}

static void
test_phase(void)
{
	static const char text[] = "POST / HTTP/1.1\r\nHost: a\r\nX-Request-ID: 0190a7b2-0000-7000-8000-00000000000A\r\nContent-Length: 2\r\n\r\nab";
	struct GwFraming framing;
	size_t i;

	gw_framing_init(&framing);
	is_number(gw_framing_phase(&framing), GW_FRAMING_IDLE, "a new connection is idle");
	gw_framing_feed(&framing, text, 1, NULL);
	is_number(gw_framing_phase(&framing), GW_FRAMING_HEAD, "after the first byte it is in a head");
	for (i = 1; i < sizeof(text) - 3; i++)
		gw_framing_feed(&framing, text + i, 1, NULL);
	is_number(gw_framing_phase(&framing), GW_FRAMING_BODY, "behind the head it is in the body");
	is_string(gw_framing_request_id(&framing), "0190a7b2-0000-7000-8000-00000000000A", "the request id is read");
	gw_framing_feed(&framing, text + i, 2, NULL);
	is_number(gw_framing_phase(&framing), GW_FRAMING_IDLE, "behind the body it is idle again");
	gw_framing_feed(&framing, text, 1, NULL);
	ok(gw_framing_request_id(&framing) == NULL, "the next request has no id yet");
}

/* Every byte, at every place of a value that is read several at a time. */
static void
test_values(void)
{
	static const char head[] = HEAD "X: ";
	char text[sizeof(head) + 32];
	bool is_good = true;

	for (int byte = 0; byte < 256; byte++)
		for (size_t place = 0; place < 20; place++)
		{
			struct GwFraming framing;
			bool may = (byte >= ' ' && byte != 0x7F) || byte == '\t';

			memcpy(text, head, sizeof(head) - 1);
			memset(text + sizeof(head) - 1, 'x', 20);
			text[sizeof(head) - 1 + place] = (char) byte;
			memcpy(text + sizeof(head) - 1 + 20, "\r\n\r\n", 4);
			gw_framing_init(&framing);
			gw_framing_feed(&framing, text, sizeof(head) - 1 + 24, NULL);
			is_good &= (framing.fault == GW_FRAMING_OK) == may && framing.requests == may;
		}
	ok(is_good, "control characters are refused wherever they stand in a value");
}

static void
test_messages(void)
{
	int fault;
	bool is_good = true;

	for (fault = 0; fault < GW_FRAMING_FAULTS; fault++)
		is_good &= gw_framing_message(fault) != NULL && gw_framing_code(fault) != NULL && gw_framing_status(fault) >= 400;
	ok(is_good, "every fault has a status, a code and a message");
}

int
main(void)
{
	test_cases();
	test_limits();
	test_counts();
	test_stops();
	test_heads();
	test_phase();
	test_values();
	test_messages();
	return done();
}
