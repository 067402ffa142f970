/*
 * networks.c
 *	  Blocked and exempt networks: is an address in one of them?
 *
 * Each backend keeps both tables as sorted ranges of addresses, which a
 * constraint of the tables keeps from overlapping, and searches them by halves.
 * A copy goes stale when its table's trigger invalidates the relcache entry. A
 * row that has expired is in the copy until the keeper removes it: the time is
 * looked at when an address is found.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/inet.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "core/invalidation.h"
#include "core/roles.h"
#include "core/spi.h"
#include "limits/networks.h"

typedef struct Range
{
	uint8 low[16];
	uint8 high[16];
	TimestampTz expires_at;
} Range;

/* A table and this backend's copy of it. The callback counts invalidations, load() writes the rest. */
typedef struct Networks
{
	const char *table;
	KsPlan plan;
	MemoryContext cxt;
	Oid relation;
	uint64 invalidations;
	uint64 loaded_at;
	int count;
	Range *ranges; /* NULL: not loaded */
} Networks;

static Networks blocked = {
	.table = "blocks",
	.plan = {.sql = "select network, coalesce(expires_at, 'infinity') from keelson.blocks"}};
static Networks exempt = {
	.table = "exempt_networks",
	.plan = {.sql = "select network, coalesce(expires_at, 'infinity') from keelson.exempt_networks"}};

static const Range *find(Networks *networks, const uint8 ip[16]);
static void load(Networks *networks);
static void forget(Datum arg, Oid relation);
static void make_range(const inet *network, Range *range);
static int compare(const void *a, const void *b);

bool
ks_network_is_blocked(const uint8 ip[16], TimestampTz *expires_at)
{
	const Range *range = find(&blocked, ip);

	if (range == NULL || range->expires_at <= GetCurrentTimestamp())
		return false;
	*expires_at = range->expires_at;
	return true;
}

bool
ks_network_is_exempt(const uint8 ip[16])
{
	const Range *range = find(&exempt, ip);

	return range != NULL && range->expires_at > GetCurrentTimestamp();
}

/* The range that the address lies in, or NULL. */
static const Range *
find(Networks *networks, const uint8 ip[16])
{
	int from = 0;
	int to;

	if (unlikely(networks->ranges == NULL || networks->loaded_at != networks->invalidations))
		load(networks);
	to = networks->count;
	while (from < to)
	{
		int middle = (from + to) / 2;

		if (memcmp(networks->ranges[middle].high, ip, 16) < 0)
			from = middle + 1;
		else
			to = middle;
	}
	if (from == networks->count || memcmp(networks->ranges[from].low, ip, 16) > 0)
		return NULL;
	return &networks->ranges[from];
}

static void
load(Networks *networks)
{
	uint64 before;
	KsRoleSwitch save;
	Range *ranges;

	if (networks->cxt == NULL)
	{
		networks->cxt = AllocSetContextCreate(TopMemoryContext, "keelson limits networks", ALLOCSET_DEFAULT_SIZES);
		ks_on_relation_change(forget, PointerGetDatum(networks));
	}
	networks->ranges = NULL;
	MemoryContextReset(networks->cxt);
	networks->relation = get_relname_relid(networks->table, get_namespace_oid("keelson", false));
	before = networks->invalidations;
	ks_spi_connect();
	ks_role_enter(&save, ks_role_oid(KS_ROLE_SYSTEM), 0);
	(void) ks_spi_read_latest(&networks->plan, NULL, 0);
	ks_role_leave(&save);
	ranges = MemoryContextAllocHuge(networks->cxt, Max(SPI_processed, 1) * sizeof(Range));
	for (int row = 0; row < SPI_processed; row++)
	{
		HeapTuple tuple = SPI_tuptable->vals[row];
		bool is_null;

		make_range(DatumGetInetPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null)), &ranges[row]);
		ranges[row].expires_at = DatumGetTimestampTz(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &is_null));
	}
	networks->count = SPI_processed;
	ks_spi_finish();
	qsort(ranges, networks->count, sizeof(Range), compare);
	networks->ranges = ranges;
	networks->loaded_at = before;
}

static void
forget(Datum arg, Oid relation)
{
	Networks *networks = (Networks *) DatumGetPointer(arg);

	if (!OidIsValid(relation) || relation == networks->relation)
		networks->invalidations++;
}

/* The first and the last address of the network; IPv4 is mapped into IPv6. */
static void
make_range(const inet *network, Range *range)
{
	bool is_v4 = ip_family(network) == PGSQL_AF_INET;
	int bits = ip_bits(network) + (is_v4 ? 96 : 0);

	memset(range->low, 0, sizeof(range->low));
	if (is_v4)
		range->low[10] = range->low[11] = 0xff;
	memcpy(range->low + (is_v4 ? 12 : 0), ip_addr(network), is_v4 ? 4 : 16);
	memcpy(range->high, range->low, sizeof(range->high));
	for (int bit = bits; bit < 128; bit++)
		range->high[bit / 8] |= 0x80 >> bit % 8;
}

static int
compare(const void *a, const void *b)
{
	return memcmp(((const Range *) a)->low, ((const Range *) b)->low, 16);
}
