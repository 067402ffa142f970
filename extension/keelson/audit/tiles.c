/*
 * tiles.c
 *	  Reading and writing of keelson.audit_tiles.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "audit/tiles.h"
#include "core/spi.h"
#include "core/uuid.h"

typedef struct TileKey
{
	int64 number;
	int64 level;
} TileKey;

typedef struct Tile
{
	TileKey key;
	const KsHash *hashes;
	int count;
} Tile;

typedef struct Source
{
	MemoryContext cxt;
	HTAB *tiles;
} Source;

static KsPlan tile_plan = {
	"select hashes, event_ids from keelson.audit_tiles where level = $1 and number = $2",
	2,
	{INT2OID, INT8OID}};
static KsPlan find_plan = {
	"select number, event_ids from keelson.audit_tiles where level = 0 and event_times @> $1",
	1,
	{INT8OID}};
static KsPlan write_plan = {
	"insert into keelson.audit_tiles as t (level, number, hashes, event_ids, event_times)"
	" values ($1, $2, $3, $4, case when $5 is not null then pg_catalog.int8range($5, $6, '[]') end)"
	" on conflict (level, number) do update"
	" set hashes = excluded.hashes, event_ids = excluded.event_ids, event_times = excluded.event_times",
	6,
	{INT2OID, INT8OID, BYTEAOID, BYTEAOID, INT8OID, INT8OID}};

static const KsHash *read_tile(void *source, int level, int64 number, int count);
static void load(Source *source, Tile *tile);
static bytea *column_bytes(HeapTuple row, int column);
static bytea *to_bytea(const void *data, Size len);

KsTree *
ks_tiles_tree(int64 size)
{
	HASHCTL control = {.keysize = sizeof(TileKey), .entrysize = sizeof(Tile), .hcxt = CurrentMemoryContext};
	Source *source = palloc(sizeof(Source));
	KsTree *tree = palloc0(sizeof(KsTree));

	source->cxt = CurrentMemoryContext;
	source->tiles = hash_create("keelson audit tiles", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	tree->size = size;
	tree->read = read_tile;
	tree->source = source;
	return tree;
}

bool
ks_tiles_leaves(int64 number, const KsHash **hashes, const pg_uuid_t **ids, int *count)
{
	Datum values[2] = {Int16GetDatum(0), Int64GetDatum(number)};
	bytea *bytes;

	(void) ks_spi_execute(&tile_plan, values, NULL, false, 1);
	if (SPI_processed == 0)
		return false;
	bytes = column_bytes(SPI_tuptable->vals[0], 1);
	*hashes = (const KsHash *) VARDATA_ANY(bytes);
	*count = VARSIZE_ANY_EXHDR(bytes) / sizeof(KsHash);
	bytes = column_bytes(SPI_tuptable->vals[0], 2);
	*ids = (const pg_uuid_t *) VARDATA_ANY(bytes);
	*count = Min(*count, (int) (VARSIZE_ANY_EXHDR(bytes) / UUID_LEN));
	return true;
}

int64
ks_tiles_find(const pg_uuid_t *event_id)
{
	Datum values[1] = {Int64GetDatum(ks_uuid7_ms(event_id))};
	bool is_null;

	(void) ks_spi_execute(&find_plan, values, NULL, false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		bytea *bytes = column_bytes(row, 2);
		int count = VARSIZE_ANY_EXHDR(bytes) / UUID_LEN;

		for (int j = 0; j < count; j++)
			if (memcmp(VARDATA_ANY(bytes) + j * UUID_LEN, event_id, UUID_LEN) == 0)
				return DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &is_null)) * KS_TILE_WIDTH + j;
	}
	return -1;
}

void
ks_tiles_write(int level, int64 number, const KsHash *hashes, const pg_uuid_t *ids, int count)
{
	Datum values[6] = {Int16GetDatum(level), Int64GetDatum(number)};
	const char *nulls = level == 0 ? NULL : "   nnn";
	int64 first = PG_INT64_MAX, last = 0;

	values[2] = PointerGetDatum(to_bytea(hashes, count * sizeof(KsHash)));
	if (level == 0)
	{
		for (int i = 0; i < count; i++)
		{
			first = Min(first, ks_uuid7_ms(&ids[i]));
			last = Max(last, ks_uuid7_ms(&ids[i]));
		}
		values[3] = PointerGetDatum(to_bytea(ids, count * UUID_LEN));
		values[4] = Int64GetDatum(first);
		values[5] = Int64GetDatum(last);
	}
	(void) ks_spi_execute(&write_plan, values, nulls, false, 0);
}

/* A KsTileReader: from memory, else from the table. */
static const KsHash *
read_tile(void *source, int level, int64 number, int count)
{
	TileKey key = {.number = number, .level = level};
	bool found;
	Tile *tile = hash_search(((Source *) source)->tiles, &key, HASH_ENTER, &found);

	if (!found)
		load(source, tile);
	return tile->count >= count ? tile->hashes : NULL;
}

static void
load(Source *source, Tile *tile)
{
	Datum values[2] = {Int16GetDatum((int16) tile->key.level), Int64GetDatum(tile->key.number)};
	bytea *bytes;
	KsHash *hashes;

	tile->count = 0;
	(void) ks_spi_execute(&tile_plan, values, NULL, false, 1);
	if (SPI_processed == 0)
		return;
	bytes = column_bytes(SPI_tuptable->vals[0], 1);
	hashes = MemoryContextAlloc(source->cxt, VARSIZE_ANY_EXHDR(bytes));
	memcpy(hashes, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	tile->hashes = hashes;
	tile->count = VARSIZE_ANY_EXHDR(bytes) / sizeof(KsHash);
}

/* An empty one for null. */
static bytea *
column_bytes(HeapTuple row, int column)
{
	bool is_null;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &is_null);

	return is_null ? to_bytea("", 0) : DatumGetByteaPP(value);
}

static bytea *
to_bytea(const void *data, Size len)
{
	bytea *bytes = palloc(VARHDRSZ + len);

	SET_VARSIZE(bytes, VARHDRSZ + len);
	memcpy(VARDATA(bytes), data, len);
	return bytes;
}
