/*
 * merkle.h
 *	  The Merkle tree of RFC 6962 over tiles of 256 hashes.
 *
 * A tile of level 0 holds leaf hashes, one of level n the roots of the full
 * tiles of level n - 1. So every complete subtree whose size is a power of two
 * is found in one tile, and a proof reads a tile or two of each level.
 */
#ifndef KS_AUDIT_MERKLE_H
#define KS_AUDIT_MERKLE_H

#include "postgres.h"

#include "secrets/crypto.h"

#define KS_HASH_LENGTH KS_SHA256_LENGTH
#define KS_TILE_HEIGHT 8
#define KS_TILE_WIDTH (1 << KS_TILE_HEIGHT)
#define KS_MAX_LEVELS 8
#define KS_MAX_PROOF 128

typedef struct KsHash
{
	uint8 bytes[KS_HASH_LENGTH];
} KsHash;

/* Reads of a tile its first `count` hashes; palloc-ed, or NULL when it has fewer. */
typedef const KsHash *(*KsTileReader)(void *source, int level, int64 number, int count);

typedef struct KsTree
{
	int64 size;
	KsTileReader read;
	void *source;
	bool is_broken; /* set when a tile was missing: results are worth nothing */
} KsTree;

/* The hash of a leaf. */
extern KsHash ks_leaf_hash(const void *data, size_t len);

/* The root of a complete row of 1 to 256 hashes, a power of two. */
extern KsHash ks_row_root(const KsHash *hashes, int count);

/* The root of the first `size` leaves. */
extern KsHash ks_tree_root(KsTree *tree, int64 size);

/*
 * The proof that the leaf is in the tree of the first `size` leaves (RFC 6962,
 * 2.1.1), and that the tree of `old_size` is its beginning (2.1.2). Returns
 * how many hashes it wrote, KS_MAX_PROOF at most.
 */
extern int ks_inclusion_proof(KsTree *tree, int64 leaf, int64 size, KsHash *proof);
extern int ks_consistency_proof(KsTree *tree, int64 old_size, int64 size, KsHash *proof);

#endif /* KS_AUDIT_MERKLE_H */
