/*
 * input_type.h
 *	  What the readers of input.c, input_scalar.c and input_compound.c share.
 */
#ifndef KS_INPUT_TYPE_H
#define KS_INPUT_TYPE_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/typcache.h"

#include "dispatch/input.h"

/* What is read, and where its faults are noted. */
typedef struct KsInputFrom
{
	const KsJson *json;
	bool is_text;
	KsFaults *faults;
} KsInputFrom;

typedef bool (*KsInputReader)(KsInputType *type, const KsInputFrom *from, Datum *out);

struct KsInputType
{
	KsInputReader read;
	MemoryContext cxt;
	Oid type;
	Oid base;
	int32 typmod;
	bool is_domain;
	DomainConstraintRef domain;
	FmgrInfo input;
	Oid ioparam;
	KsInputType *element; /* of an array */
	int16 element_len;
	bool element_byval;
	char element_align;
	struct KsRowInput *row; /* of a composite type, NULL until first used */
};

/* How values of a type that is neither array nor row are read. */
extern KsInputReader ks_input_scalar(Oid base);

extern bool ks_input_read_array(KsInputType *type, const KsInputFrom *from, Datum *out);
extern bool ks_input_read_row(KsInputType *type, const KsInputFrom *from, Datum *out);

#endif /* KS_INPUT_TYPE_H */
