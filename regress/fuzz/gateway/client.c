/*
 * client.c
 *	  Fuzzes what header fields say of the caller: the address behind proxies,
 *	  the scheme, the request's id, the trace.
 *
 * Who is no trusted proxy is believed nothing, and what is found is an address
 * whatever was sent. The input is four values, with a NUL between them.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "client.h"
#include "require.h"
#include "text.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct GwConfig config;
static struct GwNetwork proxies[3];

static void check_client(uint32_t peer, const char *forwarded_for, const char *forwarded_proto);
static bool is_proxy(const char *ip);
static void check_ids(const char *request_id, const char *traceparent);
static bool is_address(const char *text, uint8_t out[16]);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char *const networks[] = {"10.0.0.0/8", "2001:db8::/32", "192.0.2.7"};

	(void) argc, (void) argv;
	for (size_t i = 0; i < 3; i++)
		REQUIRE(gw_network_parse(&proxies[i], networks[i], strlen(networks[i])));
	config.proxies = proxies;
	config.nproxies = 3;
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size + 1);
	const char *values[4];
	const char *at = copy;
	struct GwNetwork network;

	memcpy(copy, data, size);
	copy[size] = '\0';
	for (int i = 0; i < 4; i++)
	{
		values[i] = at;
		at += strlen(at) < (size_t) (copy + size - at) ? strlen(at) + 1 : strlen(at);
	}
	check_client(0x0a000001, values[0], values[1]);
	check_client(0xc6336401, values[0], values[1]);
	check_ids(values[2], values[3]);
	if (gw_network_parse(&network, (const char *) data, size))
		REQUIRE(network.prefix >= 0 && network.prefix <= 128);
	free(copy);
	return 0;
}

static void
check_client(uint32_t peer, const char *forwarded_for, const char *forwarded_proto)
{
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(peer)};
	struct GwClient client;
	char own[INET_ADDRSTRLEN];
	uint8_t address[16];

	inet_ntop(AF_INET, &from.sin_addr, own, sizeof(own));
	gw_client_find(&client, &config, (const struct sockaddr *) &from, forwarded_for, forwarded_proto);
	REQUIRE(is_address(client.ip, address));
	REQUIRE(client.is_proxy == is_proxy(client.ip));
	if (client.is_trusted_peer)
		return;
	REQUIRE(strcmp(client.ip, own) == 0 && !client.is_https);
}

static bool
is_proxy(const char *ip)
{
	struct GwNetwork own;

	REQUIRE(gw_network_parse(&own, ip, strlen(ip)));
	for (size_t i = 0; i < config.nproxies; i++)
		if (gw_network_has(&config.proxies[i], own.address))
			return true;
	return false;
}

static void
check_ids(const char *given_id, const char *given_trace)
{
	char id[GW_UUID_SIZE];
	char trace[GW_TRACE_SIZE];

	gw_request_id(id, given_id);
	REQUIRE(gw_uuid_is_valid(id) && strlen(id) == 36);
	REQUIRE(!gw_uuid_is_valid(given_id) || strlen(given_id) != 36 || strcmp(id, given_id) == 0);
	gw_traceparent(trace, given_trace);
	REQUIRE(strlen(trace) == 55 && memcmp(trace, "00-", 3) == 0);
	for (int i = 0; i < 55; i++)
		REQUIRE(i == 2 || i == 35 || i == 52 ? trace[i] == '-' : strchr("0123456789abcdef", trace[i]) != NULL);
}

static bool
is_address(const char *text, uint8_t out[16])
{
	return inet_pton(AF_INET, text, out) == 1 || inet_pton(AF_INET6, text, out) == 1;
}
