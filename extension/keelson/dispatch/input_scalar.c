/*
 * input_scalar.c
 *	  Read JSON values as SQL types that are neither arrays nor rows.
 *
 * The usual types are read without raising errors. The rest go through their
 * input function inside a subtransaction, so that the request can go on.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/uuid.h"
#include "dispatch/input_type.h"
#include "dispatch/scalar_in.h"

static bool is_string(const KsInputFrom *from, const char *what);
static bool number_slice(const KsInputFrom *from, const char **text, int *len);
static bool settle_number(const KsInputFrom *from, KsReading reading, const char *what, const char *range);
static bool read_text(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_bool(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_int2(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_int4(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_int8(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_int(const KsInputFrom *from, int64 low, int64 high, const char *range, int64 *out);
static bool read_numeric(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_float4(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_float8(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_uuid(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_timestamptz(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_date(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_bytes(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_enum(KsInputType *type, const KsInputFrom *from, Datum *out);
static void fault_enum(Oid type, KsFaults *faults);
static bool read_json(KsInputType *type, const KsInputFrom *from, Datum *out);
static bool read_other(KsInputType *type, const KsInputFrom *from, Datum *out);
static const char *what_is_wanted(Oid type);
static bool guarded_input(KsInputType *type, char *string, Datum *out);

KsInputReader
ks_input_scalar(Oid base)
{
	static const struct
	{
		Oid type;
		KsInputReader read;
	} readers[] = {
		{TEXTOID, read_text},
		{VARCHAROID, read_text},
		{BOOLOID, read_bool},
		{INT2OID, read_int2},
		{INT4OID, read_int4},
		{INT8OID, read_int8},
		{NUMERICOID, read_numeric},
		{FLOAT4OID, read_float4},
		{FLOAT8OID, read_float8},
		{UUIDOID, read_uuid},
		{TIMESTAMPTZOID, read_timestamptz},
		{DATEOID, read_date},
		{BYTEAOID, read_bytes},
		{JSONOID, read_json},
		{JSONBOID, read_json},
	};

	for (int i = 0; i < lengthof(readers); i++)
		if (readers[i].type == base)
			return readers[i].read;
	return type_is_enum(base) ? read_enum : read_other;
}

/* Is it a string? If not, it is at fault: "must be ...". */
static bool
is_string(const KsInputFrom *from, const char *what)
{
	if (from->json->kind == KS_JSON_STRING)
		return true;
	ks_fault(from->faults, "INVALID_TYPE", "must be %s", what);
	return false;
}

/* The text of a number: a JSON number, or what the path or query says. */
static bool
number_slice(const KsInputFrom *from, const char **text, int *len)
{
	if (from->json->kind != KS_JSON_NUMBER && !from->is_text)
		return false;
	*text = from->json->start;
	*len = from->json->len;
	return true;
}

/* Note the fault of a number that could not be read; `range` may be NULL. */
static bool
settle_number(const KsInputFrom *from, KsReading reading, const char *what, const char *range)
{
	switch (reading)
	{
		case KS_READ:
			return true;
		case KS_NOT_THAT:
		case KS_NOT_INTEGRAL:
			ks_fault(from->faults, "INVALID_TYPE", "must be %s", what);
			return false;
		case KS_OUT_OF_RANGE:
			break;
	}
	if (range != NULL)
		ks_fault(from->faults, "OUT_OF_RANGE", "must be between %s", range);
	else
		ks_fault(from->faults, "OUT_OF_RANGE", "is out of range");
	return false;
}

static bool
read_text(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	int most = type->typmod >= (int32) VARHDRSZ ? type->typmod - VARHDRSZ : -1;
	char *string;

	if (!is_string(from, "a string"))
		return false;
	string = ks_json_unescape(from->json);
	if (string == NULL)
	{
		ks_fault(from->faults, "INVALID_VALUE", "must not hold the character U+0000");
		return false;
	}
	if (most >= 0 && pg_mbstrlen(string) > most)
	{
		ks_fault(from->faults, "TOO_LONG", "is longer than %d characters", most);
		return false;
	}
	*out = PointerGetDatum(cstring_to_text(string));
	return true;
}

