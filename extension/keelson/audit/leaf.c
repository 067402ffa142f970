/*
 * leaf.c
 *	  The bytes that a leaf's hash is of.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "audit/leaf.h"
#include "core/uuid.h"

static void write_uuid(StringInfo out, Datum value);
static void write_text(StringInfo out, Datum value);
static void write_bytes(StringInfo out, Datum value);

void
ks_leaf_write(StringInfo out, HeapTuple row, TupleDesc desc)
{
	Datum values[32];
	bool nulls[32];

	Assert(desc->natts >= KS_LEAF_COLUMN_COUNT && desc->natts <= lengthof(values));
	heap_deform_tuple(row, desc, values, nulls);
	ks_leaf_write_values(out, values, nulls);
}

void
ks_leaf_write_values(StringInfo out, const Datum *values, const bool *nulls)
{
	resetStringInfo(out);
	appendStringInfoString(out, "keelson.audit.1");
	for (int i = 0; i < KS_LEAF_COLUMN_COUNT; i++)
	{
		appendStringInfoChar(out, '\n');
		if (nulls[i])
			continue;
		switch (i)
		{
			case 0:
			case 1:
			case 7:
			case 8:
				write_uuid(out, values[i]);
				break;
			case 2:
				appendStringInfo(out, "%d", DatumGetInt32(values[i]));
				break;
			case 3:
				appendStringInfo(out, UINT64_FORMAT, U64FromFullTransactionId(DatumGetFullTransactionId(values[i])));
				break;
			case 9:
				(void) JsonbToCString(out, &DatumGetJsonbP(values[i])->root, VARSIZE_ANY_EXHDR(DatumGetPointer(values[i])));
				break;
			case 10:
				write_bytes(out, values[i]);
				break;
			default:
				write_text(out, values[i]);
		}
	}
}

static void
write_uuid(StringInfo out, Datum value)
{
	char text[KS_UUID_TEXT_LENGTH];

	ks_uuid_write(DatumGetUUIDP(value), text);
	appendBinaryStringInfo(out, text, sizeof(text));
}

static void
write_text(StringInfo out, Datum value)
{
	text *string = DatumGetTextPP(value);

	appendBinaryStringInfo(out, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

static void
write_bytes(StringInfo out, Datum value)
{
	bytea *bytes = DatumGetByteaPP(value);
	int len = VARSIZE_ANY_EXHDR(bytes);

	enlargeStringInfo(out, 2 * len);
	hex_encode(VARDATA_ANY(bytes), len, out->data + out->len);
	out->len += 2 * len;
	out->data[out->len] = '\0';
}
