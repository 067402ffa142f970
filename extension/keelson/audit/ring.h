/*
 * ring.h
 *	  The ring in shared memory that carries records to the keeper, and the
 *	  trail's counters.
 */
#ifndef KS_AUDIT_RING_H
#define KS_AUDIT_RING_H

#include "postgres.h"

#include "audit/record.h"

/* Counters since the server started. */
typedef enum KsAuditCount
{
	KS_COUNT_WRITTEN,   /* records inserted by their own transaction */
	KS_COUNT_FALLBACKS, /* inserts that failed: the record goes to the ring */
	KS_COUNT_PUSHED,    /* records put into the ring */
	KS_COUNT_REPEATED,  /* repetitions added to a record in the ring */
	KS_COUNT_DROPPED,   /* records that found no room in the ring */
	KS_COUNT_DRAINED,   /* records moved from the ring into the table */
	KS_COUNT_LOST,      /* records from the ring that could not be inserted */
	KS_COUNT_SEALED,    /* records sealed into the tree */
	KS_COUNT_COUNT
} KsAuditCount;

extern void ks_audit_count(KsAuditCount count, uint64 n);
extern uint64 ks_audit_counted(KsAuditCount count);

/*
 * A record as the ring holds it: in one piece, without pointers, so that it
 * can be copied. Palloc-ed; NULL when it is too large for the ring.
 */
typedef struct KsFlatRecord KsFlatRecord;
extern KsFlatRecord *ks_flat_record(const KsAuditRecord *record);

/*
 * Put a record into the ring, or count it as dropped; raises no error. With
 * `may_repeat`, one that says the same as another still in the ring is counted
 * there as its repetition instead.
 */
extern void ks_ring_push(const KsFlatRecord *flat, bool may_repeat);

extern void ks_ring_init(void);

#endif /* KS_AUDIT_RING_H */
