/*
 * fence.c
 *	  A file outside the database that remembers how far the database was.
 *
 * After a restore what was delivered since the backup waits again, and would be
 * sent twice. The file lies beside the keyring, where no backup of the database
 * holds it, and says: how often the courier has started a server, which cluster
 * it was, which table the counter stands in, and a place in the write-ahead log
 * that was safely on disk. At each server start, and for a table that was made
 * anew, the counter is raised, first in the file, then in its row.
 *
 *	 row = file, or one behind (a crash between the two)   as it was left
 *	 row elsewhere, another cluster, another table, the log
 *	 shorter than it was, or no file although there was a
 *	 start before										   restored: quarantine
 *
 * A failover carries the file along, or its operator releases by hand.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "core/compat.h"
#include "core/guc.h"
#include "core/spi.h"
#include "courier/fence.h"

#define FORMAT "keelson courier fence 2\ncounter %lu\nsystem %lu\ntable %u/%u\nlog %X/%X\n"
#define MAX_LENGTH 256

typedef struct Fence
{
	uint64 counter;
	uint64 system;
	Oid database;
	Oid table; /* of the row; dumped and restored it is another */
	XLogRecPtr log;
} Fence;

static KsPlan read_plan = {"select counter from keelson.courier_fence", 0, {0}};
static KsPlan write_plan = {
	"insert into keelson.courier_fence as f (counter, restored_at) values ($1, case when $2 then now() end)"
	" on conflict on constraint courier_fence_pkey do update"
	" set counter = excluded.counter, restored_at = coalesce(excluded.restored_at, f.restored_at)",
	2,
	{INT8OID, BOOLOID}};
static KsPlan quarantine_plan = {"select keelson._deliveries_quarantine($1)", 1, {BOOLOID}};

/* What this process has written last, once it has raised the counter. */
static Fence written;

static const char *file_name(void);
static bool read_file(Fence *fence);
static bool write_file(const Fence *fence);
static int64 quarantine(bool is_other_table);
static XLogRecPtr safe_log(void);

bool
ks_fence_raise(Oid table)
{
	Fence fence = {0};
	bool has_file;
	bool has_row;
	bool is_other_table = false;
	bool is_restored = false;
	uint64 row = 0;
	Datum values[2];

	if (file_name() == NULL)
	{
		ereport(LOG,
				(errmsg("deliveries wait: the setting keelson.courier_fence_file is needed where the keyring comes from a command")));
		return false;
	}
	has_file = read_file(&fence);
	ks_spi_connect();
	(void) ks_spi_execute(&read_plan, NULL, NULL, true, 1);
	/* Without a row nothing was ever sent; what is older than this server came with a copy made before. */
	has_row = SPI_processed == 1;
	is_restored = !has_row;
	if (has_row)
	{
		bool is_null;

		row = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
		is_other_table = !has_file || fence.system != GetSystemIdentifier() || fence.database != MyDatabaseId || fence.table != table;
		is_restored = is_other_table || fence.log > safe_log() || row > fence.counter || row + 1 < fence.counter;
	}
	/* What is to be quarantined stays so should this transaction fail: the file names the table once it has not. */
	fence = (Fence){Max(fence.counter, row) + 1, GetSystemIdentifier(), MyDatabaseId, is_restored ? InvalidOid : table, safe_log()};
	if (!write_file(&fence))
	{
		ks_spi_finish();
		return false;
	}
	if (is_restored)
		is_restored = quarantine(is_other_table) > 0;
	values[0] = Int64GetDatum(fence.counter);
	values[1] = BoolGetDatum(is_restored);
	(void) ks_spi_execute(&write_plan, values, NULL, false, 0);
	ks_spi_finish();
	written = fence;
	written.table = table;
	written.log = InvalidXLogRecPtr;
	return true;
}

/* Hold back what came out of the backup: all, where the table did, else what was there when the server started. */
static int64
quarantine(bool is_other_table)
{
	Datum values[1] = {BoolGetDatum(is_other_table)};
	bool is_null;
	int64 count;

	(void) ks_spi_execute(&quarantine_plan, values, NULL, false, 1);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
	if (count > 0)
		ereport(WARNING,
				(errmsg("the database seems to come from a backup: " INT64_FORMAT " deliveries are quarantined", count),
				 errhint("Look at them in keelson.deliveries, then \"select keelson.deliveries_release()\".")));
	return count;
}

void
ks_fence_note(void)
{
	XLogRecPtr log = safe_log();

	/* A process that came after the one which has raised the counter knows it from the file. */
	if (written.counter == 0 && (file_name() == NULL || !read_file(&written)))
		return;
	if (written.log == log)
		return;
	written.log = log;
	(void) write_file(&written);
}

/* The file's path, or NULL where none is known. */
static const char *
file_name(void)
{
	if (ks_guc_courier_fence_file[0] != '\0')
		return ks_guc_courier_fence_file;
	if (ks_guc_keyring_file[0] != '\0')
		return psprintf("%s.fence", ks_guc_keyring_file);
	return NULL;
}

/* False where there is none, or none that can be read: then nothing is known. */
static bool
read_file(Fence *fence)
{
	char text[MAX_LENGTH];
	int fd = OpenTransientFile(file_name(), O_RDONLY);
	ssize_t length;
	uint32 high;
	uint32 low;

	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", file_name())));
		return false;
	}
	length = read(fd, text, sizeof(text) - 1);
	CloseTransientFile(fd);
	text[Max(length, 0)] = '\0';
	if (sscanf(text, FORMAT, &fence->counter, &fence->system, &fence->database, &fence->table, &high, &low) != 6)
	{
		memset(fence, 0, sizeof(*fence));
		ereport(LOG,
				(errmsg("file \"%s\" is not a fence of the courier", file_name())));
		return false;
	}
	fence->log = (uint64) high << 32 | low;
	return true;
}

static bool
write_file(const Fence *fence)
{
	char text[MAX_LENGTH];
	const char *name = file_name();
	char *fresh = psprintf("%s.new", name);
	int length = snprintf(text, sizeof(text), FORMAT, fence->counter, fence->system, fence->database, fence->table,
						  (uint32) (fence->log >> 32), (uint32) fence->log);
	int fd = OpenTransientFilePerm(fresh, O_WRONLY | O_CREAT | O_TRUNC, S_IRUSR | S_IWUSR);
	bool done = fd >= 0 && write(fd, text, length) == length;

	if (!done)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("deliveries wait: could not write file \"%s\": %m", fresh)));
	if (fd >= 0)
		CloseTransientFile(fd);
	return done && durable_rename(fresh, name, LOG) == 0;
}

/* As much of the log as a crash of the machine would leave. */
static XLogRecPtr
safe_log(void)
{
	return GetFlushRecPtr(NULL);
}