static bool
read_bool(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	bool is_true = from->json->kind == KS_JSON_TRUE || (from->is_text && ks_json_equals(from->json, "true", 4));
	bool is_false = from->json->kind == KS_JSON_FALSE || (from->is_text && ks_json_equals(from->json, "false", 5));

	*out = BoolGetDatum(is_true);
	if (is_true || is_false)
		return true;
	ks_fault(from->faults, "INVALID_TYPE", "must be true or false");
	return false;
}

static bool
read_int2(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	int64 value;

	if (!read_int(from, PG_INT16_MIN, PG_INT16_MAX, "-32768 and 32767", &value))
		return false;
	*out = Int16GetDatum((int16) value);
	return true;
}

static bool
read_int4(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	int64 value;

	if (!read_int(from, PG_INT32_MIN, PG_INT32_MAX, "-2147483648 and 2147483647", &value))
		return false;
	*out = Int32GetDatum((int32) value);
	return true;
}

static bool
read_int8(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	int64 value;

	if (!read_int(from, PG_INT64_MIN, PG_INT64_MAX, "-9223372036854775808 and 9223372036854775807", &value))
		return false;
	*out = Int64GetDatum(value);
	return true;
}

static bool
read_int(const KsInputFrom *from, int64 low, int64 high, const char *range, int64 *out)
{
	const char *text;
	int len;
	KsReading reading = KS_NOT_THAT;

	if (number_slice(from, &text, &len))
		reading = ks_read_integer(text, len, low, high, out);
	return settle_number(from, reading, "an integer", range);
}

static bool
read_numeric(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	const char *text;
	int len;
	KsReading reading = KS_NOT_THAT;

	if (number_slice(from, &text, &len))
		reading = ks_read_numeric(text, len, out);
	/* With a precision to keep to, the type itself must say whether it can. */
	if (reading == KS_READ && type->typmod >= 0 && !guarded_input(type, pnstrdup(text, len), out))
		reading = KS_OUT_OF_RANGE;
	return settle_number(from, reading, "a number", NULL);
}

static bool
read_float4(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	if (!read_float8(type, from, out))
		return false;
	if (isinf((float4) DatumGetFloat8(*out)))
		return settle_number(from, KS_OUT_OF_RANGE, "a number", NULL);
	*out = Float4GetDatum((float4) DatumGetFloat8(*out));
	return true;
}

static bool
read_float8(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	const char *text;
	int len;
	double value = 0;
	KsReading reading = KS_NOT_THAT;

	if (number_slice(from, &text, &len))
		reading = ks_read_double(text, len, &value);
	*out = Float8GetDatum(value);
	return settle_number(from, reading, "a number", NULL);
}

static bool
read_uuid(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));

	*out = UUIDPGetDatum(uuid);
	if (from->json->kind == KS_JSON_STRING && ks_uuid_read(from->json->start, from->json->len, uuid))
		return true;
	ks_fault(from->faults, "INVALID_TYPE", "must be a UUID");
	return false;
}

static bool
read_timestamptz(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	TimestampTz value;

	if (from->json->kind != KS_JSON_STRING || ks_read_timestamptz(from->json->start, from->json->len, &value) != KS_READ)
	{
		ks_fault(from->faults, "INVALID_TYPE", "must be a time such as 2025-01-15T00:00:00Z");
		return false;
	}
	*out = TimestampTzGetDatum(value);
	return true;
}

static bool
read_date(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	DateADT value;

	if (from->json->kind != KS_JSON_STRING || ks_read_date(from->json->start, from->json->len, &value) != KS_READ)
	{
		ks_fault(from->faults, "INVALID_TYPE", "must be a date such as 2025-01-15");
		return false;
	}
	*out = DateADTGetDatum(value);
	return true;
}

