/*
 * network.h
 *	  Networks of IPv4 and IPv6 addresses.
 */
#ifndef GW_NETWORK_H
#define GW_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A network; IPv4 is kept as ::ffff:0:0/96. */
struct GwNetwork
{
	uint8_t address[16];
	int prefix; /* 0 to 128 */
};

/* Reads "10.0.0.0/8", "::1"; false if it is none. */
bool gw_network_parse(struct GwNetwork *network, const char *text, size_t len) __attribute__((warn_unused_result));

/* Says whether a 16 byte address (IPv4 mapped) lies in the network. */
bool gw_network_has(const struct GwNetwork *network, const uint8_t address[16]);

#endif
