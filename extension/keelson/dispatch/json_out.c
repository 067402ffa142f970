/*
 * json_out.c
 *	  Write SQL values as JSON: names in camelCase, times as RFC 3339 in UTC,
 *	  durations as ISO 8601, numbers as numbers, bytes as base64, jsonb as it is.
 *
 * A writer of a composite type remembers the type's columns together with the
 * identifier that the type cache gives to that state of the type, and looks
 * again when it has changed. Writers of columns are made when they are first
 * needed, so a type that contains an array of itself is no trouble.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/uuid.h"
#include "dispatch/json_out.h"

/* What a writer knows of the rows that it last wrote. */
typedef struct RowShape
{
	MemoryContext cxt; /* of all the rest; deleted when the shape changes */
	Oid type;
	int32 typmod;
	uint64 identifier; /* the type cache's, 0 for a shape by description */
	TupleDesc desc;
	char **names;       /* {"userId": or ,"userId": ; NULL for a dropped column */
	KsWriter **columns; /* NULL until first used */
} RowShape;

struct KsWriter
{
	void (*write)(KsWriter *writer, StringInfo out, Datum value);
	MemoryContext cxt;
	Oid type;
	FmgrInfo output;
	KsWriter *element; /* of an array */
	int16 element_len;
	bool element_byval;
	char element_align;
	RowShape *row; /* of a composite type, NULL until first used */
};

static void choose(KsWriter *writer, Oid type);
static void write_bool(KsWriter *writer, StringInfo out, Datum value);
static void write_int2(KsWriter *writer, StringInfo out, Datum value);
static void write_int4(KsWriter *writer, StringInfo out, Datum value);
static void write_int8(KsWriter *writer, StringInfo out, Datum value);
static void write_float(KsWriter *writer, StringInfo out, Datum value);
static void write_numeric(KsWriter *writer, StringInfo out, Datum value);
static void write_number(StringInfo out, const char *number);
static void write_text(KsWriter *writer, StringInfo out, Datum value);
static void write_uuid(KsWriter *writer, StringInfo out, Datum value);
static void write_timestamptz(KsWriter *writer, StringInfo out, Datum value);
static void write_timestamp(KsWriter *writer, StringInfo out, Datum value);
static void append_timestamp(StringInfo out, Timestamp timestamp, const char *zone);
static void append_padded(StringInfo out, char before, int number, int digits);
static void write_date(KsWriter *writer, StringInfo out, Datum value);
static void write_interval(KsWriter *writer, StringInfo out, Datum value);
static void write_json(KsWriter *writer, StringInfo out, Datum value);
static void write_jsonb(KsWriter *writer, StringInfo out, Datum value);
static void write_bytes(KsWriter *writer, StringInfo out, Datum value);
static void write_other(KsWriter *writer, StringInfo out, Datum value);
static void write_array(KsWriter *writer, StringInfo out, Datum value);
static void write_dimension(KsWriter *writer, StringInfo out, const int *dims, int ndim, Datum **values, bool **nulls);
static void write_composite(KsWriter *writer, StringInfo out, Datum value);
static void know_row(KsWriter *writer, Oid type, int32 typmod, TupleDesc desc);
static RowShape *make_shape(KsWriter *writer, Oid type, int32 typmod, TupleDesc desc);
static void write_columns(KsWriter *writer, StringInfo out, const Datum *values, const bool *nulls);

KsWriter *
ks_writer_create(MemoryContext cxt, Oid type)
{
	KsWriter *writer = MemoryContextAllocZero(cxt, sizeof(KsWriter));

	writer->cxt = cxt;
	writer->type = type;
	choose(writer, getBaseType(type));
	return writer;
}

