/*
 * assets: the files of the documentation page, inside the executable.
 *
 * The assembler brings them in at compile time, from docs/ below the folder
 * where the compiler runs; so there is nothing to install and nothing to miss.
 */
#include "assets.h"

#define EMBED(symbol, file)                                      \
	__asm__(".section .rodata\n"                                 \
			".global gw_asset_" #symbol "\n"                     \
			".global gw_asset_" #symbol "_end\n"                 \
			"gw_asset_" #symbol ":\n.incbin \"docs/" file "\"\n" \
			"gw_asset_" #symbol "_end:\n.byte 0\n.previous\n");  \
	extern const char gw_asset_##symbol[], gw_asset_##symbol##_end[]

EMBED(page, "index.html");
EMBED(script, "docs.js");
EMBED(style, "docs.css");

const char *
gw_asset_find(struct GwSlice name, const char **content_type, size_t *len)
{
	static const struct
	{
		const char *name;
		const char *content_type;
		const char *data;
		const char *end;
	} assets[] = {
		{"", "text/html; charset=utf-8", gw_asset_page, gw_asset_page_end},
		{"docs.js", "text/javascript; charset=utf-8", gw_asset_script, gw_asset_script_end},
		{"docs.css", "text/css; charset=utf-8", gw_asset_style, gw_asset_style_end},
	};
	size_t i;

	for (i = 0; i < sizeof(assets) / sizeof(assets[0]); i++)
		if (gw_slice_is(name, assets[i].name))
		{
			*content_type = assets[i].content_type;
			*len = (size_t) (assets[i].end - assets[i].data);
			return assets[i].data;
		}
	return NULL;
}
