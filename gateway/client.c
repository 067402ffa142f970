/*
 * client: who is calling, as far as HTTP tells: address, scheme, request id, trace.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <time.h>

#include "client.h"

static bool address_of(uint8_t out[16], const struct sockaddr *peer);
static bool address_parse(uint8_t out[16], const char *text, size_t len);
static void address_print(char out[46], const uint8_t address[16]);
static bool is_trusted(const struct GwConfig *config, const uint8_t address[16]);
static const char *last_entry(const char *list, size_t *len, size_t *entry_len);
static bool hex_run(const char *text, size_t len);

void
gw_client_find(struct GwClient *client, const struct GwConfig *config, const struct sockaddr *peer,
			   const char *forwarded_for, const char *forwarded_proto)
{
	uint8_t address[16];
	size_t left, entry_len;
	const char *entry;

	memset(client, 0, sizeof(*client));
	if (!address_of(address, peer))
	{
		strcpy(client->ip, "::");
		return;
	}
	client->is_trusted_peer = client->is_proxy = is_trusted(config, address);
	if (client->is_trusted_peer && forwarded_proto != NULL)
	{
		left = strlen(forwarded_proto);
		entry = last_entry(forwarded_proto, &left, &entry_len);
		client->is_https = entry_len == 5 && strncasecmp(entry, "https", 5) == 0;
	}
	/* Each trusted hop vouches for the entry to its left. */
	left = forwarded_for != NULL ? strlen(forwarded_for) : 0;
	while (left > 0 && client->is_proxy)
	{
		uint8_t next[16];

		entry = last_entry(forwarded_for, &left, &entry_len);
		if (!address_parse(next, entry, entry_len))
			break;
		memcpy(address, next, sizeof(address));
		client->is_proxy = is_trusted(config, address);
	}
	address_print(client->ip, address);
}

/* The socket's address as 16 bytes, IPv4 mapped. */
static bool
address_of(uint8_t out[16], const struct sockaddr *peer)
{
	if (peer != NULL && peer->sa_family == AF_INET)
	{
		memset(out, 0, 10);
		memset(out + 10, 0xFF, 2);
		memcpy(out + 12, &((const struct sockaddr_in *) (const void *) peer)->sin_addr, 4);
		return true;
	}
	if (peer != NULL && peer->sa_family == AF_INET6)
	{
		memcpy(out, &((const struct sockaddr_in6 *) (const void *) peer)->sin6_addr, 16);
		return true;
	}
	return false;
}

/* Reads an address as proxies write it: with a port or in brackets too. */
static bool
address_parse(uint8_t out[16], const char *text, size_t len)
{
	const char *close;
	const char *colon;
	struct GwNetwork network;

	if (len > 0 && text[0] == '[')
	{
		close = memchr(text, ']', len);
		if (close == NULL)
			return false;
		len = (size_t) (close - text) - 1;
		text++;
	}
	else if ((colon = memchr(text, ':', len)) != NULL &&
			 memchr(colon + 1, ':', len - (size_t) (colon + 1 - text)) == NULL)
		len = (size_t) (colon - text);
	if (memchr(text, '/', len) != NULL || !gw_network_parse(&network, text, len))
		return false;
	memcpy(out, network.address, 16);
	return true;
}

/* What inet_ntop does, without its formatting machine: each request needs it. */
static void
print_ipv4(char *out, const uint8_t bytes[4])
{
	int i;

	for (i = 0; i < 4; i++)
	{
		if (bytes[i] >= 100)
			*out++ = (char) ('0' + bytes[i] / 100);
		if (bytes[i] >= 10)
			*out++ = (char) ('0' + bytes[i] / 10 % 10);
		*out++ = (char) ('0' + bytes[i] % 10);
		*out++ = i < 3 ? '.' : '\0';
	}
}

static void
address_print(char out[46], const uint8_t address[16])
{
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};

	if (memcmp(address, mapped, sizeof(mapped)) == 0)
		print_ipv4(out, address + 12);
	else
		inet_ntop(AF_INET6, address, out, 46);
}

static bool
is_trusted(const struct GwConfig *config, const uint8_t address[16])
{
	size_t i;

	for (i = 0; i < config->nproxies; i++)
		if (gw_network_has(&config->proxies[i], address))
			return true;
	return false;
}

/* Cuts the last entry off a comma list: returns it without white space, and shortens *len. */
static const char *
last_entry(const char *list, size_t *len, size_t *entry_len)
{
	size_t end = *len;
	size_t begin;

	while (end > 0 && (list[end - 1] == ' ' || list[end - 1] == '\t'))
		end--;
	begin = end;
	while (begin > 0 && list[begin - 1] != ',')
		begin--;
	*len = begin > 0 ? begin - 1 : 0;
	while (begin < end && (list[begin] == ' ' || list[begin] == '\t'))
		begin++;
	*entry_len = end - begin;
	return list + begin;
}

void
gw_request_id(char out[GW_UUID_SIZE], const char *given)
{
	if (given != NULL && strnlen(given, 37) == 36 && gw_uuid_is_valid(given))
		memcpy(out, given, GW_UUID_SIZE);
	else
		gw_uuid7(out);
}

void
gw_traceparent(char out[GW_TRACE_SIZE], const char *given)
{
	unsigned char random[24];

	gw_random(random, sizeof(random));
	memcpy(out, "00-00000000000000000000000000000000-0000000000000000-00", GW_TRACE_SIZE);
	gw_hex(out + 3, random, 16);
	gw_hex(out + 36, random + 16, 8);
	/* A later version than 00 may be longer, but begins alike. */
	if (given == NULL || strnlen(given, 55) != 55 || !hex_run(given, 2) || given[2] != '-' || !hex_run(given + 3, 32) ||
		given[35] != '-' || !hex_run(given + 36, 16) || given[52] != '-' || !hex_run(given + 53, 2) ||
		memcmp(given, "ff", 2) == 0 || (memcmp(given, "00", 2) == 0 && given[55] != '\0') ||
		(given[55] != '\0' && given[55] != '-') ||
		memcmp(given + 3, "00000000000000000000000000000000", 32) == 0 || memcmp(given + 36, "0000000000000000", 16) == 0)
		return;
	memcpy(out + 3, given + 3, 32);
	memcpy(out + 53, given + 53, 2);
}

static bool
hex_run(const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
			return false;
	return true;
}

int64_t
gw_unix_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t
gw_monotonic_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}
