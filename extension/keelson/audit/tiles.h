/*
 * tiles.h
 *	  The tree's tiles in their table.
 */
#ifndef KS_AUDIT_TILES_H
#define KS_AUDIT_TILES_H

#include "postgres.h"

#include "utils/uuid.h"

#include "audit/merkle.h"

/*
 * The tree as it stands in the table, of the size of the newest checkpoint.
 * Tiles that were read stay in memory of the present context. Use it inside
 * ks_spi_connect().
 */
extern KsTree *ks_tiles_tree(int64 size);

/* The ids of a tile of level 0, with its hashes, as far as it reaches; false when there is none. */
extern bool ks_tiles_leaves(int64 number, const KsHash **hashes, const pg_uuid_t **ids, int *count);

/* The place of the event's leaf in the tree, -1 when it is not sealed. */
extern int64 ks_tiles_find(const pg_uuid_t *event_id);

/* Write a tile, whole; ids and times are of level 0 alone. */
extern void ks_tiles_write(int level, int64 number, const KsHash *hashes, const pg_uuid_t *ids, int count);

#endif /* KS_AUDIT_TILES_H */
