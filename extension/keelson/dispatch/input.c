/*
 * input.c
 *	  Read JSON values as SQL types, noting what is at fault.
 *
 * The usual types are read without raising errors. The rest go through their
 * input function inside a subtransaction, so that the request can go on. A
 * domain's checks are evaluated one by one, which tells the violated one
 * without an error; its comment, or else the domain's, is what the client
 * reads. The server's own messages never reach a client.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "common/base64.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "dispatch/input.h"
#include "dispatch/json_out.h"
#include "dispatch/scalar_in.h"

/* The columns of a composite type, as they were when last looked at. */
typedef struct RowInput
{
	MemoryContext cxt; /* of all the rest; deleted when the type changes */
	uint64 identifier;
	TupleDesc desc;
	char **names; /* in JSON; NULL for a dropped column */
	KsInputType **columns;
} RowInput;

typedef struct Reading
{
	const KsJson *json;
	bool is_text;
	KsFaults *faults;
} Reading;

struct KsInputType
{
	bool (*read)(KsInputType *type, const Reading *from, Datum *out);
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
	RowInput *row; /* of a composite type, NULL until first used */
};

static void choose(KsInputType *type);
static bool is_string(const Reading *from, const char *what);
static bool number_slice(const Reading *from, const char **text, int *len);
static bool settle_number(const Reading *from, KsReading reading, const char *what, const char *range);
static bool read_text(KsInputType *type, const Reading *from, Datum *out);
static bool read_bool(KsInputType *type, const Reading *from, Datum *out);
static bool read_int2(KsInputType *type, const Reading *from, Datum *out);
static bool read_int4(KsInputType *type, const Reading *from, Datum *out);
static bool read_int8(KsInputType *type, const Reading *from, Datum *out);
static bool read_int(const Reading *from, int64 low, int64 high, const char *range, int64 *out);
static bool read_numeric(KsInputType *type, const Reading *from, Datum *out);
static bool read_float4(KsInputType *type, const Reading *from, Datum *out);
static bool read_float8(KsInputType *type, const Reading *from, Datum *out);
static bool read_uuid(KsInputType *type, const Reading *from, Datum *out);
static bool read_timestamptz(KsInputType *type, const Reading *from, Datum *out);
static bool read_date(KsInputType *type, const Reading *from, Datum *out);
static bool read_bytes(KsInputType *type, const Reading *from, Datum *out);
static bool read_enum(KsInputType *type, const Reading *from, Datum *out);
static void fault_enum(Oid type, KsFaults *faults);
static bool read_json(KsInputType *type, const Reading *from, Datum *out);
static bool read_other(KsInputType *type, const Reading *from, Datum *out);
static const char *what_is_wanted(Oid type);
static bool guarded_input(KsInputType *type, char *string, Datum *out);
static bool read_array(KsInputType *type, const Reading *from, Datum *out);
static bool read_list(KsInputType *type, const Reading *from, Datum *out);
static bool read_element(KsInputType *type, const Reading *from, const KsJson *json, int index, ArrayBuildState **state);
static bool read_row(KsInputType *type, const Reading *from, Datum *out);
static bool read_member(RowInput *row, const Reading *from, const KsJson *name, const KsJson *json, Datum *values, bool *nulls, bool *seen);
static bool check_absent(RowInput *row, KsFaults *faults, const bool *seen);
static RowInput *know_row(KsInputType *type);
static const char *domain_message(Oid domain, const char *constraint);
static Oid domain_parent(Oid type);

KsInputType *
ks_input_type(MemoryContext cxt, Oid type_oid)
{
	KsInputType *type = MemoryContextAllocZero(cxt, sizeof(KsInputType));

	type->cxt = cxt;
	type->type = type_oid;
	type->typmod = -1;
	type->base = getBaseTypeAndTypmod(type_oid, &type->typmod);
	type->is_domain = get_typtype(type_oid) == TYPTYPE_DOMAIN;
	if (type->is_domain)
		InitDomainConstraintRef(type_oid, &type->domain, cxt, true);
	choose(type);
	return type;
}

