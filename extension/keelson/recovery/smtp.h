/*
 * smtp.h
 *	  Mails as a kind of delivery.
 */
#ifndef KS_SMTP_H
#define KS_SMTP_H

/* Register the kind and the owner of its deliveries; from _PG_init. */
extern void ks_smtp_init(void);

#endif /* KS_SMTP_H */
