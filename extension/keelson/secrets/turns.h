/*
 * turns.h
 *	  A thread's long computing in turns, between which others have theirs.
 */
#ifndef KS_TURNS_H
#define KS_TURNS_H

/* Once in the process, before any thread begins. */
extern void ks_turns_init(void);

/*
 * The calling thread computes in turns from here to ks_turns_end(). It may hold
 * nothing that anybody waits for, and no call of it may mind a signal. Where
 * there is no timer to be had, it computes as any thread does.
 */
extern void ks_turns_begin(void);
extern void ks_turns_end(void);

#endif /* KS_TURNS_H */
