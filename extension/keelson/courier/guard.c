/*
 * guard.c
 *	  The guard against requests that we are made to send where the sender
 *	  could not reach (server-side request forgery).
 *
 * What counts is the address that a connection goes to, whatever the name said
 * when it was registered: libcurl asks ks_guard_allows() for each new socket
 * and ks_guard_allows_text() before each request on a connection, old or new.
 * URLs are checked besides, so that what can never work is refused early; they
 * are parsed by the same libcurl that connects, so that no two parsers differ.
 *
 * Denied unless shown to be public. keelson.allow_private_targets opens
 * loopback and private networks; link-local addresses, where clouds keep
 * credentials, stay closed to all but the operator's own targets.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>

#include "fmgr.h"
#include "utils/builtins.h"

#include "core/guc.h"
#include "courier/guard.h"

#define MAX_URL 2048
#define MAX_HOST 253

typedef struct Network4
{
	uint32 address;
	int bits;
} Network4;

typedef struct Network6
{
	uint8 address[16];
	int bits;
} Network6;

typedef enum Reach
{
	PUBLIC,
	PRIVATE, /* loopback and networks of one's own */
	NOWHERE  /* link-local, multicast, reserved, documentation, translated */
} Reach;

#define IP4(a, b, c, d) ((uint32) (a) << 24 | (uint32) (b) << 16 | (uint32) (c) << 8 | (uint32) (d))

/* IANA's registry of special-purpose IPv4 addresses. */
static const Network4 private4[] = {
	{IP4(10, 0, 0, 0), 8},
	{IP4(100, 64, 0, 0), 10},
	{IP4(127, 0, 0, 0), 8},
	{IP4(172, 16, 0, 0), 12},
	{IP4(192, 168, 0, 0), 16},
};
static const Network4 nowhere4[] = {
	{IP4(0, 0, 0, 0), 8},
	{IP4(169, 254, 0, 0), 16},
	{IP4(192, 0, 0, 0), 24},
	{IP4(192, 0, 2, 0), 24},
	{IP4(192, 31, 196, 0), 24},
	{IP4(192, 52, 193, 0), 24},
	{IP4(192, 88, 99, 0), 24},
	{IP4(192, 175, 48, 0), 24},
	{IP4(198, 18, 0, 0), 15},
	{IP4(198, 51, 100, 0), 24},
	{IP4(203, 0, 113, 0), 24},
	{IP4(224, 0, 0, 0), 4},
	{IP4(240, 0, 0, 0), 4},
};

/* The same for IPv6; what is not in 2000::/3 is not public at all. */
static const Network6 public6 = {{0x20}, 3};
static const Network6 private6[] = {
	{{[15] = 1}, 128},
	{{0xfc}, 7},
};
static const Network6 nowhere6[] = {
	{{0x20, 0x01, 0x00}, 23},
	{{0x20, 0x01, 0x0d, 0xb8}, 32},
	{{0x26, 0x20, 0x00, 0x4f, 0x80, 0x00}, 48},
	{{0x3f, 0xff, 0x00}, 20},
	/* AWS' metadata service, within what is private. */
	{{0xfd, 0x00, 0x0e, 0xc2}, 32},
};
/* IPv4 in IPv6: where the inner address begins. */
static const struct
{
	Network6 network;
	int inner;
} wrapped6[] = {
	{{{[10] = 0xff, [11] = 0xff}, 96}, 12},
	{{{0x00, 0x64, 0xff, 0x9b}, 96}, 12},
	{{{0x20, 0x02}, 16}, 2},
};

static Reach reach4(uint32 address);
static Reach reach6(const uint8 address[16]);
static bool is_in6(const uint8 address[16], const Network6 *network);
static bool is_port_allowed(int port, bool is_trusted);
static bool is_reach_allowed(Reach reach, bool is_trusted);
static bool is_plain(const char *url);
static const char *check_parts(CURLU *parsed);
static const char *check_host(const char *host);
static bool has_part(CURLU *parsed, CURLUPart part);
static bool ends_with(const char *string, const char *end);

