/*
 * session_probe.c
 *	  Read one row of keelson.sessions through its primary key.
 *
 * Every authenticated request does this, so that a session which ends is
 * refused by the next statement. It goes past SPI, the one place that does:
 * 1.2 instead of 2.6 microseconds. Columns are found by name, once, and again
 * after the table has changed.
 *
 * The descent of the index is two thirds of that, so each backend remembers
 * where the index led it: the buffer, and the root of the row's chain of
 * versions. That is a hint, and proves nothing. The row is read each time with
 * the statement's snapshot, exactly as the executor reads what an index points
 * to, and counts only if it is the one asked for; whatever does not fit (the
 * buffer holds another page, the place another row, the row is not visible)
 * sends us through the index.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "dispatch/session_probe.h"

typedef struct SessionTable
{
	Oid relation; /* InvalidOid: look again */
	Oid index;
	AttrNumber user_id;
	AttrNumber id;
	AttrNumber aal;
	AttrNumber expires_at;
	AttrNumber ended_at;
} SessionTable;

/* Where a session's row was found the last time. */
typedef struct Place
{
	Buffer buffer; /* InvalidBuffer: nowhere */
	ItemPointerData root;
	pg_uuid_t session_id;
} Place;

/* How many places are remembered; a session has one, by its id, which it may lose to another. */
#define PLACES 1024

/* Filled by the first probe, emptied when the table changes. */
static SessionTable sessions;

/* Written by probes; never emptied, since each is proved when it is used. */
static Place places[PLACES];

/* One look at one session. */
typedef struct Probe
{
	Relation relation;
	const pg_uuid_t *user_id;
	const pg_uuid_t *session_id;
	Place *place;
	bool is_good; /* the row is there and the session is going on */
	int aal;
} Probe;

static void forget(Datum arg, Oid relation);
static Relation open_sessions(void);
static AttrNumber column(Oid relation, const char *name);
static Place *place_of(const pg_uuid_t *session_id);
static bool look_at_place(Probe *probe);
static bool is_row(const Probe *probe, HeapTuple tuple);
static void look_through_index(Probe *probe);
static void remember(Probe *probe, ItemPointerData root, TupleTableSlot *slot);
static void judge(Probe *probe, HeapTuple tuple);

bool
ks_session_probe(const pg_uuid_t *user_id, const pg_uuid_t *session_id, int *aal)
{
	Probe probe = {open_sessions(), user_id, session_id, place_of(session_id)};

	if (!look_at_place(&probe))
		look_through_index(&probe);
	table_close(probe.relation, AccessShareLock);
	*aal = probe.aal;
	return probe.is_good;
}

/* Open the table, knowing its columns. */
static Relation
open_sessions(void)
{
	static bool registered = false;
	Relation relation;
	Oid oid;

	if (OidIsValid(sessions.relation))
	{
		/* Taking the lock may bring the news that the table has changed. */
		relation = table_open(sessions.relation, AccessShareLock);
		if (OidIsValid(sessions.relation))
			return relation;
		table_close(relation, AccessShareLock);
	}
	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
		registered = true;
	}
	oid = get_relname_relid("sessions", get_namespace_oid("keelson", false));
	if (!OidIsValid(oid))
		elog(ERROR, "table keelson.sessions does not exist");
	relation = table_open(oid, AccessShareLock);
	sessions.user_id = column(oid, "user_id");
	sessions.id = column(oid, "id");
	sessions.aal = column(oid, "aal");
	sessions.expires_at = column(oid, "expires_at");
	sessions.ended_at = column(oid, "ended_at");
	sessions.index = ks_primary_key_index(relation);
	sessions.relation = oid;
	return relation;
}

static AttrNumber
column(Oid relation, const char *name)
{
	AttrNumber number = get_attnum(relation, name);

	if (number == InvalidAttrNumber)
		elog(ERROR, "table keelson.sessions has no column \"%s\"", name);
	return number;
}

/* The last bytes of an id are random. */
static Place *
place_of(const pg_uuid_t *session_id)
{
	return &places[(session_id->data[UUID_LEN - 2] << 8 | session_id->data[UUID_LEN - 1]) % PLACES];
}

/* Look where the row was the last time; false when that does not tell. */
static bool
look_at_place(Probe *probe)
{
	Place *place = probe->place;
	ItemPointerData at = place->root;
	HeapTupleData tuple;
	bool is_found;

	if (!BufferIsValid(place->buffer) || memcmp(&place->session_id, probe->session_id, UUID_LEN) != 0 ||
		!ReadRecentBuffer(ks_relation_files(probe->relation), MAIN_FORKNUM, ItemPointerGetBlockNumber(&at), place->buffer))
		return false;
	LockBuffer(place->buffer, BUFFER_LOCK_SHARE);
	is_found = heap_hot_search_buffer(&at, probe->relation, place->buffer, GetActiveSnapshot(), &tuple, NULL, true);
	LockBuffer(place->buffer, BUFFER_LOCK_UNLOCK);
	is_found = is_found && is_row(probe, &tuple);
	if (is_found)
		judge(probe, &tuple);
	ReleaseBuffer(place->buffer);
	return is_found;
}

static bool
is_row(const Probe *probe, HeapTuple tuple)
{
	TupleDesc desc = RelationGetDescr(probe->relation);
	bool is_null;

	return memcmp(DatumGetUUIDP(heap_getattr(tuple, sessions.user_id, desc, &is_null)), probe->user_id, UUID_LEN) == 0 &&
		   memcmp(DatumGetUUIDP(heap_getattr(tuple, sessions.id, desc, &is_null)), probe->session_id, UUID_LEN) == 0;
}

static void
look_through_index(Probe *probe)
{
	Relation index = index_open(sessions.index, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(probe->relation, NULL);
	IndexScanDesc scan = ks_index_beginscan(probe->relation, index, GetActiveSnapshot(), 2);
	ScanKeyData keys[2];
	ItemPointer tid;

	/* Keys are numbered as the columns of the index are. */
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(probe->user_id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(probe->session_id));
	index_rescan(scan, keys, 2, NULL, 0);
	while ((tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
	{
		/* Fetching moves it on to the visible version. */
		ItemPointerData root = *tid;

		if (!index_fetch_heap(scan, slot))
			continue;
		judge(probe, ExecFetchSlotHeapTuple(slot, false, NULL));
		remember(probe, root, slot);
		break;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
}

/* Remember where the index led; only of a table that is a heap. */
static void
remember(Probe *probe, ItemPointerData root, TupleTableSlot *slot)
{
	probe->place->buffer = InvalidBuffer;
	if (!TTS_IS_BUFFERTUPLE(slot))
		return;
	probe->place->session_id = *probe->session_id;
	probe->place->root = root;
	probe->place->buffer = ((BufferHeapTupleTableSlot *) slot)->buffer;
}

static void
judge(Probe *probe, HeapTuple tuple)
{
	TupleDesc desc = RelationGetDescr(probe->relation);
	bool is_null;
	TimestampTz expires_at;

	if (!heap_attisnull(tuple, sessions.ended_at, desc))
		return;
	expires_at = DatumGetTimestampTz(heap_getattr(tuple, sessions.expires_at, desc, &is_null));
	if (is_null || expires_at <= GetCurrentStatementStartTimestamp())
		return;
	probe->aal = DatumGetInt16(heap_getattr(tuple, sessions.aal, desc, &is_null));
	probe->is_good = true;
}

static void
forget(Datum arg, Oid relation)
{
	if (!OidIsValid(relation) || relation == sessions.relation || relation == sessions.index)
		sessions.relation = InvalidOid;
}
