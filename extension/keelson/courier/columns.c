/*
 * columns.c
 *	  Rows gathered into arrays.
 */
#include "postgres.h"

#include "utils/array.h"
#include "utils/lsyscache.h"

#include "courier/columns.h"

KsColumns *
ks_columns_create(int capacity, int columns, const Oid *types)
{
	KsColumns *made = palloc0(sizeof(KsColumns));

	Assert(columns <= KS_MAX_COLUMNS);
	made->columns = columns;
	made->capacity = Max(capacity, 1);
	memcpy(made->types, types, columns * sizeof(Oid));
	for (int i = 0; i < columns; i++)
	{
		made->values[i] = palloc(made->capacity * sizeof(Datum));
		made->nulls[i] = palloc0(made->capacity * sizeof(bool));
	}
	return made;
}

void
ks_columns_add(KsColumns *columns, const Datum *values, const bool *nulls)
{
	Assert(columns->rows < columns->capacity);
	for (int i = 0; i < columns->columns; i++)
	{
		columns->values[i][columns->rows] = values[i];
		columns->nulls[i][columns->rows] = nulls != NULL && nulls[i];
	}
	columns->rows++;
}

void
ks_columns_arrays(const KsColumns *columns, Datum *out)
{
	int lower = 1;
	int rows = columns->rows;

	for (int i = 0; i < columns->columns; i++)
	{
		int16 len;
		bool by_value;
		char align;

		get_typlenbyvalalign(columns->types[i], &len, &by_value, &align);
		out[i] = PointerGetDatum(construct_md_array(columns->values[i], columns->nulls[i], 1, &rows, &lower,
													columns->types[i], len, by_value, align));
	}
}
