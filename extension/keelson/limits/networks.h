/*
 * networks.h
 *	  Blocked and exempt networks: is an address in one of them?
 */
#ifndef KS_LIMITS_NETWORKS_H
#define KS_LIMITS_NETWORKS_H

#include "postgres.h"

#include "utils/timestamp.h"

/* Is the address (ks_ip_parse()) blocked? *expires_at says until when, DT_NOEND for good. */
extern bool ks_network_is_blocked(const uint8 ip[16], TimestampTz *expires_at);

/* Does no limit count the address? */
extern bool ks_network_is_exempt(const uint8 ip[16]);

#endif /* KS_LIMITS_NETWORKS_H */
