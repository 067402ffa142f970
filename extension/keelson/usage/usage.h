/*
 * usage.h
 *	  Metering: what was used, by whom, when; each event exactly once.
 */
#ifndef KS_USAGE_H
#define KS_USAGE_H

/* Register shared memory and the keeper's duties. */
extern void ks_usage_init(void);

#endif /* KS_USAGE_H */
