/*
 * assets: the files of the documentation page, inside the executable.
 */
#ifndef GW_ASSETS_H
#define GW_ASSETS_H

#include "text.h"

/* The content (static) of a file by its name below docs/, empty for the page itself; NULL if there is none. */
const char *gw_asset_find(struct GwSlice name, const char **content_type, size_t *len);

#endif
