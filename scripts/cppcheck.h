/*
 * cppcheck.h
 *	  What cppcheck has to know of the server's macros (make lint).
 */
#define PG_VERSION_NUM 150000
#define foreach(cell, list) for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
