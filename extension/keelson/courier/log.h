/*
 * log.h
 *	  The keeper's care for the log of deliveries.
 */
#ifndef KS_COURIER_LOG_H
#define KS_COURIER_LOG_H

extern void ks_delivery_log_init(void);

#endif /* KS_COURIER_LOG_H */
