/*
 * input_compound.c
 *	  Read JSON values as arrays and as rows: of their elements and columns each
 *	  in turn.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "dispatch/input_type.h"
#include "dispatch/json_out.h"

/* The columns of a composite type, as they were when last looked at. */
typedef struct KsRowInput
{
	MemoryContext cxt; /* of all the rest; deleted when the type changes */
	uint64 identifier;
	TupleDesc desc;
	char **names; /* in JSON; NULL for a dropped column */
	KsInputType **columns;
} KsRowInput;

static bool read_list(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_element(KsInputType *type, const KsInputFrom *from, const KsJson *json, int index, ArrayBuildState **state);
static bool read_member(KsRowInput *row, const KsInputFrom *from, const KsJson *name, const KsJson *json, Datum *values, bool *nulls, bool *seen);
static bool check_absent(KsRowInput *row, KsFaults *faults, const bool *seen);
static KsRowInput *know_row(KsInputType *type);

bool
ks_input_read_array(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	KsJsonCursor cursor;
	KsJson json;
	ArrayBuildState *state = initArrayResult(type->element->type, CurrentMemoryContext, false);
	bool is_good = true;
	int index = 0;

	if (from->is_text)
		return read_list(type, from, out);
	if (from->json->kind != KS_JSON_ARRAY)
	{
		ks_fault(from->faults, "INVALID_TYPE", "must be an array");
		return false;
	}
	cursor = ks_json_open(from->json);
	while (ks_json_next_element(&cursor, &json))
		is_good &= read_element(type, from, &json, index++, &state);
	*out = makeArrayResult(state, CurrentMemoryContext);
	return is_good;
}

/* Read an array from path or query: its elements, separated by commas. */
static bool
read_list(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	ArrayBuildState *state = initArrayResult(type->element->type, CurrentMemoryContext, false);
	const char *at = ks_json_unescape(from->json);
	const char *end;
	bool is_good = true;

	if (at == NULL)
	{
		ks_fault(from->faults, "INVALID_VALUE", "must not hold the character U+0000");
		return false;
	}
	end = at + strlen(at);
	for (int index = 0; at < end; index++)
	{
		const char *comma = memchr(at, ',', end - at);
		KsJson json = {KS_JSON_STRING, false, at, (comma ? comma : end) - at};

		is_good &= read_element(type, from, &json, index, &state);
		at = comma ? comma + 1 : end;
	}
	*out = makeArrayResult(state, CurrentMemoryContext);
	return is_good;
}

static bool
read_element(KsInputType *type, const KsInputFrom *from, const KsJson *json, int index, ArrayBuildState **state)
{
	Datum value;
	bool is_null;
	int length = ks_faults_enter_element(from->faults, index);
	bool is_good = ks_input_read(type->element, json, from->is_text, from->faults, &value, &is_null);

	if (is_good && is_null)
	{
		ks_fault(from->faults, "REQUIRED", "must not be null");
		is_good = false;
	}
	if (is_good)
		*state = accumArrayResult(*state, value, false, type->element->type, CurrentMemoryContext);
	ks_faults_leave(from->faults, length);
	return is_good;
}

bool
ks_input_read_row(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	KsRowInput *row = know_row(type);
	Datum *values = palloc0(row->desc->natts * sizeof(Datum));
	bool *nulls = palloc(row->desc->natts * sizeof(bool));
	bool *seen = palloc0(row->desc->natts * sizeof(bool));
	KsJsonCursor cursor;
	KsJson name, json;
	bool is_good = true;

	if (from->json->kind != KS_JSON_OBJECT)
	{
		ks_fault(from->faults, "INVALID_TYPE", "must be an object");
		return false;
	}
	memset(nulls, true, row->desc->natts * sizeof(bool));
	cursor = ks_json_open(from->json);
	while (ks_json_next_member(&cursor, &name, &json))
		is_good &= read_member(row, from, &name, &json, values, nulls, seen);
	is_good &= check_absent(row, from->faults, seen);
	*out = HeapTupleGetDatum(heap_form_tuple(row->desc, values, nulls));
	return is_good;
}

static bool
read_member(KsRowInput *row, const KsInputFrom *from, const KsJson *name, const KsJson *json, Datum *values, bool *nulls, bool *seen)
{
	int length = ks_faults_enter_member(from->faults, ks_json_shown(name));
	bool is_good = false;
	int i;

	for (i = 0; i < row->desc->natts; i++)
		if (row->names[i] != NULL && ks_json_equals(name, row->names[i], strlen(row->names[i])))
			break;
	if (i < row->desc->natts)
	{
		seen[i] = true;
		is_good = ks_input_read(row->columns[i], json, false, from->faults, &values[i], &nulls[i]);
	}
	else
		ks_fault(from->faults, "UNKNOWN", "is not known here");
	ks_faults_leave(from->faults, length);
	return is_good;
}

/* Check that what the object did not name may be null. */
static bool
check_absent(KsRowInput *row, KsFaults *faults, const bool *seen)
{
	bool is_good = true;

	for (int i = 0; i < row->desc->natts; i++)
	{
		int length;

		if (seen[i] || row->names[i] == NULL)
			continue;
		length = ks_faults_enter_member(faults, row->names[i]);
		is_good &= ks_input_check(row->columns[i], (Datum) 0, true, faults);
		ks_faults_leave(faults, length);
	}
	return is_good;
}

/* Know the columns of a composite type as they are now. */
static KsRowInput *
know_row(KsInputType *type)
{
	uint64 identifier = assign_record_type_identifier(type->base, -1);
	MemoryContext cxt, old;
	KsRowInput *row = type->row;

	check_stack_depth();
	if (row != NULL && row->identifier == identifier)
		return row;
	type->row = NULL;
	if (row != NULL)
		MemoryContextDelete(row->cxt);
	cxt = AllocSetContextCreate(type->cxt, "keelson row input", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cxt);
	row = palloc0(sizeof(KsRowInput));
	row->cxt = cxt;
	row->identifier = identifier;
	row->desc = lookup_rowtype_tupdesc_copy(type->base, -1);
	row->names = palloc0(row->desc->natts * sizeof(char *));
	row->columns = palloc0(row->desc->natts * sizeof(KsInputType *));
	for (int i = 0; i < row->desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(row->desc, i);

		if (attribute->attisdropped)
			continue;
		row->names[i] = ks_camel_case(NameStr(attribute->attname));
		row->columns[i] = ks_input_type(cxt, attribute->atttypid);
		if (row->columns[i]->typmod < 0)
			row->columns[i]->typmod = attribute->atttypmod;
	}
	MemoryContextSwitchTo(old);
	type->row = row;
	return row;
}
