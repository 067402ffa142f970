/*
 * sweep.h
 *	  Looking for deliveries that nobody has told the couriers of.
 */
#ifndef KS_COURIER_SWEEP_H
#define KS_COURIER_SWEEP_H

extern void ks_sweep_init(void);

/* Look now, from any process. */
extern void ks_sweep_soon(void);

#endif /* KS_COURIER_SWEEP_H */
