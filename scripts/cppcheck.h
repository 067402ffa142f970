/*
 * cppcheck.h
 *	  What cppcheck has to know of the server's macros (make lint).
 */
#define PG_VERSION_NUM 150000
#define foreach(cell, list) for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
#define dlist_foreach(iter, list) for (iter.cur = (list)->head.next; iter.cur != &(list)->head; iter.cur = iter.cur->next)
#define dlist_foreach_modify(iter, list) dlist_foreach (iter, list)
#define LSN_FORMAT_ARGS(lsn) (unsigned int) ((lsn) >> 32), (unsigned int) (lsn)
