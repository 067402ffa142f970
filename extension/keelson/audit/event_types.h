/*
 * event_types.h
 *	  The registered types of events, known again per backend.
 */
#ifndef KS_AUDIT_EVENT_TYPES_H
#define KS_AUDIT_EVENT_TYPES_H

#include "postgres.h"

/* Is the type registered? If so, tells whether it is the core's alone. */
extern bool ks_audit_type_find(const char *type, bool *is_reserved);

#endif /* KS_AUDIT_EVENT_TYPES_H */