bool
ks_guard_allows(const struct sockaddr *address, bool is_trusted)
{
	if (address->sa_family == AF_INET)
	{
		const struct sockaddr_in *in4 = (const struct sockaddr_in *) address;

		return is_port_allowed(ntohs(in4->sin_port), is_trusted) &&
			   is_reach_allowed(reach4(ntohl(in4->sin_addr.s_addr)), is_trusted);
	}
	if (address->sa_family == AF_INET6)
	{
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) address;

		return is_port_allowed(ntohs(in6->sin6_port), is_trusted) &&
			   is_reach_allowed(reach6(in6->sin6_addr.s6_addr), is_trusted);
	}
	return false;
}

bool
ks_guard_allows_text(const char *address, int port, bool is_trusted)
{
	struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

	if (inet_pton(AF_INET, address, &in4.sin_addr) == 1)
		return ks_guard_allows((struct sockaddr *) &in4, is_trusted);
	if (inet_pton(AF_INET6, address, &in6.sin6_addr) == 1)
		return ks_guard_allows((struct sockaddr *) &in6, is_trusted);
	return false;
}

static Reach
reach4(uint32 address)
{
	for (int i = 0; i < lengthof(nowhere4); i++)
		if ((address ^ nowhere4[i].address) >> (32 - nowhere4[i].bits) == 0)
			return NOWHERE;
	for (int i = 0; i < lengthof(private4); i++)
		if ((address ^ private4[i].address) >> (32 - private4[i].bits) == 0)
			return PRIVATE;
	return PUBLIC;
}

static Reach
reach6(const uint8 address[16])
{
	for (int i = 0; i < lengthof(wrapped6); i++)
	{
		const uint8 *inner = address + wrapped6[i].inner;

		if (is_in6(address, &wrapped6[i].network))
			return reach4(IP4(inner[0], inner[1], inner[2], inner[3]));
	}
	for (int i = 0; i < lengthof(nowhere6); i++)
		if (is_in6(address, &nowhere6[i]))
			return NOWHERE;
	for (int i = 0; i < lengthof(private6); i++)
		if (is_in6(address, &private6[i]))
			return PRIVATE;
	return is_in6(address, &public6) ? PUBLIC : NOWHERE;
}

static bool
is_in6(const uint8 address[16], const Network6 *network)
{
	int bytes = network->bits / 8;
	int rest = network->bits % 8;

	return memcmp(address, network->address, bytes) == 0 &&
		   (rest == 0 || (address[bytes] ^ network->address[bytes]) >> (8 - rest) == 0);
}

static bool
is_reach_allowed(Reach reach, bool is_trusted)
{
	return is_trusted || reach == PUBLIC || (reach == PRIVATE && ks_guc_allow_private_targets);
}

/* Is it one of keelson.courier_ports? Where private targets are allowed all are: tests listen anywhere. */
static bool
is_port_allowed(int port, bool is_trusted)
{
	const char *at = ks_guc_courier_ports;

	if (is_trusted || ks_guc_allow_private_targets)
		return port > 0;
	while (*at != '\0')
	{
		char *end;
		long allowed = strtol(at, &end, 10);

		if (end != at && allowed == port)
			return true;
		at = *end == '\0' ? end : end + 1;
	}
	return false;
}