static bool
read_bytes(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	char *string;
	bytea *bytes;
	int room, len;

	if (!is_string(from, "bytes in base64"))
		return false;
	string = ks_json_unescape(from->json);
	room = string != NULL ? pg_b64_dec_len(strlen(string)) : 0;
	bytes = palloc(VARHDRSZ + room);
	len = string != NULL ? pg_b64_decode(string, strlen(string), (void *) VARDATA(bytes), room) : -1;
	if (len < 0)
	{
		ks_fault(from->faults, "INVALID_TYPE", "must be bytes in base64");
		return false;
	}
	SET_VARSIZE(bytes, VARHDRSZ + len);
	*out = PointerGetDatum(bytes);
	return true;
}

static bool
read_enum(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	char *label = from->json->kind == KS_JSON_STRING ? ks_json_unescape(from->json) : NULL;
	HeapTuple tuple = NULL;

	if (label != NULL && strlen(label) < NAMEDATALEN)
		tuple = SearchSysCache2(ENUMTYPOIDNAME, ObjectIdGetDatum(type->base), CStringGetDatum(label));
	if (!HeapTupleIsValid(tuple))
	{
		fault_enum(type->base, from->faults);
		return false;
	}
	*out = ObjectIdGetDatum(((Form_pg_enum) GETSTRUCT(tuple))->oid);
	ReleaseSysCache(tuple);
	return true;
}

/* Note that a value is none of the enum's, and name those. */
static void
fault_enum(Oid type, KsFaults *faults)
{
	Relation relation = table_open(EnumRelationId, AccessShareLock);
	StringInfoData labels;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	initStringInfo(&labels);
	ScanKeyInit(&key, Anum_pg_enum_enumtypid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(relation, EnumTypIdSortOrderIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		appendStringInfo(&labels, "%s%s", labels.len > 0 ? ", " : "", NameStr(((Form_pg_enum) GETSTRUCT(tuple))->enumlabel));
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	ks_fault(faults, "INVALID_VALUE", "must be one of: %s", labels.data);
}

static bool
read_json(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	int quotes = from->json->kind == KS_JSON_STRING ? 1 : 0;
	char *text;

	if (from->is_text)
		text = ks_json_unescape(from->json);
	else
		text = pnstrdup(from->json->start - quotes, from->json->len + 2 * quotes);
	if (text != NULL && (!from->is_text || ks_json_check(text, strlen(text)) == NULL) && guarded_input(type, text, out))
		return true;
	ks_fault(from->faults, "INVALID_VALUE", "must be JSON");
	return false;
}

/* Any other type is read by its input function, from a string, or a number's text. */
static bool
read_other(KsInputType *type, const KsInputFrom *from, Datum *out)
{
	char *string = NULL;

	if (from->json->kind == KS_JSON_STRING)
		string = ks_json_unescape(from->json);
	else if (from->json->kind == KS_JSON_NUMBER)
		string = pnstrdup(from->json->start, from->json->len);
	if (string != NULL && type->base == NAMEOID && strlen(string) >= NAMEDATALEN)
	{
		ks_fault(from->faults, "TOO_LONG", "is longer than %d bytes", NAMEDATALEN - 1);
		return false;
	}
	if (string != NULL && guarded_input(type, string, out))
		return true;
	ks_fault(from->faults, "INVALID_VALUE", "must be %s", what_is_wanted(type->base));
	return false;
}

/* What a value of the type is, for a person. */
static const char *
what_is_wanted(Oid type)
{
	switch (type)
	{
		case INETOID:
			return "an IP address";
		case CIDROID:
			return "a network such as 192.0.2.0/24";
		case INTERVALOID:
			return "a duration such as 2 hours";
		case TIMEOID:
			return "a time of day such as 14:30:00";
		case TIMESTAMPOID:
			return "a time such as 2025-01-15T00:00:00";
		case NAMEOID:
		case BPCHAROID:
			return "a string";
		default:
			return psprintf("a value of type %s", format_type_be(type));
	}
}

/* Call the type's input function; false when it refuses the string. */
static bool
guarded_input(KsInputType *type, char *string, Datum *out)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool is_read = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		*out = InputFunctionCall(&type->input, string, type->ioparam, type->typmod);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;
		int category;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			ReThrowError(error);
		is_read = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return is_read;
}
