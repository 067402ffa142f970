/*
 * merkle.c
 *	  Hashes, roots and proofs of RFC 6962; knows tiles, no tables.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "audit/merkle.h"

static KsHash node_hash(const KsHash *left, const KsHash *right);
static KsHash range_root(KsTree *tree, int64 from, int64 until);
static KsHash complete_root(KsTree *tree, int height, int64 index);
static int64 split(int64 size);
static int path(KsTree *tree, int64 leaf, int64 from, int64 until, KsHash *proof);
static int subproof(KsTree *tree, int64 old_until, int64 from, int64 until, bool is_whole, KsHash *proof);

KsHash
ks_leaf_hash(const void *data, size_t len)
{
	uint8 small[1024];
	uint8 *input = len < sizeof(small) ? small : palloc(len + 1);
	KsHash hash = {{0}};

	input[0] = 0;
	memcpy(input + 1, data, len);
	ks_sha256(input, len + 1, hash.bytes);
	if (input != small)
		pfree(input);
	return hash;
}

static KsHash
node_hash(const KsHash *left, const KsHash *right)
{
	uint8 input[1 + 2 * KS_HASH_LENGTH];
	KsHash hash = {{0}};

	input[0] = 1;
	memcpy(input + 1, left, KS_HASH_LENGTH);
	memcpy(input + 1 + KS_HASH_LENGTH, right, KS_HASH_LENGTH);
	ks_sha256(input, sizeof(input), hash.bytes);
	return hash;
}

KsHash
ks_row_root(const KsHash *hashes, int count)
{
	KsHash row[KS_TILE_WIDTH];

	memcpy(row, hashes, count * sizeof(KsHash));
	for (; count > 1; count /= 2)
		for (int i = 0; i < count / 2; i++)
			row[i] = node_hash(&row[2 * i], &row[2 * i + 1]);
	return row[0];
}

KsHash
ks_tree_root(KsTree *tree, int64 size)
{
	KsHash empty = {{0}};

	if (size > 0)
		return range_root(tree, 0, size);
	ks_sha256("", 0, empty.bytes);
	return empty;
}

int
ks_inclusion_proof(KsTree *tree, int64 leaf, int64 size, KsHash *proof)
{
	return path(tree, leaf, 0, size, proof);
}

int
ks_consistency_proof(KsTree *tree, int64 old_size, int64 size, KsHash *proof)
{
	return old_size == 0 || old_size == size ? 0 : subproof(tree, old_size, 0, size, true, proof);
}

/* The root of the leaves [from, until); from is a multiple of the size rounded up to a power of two. */
static KsHash
range_root(KsTree *tree, int64 from, int64 until)
{
	int64 size = until - from;
	KsHash left, right;

	if ((size & (size - 1)) == 0)
	{
		int height = pg_leftmost_one_pos64(size);

		return complete_root(tree, height, from >> height);
	}
	left = range_root(tree, from, from + split(size));
	right = range_root(tree, from + split(size), until);
	return node_hash(&left, &right);
}

/* The root of the complete subtree of that height, which is the index-th: one row of one tile. */
static KsHash
complete_root(KsTree *tree, int height, int64 index)
{
	int level = height / KS_TILE_HEIGHT;
	int rest = height % KS_TILE_HEIGHT;
	int64 first = index << rest;
	int count = 1 << rest;
	int place = first % KS_TILE_WIDTH;
	const KsHash *hashes = tree->read(tree->source, level, first / KS_TILE_WIDTH, place + count);

	if (hashes == NULL)
	{
		KsHash none = {{0}};

		tree->is_broken = true;
		return none;
	}
	return ks_row_root(hashes + place, count);
}

/* The largest power of two below the size. */
static int64
split(int64 size)
{
	return INT64CONST(1) << pg_leftmost_one_pos64(size - 1);
}

static int
path(KsTree *tree, int64 leaf, int64 from, int64 until, KsHash *proof)
{
	int64 middle;
	int count;

	if (until - from == 1)
		return 0;
	middle = from + split(until - from);
	if (leaf < middle)
	{
		count = path(tree, leaf, from, middle, proof);
		proof[count] = range_root(tree, middle, until);
	}
	else
	{
		count = path(tree, leaf, middle, until, proof);
		proof[count] = range_root(tree, from, middle);
	}
	return count + 1;
}

static int
subproof(KsTree *tree, int64 old_until, int64 from, int64 until, bool is_whole, KsHash *proof)
{
	int64 middle;
	int count;

	if (old_until == until)
	{
		if (is_whole)
			return 0;
		proof[0] = range_root(tree, from, until);
		return 1;
	}
	middle = from + split(until - from);
	if (old_until <= middle)
	{
		count = subproof(tree, old_until, from, middle, is_whole, proof);
		proof[count] = range_root(tree, middle, until);
	}
	else
	{
		count = subproof(tree, old_until, middle, until, false, proof);
		proof[count] = range_root(tree, from, middle);
	}
	return count + 1;
}
