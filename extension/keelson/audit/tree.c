/*
 * tree.c
 *	  The tree as SQL asks for it: leaves, roots, places, proofs.
 *
 * The functions read keelson.audit_tiles as keelson_system; they are for the
 * core's own functions.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "audit/leaf.h"
#include "audit/tiles.h"
#include "core/error.h"
#include "core/roles.h"
#include "core/spi.h"

static KsTree *open_tree(KsRoleSwitch *save, int64 size);
static void close_tree(KsRoleSwitch *save);
static bytea *hash_bytea(const KsHash *hash);
static Datum proof_array(const KsHash *proof, int count);

PG_FUNCTION_INFO_V1(ks_audit_leaf);

/* keelson._audit_leaf(the columns of a leaf, in their order) */
Datum
ks_audit_leaf(PG_FUNCTION_ARGS)
{
	Datum values[KS_LEAF_COLUMN_COUNT];
	bool nulls[KS_LEAF_COLUMN_COUNT];
	StringInfoData leaf;

	for (int i = 0; i < KS_LEAF_COLUMN_COUNT; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i);
	}
	initStringInfo(&leaf);
	ks_leaf_write_values(&leaf, values, nulls);
	PG_RETURN_BYTEA_P(cstring_to_text_with_len(leaf.data, leaf.len));
}

PG_FUNCTION_INFO_V1(ks_audit_row_root);

/* keelson._audit_row_root(hashes bytea) : of 256 of them, null for another number */
Datum
ks_audit_row_root(PG_FUNCTION_ARGS)
{
	bytea *hashes = PG_GETARG_BYTEA_PP(0);
	KsHash root;

	if (VARSIZE_ANY_EXHDR(hashes) != KS_TILE_WIDTH * KS_HASH_LENGTH)
		PG_RETURN_NULL();
	root = ks_row_root((const KsHash *) VARDATA_ANY(hashes), KS_TILE_WIDTH);
	PG_RETURN_BYTEA_P(hash_bytea(&root));
}

PG_FUNCTION_INFO_V1(ks_audit_root);

/* keelson._audit_root(size bigint) : null where tiles are missing */
Datum
ks_audit_root(PG_FUNCTION_ARGS)
{
	KsRoleSwitch save;
	KsTree *tree = open_tree(&save, PG_GETARG_INT64(0));
	KsHash root = ks_tree_root(tree, tree->size);
	bool is_broken = tree->is_broken;

	close_tree(&save);
	if (is_broken)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(hash_bytea(&root));
}

PG_FUNCTION_INFO_V1(ks_audit_place);

/* keelson._audit_place(event_id uuid) : null when it is not sealed */
Datum
ks_audit_place(PG_FUNCTION_ARGS)
{
	KsRoleSwitch save;
	int64 place;

	(void) open_tree(&save, 0);
	place = ks_tiles_find(PG_GETARG_UUID_P(0));
	close_tree(&save);
	if (place < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(place);
}

PG_FUNCTION_INFO_V1(ks_audit_inclusion);

/* keelson._audit_inclusion(place bigint, size bigint) */
Datum
ks_audit_inclusion(PG_FUNCTION_ARGS)
{
	int64 place = PG_GETARG_INT64(0);
	int64 size = PG_GETARG_INT64(1);
	KsHash proof[KS_MAX_PROOF];
	KsRoleSwitch save;
	KsTree *tree;
	int count;

	if (place < 0 || place >= size)
		ks_raise(400, "VALIDATION_FAILED", NULL, "the tree of that size has no such leaf");
	tree = open_tree(&save, size);
	count = ks_inclusion_proof(tree, place, size, proof);
	close_tree(&save);
	if (tree->is_broken)
		PG_RETURN_NULL();
	return proof_array(proof, count);
}

PG_FUNCTION_INFO_V1(ks_audit_consistency);

/* keelson._audit_consistency(old_size bigint, size bigint) */
Datum
ks_audit_consistency(PG_FUNCTION_ARGS)
{
	int64 old_size = PG_GETARG_INT64(0);
	int64 size = PG_GETARG_INT64(1);
	KsHash proof[KS_MAX_PROOF];
	KsRoleSwitch save;
	KsTree *tree;
	int count;

	if (old_size < 0 || old_size > size)
		ks_raise(400, "VALIDATION_FAILED", NULL, "the trail has never had that size");
	tree = open_tree(&save, size);
	count = ks_consistency_proof(tree, old_size, size, proof);
	close_tree(&save);
	if (tree->is_broken)
		PG_RETURN_NULL();
	return proof_array(proof, count);
}

/* The tree lives in the caller's memory, which close_tree() does not free. */
static KsTree *
open_tree(KsRoleSwitch *save, int64 size)
{
	KsTree *tree = ks_tiles_tree(size);

	ks_spi_connect();
	ks_role_enter(save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	return tree;
}

static void
close_tree(KsRoleSwitch *save)
{
	ks_role_leave(save);
	ks_spi_finish();
}

static bytea *
hash_bytea(const KsHash *hash)
{
	return cstring_to_text_with_len((const char *) hash->bytes, KS_HASH_LENGTH);
}

static Datum
proof_array(const KsHash *proof, int count)
{
	Datum elements[KS_MAX_PROOF];

	for (int i = 0; i < count; i++)
		elements[i] = PointerGetDatum(hash_bytea(&proof[i]));
	return PointerGetDatum(construct_array(elements, count, BYTEAOID, -1, false, TYPALIGN_INT));
}
