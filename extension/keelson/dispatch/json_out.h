/*
 * json_out.h
 *	  Writing of SQL values as JSON.
 *
 * A writer knows a type: it has looked up its output function, the columns of
 * a composite type and their camelCase names, once. Writers live as long as
 * the context they are made in.
 */
#ifndef KS_JSON_OUT_H
#define KS_JSON_OUT_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"

typedef struct KsWriter KsWriter;

/* Make a writer for values of the type. */
extern KsWriter *ks_writer_create(MemoryContext cxt, Oid type);

/* Write the value; what it needs on the way is left in the current context. */
extern void ks_writer_write(KsWriter *writer, StringInfo out, Datum value, bool is_null);

/* Write a row: an object, with this writer's knowledge of the row's columns. */
extern void ks_writer_write_row(KsWriter *writer, StringInfo out, TupleDesc desc, const Datum *values, const bool *nulls);

/* Write a string in quotes, escaped. */
extern void ks_json_write_string(StringInfo out, const char *string, int len);

/* The JSON name of an SQL name: user_id is userId. Allocated. */
extern char *ks_camel_case(const char *name);

#endif /* KS_JSON_OUT_H */
