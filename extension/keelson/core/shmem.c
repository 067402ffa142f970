/*
 * shmem.c
 *	  Requests and makes the areas of shared memory that others register.
 *
 * Everything happens in the postmaster before it forks (and is repeated after
 * a crash of a backend); the areas' own locking is their owners' affair.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "core/guc.h"
#include "core/shmem.h"

#define MAX_AREAS 32

typedef struct Area
{
	const char *name;
	Size size;
	void (*init)(void *area, bool found);
	void **pointer;
} Area;

/* Filled while the library is preloaded, fixed afterwards. */
static Area areas[MAX_AREAS];
static int area_count;

/* Set in the postmaster, inherited by every process: was shared memory made? */
static bool made;

static shmem_request_hook_type previous_request_hook;
static shmem_startup_hook_type previous_startup_hook;

static void request_areas(void);
static void make_areas(void);

void
ks_shmem_init(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_areas;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = make_areas;
}

void
ks_shmem_register(const char *name, Size size, void (*init)(void *area, bool found), void **pointer)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	if (area_count == MAX_AREAS)
		elog(ERROR, "too many areas of shared memory");
	areas[area_count++] = (Area){name, size, init, pointer};
}

void
ks_require_shmem(void)
{
	/* Set by the first call that finds this to be the right database. */
	static bool database_checked = false;
	char *database;

	if (!made)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("keelson is not loaded by the server"),
				 errhint("Set shared_preload_libraries = 'pg_cron, keelson' in postgresql.conf and restart the server.")));
	if (database_checked)
		return;
	database = get_database_name(MyDatabaseId);
	if (database == NULL || strcmp(database, ks_guc_database) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("keelson lives in the database \"%s\" of this cluster, not in \"%s\"", ks_guc_database, database ? database : ""),
				 errhint("Connect to that database, or set keelson.database in postgresql.conf and restart the server.")));
	database_checked = true;
}

static void
request_areas(void)
{
	if (previous_request_hook)
		previous_request_hook();
	for (int i = 0; i < area_count; i++)
		RequestAddinShmemSpace(areas[i].size);
}

static void
make_areas(void)
{
	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < area_count; i++)
	{
		bool found;

		*areas[i].pointer = ShmemInitStruct(areas[i].name, areas[i].size, &found);
		areas[i].init(*areas[i].pointer, found);
	}
	LWLockRelease(AddinShmemInitLock);
	made = true;
}

PG_FUNCTION_INFO_V1(ks_require_loaded);

/* keelson._require_loaded() */
Datum
ks_require_loaded(PG_FUNCTION_ARGS)
{
	ks_require_shmem();
	PG_RETURN_VOID();
}