const char *
ks_url_check(const char *url, char **normal)
{
	CURLU *parsed;
	const char *fault;
	char *text = NULL;

	if (strlen(url) > MAX_URL)
		return "has at most 2,048 characters";
	if (!is_plain(url))
		return "is written in ASCII without blanks, control characters and backslashes (write others as %XX, hosts as punycode)";
	parsed = curl_url();
	if (parsed == NULL)
		return "could not be parsed: out of memory";
	if (curl_url_set(parsed, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
		fault = "is a URL such as https://example.com/hooks";
	else
		fault = check_parts(parsed);
	if (fault == NULL && curl_url_get(parsed, CURLUPART_URL, &text, 0) != CURLUE_OK)
		fault = "is a URL such as https://example.com/hooks";
	curl_url_cleanup(parsed);
	if (fault == NULL)
		*normal = pstrdup(text);
	curl_free(text);
	return fault;
}

/* No character that one parser reads in another way than the next. */
static bool
is_plain(const char *url)
{
	for (const unsigned char *c = (const unsigned char *) url; *c != '\0'; c++)
		if (*c <= ' ' || *c >= 0x7f || *c == '\\' || *c == '"' || *c == '<' || *c == '>' || *c == '^' || *c == '`')
			return false;
	return true;
}

static const char *
check_parts(CURLU *parsed)
{
	const char *fault = NULL;
	char *scheme = NULL;
	char *host = NULL;
	char *port = NULL;

	if (curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
		curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
		curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK)
		fault = "is a URL such as https://example.com/hooks";
	else if (strcmp(scheme, "https") != 0 && strcmp(scheme, "http") != 0)
		fault = "begins with https://";
	else if (strcmp(scheme, "http") == 0 && ks_guc_environment != KS_DEVELOPMENT && !ks_guc_allow_private_targets)
		fault = "begins with https:// outside development";
	else if (has_part(parsed, CURLUPART_USER) || has_part(parsed, CURLUPART_PASSWORD) || has_part(parsed, CURLUPART_OPTIONS))
		fault = "has no user name or password in it";
	else if (has_part(parsed, CURLUPART_FRAGMENT))
		fault = "has no fragment (#)";
	else if (has_part(parsed, CURLUPART_ZONEID))
		fault = "names no network interface";
	else if (!is_port_allowed(atoi(port), false))
		fault = "uses one of the ports in keelson.courier_ports";
	else
		fault = check_host(host);
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	return fault;
}

/* The host as libcurl has decoded it. What it resolves to is checked when it is connected to. */
static const char *
check_host(const char *host)
{
	static const char *const local_names[] = {"localhost", ".localhost", ".local", ".localdomain", ".internal", ".home.arpa"};
	static const char private_fault[] = "does not point to a private, local or reserved address";
	const char *last_label = strrchr(host, '.');
	struct in_addr in4;
	size_t len = strlen(host);

	if (host[0] == '[')
	{
		char inner[INET6_ADDRSTRLEN + 1];

		if (len < 4 || len - 2 > sizeof(inner) - 1)
			return "has a host that is a name or an address";
		strlcpy(inner, host + 1, len - 1);
		return ks_guard_allows_text(inner, 443, false) ? NULL : private_fault;
	}
	if (inet_pton(AF_INET, host, &in4) == 1)
		return ks_guard_allows_text(host, 443, false) ? NULL : private_fault;
	if (len == 0 || len > MAX_HOST || strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != len ||
		host[0] == '.' || host[len - 1] == '.' || strstr(host, "..") != NULL)
		return "has a host name of letters, digits, hyphens and single dots";
	if (isdigit((unsigned char) (last_label == NULL ? host : last_label + 1)[0]))
		return "has a host name, or an address written in the usual way";
	if (ks_guc_allow_private_targets)
		return NULL;
	if (last_label == NULL)
		return private_fault;
	for (int i = 0; i < lengthof(local_names); i++)
		if (ends_with(host, local_names[i]))
			return private_fault;
	return NULL;
}

static bool
has_part(CURLU *parsed, CURLUPart part)
{
	char *text = NULL;
	bool found = curl_url_get(parsed, part, &text, 0) == CURLUE_OK;

	curl_free(text);
	return found;
}

static bool
ends_with(const char *string, const char *end)
{
	size_t len = strlen(string);
	size_t end_len = strlen(end);

	return len >= end_len && pg_strcasecmp(string + len - end_len, end) == 0;
}

PG_FUNCTION_INFO_V1(ks_url_fault);

/* keelson._url_fault(url text) */
Datum
ks_url_fault(PG_FUNCTION_ARGS)
{
	char *normal;
	const char *fault = ks_url_check(text_to_cstring(PG_GETARG_TEXT_PP(0)), &normal);

	if (fault == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(fault));
}

PG_FUNCTION_INFO_V1(ks_url_normal);

/* keelson._url_normal(url text) */
Datum
ks_url_normal(PG_FUNCTION_ARGS)
{
	char *normal;

	if (ks_url_check(text_to_cstring(PG_GETARG_TEXT_PP(0)), &normal) != NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(normal));
}

PG_FUNCTION_INFO_V1(ks_address_allowed);

/* keelson._address_allowed(address text, port int) */
Datum
ks_address_allowed(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ks_guard_allows_text(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT32(1), false));
}