/* Choose how values of the base type are read. */
static void
choose(KsInputType *type)
{
	static const struct
	{
		Oid type;
		bool (*read)(KsInputType *type, const Reading *from, Datum *out);
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
	Oid function;
	Oid element = get_element_type(type->base);

	getTypeInputInfo(type->base, &function, &type->ioparam);
	fmgr_info_cxt(function, &type->input, type->cxt);
	if (OidIsValid(element))
	{
		type->read = read_array;
		type->element = ks_input_type(type->cxt, element);
		get_typlenbyvalalign(element, &type->element_len, &type->element_byval, &type->element_align);
		return;
	}
	if (type_is_rowtype(type->base))
		type->read = read_row;
	else if (type_is_enum(type->base))
		type->read = read_enum;
	else
		type->read = read_other;
	for (int i = 0; i < lengthof(readers); i++)
		if (readers[i].type == type->base)
			type->read = readers[i].read;
}

bool
ks_input_read(KsInputType *type, const KsJson *json, bool is_text, KsFaults *faults, Datum *out, bool *is_null)
{
	Reading from = {json, is_text, faults};

	*out = (Datum) 0;
	*is_null = json->kind == KS_JSON_NULL && type->base != JSONOID && type->base != JSONBOID;
	if (!*is_null && !type->read(type, &from, out))
		return false;
	return ks_input_check(type, *out, *is_null, faults);
}

bool
ks_input_check(KsInputType *type, Datum value, bool is_null, KsFaults *faults)
{
	ExprContext *econtext;
	const char *violated = NULL;
	ListCell *cell;

	if (!type->is_domain)
		return true;
	UpdateDomainConstraintRef(&type->domain);
	if (type->domain.constraints == NIL)
		return true;
	econtext = CreateStandaloneExprContext();
	econtext->domainValue_datum = value;
	econtext->domainValue_isNull = is_null;
	foreach (cell, type->domain.constraints)
	{
		DomainConstraintState *constraint = lfirst(cell);
		bool holds = constraint->constrainttype == DOM_CONSTRAINT_NOTNULL
						 ? !is_null
						 : ExecCheck(constraint->check_exprstate, econtext);

		if (!holds)
		{
			violated = constraint->name ? constraint->name : "";
			break;
		}
	}
	FreeExprContext(econtext, true);
	if (violated == NULL)
		return true;
	if (is_null)
		ks_fault(faults, "REQUIRED", "must not be null");
	else
		ks_fault(faults, "INVALID_VALUE", "%s", domain_message(type->type, violated));
	return false;
}

/*
 * What a domain says of a violation: the comment of the constraint, or of the
 * domain in the chain that has it, or of the outermost domain.
 */
static const char *
domain_message(Oid domain, const char *constraint)
{
	char *message = NULL;

	for (Oid type = domain; OidIsValid(type) && message == NULL; type = domain_parent(type))
	{
		Oid found = get_domain_constraint_oid(type, constraint, true);

		if (!OidIsValid(found))
			continue;
		message = GetComment(found, ConstraintRelationId, 0);
		if (message == NULL)
			message = GetComment(type, TypeRelationId, 0);
	}
	if (message == NULL)
		message = GetComment(domain, TypeRelationId, 0);
	return message ? message : "is not valid";
}

/* The type that a domain is made from; InvalidOid for what is no domain. */
static Oid
domain_parent(Oid type)
{
	HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid parent;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	parent = ((Form_pg_type) GETSTRUCT(tuple))->typbasetype;
	ReleaseSysCache(tuple);
	return parent;
}

/* Is it a string? If not, it is at fault: "must be ...". */
static bool
is_string(const Reading *from, const char *what)
{
	if (from->json->kind == KS_JSON_STRING)
		return true;
	ks_fault(from->faults, "INVALID_TYPE", "must be %s", what);
	return false;
}

/* The text of a number: a JSON number, or what the path or query says. */
static bool
number_slice(const Reading *from, const char **text, int *len)
{
	if (from->json->kind != KS_JSON_NUMBER && !from->is_text)
		return false;
	*text = from->json->start;
	*len = from->json->len;
	return true;
}

/* Note the fault of a number that could not be read; `range` may be NULL. */
static bool
settle_number(const Reading *from, KsReading reading, const char *what, const char *range)
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
read_text(KsInputType *type, const Reading *from, Datum *out)
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
read_bool(KsInputType *type, const Reading *from, Datum *out)
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
read_int2(KsInputType *type, const Reading *from, Datum *out)
{
	int64 value;

	if (!read_int(from, PG_INT16_MIN, PG_INT16_MAX, "-32768 and 32767", &value))
		return false;
	*out = Int16GetDatum((int16) value);
	return true;
}

static bool
read_int4(KsInputType *type, const Reading *from, Datum *out)
{
	int64 value;

	if (!read_int(from, PG_INT32_MIN, PG_INT32_MAX, "-2147483648 and 2147483647", &value))
		return false;
	*out = Int32GetDatum((int32) value);
	return true;
}

static bool
read_int8(KsInputType *type, const Reading *from, Datum *out)
{
	int64 value;

	if (!read_int(from, PG_INT64_MIN, PG_INT64_MAX, "-9223372036854775808 and 9223372036854775807", &value))
		return false;
	*out = Int64GetDatum(value);
	return true;
}

static bool
read_int(const Reading *from, int64 low, int64 high, const char *range, int64 *out)
{
	const char *text;
	int len;
	KsReading reading = KS_NOT_THAT;

	if (number_slice(from, &text, &len))
		reading = ks_read_integer(text, len, low, high, out);
	return settle_number(from, reading, "an integer", range);
}

static bool
read_numeric(KsInputType *type, const Reading *from, Datum *out)
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
read_float4(KsInputType *type, const Reading *from, Datum *out)
{
	if (!read_float8(type, from, out))
		return false;
	if (isinf((float4) DatumGetFloat8(*out)))
		return settle_number(from, KS_OUT_OF_RANGE, "a number", NULL);
	*out = Float4GetDatum((float4) DatumGetFloat8(*out));
	return true;
}

static bool
read_float8(KsInputType *type, const Reading *from, Datum *out)
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
read_uuid(KsInputType *type, const Reading *from, Datum *out)
{
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));

	*out = UUIDPGetDatum(uuid);
	if (from->json->kind == KS_JSON_STRING && ks_read_uuid(from->json->start, from->json->len, uuid) == KS_READ)
		return true;
	ks_fault(from->faults, "INVALID_TYPE", "must be a UUID");
	return false;
}