/* Choose how values of the base type are written. */
static void
choose(KsWriter *writer, Oid type)
{
	Oid function;
	bool is_varlena;
	Oid element = get_element_type(type);

	if (OidIsValid(element))
	{
		writer->write = write_array;
		writer->element = ks_writer_create(writer->cxt, element);
		get_typlenbyvalalign(element, &writer->element_len, &writer->element_byval, &writer->element_align);
		return;
	}
	if (type_is_rowtype(type))
	{
		writer->write = write_composite;
		return;
	}
	switch (type)
	{
		case BOOLOID:
			writer->write = write_bool;
			return;
		case INT2OID:
			writer->write = write_int2;
			return;
		case INT4OID:
			writer->write = write_int4;
			return;
		case INT8OID:
			writer->write = write_int8;
			return;
		case NUMERICOID:
			writer->write = write_numeric;
			return;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			writer->write = write_text;
			return;
		case UUIDOID:
			writer->write = write_uuid;
			return;
		case TIMESTAMPTZOID:
			writer->write = write_timestamptz;
			return;
		case TIMESTAMPOID:
			writer->write = write_timestamp;
			return;
		case DATEOID:
			writer->write = write_date;
			return;
		case INTERVALOID:
			writer->write = write_interval;
			return;
		case JSONOID:
			writer->write = write_json;
			return;
		case JSONBOID:
			writer->write = write_jsonb;
			return;
		case BYTEAOID:
			writer->write = write_bytes;
			return;
		default:
			break;
	}
	getTypeOutputInfo(type, &function, &is_varlena);
	fmgr_info_cxt(function, &writer->output, writer->cxt);
	writer->write = type == FLOAT4OID || type == FLOAT8OID ? write_float : write_other;
}

void
ks_writer_write(KsWriter *writer, StringInfo out, Datum value, bool is_null)
{
	if (is_null)
		appendBinaryStringInfo(out, "null", 4);
	else
		writer->write(writer, out, value);
}

void
ks_writer_write_row(KsWriter *writer, StringInfo out, TupleDesc desc, const Datum *values, const bool *nulls)
{
	know_row(writer, desc->tdtypeid, desc->tdtypmod, desc);
	write_columns(writer, out, values, nulls);
}

void
ks_json_write_string(StringInfo out, const char *string, int len)
{
	const char *run = string;
	const char *end = string + len;

	appendStringInfoCharMacro(out, '"');
	for (const char *at = string; at < end; at++)
	{
		unsigned char c = *at;

		if (likely(c >= ' ' && c != '"' && c != '\\'))
			continue;
		appendBinaryStringInfo(out, run, at - run);
		run = at + 1;
		switch (c)
		{
			case '"':
				appendStringInfoString(out, "\\\"");
				break;
			case '\\':
				appendStringInfoString(out, "\\\\");
				break;
			case '\n':
				appendStringInfoString(out, "\\n");
				break;
			case '\r':
				appendStringInfoString(out, "\\r");
				break;
			case '\t':
				appendStringInfoString(out, "\\t");
				break;
			default:
				appendStringInfo(out, "\\u%04x", c);
				break;
		}
	}
	appendBinaryStringInfo(out, run, end - run);
	appendStringInfoCharMacro(out, '"');
}

char *
ks_camel_case(const char *name)
{
	char *camel = palloc(strlen(name) + 1);
	char *to = camel;

	for (const char *from = name; *from; from++)
	{
		if (*from == '_' && from > name && from[1] != '\0' && from[1] != '_')
			*to++ = pg_ascii_toupper((unsigned char) *++from);
		else
			*to++ = *from;
	}
	*to = '\0';
	return camel;
}

PG_FUNCTION_INFO_V1(ks_camel_case_sql);

/* keelson._camel_case(name text) */
Datum
ks_camel_case_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ks_camel_case(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
}

static void
write_bool(KsWriter *writer, StringInfo out, Datum value)
{
	appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
}

static void
write_int2(KsWriter *writer, StringInfo out, Datum value)
{
	enlargeStringInfo(out, 12);
	out->len += pg_ltoa(DatumGetInt16(value), out->data + out->len);
}

static void
write_int4(KsWriter *writer, StringInfo out, Datum value)
{
	enlargeStringInfo(out, 12);
	out->len += pg_ltoa(DatumGetInt32(value), out->data + out->len);
}

static void
write_int8(KsWriter *writer, StringInfo out, Datum value)
{
	enlargeStringInfo(out, MAXINT8LEN + 1);
	out->len += pg_lltoa(DatumGetInt64(value), out->data + out->len);
}

static void
write_float(KsWriter *writer, StringInfo out, Datum value)
{
	write_number(out, OutputFunctionCall(&writer->output, value));
}

static void
write_numeric(KsWriter *writer, StringInfo out, Datum value)
{
	write_number(out, DatumGetCString(DirectFunctionCall1(numeric_out, value)));
}

/* JSON has no infinities and no NaN: they become null. */
static void
write_number(StringInfo out, const char *number)
{
	const char *digit = *number == '-' ? number + 1 : number;

	appendStringInfoString(out, *digit >= '0' && *digit <= '9' ? number : "null");
}

