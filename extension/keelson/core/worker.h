/*
 * worker.h
 *	  The frame of a background worker: registration, connection, life.
 */
#ifndef KS_WORKER_H
#define KS_WORKER_H

#include "postgres.h"

#include "storage/latch.h"

#define KS_MAX_WORKERS 16

/*
 * The advisory lock of keelson.migrate(), which takes the tables in its own
 * order. Workers and jobs share it, before they touch a table.
 */
#define KS_MIGRATION_LOCK INT64CONST(0x4b656c736f6e4d31)

/*
 * Register a worker that runs the library's function (an exported symbol that
 * takes a Datum and never returns) with the number as its argument; from
 * _PG_init, preloaded, alone.
 */
extern void ks_worker_register(const char *name, const char *function, int slot);

/*
 * Begin a worker's life: signals, and the connection to keelson.database as
 * the bootstrap superuser. While that database does not exist, or the workers
 * have been told to stop, waits quietly and does not return.
 */
extern void ks_worker_begin(const char *name, int slot);

/* Begin the life of a worker that is in no database, and has no slot. */
extern void ks_worker_begin_apart(const char *name);

/*
 * Wait until the latch is set or the time has passed; handle interrupts and
 * reload. Returns true when the configuration was reloaded.
 */
extern bool ks_worker_wait(long timeout_ms);

/* Reload the configuration, if that was asked for; returns whether. */
extern bool ks_worker_reload(void);

/*
 * Start a transaction as keelson_system, with a snapshot; false, and no
 * transaction, when the extension is not installed or not migrated. Waits while
 * a migration is going on.
 */
extern bool ks_worker_transaction_begin(const char *activity);

/* The same without waiting: false, too, while a migration is going on, which *is_migrating tells. */
extern bool ks_worker_transaction_try(const char *activity, bool *is_migrating);
extern void ks_worker_transaction_end(void);

/* Wake the worker in the slot, from any backend; no harm when it is not there. */
extern void ks_worker_wake(int slot);

extern void ks_worker_init(void);

#endif /* KS_WORKER_H */
