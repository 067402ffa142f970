/*
 * screen.h
 *	  What can be said of a request from its head alone.
 */
#ifndef GW_SCREEN_H
#define GW_SCREEN_H

#include "request.h"

/*
 * Reads the head, finds the endpoint and the call's arguments.  A request that
 * needs nothing more is answered: refused, or served by the gateway itself.
 */
void gw_screen(struct GwRequest *request);

#endif
