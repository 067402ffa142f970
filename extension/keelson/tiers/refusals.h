/*
 * refusals.h
 *	  What hard quotas have refused: counted, and told to the user.
 */
#ifndef KS_TIERS_REFUSALS_H
#define KS_TIERS_REFUSALS_H

#include "postgres.h"

extern void ks_refusals_init(void);

#endif /* KS_TIERS_REFUSALS_H */
