/*
 * qr.c
 *	  A text as a QR code, drawn as SVG; libqrencode makes the code.
 */
#include "postgres.h"

#include <qrencode.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "core/compat.h"

/* ISO/IEC 18004 asks for four light modules around the code. */
#define MARGIN 4
#define TEXT_MAX 1024

static void draw(StringInfo svg, const QRcode *code);

PG_FUNCTION_INFO_V1(ks__qr_svg);

/* keelson._qr_svg(content text) */
Datum
ks__qr_svg(PG_FUNCTION_ARGS)
{
	char *content = text_to_cstring(PG_GETARG_TEXT_PP(0));
	StringInfoData svg;
	QRcode *code;

	if (strlen(content) > TEXT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a QR code holds at most %d bytes here", TEXT_MAX)));
	/* Room first: nothing is raised while the library's object is there. */
	initStringInfo(&svg);
	enlargeStringInfo(&svg, 512 * 1024);
	code = QRcode_encodeString(content, 0, QR_ECLEVEL_M, QR_MODE_8, 1);
	if (code == NULL)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not make a QR code: %m")));
	draw(&svg, code);
	QRcode_free(code);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(svg.data, svg.len));
}

/* Each run of dark modules in a row is a rectangle of one path. At most 177 modules a side fit into the room made. */
static void
draw(StringInfo svg, const QRcode *code)
{
	int side = code->width + 2 * MARGIN;

	appendStringInfo(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" shape-rendering=\"crispEdges\">"
						  "<path fill=\"#fff\" d=\"M0 0h%dv%dH0z\"/><path d=\"",
					 side, side, side, side);
	for (int y = 0; y < code->width; y++)
	{
		const unsigned char *row = code->data + y * code->width;

		for (int x = 0; x < code->width;)
		{
			int begin = x;

			while (x < code->width && (row[x] & 1))
				x++;
			if (x > begin)
				appendStringInfo(svg, "M%d %dh%dv1h-%dz", begin + MARGIN, y + MARGIN, x - begin, x - begin);
			else
				x++;
		}
	}
	appendStringInfoString(svg, "\"/></svg>");
}
