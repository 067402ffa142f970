/*
 * columns.h
 *	  Arrays as parameters: one for each column of the rows that a statement
 *	  takes at once by unnest().
 */
#ifndef KS_COURIER_COLUMNS_H
#define KS_COURIER_COLUMNS_H

#include "postgres.h"

#define KS_MAX_COLUMNS 24

typedef struct KsColumns
{
	int columns;
	int rows;
	int capacity;
	Oid types[KS_MAX_COLUMNS];
	Datum *values[KS_MAX_COLUMNS];
	bool *nulls[KS_MAX_COLUMNS];
} KsColumns;

/* For so many rows at most, in the current memory context. */
extern KsColumns *ks_columns_create(int capacity, int columns, const Oid *types);

/* Add a row; `nulls` may be NULL. */
extern void ks_columns_add(KsColumns *columns, const Datum *values, const bool *nulls);

/* The arrays, into as many places of `out` as there are columns. */
extern void ks_columns_arrays(const KsColumns *columns, Datum *out);

#endif /* KS_COURIER_COLUMNS_H */
