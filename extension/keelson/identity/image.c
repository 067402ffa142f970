/*
 * image.c
 *	  Tell pictures by their content.
 *
 * The magic bytes alone would let anything pass that begins like a picture. So
 * the structure is followed from the first byte to the last: chunks of PNG
 * (ISO/IEC 15948) with their checksums, segments of JPEG (ISO/IEC 10918-1) to
 * the end-of-image marker, chunks of RIFF for WebP (RFC 9649). What stands
 * behind the picture's end, such as an archive or a page of HTML, is refused,
 * as are sizes that would take much memory to show.
 *
 * All reads go through a span that knows its end.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/pg_crc.h"

#include "identity/image.h"

#define MAX_SIDE 8192
#define MAX_PIXELS (25 * 1000 * 1000)

typedef struct Span
{
	const uint8 *at;
	const uint8 *end;
} Span;

static const char png_magic[] = "\x89PNG\r\n\x1a\n";

static const char *read_png(Span span, KsImage *image);
static bool is_png_head(const uint8 *head);
static const char *read_jpeg(Span span, KsImage *image);
static bool skip_scan(Span *span);
static const char *read_webp(Span span, KsImage *image);
static bool read_webp_size(const uint8 *chunk, uint32 size, KsImage *image);
static bool is_one_of_frames(int marker);
static bool has(const Span *span, size_t bytes);
static uint32 big16(const uint8 *at);
static uint32 big32(const uint8 *at);
static uint32 little24(const uint8 *at);
static uint32 little32(const uint8 *at);

const char *
ks_image_read(const uint8 *data, size_t len, KsImage *image)
{
	Span span = {data, data + len};
	const char *fault;

	memset(image, 0, sizeof(*image));
	if (has(&span, 8) && memcmp(data, png_magic, 8) == 0)
		fault = read_png(span, image);
	else if (has(&span, 3) && memcmp(data, "\xff\xd8\xff", 3) == 0)
		fault = read_jpeg(span, image);
	else if (has(&span, 12) && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0)
		fault = read_webp(span, image);
	else
		return "must be a PNG, JPEG or WebP picture";
	if (fault != NULL)
		return fault;
	if (image->width == 0 || image->height == 0)
		return "must be a picture with a width and a height";
	if (image->width > MAX_SIDE || image->height > MAX_SIDE || (uint64) image->width * image->height > MAX_PIXELS)
		return "must be a picture of at most 8,192 pixels a side and 25 million altogether";
	return NULL;
}

/* Length, type, data, checksum: from IHDR to IEND. */
static const char *
read_png(Span span, KsImage *image)
{
	bool has_data = false;

	image->content_type = "image/png";
	span.at += 8;
	for (bool is_first = true;; is_first = false)
	{
		uint32 size;
		const uint8 *type;
		pg_crc32 crc;

		if (!has(&span, 12) || (size = big32(span.at)) > 0x7FFFFFFF || !has(&span, (size_t) size + 12))
			return "must be a whole PNG picture";
		type = span.at + 4;
		INIT_TRADITIONAL_CRC32(crc);
		COMP_TRADITIONAL_CRC32(crc, type, size + 4);
		FIN_TRADITIONAL_CRC32(crc);
		if (big32(type + 4 + size) != crc)
			return "must be a PNG picture whose checksums are right";
		span.at += (size_t) size + 12;
		if (is_first != (memcmp(type, "IHDR", 4) == 0) || (is_first && (size != 13 || !is_png_head(type + 4))))
			return "must be a PNG picture with a head that is valid";
		if (is_first)
		{
			image->width = big32(type + 4);
			image->height = big32(type + 8);
		}
		has_data |= memcmp(type, "IDAT", 4) == 0;
		if (memcmp(type, "IEND", 4) == 0)
			return size == 0 && has_data && span.at == span.end ? NULL : "must be a PNG picture and nothing behind it";
	}
}

/* Bit depth and colour type that go together; compression, filter, interlace. */
static bool
is_png_head(const uint8 *head)
{
	int depth = head[8];
	bool is_fitting;

	if (depth != 1 && depth != 2 && depth != 4 && depth != 8 && depth != 16)
		return false;
	switch (head[9])
	{
		case 0:
			is_fitting = true;
			break;
		case 3:
			is_fitting = depth <= 8;
			break;
		case 2:
		case 4:
		case 6:
			is_fitting = depth >= 8;
			break;
		default:
			return false;
	}
	return is_fitting && head[10] == 0 && head[11] == 0 && head[12] <= 1;
}

/* Marker, length, segment; a scan's data runs to the next marker that is none of its own. */
static const char *
read_jpeg(Span span, KsImage *image)
{
	bool has_scan = false;

	image->content_type = "image/jpeg";
	span.at += 2;
	for (;;)
	{
		int marker;
		uint32 size;

		if (!has(&span, 2) || span.at[0] != 0xFF)
			return "must be a whole JPEG picture";
		marker = span.at[1];
		/* Filling before a marker. */
		if (marker == 0xFF)
		{
			span.at++;
			continue;
		}
		span.at += 2;
		if (marker == 0xD9)
			return has_scan && span.at == span.end ? NULL : "must be a JPEG picture and nothing behind it";
		/* Markers without a length have no business here. */
		if (marker < 0xC0 || (marker >= 0xD0 && marker <= 0xD8) || !has(&span, 2) ||
			(size = big16(span.at)) < 2 || !has(&span, size))
			return "must be a whole JPEG picture";
		if (is_one_of_frames(marker))
		{
			/* Precision, height, width, components and three bytes for each. */
			if (image->width != 0 || size < 8 || size != 8 + 3 * (uint32) span.at[7] || (span.at[2] != 8 && span.at[2] != 12))
				return "must be a JPEG picture with a head that is valid";
			image->height = big16(span.at + 3);
			image->width = big16(span.at + 5);
		}
		span.at += size;
		if (marker != 0xDA)
			continue;
		if (image->width == 0 || !skip_scan(&span))
			return "must be a whole JPEG picture";
		has_scan = true;
	}
}

