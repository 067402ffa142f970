/*
 * purge.h
 *	  The sessions' beginning.
 */
#ifndef KS_SESSIONS_PURGE_H
#define KS_SESSIONS_PURGE_H

extern void ks_sessions_init(void);

#endif /* KS_SESSIONS_PURGE_H */
