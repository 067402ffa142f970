/*
 * user.c
 *	  Reading users.
 *
 * What a user sees of itself is read with every page, so this is C, and the
 * acting user's own row is read by its key. Any other user is read by a
 * statement, run as the caller: row-level security decides.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"
#include "utils/varlena.h"

#include "core/compat.h"
#include "core/error.h"
#include "core/guc.h"
#include "core/identity.h"
#include "core/probe.h"
#include "core/roles.h"
#include "core/spi.h"
#include "core/uuid.h"

/* The columns of keelson.user_object. */
enum
{
	USER_ID,
	USER_EMAIL,
	USER_EMAIL_VERIFIED,
	USER_NAME,
	USER_AVATAR_URL,
	USER_PREFERENCES,
	USER_ROLES,
	USER_CREATED_AT,
	USER_COLUMNS
};

/* The columns of keelson.profile; tiers add theirs to those of the identity. */
enum
{
	PROFILE_USER,
	PROFILE_MEMBER_SINCE,
	PROFILE_SUBSCRIPTION,
	PROFILE_REFERRAL,
	PROFILE_COLUMNS
};

/* What is read of a user. */
enum
{
	READ_EMAIL,
	READ_EMAIL_VERIFIED_AT,
	READ_NAME,
	READ_PREFERENCES,
	READ_CREATED_AT,
	READ_AVATAR_HASH,
	READ_DELETED_AT,
	READ_COLUMNS
};

/* A user as it was read; what it points to is the reader's own. */
typedef struct UserRead
{
	bool is_found;
	Datum values[READ_COLUMNS];
	bool nulls[READ_COLUMNS];
	Datum *roles;
	int role_count;
} UserRead;

/* What everybody signed in holds, without a row. */
#define EVERYBODYS_ROLE "user"

/* How much of a picture's hash stands in its address. */
#define AVATAR_VERSION_BYTES 8

static Datum make_user(const pg_uuid_t *id, Oid type, TimestampTz *created_at);
static void read_own(const pg_uuid_t *id, UserRead *read);
static void keep_user(const KsProbeRow *row, void *arg);
static void keep_role(const KsProbeRow *row, void *arg);
static Datum keep(Datum value, int number, bool is_null);
static void read_other(const pg_uuid_t *id, UserRead *read);
static void read_tier(Datum *values, bool *nulls);
static Datum column(int number, bool *is_null);
static Datum avatar_url(const pg_uuid_t *id, bytea *hash);
static Datum order_roles(const UserRead *read);
static int compare_roles(const void *a, const void *b);
static Datum form_row(Oid type, Datum *values, bool *nulls);

PG_FUNCTION_INFO_V1(ks_user_get);

/* keelson.user_get(id uuid) */
Datum
ks_user_get(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ks_raise(404, "NOT_FOUND", NULL, "there is no such user");
	return make_user(PG_GETARG_UUID_P(0), get_func_rettype(fcinfo->flinfo->fn_oid), NULL);
}

PG_FUNCTION_INFO_V1(ks_auth_me);

/* keelson.auth_me() */
Datum
ks_auth_me(PG_FUNCTION_ARGS)
{
	return make_user(ks_acting_user(), get_func_rettype(fcinfo->flinfo->fn_oid), NULL);
}

PG_FUNCTION_INFO_V1(ks_user_profile);

/* keelson.user_profile() */
Datum
ks_user_profile(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = ks_acting_user();
	Oid type = get_func_rettype(fcinfo->flinfo->fn_oid);
	TupleDesc desc = lookup_rowtype_tupdesc(type, -1);
	Oid user_type = TupleDescAttr(desc, PROFILE_USER)->atttypid;
	TimestampTz member_since;
	Datum values[PROFILE_COLUMNS];
	bool nulls[PROFILE_COLUMNS] = {false};

	ReleaseTupleDesc(desc);
	values[PROFILE_USER] = make_user(id, user_type, &member_since);
	values[PROFILE_MEMBER_SINCE] = TimestampTzGetDatum(member_since);
	read_tier(&values[PROFILE_SUBSCRIPTION], &nulls[PROFILE_SUBSCRIPTION]);
	return form_row(type, values, nulls);
}

