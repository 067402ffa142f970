/*
 * gateway.h
 *	  What all threads of the process share.
 *
 * The configuration is read-only after the start.  The state of the database
 * is written by the control thread and read by the loops.
 */
#ifndef GW_GATEWAY_H
#define GW_GATEWAY_H

#include <pthread.h>
#include <stdatomic.h>

#include "config.h"
#include "lane.h"
#include "loop.h"
#include "perip.h"

#define GW_REASON_SIZE 256

struct GwGateway
{
	struct GwConfig config;
	int64_t started_us; /* gw_unix_us() */
	struct GwLoop *loops;
	struct GwMetrics **metrics; /* of all loops */
	int nloops;
	size_t connections_max;           /* of one loop */
	struct GwShared shared[GW_LANES]; /* that of GW_LANE_FAST is not used */
	struct GwCanceller *canceller;
	struct GwControl *control;
	struct GwPerIp connections_per_ip, streams_per_ip;
	int loop_ended; /* eventfd: a loop's thread has ended */

	atomic_bool is_ready; /* the database says that it may be served */
	pthread_mutex_t reason_lock;
	char reason[GW_REASON_SIZE]; /* why it is not ready; under reason_lock */
};

/* Copies the reason why the gateway is not ready; empty when it is. */
void gw_gateway_reason(struct GwGateway *gateway, char reason[GW_REASON_SIZE]);
/* Sets the state; reason NULL: ready.  Says whether that is news. */
bool gw_gateway_set_state(struct GwGateway *gateway, const char *reason);

#endif