/* Move to the marker that ends the scan's data; false where there is none. */
static bool
skip_scan(Span *span)
{
	while (has(span, 2))
	{
		const uint8 *found = memchr(span->at, 0xFF, span->end - span->at - 1);

		if (found == NULL)
			return false;
		/* A stuffed zero, a restart and filling belong to the data. */
		if (found[1] != 0 && found[1] != 0xFF && !(found[1] >= 0xD0 && found[1] <= 0xD7))
		{
			span->at = found;
			return true;
		}
		span->at = found + (found[1] == 0xFF ? 1 : 2);
	}
	return false;
}

/* SOF0 to SOF15, but for those numbers that mean tables. */
static bool
is_one_of_frames(int marker)
{
	return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

/* A RIFF of chunks: type, length, data, a byte of filling where that is odd. */
static const char *
read_webp(Span span, KsImage *image)
{
	bool has_data = false;

	image->content_type = "image/webp";
	if (little32(span.at + 4) != (uint64) (span.end - span.at) - 8)
		return "must be a WebP picture and nothing behind it";
	span.at += 12;
	for (bool is_first = true; span.at < span.end; is_first = false)
	{
		const uint8 *chunk = span.at;
		uint32 size;

		if (!has(&span, 8))
			return "must be a whole WebP picture";
		size = little32(chunk + 4);
		if (!has(&span, (size_t) size + 8 + (size & 1)))
			return "must be a whole WebP picture";
		span.at += (size_t) size + 8 + (size & 1);
		if (is_first && !read_webp_size(chunk, size, image))
			return "must be a WebP picture with a head that is valid";
		has_data |= memcmp(chunk, "VP8 ", 4) == 0 || memcmp(chunk, "VP8L", 4) == 0 || memcmp(chunk, "ANMF", 4) == 0;
	}
	return has_data ? NULL : "must be a whole WebP picture";
}

/* The size is said by the first chunk, each kind in its own way. */
static bool
read_webp_size(const uint8 *chunk, uint32 size, KsImage *image)
{
	const uint8 *data = chunk + 8;
	uint32 bits;

	if (memcmp(chunk, "VP8X", 4) == 0 && size == 10)
	{
		image->width = little24(data + 4) + 1;
		image->height = little24(data + 7) + 1;
		return true;
	}
	if (memcmp(chunk, "VP8L", 4) == 0 && size >= 5 && data[0] == 0x2F)
	{
		bits = little32(data + 1);
		image->width = (bits & 0x3FFF) + 1;
		image->height = (bits >> 14 & 0x3FFF) + 1;
		return bits >> 29 == 0;
	}
	/* A key frame, its start code, and two times 14 bits. */
	if (memcmp(chunk, "VP8 ", 4) == 0 && size >= 10 && (data[0] & 1) == 0 && memcmp(data + 3, "\x9d\x01\x2a", 3) == 0)
	{
		image->width = (data[6] | data[7] << 8) & 0x3FFF;
		image->height = (data[8] | data[9] << 8) & 0x3FFF;
		return true;
	}
	return false;
}

static bool
has(const Span *span, size_t bytes)
{
	return (size_t) (span->end - span->at) >= bytes;
}

static uint32
big16(const uint8 *at)
{
	return (uint32) at[0] << 8 | at[1];
}

static uint32
big32(const uint8 *at)
{
	return (uint32) at[0] << 24 | (uint32) at[1] << 16 | (uint32) at[2] << 8 | at[3];
}

static uint32
little24(const uint8 *at)
{
	return (uint32) at[0] | (uint32) at[1] << 8 | (uint32) at[2] << 16;
}

static uint32
little32(const uint8 *at)
{
	return little24(at) | (uint32) at[3] << 24;
}

PG_FUNCTION_INFO_V1(ks_image_read_sql);

/* keelson._image_read(image bytea, out content_type text, out width int, out height int, out fault text) */
Datum
ks_image_read_sql(PG_FUNCTION_ARGS)
{
	bytea *data = PG_GETARG_BYTEA_PP(0);
	KsImage image;
	TupleDesc desc;
	Datum values[4] = {0};
	bool nulls[4] = {true, true, true, true};
	const char *fault = ks_image_read((const uint8 *) VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), &image);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "keelson._image_read() must return a row");
	if (fault != NULL)
		values[3] = CStringGetTextDatum(fault);
	else
	{
		values[0] = CStringGetTextDatum(image.content_type);
		values[1] = Int32GetDatum((int32) image.width);
		values[2] = Int32GetDatum((int32) image.height);
	}
	nulls[3] = fault == NULL;
	nulls[0] = nulls[1] = nulls[2] = fault != NULL;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