/* Subscription and referral of the acting user, into two columns. */
static void
read_tier(Datum *values, bool *nulls)
{
	static KsPlan plan = {
		.sql = "select keelson._subscription_shown(keelson.current_user_id()), keelson._referral_shown(keelson.current_user_id())"};
	MemoryContext cxt = CurrentMemoryContext;
	KsRoleSwitch save;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&plan, NULL, NULL, true, 1);
	ks_role_leave(&save);
	MemoryContextSwitchTo(cxt);
	for (int i = 0; i < 2; i++)
	{
		values[i] = column(i + 1, &nulls[i]);
		if (!nulls[i])
			values[i] = datumCopy(values[i], false, -1);
	}
	ks_spi_finish();
}

/* The user as a row of the type, keelson.user_object; an error where there is none to be seen. */
static Datum
make_user(const pg_uuid_t *id, Oid type, TimestampTz *created_at)
{
	const KsIdentity *identity = ks_identity();
	UserRead read = {0};
	Datum values[USER_COLUMNS];
	bool nulls[USER_COLUMNS] = {0};

	if (identity->has_user && memcmp(&identity->user_id, id, UUID_LEN) == 0)
		read_own(id, &read);
	else
		read_other(id, &read);
	if (!read.is_found)
		ks_raise(404, "NOT_FOUND", NULL, "there is no such user");
	values[USER_ID] = UUIDPGetDatum(id);
	values[USER_EMAIL] = read.values[READ_EMAIL];
	nulls[USER_EMAIL] = read.nulls[READ_EMAIL];
	values[USER_EMAIL_VERIFIED] = BoolGetDatum(!read.nulls[READ_EMAIL_VERIFIED_AT]);
	values[USER_NAME] = read.values[READ_NAME];
	nulls[USER_NAME] = read.nulls[READ_NAME];
	values[USER_PREFERENCES] = read.values[READ_PREFERENCES];
	values[USER_CREATED_AT] = read.values[READ_CREATED_AT];
	nulls[USER_AVATAR_URL] = read.nulls[READ_AVATAR_HASH];
	if (!nulls[USER_AVATAR_URL])
		values[USER_AVATAR_URL] = avatar_url(id, DatumGetByteaPP(read.values[READ_AVATAR_HASH]));
	values[USER_ROLES] = order_roles(&read);
	if (created_at != NULL)
		*created_at = DatumGetTimestampTz(values[USER_CREATED_AT]);
	return form_row(type, values, nulls);
}

/* Read the acting user by its keys: it may see itself, so row-level security has nothing to decide. */
static void
read_own(const pg_uuid_t *id, UserRead *read)
{
	static KsProbeTable users = {
		.name = "users",
		.key_count = 1,
		.keys = {"id"},
		.columns = {
			[READ_EMAIL] = "email",
			[READ_EMAIL_VERIFIED_AT] = "email_verified_at",
			[READ_NAME] = "name",
			[READ_PREFERENCES] = "preferences",
			[READ_CREATED_AT] = "created_at",
			[READ_AVATAR_HASH] = "avatar_hash",
			[READ_DELETED_AT] = "deleted_at"}};
	static KsProbeTable roles = {.name = "user_roles", .key_count = 1, .keys = {"user_id"}, .columns = {"role"}};
	const pg_uuid_t *const key[] = {id};

	(void) ks_probe(&users, key, keep_user, read);
	read->is_found = read->is_found && read->nulls[READ_DELETED_AT];
	if (read->is_found)
		ks_probe_all(&roles, key, keep_role, read);
}

static void
keep_user(const KsProbeRow *row, void *arg)
{
	UserRead *read = arg;

	for (int i = 0; i < READ_COLUMNS; i++)
	{
		Datum value = ks_probe_column(row, i, &read->nulls[i]);

		read->values[i] = keep(value, i, read->nulls[i]);
	}
	read->is_found = true;
}

