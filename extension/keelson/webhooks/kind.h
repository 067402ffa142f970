/*
 * kind.h
 *	  Webhooks as a kind of delivery.
 */
#ifndef KS_WEBHOOKS_KIND_H
#define KS_WEBHOOKS_KIND_H

extern void ks_webhook_kind_init(void);

#endif /* KS_WEBHOOKS_KIND_H */
