/*
 * keeper.h
 *	  The keeper: the one background worker that looks after the house.
 */
#ifndef KS_KEEPER_H
#define KS_KEEPER_H

#include "postgres.h"

#include "core/spi.h"

/* The keeper's slot among the workers. */
#define KS_KEEPER_SLOT 0

/*
 * Register a duty, from a capability's init function. run() is called every
 * interval, at start and at once after ks_keeper_wake_duty(); with needs_database,
 * inside a transaction of its own as keelson_system, and only where the
 * extension is installed and migrated. An error ends the worker; the next one
 * does the other duties first. Returns the duty's number.
 */
extern int ks_keeper_register(const char *name, int interval_ms, bool needs_database, void (*run)(void));

/* Register a function that is called in the keeper after each reload of the configuration. */
extern void ks_keeper_on_reload(void (*run)(void));

/* Make the keeper do this duty now; cheap when it has been told so already. */
extern void ks_keeper_wake_duty(int duty);

/* Make it do this one within a second, so that what comes until then is done with it. */
extern void ks_keeper_wake_duty_soon(int duty);

/*
 * The whole of a duty that deletes what is old. The plan takes how many rows at
 * most, an integer, and returns how many it were; where there may be more the
 * duty is done again at once.
 */
extern void ks_keeper_purge(int duty, KsPlan *plan, int batch);

extern void ks_keeper_init(void);
extern PGDLLEXPORT void ks_keeper_main(Datum arg);

#endif /* KS_KEEPER_H */