static void
write_text(KsWriter *writer, StringInfo out, Datum value)
{
	text *string = DatumGetTextPP(value);

	ks_json_write_string(out, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

static void
write_uuid(KsWriter *writer, StringInfo out, Datum value)
{
	enlargeStringInfo(out, KS_UUID_TEXT_LENGTH + 2);
	out->data[out->len] = '"';
	ks_uuid_write(DatumGetUUIDP(value), out->data + out->len + 1);
	out->data[out->len + KS_UUID_TEXT_LENGTH + 1] = '"';
	out->len += KS_UUID_TEXT_LENGTH + 2;
}

static void
write_timestamptz(KsWriter *writer, StringInfo out, Datum value)
{
	append_timestamp(out, DatumGetTimestampTz(value), "Z");
}

static void
write_timestamp(KsWriter *writer, StringInfo out, Datum value)
{
	append_timestamp(out, DatumGetTimestamp(value), "");
}

/* Append "2025-01-15T00:00:00.25Z"; a timestamptz counts from an epoch in UTC. */
static void
append_timestamp(StringInfo out, Timestamp timestamp, const char *zone)
{
	struct pg_tm tm;
	fsec_t fraction;

	if (TIMESTAMP_NOT_FINITE(timestamp) || timestamp2tm(timestamp, NULL, &tm, &fraction, NULL, NULL) != 0)
	{
		appendStringInfoString(out, "null");
		return;
	}
	append_padded(out, '"', tm.tm_year, 4);
	append_padded(out, '-', tm.tm_mon, 2);
	append_padded(out, '-', tm.tm_mday, 2);
	append_padded(out, 'T', tm.tm_hour, 2);
	append_padded(out, ':', tm.tm_min, 2);
	append_padded(out, ':', tm.tm_sec, 2);
	if (fraction != 0)
	{
		append_padded(out, '.', fraction, 6);
		while (out->data[out->len - 1] == '0')
			out->len--;
	}
	appendStringInfoString(out, zone);
	appendStringInfoCharMacro(out, '"');
}

/* Append a number of at least so many digits behind the character, without printf's machine. */
static void
append_padded(StringInfo out, char before, int number, int digits)
{
	enlargeStringInfo(out, MAXINT8LEN);
	out->data[out->len++] = before;
	if (number < 0)
		out->data[out->len++] = '-';
	out->len = pg_ultostr_zeropad(out->data + out->len, abs(number), digits) - out->data;
}

static void
write_date(KsWriter *writer, StringInfo out, Datum value)
{
	DateADT date = DatumGetDateADT(value);
	int year, month, day;

	if (DATE_NOT_FINITE(date))
	{
		appendStringInfoString(out, "null");
		return;
	}
	j2date(date + POSTGRES_EPOCH_JDATE, &year, &month, &day);
	append_padded(out, '"', year, 4);
	append_padded(out, '-', month, 2);
	append_padded(out, '-', day, 2);
	appendStringInfoCharMacro(out, '"');
}

/* ISO 8601, whatever the session's intervalstyle. */
static void
write_interval(KsWriter *writer, StringInfo out, Datum value)
{
	struct pg_itm itm;
	char text[MAXDATELEN + 1];

	interval2itm(*DatumGetIntervalP(value), &itm);
	EncodeInterval(&itm, INTSTYLE_ISO_8601, text);
	ks_json_write_string(out, text, strlen(text));
}

static void
write_json(KsWriter *writer, StringInfo out, Datum value)
{
	text *json = DatumGetTextPP(value);

	appendBinaryStringInfo(out, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
}

static void
write_jsonb(KsWriter *writer, StringInfo out, Datum value)
{
	Jsonb *jsonb = DatumGetJsonbP(value);

	JsonbToCString(out, &jsonb->root, VARSIZE(jsonb));
}

static void
write_bytes(KsWriter *writer, StringInfo out, Datum value)
{
	bytea *bytes = DatumGetByteaPP(value);
	int room = pg_b64_enc_len(VARSIZE_ANY_EXHDR(bytes));

	appendStringInfoCharMacro(out, '"');
	enlargeStringInfo(out, room + 1);
	out->len += pg_b64_encode((void *) VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), out->data + out->len, room);
	appendStringInfoCharMacro(out, '"');
}

/* Any other type is a string, written as its output function does. */
static void
write_other(KsWriter *writer, StringInfo out, Datum value)
{
	char *string = OutputFunctionCall(&writer->output, value);

	ks_json_write_string(out, string, strlen(string));
}

static void
write_array(KsWriter *writer, StringInfo out, Datum value)
{
	ArrayType *array = DatumGetArrayTypeP(value);
	Datum *values;
	bool *nulls;
	int count;

	if (ARR_NDIM(array) == 0)
	{
		appendStringInfoString(out, "[]");
		return;
	}
	deconstruct_array(array, ARR_ELEMTYPE(array), writer->element_len, writer->element_byval, writer->element_align, &values, &nulls, &count);
	write_dimension(writer, out, ARR_DIMS(array), ARR_NDIM(array), &values, &nulls);
}

/* Write one dimension of an array, moving on through its elements. */
static void
write_dimension(KsWriter *writer, StringInfo out, const int *dims, int ndim, Datum **values, bool **nulls)
{
	for (int i = 0; i < dims[0]; i++)
	{
		appendStringInfoCharMacro(out, i == 0 ? '[' : ',');
		if (ndim > 1)
			write_dimension(writer, out, dims + 1, ndim - 1, values, nulls);
		else
			ks_writer_write(writer->element, out, *(*values)++, *(*nulls)++);
	}
	appendStringInfoCharMacro(out, ']');
}

static void
write_composite(KsWriter *writer, StringInfo out, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};
	Datum *values;
	bool *nulls;

	check_stack_depth();
	know_row(writer, HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header), NULL);
	values = palloc(writer->row->desc->natts * sizeof(Datum));
	nulls = palloc(writer->row->desc->natts * sizeof(bool));
	heap_deform_tuple(&tuple, writer->row->desc, values, nulls);
	write_columns(writer, out, values, nulls);
}

