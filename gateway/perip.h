/*
 * perip.h
 *	  How many connections, or event streams, each client address has open.
 *
 * Shared by the loops and touched only when one opens or closes.  IPv6
 * addresses count by their /64.
 */
#ifndef GW_PERIP_H
#define GW_PERIP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define GW_PERIP_BUCKETS 1024

struct GwPerIpEntry;

struct GwPerIp
{
	pthread_mutex_t lock; /* over all below */
	struct GwPerIpEntry *buckets[GW_PERIP_BUCKETS];
};

/* A network address: IPv4 mapped, or the first half of an IPv6 one. */
struct GwPerIpKey
{
	uint8_t address[16];
};

/* The key of an address; false for one that is never limited (loopback, no IP). */
bool gw_perip_key(struct GwPerIpKey *key, const struct sockaddr *peer);
bool gw_perip_key_of_text(struct GwPerIpKey *key, const char *ip);

void gw_perip_open(struct GwPerIp *table);
void gw_perip_close(struct GwPerIp *table);

/* Counts one more; false, and not counted, when the address has its limit already. */
bool gw_perip_add(struct GwPerIp *table, const struct GwPerIpKey *key, unsigned limit) __attribute__((warn_unused_result));
void gw_perip_remove(struct GwPerIp *table, const struct GwPerIpKey *key);

#endif
