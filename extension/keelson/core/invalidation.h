/*
 * invalidation.h
 *	  Being told that a relation has changed.
 */
#ifndef KS_INVALIDATION_H
#define KS_INVALIDATION_H

#include "postgres.h"

#include "utils/inval.h"

/*
 * As CacheRegisterRelcacheCallback(), of which a process has ten for all that
 * it holds: this takes one for all of ours. Register once in a process.
 */
extern void ks_on_relation_change(RelcacheCallbackFunction function, Datum arg);

#endif /* KS_INVALIDATION_H */