static bool
read_timestamptz(KsInputType *type, const Reading *from, Datum *out)
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
read_date(KsInputType *type, const Reading *from, Datum *out)
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
read_bytes(KsInputType *type, const Reading *from, Datum *out)
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
read_enum(KsInputType *type, const Reading *from, Datum *out)
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
read_json(KsInputType *type, const Reading *from, Datum *out)
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
read_other(KsInputType *type, const Reading *from, Datum *out)
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

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			ReThrowError(error);
		is_read = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return is_read;
}

static bool
read_array(KsInputType *type, const Reading *from, Datum *out)
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
read_list(KsInputType *type, const Reading *from, Datum *out)
{
	ArrayBuildState *state = initArrayResult(type->element->type, CurrentMemoryContext, false);
	const char *at = from->json->start;
	const char *end = at + from->json->len;
	bool is_good = true;

	for (int index = 0; at < end; index++)
	{
		const char *comma = memchr(at, ',', end - at);
		KsJson json = {KS_JSON_STRING, from->json->is_escaped, at, (comma ? comma : end) - at};

		is_good &= read_element(type, from, &json, index, &state);
		at = comma ? comma + 1 : end;
	}
	*out = makeArrayResult(state, CurrentMemoryContext);
	return is_good;
}

static bool
read_element(KsInputType *type, const Reading *from, const KsJson *json, int index, ArrayBuildState **state)
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

/* Read a composite value from an object. */
static bool
read_row(KsInputType *type, const Reading *from, Datum *out)
{
	RowInput *row = know_row(type);
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
read_member(RowInput *row, const Reading *from, const KsJson *name, const KsJson *json, Datum *values, bool *nulls, bool *seen)
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
check_absent(RowInput *row, KsFaults *faults, const bool *seen)
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
static RowInput *
know_row(KsInputType *type)
{
	uint64 identifier = assign_record_type_identifier(type->base, -1);
	MemoryContext cxt, old;
	RowInput *row = type->row;

	check_stack_depth();
	if (row != NULL && row->identifier == identifier)
		return row;
	type->row = NULL;
	if (row != NULL)
		MemoryContextDelete(row->cxt);
	cxt = AllocSetContextCreate(type->cxt, "keelson row input", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cxt);
	row = palloc0(sizeof(RowInput));
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
