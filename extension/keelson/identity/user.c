/*
 * user.c
 *	  Reading users.
 *
 * What a user sees of itself is read with every page, so this is C: the same in
 * PL/pgSQL takes four times as long. Reading stays a statement, run as the
 * caller: as keelson_app row-level security shows the acting user alone.
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

/* What is read of a user whose id is given by the expression. */
#define READ_USER(id)                                                                                  \
	"select u.email, u.email_verified_at is not null, u.name, u.preferences, u.created_at, "           \
	"u.avatar_hash, "                                                                                  \
	"array(select r.role from keelson.user_roles as r where r.user_id operator(pg_catalog.=) " id ") " \
	"from keelson.users as u where u.id operator(pg_catalog.=) " id " and u.deleted_at is null"

/* What everybody signed in holds, without a row. */
#define EVERYBODYS_ROLE "user"

/* How much of a picture's hash stands in its address. */
#define AVATAR_VERSION_BYTES 8

static Datum make_user(const pg_uuid_t *id, Oid type, TimestampTz *created_at);
static bool read_user(const pg_uuid_t *id);
static void read_tier(Datum *values, bool *nulls);
static Datum column(int number, bool *is_null);
static Datum avatar_url(const pg_uuid_t *id, bytea *hash);
static Datum order_roles(Datum roles);
static int compare_roles(const void *a, const void *b);
static Datum form_row(Oid type, Datum *values, bool *nulls);

PG_FUNCTION_INFO_V1(ks_user_get);

/* keelson.user_get(id uuid) */
Datum
ks_user_get(PG_FUNCTION_ARGS)
{
	return make_user(PG_ARGISNULL(0) ? NULL : PG_GETARG_UUID_P(0), get_func_rettype(fcinfo->flinfo->fn_oid), NULL);
}

PG_FUNCTION_INFO_V1(ks_auth_me);

/* keelson.auth_me() */
Datum
ks_auth_me(PG_FUNCTION_ARGS)
{
	const KsIdentity *identity = ks_identity();

	return make_user(identity->has_user ? &identity->user_id : NULL, get_func_rettype(fcinfo->flinfo->fn_oid), NULL);
}

PG_FUNCTION_INFO_V1(ks_user_profile);

/* keelson.user_profile() */
Datum
ks_user_profile(PG_FUNCTION_ARGS)
{
	const KsIdentity *identity = ks_identity();
	Oid type = get_func_rettype(fcinfo->flinfo->fn_oid);
	TupleDesc desc = lookup_rowtype_tupdesc(type, -1);
	Oid user_type = TupleDescAttr(desc, PROFILE_USER)->atttypid;
	TimestampTz member_since;
	Datum values[PROFILE_COLUMNS];
	bool nulls[PROFILE_COLUMNS] = {false};

	ReleaseTupleDesc(desc);
	values[PROFILE_USER] = make_user(identity->has_user ? &identity->user_id : NULL, user_type, &member_since);
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
	MemoryContext cxt = CurrentMemoryContext;
	Datum values[USER_COLUMNS];
	bool nulls[USER_COLUMNS] = {0};
	Datum avatar_hash;
	Datum row;

	if (id == NULL)
		ks_raise(401, "UNAUTHENTICATED", "In psql, say who is acting: select keelson.act_as(...).", "nobody is signed in");
	ks_spi_connect();
	if (!read_user(id))
		ks_raise(404, "NOT_FOUND", NULL, "there is no such user");
	values[USER_ID] = UUIDPGetDatum(id);
	values[USER_EMAIL] = column(1, &nulls[USER_EMAIL]);
	values[USER_EMAIL_VERIFIED] = column(2, &nulls[USER_EMAIL_VERIFIED]);
	values[USER_NAME] = column(3, &nulls[USER_NAME]);
	values[USER_PREFERENCES] = column(4, &nulls[USER_PREFERENCES]);
	values[USER_CREATED_AT] = column(5, &nulls[USER_CREATED_AT]);
	avatar_hash = column(6, &nulls[USER_AVATAR_URL]);
	if (!nulls[USER_AVATAR_URL])
		values[USER_AVATAR_URL] = avatar_url(id, DatumGetByteaPP(avatar_hash));
	values[USER_ROLES] = order_roles(column(7, &nulls[USER_ROLES]));
	MemoryContextSwitchTo(cxt);
	row = form_row(type, values, nulls);
	if (created_at != NULL)
		*created_at = DatumGetTimestampTz(values[USER_CREATED_AT]);
	ks_spi_finish();
	return row;
}

/* Read the user; false where there is none to be seen. */
static bool
read_user(const pg_uuid_t *id)
{
	/* What row-level security asks for, word for word: it then costs nothing. */
	static KsPlan own_plan = {.sql = READ_USER("keelson.current_user_id()")};
	static KsPlan plan = {.sql = READ_USER("$1"), .nargs = 1, .argtypes = {UUIDOID}};
	Datum arguments[] = {UUIDPGetDatum(id)};
	const KsIdentity *identity = ks_identity();

	if (identity->has_user && memcmp(&identity->user_id, id, UUID_LEN) == 0)
		(void) ks_spi_execute(&own_plan, NULL, NULL, true, 1);
	else
		(void) ks_spi_execute(&plan, arguments, NULL, true, 1);
	return SPI_processed == 1;
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
order_roles(Datum roles)
{
	Datum *held;
	Datum *ordered;
	int count;

	deconstruct_array(DatumGetArrayTypeP(roles), TEXTOID, -1, false, TYPALIGN_INT, &held, NULL, &count);
	qsort(held, count, sizeof(Datum), compare_roles);
	ordered = palloc((count + 1) * sizeof(Datum));
	ordered[0] = CStringGetTextDatum(EVERYBODYS_ROLE);
	memcpy(ordered + 1, held, count * sizeof(Datum));
	return PointerGetDatum(construct_array(ordered, count + 1, TEXTOID, -1, false, TYPALIGN_INT));
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
