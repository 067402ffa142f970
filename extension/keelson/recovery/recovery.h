/*
 * recovery.h
 *	  Verification of addresses and resets of passwords.
 */
#ifndef KS_RECOVERY_H
#define KS_RECOVERY_H

/* Register the keeper's duty; from _PG_init. */
extern void ks_recovery_init(void);

#endif /* KS_RECOVERY_H */
