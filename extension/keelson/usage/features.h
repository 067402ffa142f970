/*
 * features.h
 *	  Which features' use may be recorded.
 */
#ifndef KS_USAGE_FEATURES_H
#define KS_USAGE_FEATURES_H

#include "postgres.h"

#define KS_FEATURE_LENGTH 63

typedef enum KsFeatureState
{
	KS_FEATURE_OPEN,
	KS_FEATURE_CLOSED,
	KS_FEATURE_UNDECLARED /* and those are not taken */
} KsFeatureState;

/* Is it a name that a feature may have? */
extern bool ks_feature_name_is_good(const char *name, int len);

/* Whether the feature's use may be recorded now. */
extern KsFeatureState ks_feature_state(const char *name, int len);

#endif /* KS_USAGE_FEATURES_H */
