/*
 * input.h
 *	  Turning JSON values, and texts of path and query, into SQL values.
 */
#ifndef KS_INPUT_H
#define KS_INPUT_H

#include "postgres.h"

#include "dispatch/fault.h"
#include "dispatch/json_in.h"

typedef struct KsInputType KsInputType;

/* Look up how values of the type are read; lives as long as the context. */
extern KsInputType *ks_input_type(MemoryContext cxt, Oid type);

/*
 * Read the value. With is_text it is a text of path or query (a JSON string)
 * that stands for whatever the type is. False when it is at fault, which is
 * then noted at the faults' path. SQL's null is read from JSON's.
 */
extern bool ks_input_read(KsInputType *type, const KsJson *value, bool is_text, KsFaults *faults, Datum *out, bool *is_null);

/* Check a value that was made otherwise against the type's constraints. */
extern bool ks_input_check(KsInputType *type, Datum value, bool is_null, KsFaults *faults);

#endif /* KS_INPUT_H */
