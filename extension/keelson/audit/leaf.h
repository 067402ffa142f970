/*
 * leaf.h
 *	  What of an event goes into its leaf.
 *
 * The leaf is text, one line for each field in this order, so that it can be
 * read and made by anybody: "keelson.audit.1", id, user id, era, xid, event
 * type, outcome, actor, actor id, request id, data (as jsonb writes it),
 * personal (the sealed bytes, in hexadecimal); nothing stands for null. No
 * field can hold a line's end: jsonb escapes it.
 */
#ifndef KS_AUDIT_LEAF_H
#define KS_AUDIT_LEAF_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "lib/stringinfo.h"

/* The columns that a query must bring, in this order, for ks_leaf_write(). */
#define KS_LEAF_COLUMNS "e.id, e.user_id, e.era, e.xid, e.event_type, e.outcome, e.actor, e.actor_id, e.request_id, e.data, e.personal"
#define KS_LEAF_COLUMN_COUNT 11

/* Write the leaf of the row to the string, which is emptied first. */
extern void ks_leaf_write(StringInfo out, HeapTuple row, TupleDesc desc);
extern void ks_leaf_write_values(StringInfo out, const Datum *values, const bool *nulls);

#endif /* KS_AUDIT_LEAF_H */
