/*
 * event_types.c
 *	  Look-up of event types. One that was found is kept for the life of the
 *	  backend: a type is never removed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "audit/event_types.h"
#include "audit/record.h"
#include "core/roles.h"
#include "core/spi.h"

#define MAX_KNOWN 1024

typedef struct KnownType
{
	char name[KS_AUDIT_TYPE_LENGTH];
	bool is_reserved;
} KnownType;

/* Made on first use; bounded by MAX_KNOWN. */
static HTAB *known_types;

static KsPlan find_plan = {"select is_reserved from keelson.audit_event_types where name = $1", 1, {TEXTOID}};

static bool load(const char *type, bool *is_reserved);

bool
ks_audit_type_find(const char *type, bool *is_reserved)
{
	KnownType *known;

	if (strlen(type) >= KS_AUDIT_TYPE_LENGTH)
		return false;
	if (known_types == NULL)
	{
		HASHCTL control = {.keysize = KS_AUDIT_TYPE_LENGTH, .entrysize = sizeof(KnownType), .hcxt = TopMemoryContext};

		known_types = hash_create("keelson audit event types", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	known = hash_search(known_types, type, HASH_FIND, NULL);
	if (known == NULL)
	{
		if (!load(type, is_reserved))
			return false;
		if (hash_get_num_entries(known_types) < MAX_KNOWN)
		{
			known = hash_search(known_types, type, HASH_ENTER, NULL);
			known->is_reserved = *is_reserved;
		}
	}
	else
		*is_reserved = known->is_reserved;
	return true;
}

static bool
load(const char *type, bool *is_reserved)
{
	Datum values[1] = {CStringGetTextDatum(type)};
	KsRoleSwitch save;
	bool found;
	bool is_null;

	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_OWNER), 0);
	(void) ks_spi_execute(&find_plan, values, NULL, true, 1);
	found = SPI_processed == 1;
	if (found)
		*is_reserved = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	ks_role_leave(&save);
	ks_spi_finish();
	return found;
}