static void
keep_role(const KsProbeRow *row, void *arg)
{
	UserRead *read = arg;
	bool is_null;
	Datum role = PointerGetDatum(PG_DETOAST_DATUM_COPY(ks_probe_column(row, 0, &is_null)));

	read->roles = read->roles == NULL ? palloc(sizeof(Datum)) : repalloc(read->roles, (read->role_count + 1) * sizeof(Datum));
	read->roles[read->role_count++] = role;
}

/* A column's value that outlives the row. */
static Datum
keep(Datum value, int number, bool is_null)
{
	bool is_time = number == READ_EMAIL_VERIFIED_AT || number == READ_CREATED_AT || number == READ_DELETED_AT;

	return is_null || is_time ? value : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

/* Read a user as the caller, who sees what row-level security shows. */
static void
read_other(const pg_uuid_t *id, UserRead *read)
{
	static KsPlan plan = {
		.sql = "select u.email, u.email_verified_at, u.name, u.preferences, u.created_at, u.avatar_hash, u.deleted_at, "
			   "array(select r.role from keelson.user_roles as r where r.user_id operator(pg_catalog.=) $1) "
			   "from keelson.users as u where u.id operator(pg_catalog.=) $1 and u.deleted_at is null",
		.nargs = 1,
		.argtypes = {UUIDOID}};
	Datum arguments[] = {UUIDPGetDatum(id)};
	MemoryContext cxt = CurrentMemoryContext;
	ArrayType *roles;
	bool is_null;

	ks_spi_connect();
	(void) ks_spi_execute(&plan, arguments, NULL, true, 1);
	MemoryContextSwitchTo(cxt);
	read->is_found = SPI_processed == 1;
	if (read->is_found)
	{
		for (int i = 0; i < READ_COLUMNS; i++)
		{
			Datum value = column(i + 1, &read->nulls[i]);

			read->values[i] = keep(value, i, read->nulls[i]);
		}
		roles = DatumGetArrayTypePCopy(column(READ_COLUMNS + 1, &is_null));
		deconstruct_array(roles, TEXTOID, -1, false, TYPALIGN_INT, &read->roles, NULL, &read->role_count);
	}
	ks_spi_finish();
}

static Datum
column(int number, bool *is_null)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, is_null);
}

/* Where the picture is; a new one is elsewhere, so that none is shown from memory. */
static Datum
avatar_url(const pg_uuid_t *id, bytea *hash)
{
	char version[2 * AVATAR_VERSION_BYTES + 1] = "";

	(void) hex_encode(VARDATA_ANY(hash), Min(VARSIZE_ANY_EXHDR(hash), AVATAR_VERSION_BYTES), version);
	return PointerGetDatum(cstring_to_text(psprintf("%s/api/users/%s/avatar?v=%s", ks_guc_public_url, ks_uuid_string(id), version)));
}

/* The roles in order of name, after everybody's. */
static Datum
order_roles(const UserRead *read)
{
	Datum *ordered = palloc((read->role_count + 1) * sizeof(Datum));

	ordered[0] = CStringGetTextDatum(EVERYBODYS_ROLE);
	if (read->role_count > 0)
		memcpy(ordered + 1, read->roles, read->role_count * sizeof(Datum));
	qsort(ordered + 1, read->role_count, sizeof(Datum), compare_roles);
	return PointerGetDatum(construct_array(ordered, read->role_count + 1, TEXTOID, -1, false, TYPALIGN_INT));
}

static int
compare_roles(const void *a, const void *b)
{
	text *left = DatumGetTextPP(*(const Datum *) a);
	text *right = DatumGetTextPP(*(const Datum *) b);

	return varstr_cmp(VARDATA_ANY(left), VARSIZE_ANY_EXHDR(left), VARDATA_ANY(right), VARSIZE_ANY_EXHDR(right), C_COLLATION_OID);
}

static Datum
form_row(Oid type, Datum *values, bool *nulls)
{
	TupleDesc desc = lookup_rowtype_tupdesc(type, -1);
	HeapTuple row = heap_form_tuple(desc, values, nulls);

	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(row);
}
