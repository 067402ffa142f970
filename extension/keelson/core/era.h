/*
 * era.h
 *	  Which cluster's transaction ids the present ones are.
 *
 * A stored transaction id says something in the cluster that gave it out alone.
 * So it stands beside an era: the number, in keelson.eras, of that cluster's
 * system identifier. A dump that is restored into another cluster opens a new
 * era there, and the transactions of all older eras count as settled.
 */
#ifndef KS_ERA_H
#define KS_ERA_H

#include "postgres.h"

/*
 * The present era, opened if this cluster has none yet. Reads and, the first
 * time in a cluster, writes keelson.eras.
 */
extern int32 ks_era(void);

#endif /* KS_ERA_H */
