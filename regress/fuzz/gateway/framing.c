/*
 * framing.c
 *	  Fuzzes the reader of request framing.
 *
 * The first byte of the input says how the rest is cut. The verdict, the place
 * of the fault and the number of requests must be the same as in one piece, and
 * what was accepted must be what a second, simple-minded reader of the same
 * bytes finds: every request of its list ends where that reader says.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "framing.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Feeds in pieces; returns the offset of the fault, or size. */
static size_t
feed(struct GwFraming *framing, const char *bytes, size_t size, size_t step)
{
	size_t at = 0;

	gw_framing_init(framing);
	while (at < size && framing->fault == GW_FRAMING_OK)
	{
		size_t piece = size - at < step ? size - at : step;
		uint64_t requests = framing->requests;
		enum GwFramingStop stop;
		size_t read = gw_framing_feed(framing, bytes + at, piece, &stop);
		char head[GW_FRAMING_HEAD_SIZE];

		REQUIRE(read <= piece);
		REQUIRE(read == piece || stop != GW_FRAMING_MORE);
		REQUIRE((stop == GW_FRAMING_FAULT) == (framing->fault != GW_FRAMING_OK));
		REQUIRE((stop == GW_FRAMING_END) == (framing->requests == requests + 1));
		if (stop == GW_FRAMING_HEAD_END || stop == GW_FRAMING_END)
			REQUIRE(gw_framing_write_head(framing, head) <= sizeof(head));
		at += read;
	}
	return at;
}

/*
 * The length of the accepted request at bytes by another method: the head ends
 * at the first empty line, and its fields are searched as text. 0 if it is not whole.
 */
static size_t
request_len(const char *bytes, size_t size)
{
	const char *end = memmem(bytes, size, "\r\n\r\n", 4);
	size_t head = end != NULL ? (size_t) (end - bytes) + 4 : 0;
	size_t at, line;
	bool is_chunked = false;
	unsigned long length = 0;

	if (head == 0)
		return 0;
	for (at = 0; at < head; at += line)
	{
		const char *stop = memmem(bytes + at, head - at, "\r\n", 2);

		line = (size_t) (stop - (bytes + at)) + 2;
		if (line > 15 && strncasecmp(bytes + at, "content-length:", 15) == 0)
			length = strtoul(bytes + at + 15, NULL, 10);
		if (line > 18 && strncasecmp(bytes + at, "transfer-encoding:", 18) == 0)
			is_chunked = true;
	}
	if (!is_chunked)
		return length <= size - head ? head + length : 0;
	for (at = head;;)
	{
		unsigned long chunk = strtoul(bytes + at, NULL, 16);
		const char *stop = memmem(bytes + at, size - at, "\r\n", 2);

		if (stop == NULL)
			return 0;
		at = (size_t) (stop - bytes) + 2;
		if (chunk == 0)
			break;
		if (size - at < chunk + 2)
			return 0;
		at += chunk + 2;
	}
	for (;;)
	{
		const char *stop = memmem(bytes + at, size - at, "\r\n", 2);

		if (stop == NULL)
			return 0;
		line = (size_t) (stop - (bytes + at));
		at += line + 2;
		if (line == 0)
			return at;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct GwFraming whole, part;
	size_t step, at, end;
	uint64_t requests;
	char *bytes;

	if (size == 0)
		return 0;
	step = data[0] % 16 + 1;
	size--;
	bytes = malloc(size + 1);
	memcpy(bytes, data + 1, size);
	bytes[size] = '\0';
	end = feed(&whole, bytes, size, size > 0 ? size : 1);
	REQUIRE(feed(&part, bytes, size, step) == end);
	REQUIRE(part.fault == whole.fault && part.requests == whole.requests && part.state == whole.state);
	for (at = 0, requests = 0; requests < whole.requests; requests++)
	{
		size_t len;

		while (at + 1 < size && bytes[at] == '\r' && bytes[at + 1] == '\n')
			at += 2;
		len = request_len(bytes + at, size - at);
		REQUIRE(len > 0);
		at += len;
	}
	REQUIRE(at <= end);
	gw_framing_request_id(&whole);
	free(bytes);
	return 0;
}
