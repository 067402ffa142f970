/*
 * page.h
 *	  The page of a list that a reply holds.
 */
#ifndef KS_PAGE_H
#define KS_PAGE_H

#include "postgres.h"

#include "executor/tuptable.h"

#include "dispatch/call.h"

typedef struct KsPageColumn
{
	const char *name;
	AttrNumber number;
} KsPageColumn;

struct KsPage
{
	int limit;
	const char *next_cursor; /* NULL: there is no other page */

	/* Of page_by(): the columns that a row's place is made of. */
	int column_count; /* 0: the function makes its cursor itself */
	KsPageColumn *columns;
	int row_count; /* written so far */
	char *place;   /* of the last row that the page holds, as JSON */
};

/*
 * Whether the next row that the endpoint's function has returned is one of its
 * page. The first that is not makes the cursor of the page after it.
 */
extern bool ks_page_row(KsCall *call, TupleTableSlot *slot);

#endif /* KS_PAGE_H */
