/*
 * glob.h
 *	  Matching of event types.
 */
#ifndef KS_WEBHOOKS_GLOB_H
#define KS_WEBHOOKS_GLOB_H

#include "postgres.h"

/* Does the name match? An asterisk stands for any characters, dots included; all else for itself. */
extern bool ks_glob_matches(const char *glob, size_t glob_length, const char *name, size_t length);

#endif /* KS_WEBHOOKS_GLOB_H */
