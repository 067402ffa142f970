/*
 * cancel.c
 *	  Cancelling the statement when a time of ours is over.
 *
 * A cancel is a flag that the next look at interrupts finds. When the time is
 * over at the very end of what it was given for, nobody has looked: the flag
 * is taken back then, as the server does when it has caught an error. A cancel
 * that somebody else has sent at that moment goes with it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"

#include "core/cancel.h"
#include "core/compat.h"

void
ks_cancel_statement(void)
{
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

void
ks_cancel_forget(void)
{
	QueryCancelPending = false;
}
