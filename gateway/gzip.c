/*
 * gzip: compression of reply bodies.
 *
 * A compressor costs a quarter of a megabyte to set up, so each thread keeps
 * one and resets it. The fastest level: at a few kilobytes the better ones gain
 * little and cost several times as much.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "gzip.h"

#define LEVEL 1
#define WINDOW_GZIP (15 + 16) /* a gzip header and trailer */
#define MEMORY_LEVEL 8

/* The thread's compressor, made at its first use. */
static _Thread_local z_stream stream;
static _Thread_local bool is_made;

char *
gw_gzip(const char *data, size_t len, size_t *out_len)
{
	char *out;

	if (len == 0 || len > UINT32_MAX / 2)
		return NULL;
	if (!is_made)
	{
		memset(&stream, 0, sizeof(stream));
		if (deflateInit2(&stream, LEVEL, Z_DEFLATED, WINDOW_GZIP, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
			return NULL;
		is_made = true;
	}
	else if (deflateReset(&stream) != Z_OK)
		return NULL;
	/* No more room than the body itself takes: what does not fit is not worth sending. */
	out = malloc(len);
	if (out == NULL)
		return NULL;
	stream.next_in = (Bytef *) data;
	stream.avail_in = (uInt) len;
	stream.next_out = (Bytef *) out;
	stream.avail_out = (uInt) len;
	if (deflate(&stream, Z_FINISH) != Z_STREAM_END)
	{
		free(out);
		return NULL;
	}
	*out_len = len - stream.avail_out;
	return out;
}

void
gw_gzip_end(void)
{
	if (is_made)
		deflateEnd(&stream);
	is_made = false;
}
