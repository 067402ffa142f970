/*
 * direct.h
 *	  The short way of a record into the partition of its day.
 */
#ifndef KS_AUDIT_DIRECT_H
#define KS_AUDIT_DIRECT_H

#include "postgres.h"

#include "catalog/pg_type.h"

/* The columns of keelson.audit_events, and the types of the values that are written to them. */
#define KS_AUDIT_COLUMN_NAMES                                                                  \
	"user_id", "id", "era", "xid", "event_type", "outcome", "actor", "actor_id", "request_id", \
		"data", "personal", "address_hash"
#define KS_AUDIT_COLUMN_TYPES                                                        \
	UUIDOID, UUIDOID, INT4OID, XID8OID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, UUIDOID, \
		JSONBOID, BYTEAOID, BYTEAOID
#define KS_AUDIT_COLUMN_COUNT 12
/* So many, the first of them, are never null. */
#define KS_AUDIT_COLUMNS_FILLED 7

/*
 * Insert the row into the partition of that name, without a subtransaction: an
 * error is the transaction's. False, with nothing done, where the row has to
 * go by SPI: there is no such partition, it is locked, or it is not plain.
 */
extern bool ks_audit_insert_directly(const char *partition, const Datum *values, const bool *nulls);

#endif /* KS_AUDIT_DIRECT_H */
