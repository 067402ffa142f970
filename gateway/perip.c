/*
 * perip.c
 *	  How many connections, or event streams, each client address has open.
 */
#include "perip.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

struct GwPerIpEntry
{
	struct GwPerIpEntry *next;
	struct GwPerIpKey key;
	unsigned count;
};

static struct GwPerIpEntry **find(struct GwPerIp *table, const struct GwPerIpKey *key);

void
gw_perip_open(struct GwPerIp *table)
{
	*table = (struct GwPerIp){0};
	pthread_mutex_init(&table->lock, NULL);
}

void
gw_perip_close(struct GwPerIp *table)
{
	for (int i = 0; i < GW_PERIP_BUCKETS; i++)
		while (table->buckets[i] != NULL)
		{
			struct GwPerIpEntry *entry = table->buckets[i];

			table->buckets[i] = entry->next;
			free(entry);
		}
	pthread_mutex_destroy(&table->lock);
}

bool
gw_perip_key(struct GwPerIpKey *key, const struct sockaddr *peer)
{
	memset(key, 0, sizeof(*key));
	if (peer->sa_family == AF_INET)
	{
		const struct in_addr *address = &((const struct sockaddr_in *) (const void *) peer)->sin_addr;

		key->address[10] = key->address[11] = 0xff;
		memcpy(key->address + 12, address, 4);
		return (ntohl(address->s_addr) >> 24) != 127;
	}
	if (peer->sa_family == AF_INET6)
	{
		const struct in6_addr *address = &((const struct sockaddr_in6 *) (const void *) peer)->sin6_addr;
		bool is_mapped = IN6_IS_ADDR_V4MAPPED(address);

		memcpy(key->address, address, is_mapped ? 16 : 8);
		return is_mapped ? address->s6_addr[12] != 127 : !IN6_IS_ADDR_LOOPBACK(address);
	}
	return false;
}

bool
gw_perip_key_of_text(struct GwPerIpKey *key, const char *ip)
{
	struct sockaddr_in four = {.sin_family = AF_INET};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};

	if (inet_pton(AF_INET, ip, &four.sin_addr) == 1)
		return gw_perip_key(key, (const struct sockaddr *) (const void *) &four);
	return inet_pton(AF_INET6, ip, &six.sin6_addr) == 1 && gw_perip_key(key, (const struct sockaddr *) (const void *) &six);
}

bool
gw_perip_add(struct GwPerIp *table, const struct GwPerIpKey *key, unsigned limit)
{
	struct GwPerIpEntry **place;
	bool is_added = false;

	pthread_mutex_lock(&table->lock);
	place = find(table, key);
	if (*place == NULL)
	{
		*place = calloc(1, sizeof(**place));
		if (*place != NULL)
			(*place)->key = *key;
	}
	if (*place != NULL && (*place)->count < limit)
	{
		(*place)->count++;
		is_added = true;
	}
	pthread_mutex_unlock(&table->lock);
	return is_added;
}

void
gw_perip_remove(struct GwPerIp *table, const struct GwPerIpKey *key)
{
	struct GwPerIpEntry **place;

	pthread_mutex_lock(&table->lock);
	place = find(table, key);
	if (*place != NULL && --(*place)->count == 0)
	{
		struct GwPerIpEntry *entry = *place;

		*place = entry->next;
		free(entry);
	}
	pthread_mutex_unlock(&table->lock);
}

/* Where the entry of a key is linked, or would be. */
static struct GwPerIpEntry **
find(struct GwPerIp *table, const struct GwPerIpKey *key)
{
	uint64_t hash = 1469598103934665603u;
	struct GwPerIpEntry **place;

	for (size_t i = 0; i < sizeof(key->address); i++)
		hash = (hash ^ key->address[i]) * 1099511628211u;
	place = &table->buckets[(hash >> 32) % GW_PERIP_BUCKETS];
	while (*place != NULL && memcmp(&(*place)->key, key, sizeof(*key)) != 0)
		place = &(*place)->next;
	return place;
}
