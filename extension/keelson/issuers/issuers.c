/*
 * issuers.c
 *	  Whose tokens are taken besides our own.
 *
 * The backend's copy is made anew when the relation was invalidated, which a
 * trigger does with every change, at its commit, here and elsewhere. So a
 * kill switch holds for the next statement. Keys that cannot be read any more
 * (they were checked when they were set) leave their issuer out.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/error.h"
#include "core/invalidation.h"
#include "core/roles.h"
#include "core/spi.h"
#include "issuers/issuers.h"

/* The columns of the statement that reads them. */
enum
{
	ID = 1,
	VERSION,
	ISSUER,
	AUDIENCE,
	PARTIES,
	TYPES,
	ALGORITHMS,
	EMAIL_CLAIM,
	EMAIL_VERIFIED_CLAIM,
	NAME_CLAIM,
	TRUSTS_EMAIL,
	JWKS,
	PEM,
	IS_PUBLISHED
};

/*
 * The backend's copy, in a context that is reset when it is made anew. Written
 * by load() and, to say that it is stale, by the invalidation.
 */
static struct
{
	bool is_read;
	Oid relation;
	MemoryContext cxt;
	KsIssuers *issuers;
} copy;

static void load(void);
static void forget(Datum arg, Oid relation);
static bool load_issuer(int row, KsIssuer *into);
static Datum column(int row, int number, bool *is_null);
static char *column_text(int row, int number);
static ArrayType *column_array(int row, int number);
static int array_texts(ArrayType *array, char **texts, int most);
static KsJwkSet *read_keys(MemoryContext cxt, const char *jwks, const char *pem, const char **why);

const KsIssuers *
ks_issuers(void)
{
	/* An invalidation that comes while the rows are read makes them be read again. */
	for (int i = 0; !copy.is_read && i < 4; i++)
		load();
	return copy.issuers;
}

static void
load(void)
{
	static KsPlan plan = {
		.sql = "select id, xmin::text::bigint, issuer, audience, authorized_parties, types, algorithms, "
			   "email_claim, email_verified_claim, name_claim, trusts_email, jwks, pem, jwks_url is not null "
			   "from keelson.issuers where is_enabled and (keys_set_at is not null or jwks_url is not null) order by issuer limit 64"};
	static bool registered = false;
	KsRoleSwitch save;

	if (!registered)
	{
		copy.cxt = AllocSetContextCreate(TopMemoryContext, "keelson issuers", ALLOCSET_DEFAULT_SIZES);
		ks_on_relation_change(forget, (Datum) 0);
		registered = true;
	}
	copy.issuers = NULL;
	MemoryContextReset(copy.cxt);
	copy.issuers = MemoryContextAllocZero(copy.cxt, sizeof(KsIssuers));
	copy.relation = get_relname_relid("issuers", get_namespace_oid("keelson", false));
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	copy.is_read = true;
	PG_TRY();
	{
		(void) ks_spi_read_latest(&plan, NULL, 0);
		for (int row = 0; row < SPI_processed; row++)
			copy.issuers->count += load_issuer(row, &copy.issuers->issuers[copy.issuers->count]);
	}
	PG_CATCH();
	{
		copy.is_read = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	ks_role_leave(&save);
	ks_spi_finish();
}

static void
forget(Datum arg, Oid relation)
{
	if (!OidIsValid(relation) || relation == copy.relation)
		copy.is_read = false;
}

/* Take the row over; false when it has no usable key and none can come. */
static bool
load_issuer(int row, KsIssuer *into)
{
	const char *why = NULL;
	char *names[4];
	bool is_null;
	int count;

	into->is_published = DatumGetBool(column(row, IS_PUBLISHED, &is_null));
	into->keys = read_keys(copy.cxt, column_text(row, JWKS), column_text(row, PEM), &why);
	if (into->keys == NULL && !into->is_published)
		return false;
	into->id = *DatumGetUUIDP(column(row, ID, &is_null));
	into->version = (uint32) DatumGetInt64(column(row, VERSION, &is_null));
	into->issuer = column_text(row, ISSUER);
	into->audience = column_array(row, AUDIENCE);
	into->parties = column_array(row, PARTIES);
	into->type_count = array_texts(column_array(row, TYPES), into->types, lengthof(into->types));
	count = array_texts(column_array(row, ALGORITHMS), names, lengthof(names));
	into->algorithms = 0;
	for (int i = 0; i < count; i++)
		into->algorithms |= ks_algorithm(names[i]);
	into->email_claim = column_text(row, EMAIL_CLAIM);
	into->email_verified_claim = column_text(row, EMAIL_VERIFIED_CLAIM);
	into->name_claim = column_text(row, NAME_CLAIM);
	into->trusts_email = DatumGetBool(column(row, TRUSTS_EMAIL, &is_null));
	return true;
}

static Datum
column(int row, int number, bool *is_null)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, is_null);
}

/* A column's text, in the copy's context; NULL for null. */
static char *
column_text(int row, int number)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number);

	return value != NULL ? MemoryContextStrdup(copy.cxt, value) : NULL;
}

static ArrayType *
column_array(int row, int number)
{
	bool is_null;
	Datum value = column(row, number, &is_null);
	MemoryContext old;
	ArrayType *array;

	if (is_null)
		return NULL;
	old = MemoryContextSwitchTo(copy.cxt);
	array = DatumGetArrayTypePCopy(value);
	MemoryContextSwitchTo(old);
	return array;
}

/* The texts of an array, in the copy's context; their number. */
static int
array_texts(ArrayType *array, char **texts, int most)
{
	Datum *elements;
	int count;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	count = Min(count, most);
	for (int i = 0; i < count; i++)
		texts[i] = MemoryContextStrdup(copy.cxt, TextDatumGetCString(elements[i]));
	return count;
}

/* The set in the context; NULL, and *why, when it cannot be used; NULL where there is none. */
static KsJwkSet *
read_keys(MemoryContext cxt, const char *jwks, const char *pem, const char **why)
{
	if (jwks != NULL)
		return ks_jwk_set_read(cxt, jwks, strlen(jwks), why);
	return pem != NULL ? ks_jwk_set_from_pem(cxt, pem, strlen(pem), why) : NULL;
}

PG_FUNCTION_INFO_V1(ks__issuer_keys_check);

/* keelson._issuer_keys_check(jwks text, pem text): how many keys of it can be used */
Datum
ks__issuer_keys_check(PG_FUNCTION_ARGS)
{
	char *jwks = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *pem = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	const char *why = NULL;
	KsJwkSet *set;

	if ((jwks == NULL) == (pem == NULL))
		ks_raise_field(400, "VALIDATION_FAILED", "jwks", NULL, "keys are given as a JWK set or in PEM: one of both");
	set = read_keys(CurrentMemoryContext, jwks, pem, &why);
	if (set == NULL)
		ks_raise_field(400, "VALIDATION_FAILED", jwks != NULL ? "jwks" : "pem", NULL, "the key set cannot be used: %s", why);
	PG_RETURN_INT32(set->count);
}

PG_FUNCTION_INFO_V1(ks__issuers_changed);

/* keelson._issuers_changed(), a trigger */
Datum
ks__issuers_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("keelson._issuers_changed() is a trigger's function")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	/* The value of a trigger: no row, and not a null of SQL. */
	return PointerGetDatum(NULL);
}
