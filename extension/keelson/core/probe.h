/*
 * probe.h
 *	  Reading rows of a table through its primary key, fast.
 */
#ifndef KS_PROBE_H
#define KS_PROBE_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/uuid.h"

#define KS_PROBE_KEYS 2
#define KS_PROBE_COLUMNS 8

struct KsProbePlace;

/*
 * A table, its primary key (columns of type uuid), and the columns that are
 * looked at. Declare it static with the names filled in; the rest is written
 * by core/probe.c alone.
 */
typedef struct KsProbeTable
{
	const char *name; /* in the schema keelson */
	int key_count;
	const char *keys[KS_PROBE_KEYS];
	const char *columns[KS_PROBE_COLUMNS];

	bool is_known; /* to the callback that tells of changes */
	Oid relation;  /* InvalidOid: look again */
	Oid index;
	AttrNumber key_numbers[KS_PROBE_KEYS];
	AttrNumber numbers[KS_PROBE_COLUMNS];
	struct KsProbePlace *places;
	struct KsProbeTable *next;
} KsProbeTable;

/* A row that was found; valid only while it is shown. */
typedef struct KsProbeRow
{
	const KsProbeTable *table;
	HeapTuple tuple;
	TupleDesc desc;
} KsProbeRow;

/*
 * Look the row of this key up with the statement's snapshot and show it;
 * returns whether there is one. What `show` keeps it copies.
 */
extern bool ks_probe(KsProbeTable *table, const pg_uuid_t *const *key, void (*show)(const KsProbeRow *row, void *arg), void *arg);

/*
 * Show every row whose key begins so, in the order of the key: key_count says
 * with how many of its columns.
 */
extern void ks_probe_all(KsProbeTable *table, const pg_uuid_t *const *key, void (*show)(const KsProbeRow *row, void *arg), void *arg);

/* A column of the row, by its place in the table's columns. */
extern Datum ks_probe_column(const KsProbeRow *row, int column, bool *is_null);

#endif /* KS_PROBE_H */
