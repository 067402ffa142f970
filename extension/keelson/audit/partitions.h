/*
 * partitions.h
 *	  The keeper's duties for the trail: partitions ahead, and sealing.
 */
#ifndef KS_AUDIT_PARTITIONS_H
#define KS_AUDIT_PARTITIONS_H

extern void ks_audit_partitions_init(void);

#endif /* KS_AUDIT_PARTITIONS_H */
