/*
 * sanitise.h
 *	  Take out of an event's data what must not be kept, and set apart what
 *	  tells of a person.
 */
#ifndef KS_AUDIT_SANITISE_H
#define KS_AUDIT_SANITISE_H

#include "postgres.h"

#include "utils/jsonb.h"

/*
 * Split the object into its open and its personal part (NULL where one is
 * empty). By name and by shape, secrets are replaced by "[redacted]". A member
 * of the object is personal when its name, or anything in it, is.
 */
extern void ks_audit_sanitise(Jsonb *data, Jsonb **open, Jsonb **personal);

#endif /* KS_AUDIT_SANITISE_H */
