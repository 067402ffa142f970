/*
 * rows.h
 *	  Kind "rows": the reply is read from the database row by row and sent as it comes.
 */
#ifndef GW_ROWS_H
#define GW_ROWS_H

#include "request.h"

/* Sets up the request's call so that its rows become the reply. */
void gw_rows_prepare(struct GwRequest *request);

#endif
