/*
 * glob.c
 *	  Globs with one kind of wildcard, in time linear in the name for each.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "core/compat.h"
#include "webhooks/glob.h"

bool
ks_glob_matches(const char *glob, size_t glob_length, const char *name, size_t length)
{
	size_t g = 0;
	size_t n = 0;
	size_t star = SIZE_MAX; /* the last asterisk, and where in the name its match ends */
	size_t star_end = 0;

	while (n < length)
	{
		if (g < glob_length && glob[g] == '*')
		{
			star = g++;
			star_end = n;
		}
		else if (g < glob_length && glob[g] == name[n])
		{
			g++;
			n++;
		}
		else if (star != SIZE_MAX)
		{
			g = star + 1;
			n = ++star_end;
		}
		else
			return false;
	}
	while (g < glob_length && glob[g] == '*')
		g++;
	return g == glob_length;
}

PG_FUNCTION_INFO_V1(ks_webhook_glob_matches);

/* keelson._webhook_glob_matches(glob text, name text) */
Datum
ks_webhook_glob_matches(PG_FUNCTION_ARGS)
{
	const text *glob = PG_GETARG_TEXT_PP(0);
	const text *name = PG_GETARG_TEXT_PP(1);

	PG_RETURN_BOOL(ks_glob_matches(VARDATA_ANY(glob), VARSIZE_ANY_EXHDR(glob), VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)));
}
