/*
 * seal.h
 *	  The keeper's duty of sealing events into the tree.
 */
#ifndef KS_AUDIT_SEAL_H
#define KS_AUDIT_SEAL_H

extern void ks_seal_init(void);

#endif /* KS_AUDIT_SEAL_H */
