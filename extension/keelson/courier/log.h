/*
 * log.h
 *	  The log of deliveries: its partitions.
 */
#ifndef KS_COURIER_LOG_H
#define KS_COURIER_LOG_H

#include "courier/courier.h"

extern void ks_delivery_log_init(void);

/* See to it that these can be logged, in a transaction of the courier. */
extern void ks_delivery_log_need(KsDelivery **deliveries, int count);

#endif /* KS_COURIER_LOG_H */
