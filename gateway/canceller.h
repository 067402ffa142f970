/*
 * canceller.h
 *	  The thread that sends cancel requests, which libpq can only do blocking.
 */
#ifndef GW_CANCELLER_H
#define GW_CANCELLER_H

#include "link.h"

struct GwCanceller;

struct GwCanceller *gw_canceller_start(void) __attribute__((warn_unused_result));
void gw_canceller_send(struct GwCanceller *canceller, struct GwLink *link);
void gw_canceller_stop(struct GwCanceller *canceller);

#endif