/*
 * Make the writer know the shape of the row: by its description, where one is
 * given for a row of no lasting type, or else by its type.
 */
static void
know_row(KsWriter *writer, Oid type, int32 typmod, TupleDesc desc)
{
	RowShape *row = writer->row;
	bool is_lasting = type != RECORDOID || typmod >= 0;
	uint64 identifier = is_lasting ? assign_record_type_identifier(type, typmod) : 0;

	if (row != NULL)
	{
		if (is_lasting && row->identifier == identifier && row->type == type && row->typmod == typmod)
			return;
		if (!is_lasting && equalTupleDescs(row->desc, desc))
			return;
		writer->row = NULL;
		MemoryContextDelete(row->cxt);
	}
	writer->row = make_shape(writer, type, typmod, desc);
	writer->row->identifier = identifier;
}

static RowShape *
make_shape(KsWriter *writer, Oid type, int32 typmod, TupleDesc desc)
{
	MemoryContext cxt = AllocSetContextCreate(writer->cxt, "keelson row shape", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	RowShape *row = palloc0(sizeof(RowShape));
	bool is_first = true;

	row->cxt = cxt;
	row->type = type;
	row->typmod = typmod;
	row->desc = desc != NULL ? CreateTupleDescCopy(desc) : lookup_rowtype_tupdesc_copy(type, typmod);
	row->names = palloc0(row->desc->natts * sizeof(char *));
	row->columns = palloc0(row->desc->natts * sizeof(KsWriter *));
	for (int i = 0; i < row->desc->natts; i++)
	{
		StringInfoData name;
		char *camel = ks_camel_case(NameStr(TupleDescAttr(row->desc, i)->attname));

		if (TupleDescAttr(row->desc, i)->attisdropped)
			continue;
		initStringInfo(&name);
		appendStringInfoChar(&name, is_first ? '{' : ',');
		ks_json_write_string(&name, camel, strlen(camel));
		appendStringInfoChar(&name, ':');
		row->names[i] = name.data;
		is_first = false;
	}
	MemoryContextSwitchTo(old);
	return row;
}

/* Write the columns of the row that the writer knows. */
static void
write_columns(KsWriter *writer, StringInfo out, const Datum *values, const bool *nulls)
{
	RowShape *row = writer->row;
	bool is_empty = true;

	for (int i = 0; i < row->desc->natts; i++)
	{
		if (row->names[i] == NULL)
			continue;
		is_empty = false;
		appendStringInfoString(out, row->names[i]);
		if (nulls[i])
		{
			appendBinaryStringInfo(out, "null", 4);
			continue;
		}
		if (row->columns[i] == NULL)
			row->columns[i] = ks_writer_create(row->cxt, TupleDescAttr(row->desc, i)->atttypid);
		row->columns[i]->write(row->columns[i], out, values[i]);
	}
	appendStringInfoString(out, is_empty ? "{}" : "}");
}
