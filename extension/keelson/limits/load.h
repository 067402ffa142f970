/*
 * load.h
 *	  How hard the server is pressed, and what that leaves of a limit.
 */
#ifndef KS_LIMITS_LOAD_H
#define KS_LIMITS_LOAD_H

#include "postgres.h"

/* What is left of an adaptive limit for a rank of tiers 0 .. top_rank; at least 1. */
extern int32 ks_load_limit(int32 most, int rank, int top_rank);

/* Note how many calls wait in a gateway. */
extern void ks_load_queue(int32 length);

/* 0: calm, to 1: as pressed as the signals know. */
extern double ks_load_pressure(void);

extern void ks_load_init(void);

#endif /* KS_LIMITS_LOAD_H */
