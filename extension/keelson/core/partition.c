/*
 * partition.c
 *	  Daily partitions, as keelson._partition_make() makes them.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"

#include "core/partition.h"

void
ks_partition_name(const char *parent, int32 day, char name[NAMEDATALEN])
{
	int year, month, mday;

	j2date(day + UNIX_EPOCH_JDATE, &year, &month, &mday);
	snprintf(name, NAMEDATALEN, "%s_%04d%02d%02d", parent, year, month, mday);
}

Oid
ks_partition_oid(const char *parent, int32 day)
{
	char name[NAMEDATALEN];

	ks_partition_name(parent, day, name);
	return get_relname_relid(name, get_namespace_oid("keelson", false));
}
