/*
 * keyring_check.c
 *	  Compares the keyring with keelson.keyring_keys, where the database keeps
 *	  a check value of every master key that it was ever sealed with.
 *
 * A check value is derived from the key (HKDF), so it says nothing about it. A
 * key that the table has and the keyring lacks, or has with another value, is
 * a wrong keyring: nothing is sealed, opened, signed or verified until it is
 * put right, and the message names the key. A key that the keyring has and the
 * table lacks is recorded when it is the primary, before anything is sealed
 * under it, in the same transaction (a key that was retired is never the primary
 * again); not by those who only look (the keeper, the
 * gateway's question whether all is well), who may look while a dump is being
 * restored into the table.
 *
 * The result is kept per backend, for one generation of the keyring and one
 * incarnation of the table: a restored table has another OID, and the server's
 * invalidation of the old one empties `checked`. A result that rests on a row
 * which this transaction has inserted is kept until the transaction ends: if
 * it rolls back, the row must be made again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "core/invalidation.h"
#include "core/roles.h"
#include "core/spi.h"
#include "secrets/keyring.h"
#include "secrets/keyring_check.h"

/* The generation that was found right, and the table it was compared with. */
static struct
{
	uint64 generation; /* 0: not checked */
	Oid table;
	bool rests_on_insert;
} checked;

static KsPlan read_plan = {
	"select key_id, check_value, retired_at is not null from keelson.keyring_keys order by key_id"};
static KsPlan needed_plan = {
	"select pg_catalog.string_agg(key_id::text, ', ' order by key_id), pg_catalog.count(*)"
	" from keelson.keyring_keys where retired_at is null having pg_catalog.count(*) > 0"};
static KsPlan insert_plan = {
	"insert into keelson.keyring_keys (key_id, check_value) values ($1, $2) on conflict (key_id) do nothing",
	2,
	{INT4OID, BYTEAOID}};

static void forget_relation(Datum arg, Oid relation);
static void forget_insert(XactEvent event, void *arg);
static void forget_insert_sub(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg);
static void register_callbacks(void);
static bool compare_rows(uint32 primary, bool *has_primary, StringInfo why);
static bool compare_row(uint32 key_id, bytea *value, StringInfo why);
static bool record(uint32 primary);

bool
ks_keyring_is_checked(void)
{
	return checked.generation != 0 && checked.generation == ks_keyring_generation();
}

bool
ks_keyring_check(StringInfo why, bool is_use)
{
	KsRoleSwitch save;
	uint64 generation = ks_keyring_generation();
	Oid schema = get_namespace_oid("keelson", true);
	Oid table = OidIsValid(schema) ? get_relname_relid("keyring_keys", schema) : InvalidOid;
	uint32 primary = ks_keyring_primary();
	bool has_primary = false;
	bool inserted = false;
	bool right;

	if (ks_keyring_is_checked())
		return true;
	if (!OidIsValid(table))
	{
		if (why != NULL)
			appendStringInfoString(why, "keelson.migrate() has not been run in this database");
		return false;
	}
	register_callbacks();
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	right = compare_rows(primary, &has_primary, why);
	if (right && !has_primary && is_use)
		inserted = record(primary);
	ks_role_leave(&save);
	ks_spi_finish();
	if (right && (has_primary || inserted))
	{
		checked.generation = generation;
		checked.table = table;
		checked.rests_on_insert = inserted;
	}
	return right;
}

bool
ks_keyring_needed(StringInfo why)
{
	KsRoleSwitch save;
	Oid schema = get_namespace_oid("keelson", true);
	bool is_needed;

	if (!OidIsValid(schema) || !OidIsValid(get_relname_relid("keyring_keys", schema)))
		return false;
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&needed_plan, NULL, NULL, true, 1);
	is_needed = SPI_processed == 1;
	if (is_needed)
	{
		bool is_null;
		int64 count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null));

		appendStringInfo(why, "; this database needs key%s %s", count > 1 ? "s" : "",
						 SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	}
	ks_role_leave(&save);
	ks_spi_finish();
	return is_needed;
}

/* Look at every row; false, with the reason, at the first that does not fit. */
static bool
compare_rows(uint32 primary, bool *has_primary, StringInfo why)
{
	bool is_primary_retired = false;

	(void) ks_spi_read_latest(&read_plan, NULL, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		bool is_null;
		uint32 key_id = (uint32) DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &is_null));
		bytea *value = DatumGetByteaPP(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &is_null));
		bool is_retired = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &is_null));

		if (!is_retired && !compare_row(key_id, value, why))
			return false;
		*has_primary |= key_id == primary;
		is_primary_retired |= is_retired && key_id == primary;
	}
	if (is_primary_retired && why != NULL)
		appendStringInfo(why, "the keyring's primary is key %u, which was retired", primary);
	return !is_primary_retired;
}

static bool
compare_row(uint32 key_id, bytea *value, StringInfo why)
{
	uint8 check[KS_KEY_LENGTH];

	if (!ks_keyring_has(key_id))
	{
		if (why != NULL)
			appendStringInfo(why, "the keyring lacks key %u, which this database needs", key_id);
		return false;
	}
	ks_keyring_check_value(key_id, check);
	if (VARSIZE_ANY_EXHDR(value) == sizeof(check) && ks_equal(VARDATA_ANY(value), check, sizeof(check)))
		return true;
	if (why != NULL)
		appendStringInfo(why, "the keyring's key %u is not the key %u of this database", key_id, key_id);
	return false;
}

/* Record the primary; false where this transaction cannot write. */
static bool
record(uint32 primary)
{
	uint8 check[KS_KEY_LENGTH];
	bytea *value;
	Datum values[2];

	if (XactReadOnly || RecoveryInProgress() || IsInParallelMode())
		return false;
	ks_keyring_check_value(primary, check);
	value = palloc(VARHDRSZ + sizeof(check));
	SET_VARSIZE(value, VARHDRSZ + sizeof(check));
	memcpy(VARDATA(value), check, sizeof(check));
	values[0] = Int32GetDatum((int32) primary);
	values[1] = PointerGetDatum(value);
	(void) ks_spi_execute(&insert_plan, values, NULL, false, 0);
	/* Somebody else was first, perhaps with another key: the next call compares. */
	return SPI_processed == 1;
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	ks_on_relation_change(forget_relation, (Datum) 0);
	RegisterXactCallback(forget_insert, NULL);
	RegisterSubXactCallback(forget_insert_sub, NULL);
	registered = true;
}

static void
forget_relation(Datum arg, Oid relation)
{
	if (relation == InvalidOid || relation == checked.table)
		checked.generation = 0;
}

static void
forget_insert(XactEvent event, void *arg)
{
	if (checked.rests_on_insert)
		memset(&checked, 0, sizeof(checked));
}

static void
forget_insert_sub(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && checked.rests_on_insert)
		memset(&checked, 0, sizeof(checked));
}
