/*
 * dispatch.h
 *	  The dispatcher's beginning.
 */
#ifndef KS_DISPATCH_H
#define KS_DISPATCH_H

extern void ks_dispatch_init(void);

#endif /* KS_DISPATCH_H */
