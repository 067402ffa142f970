/*
 * timeout.c
 *	  A timeout of our own beside the server's statement_timeout, which stays
 *	  in force: a function could set that one, and cannot set ours.
 *
 * When the time has passed, the statement is cancelled as by the user (57014).
 */
#include "postgres.h"

#include "utils/timeout.h"

#include "core/cancel.h"
#include "dispatch/timeout.h"

/* Registered once per backend, by the first use. */
static TimeoutId route_timeout = MAX_TIMEOUTS;

void
ks_timeout_begin(int milliseconds)
{
	if (route_timeout == MAX_TIMEOUTS)
		route_timeout = RegisterTimeout(USER_TIMEOUT, ks_cancel_statement);
	enable_timeout_after(route_timeout, milliseconds);
}

bool
ks_timeout_end(void)
{
	if (route_timeout == MAX_TIMEOUTS)
		return false;
	disable_timeout(route_timeout, true);
	if (!get_timeout_indicator(route_timeout, true))
		return false;
	ks_cancel_forget();
	return true;
}
