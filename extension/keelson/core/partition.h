/*
 * partition.h
 *	  Daily partitions, as keelson._partition_make() makes them.
 */
#ifndef KS_PARTITION_H
#define KS_PARTITION_H

#include "postgres.h"

/* The name of the parent's partition for the day, since 1970. */
extern void ks_partition_name(const char *parent, int32 day, char name[NAMEDATALEN]);

/* The partition; invalid where there is none. */
extern Oid ks_partition_oid(const char *parent, int32 day);

#endif /* KS_PARTITION_H */
