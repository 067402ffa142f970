/*
 * usage.c
 *	  The capability's beginning.
 */
#include "postgres.h"

#include "usage/fold.h"
#include "usage/leaf.h"
#include "usage/usage.h"

void
ks_usage_init(void)
{
	ks_leaf_init();
	ks_fold_init();
}
