/*
 * network.c
 *	  Networks of IPv4 and IPv6 addresses.
 */
#include "network.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>

bool
gw_network_parse(struct GwNetwork *network, const char *text, size_t len)
{
	char address[INET6_ADDRSTRLEN];
	const char *slash = memchr(text, '/', len);
	size_t address_len = slash != NULL ? (size_t) (slash - text) : len;
	size_t i;
	int prefix = 0;
	int bits;

	if (address_len == 0 || address_len >= sizeof(address))
		return false;
	memcpy(address, text, address_len);
	address[address_len] = '\0';
	memset(network, 0, sizeof(*network));
	if (inet_pton(AF_INET6, address, network->address) == 1)
		bits = 128;
	else if (inet_pton(AF_INET, address, network->address + 12) == 1)
	{
		memset(network->address + 10, 0xFF, 2);
		bits = 32;
	}
	else
		return false;
	network->prefix = 128;
	if (slash == NULL)
		return true;
	if (len - address_len < 2 || len - address_len > 4)
		return false;
	for (i = address_len + 1; i < len; i++)
	{
		if (!isdigit((unsigned char) text[i]))
			return false;
		prefix = prefix * 10 + (text[i] - '0');
	}
	network->prefix = 128 - bits + prefix;
	return prefix <= bits;
}

bool
gw_network_has(const struct GwNetwork *network, const uint8_t address[16])
{
	int whole = network->prefix / 8;
	int rest = network->prefix % 8;

	if (memcmp(network->address, address, (size_t) whole) != 0)
		return false;
	return rest == 0 || ((network->address[whole] ^ address[whole]) >> (8 - rest)) == 0;
}
