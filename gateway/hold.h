/*
 * hold: refusals that are answered again without asking the database.
 *
 * The database says with a refusal (a 429, a blocked address) how long the same
 * caller will be refused the same. Until then the loop repeats the refusal, so
 * that a flood costs the database nothing. Bounded: when the table is full the
 * refusal that ends first is forgotten. One table a loop, touched by it alone.
 */
#ifndef GW_HOLD_H
#define GW_HOLD_H

#include "request.h"

/* Repeats a refusal that holds, if there is one for the request; says whether there was. */
bool gw_hold_answers(struct GwRequest *request);

/* Remembers the refusal that the request's note tells to hold. Memory that is not there is no fault. */
void gw_hold_remember(struct GwRequest *request, const struct GwRow *row);

void gw_holds_free(struct GwLoop *loop);

#endif
