/*
 * guest.h
 *	  A product's function while the core has it called: an endpoint, a step of
 *	  a job, a handler of webhooks, what judges a CAPTCHA.
 */
#ifndef KS_GUEST_H
#define KS_GUEST_H

#include "postgres.h"

typedef struct KsGuest
{
	struct KsGuest *outer;
	bool is_settling; /* what was deferred runs now: nothing may be deferred again */
} KsGuest;

/* A query of one row; its first column is of a type passed by value. */
typedef struct KsGuestQuery
{
	const char *text;
	int nargs;
	Oid *types;
	Datum *values;
	const char *nulls; /* NULL, or as SPI has it */
} KsGuestQuery;

/* For _PG_init: be asked before each statement that is not a query. */
extern void ks_guest_init(void);

/* From here on it may be a guest's code that runs, until ks_guest_end(), which is called on every way out. */
extern void ks_guest_begin(KsGuest *guest);
extern void ks_guest_end(const KsGuest *guest);

/*
 * Settle what the guest has left to the end of the transaction or of the
 * session, while it still is who acts: deferred constraints are checked and
 * deferred triggers run, so that they fail as a part of it and as whom it is;
 * temporary tables go where the session is not a person's.
 */
extern void ks_guest_settle(void);

/* Call the code as the role, as a guest's. What it leaves it settles itself, where that is its own to settle. */
extern void ks_guest_run(Oid role, void (*code)(void *arg), void *arg);

/*
 * Execute the query as the role (InvalidOid: our own code, as whoever acts);
 * nothing that it sets or leaves outlives the call. Returns the first column.
 */
extern Datum ks_guest_call(const KsGuestQuery *query, Oid role, bool *is_null);

#endif /* KS_GUEST_H */
