/*
 * principal.c
 *	  Keys of counters: digests of who or what is counted.
 *
 * The key of the HMAC is drawn when shared memory is made and never leaves the
 * server's memory. It is as new as the counters are, so nothing is lost by it.
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "core/shmem.h"
#include "limits/principal.h"
#include "secrets/crypto.h"

#define MAX_ID 1024

/* Set when shared memory is made. */
static uint8 *start_key;

/* Keyed on first use in this process. */
static KsMac *mac;

static void init_key(void *area, bool found);

void
ks_principal_init(void)
{
	ks_shmem_register("keelson limits key", KS_KEY_LENGTH, init_key, (void **) &start_key);
}

static void
init_key(void *area, bool found)
{
	if (!found && !pg_strong_random(area, KS_KEY_LENGTH))
		elog(FATAL, "could not draw a random key for rate limits");
}

void
ks_principal(KsPrincipalKind kind, const void *id, size_t len, KsPrincipal *out)
{
	uint8 text[1 + MAX_ID];
	uint8 digest[KS_SHA256_LENGTH];

	if (mac == NULL)
	{
		ks_require_shmem();
		mac = ks_mac_create(start_key, KS_KEY_LENGTH);
	}
	/* What is longer than any sensible id is shortened, not refused. */
	len = Min(len, MAX_ID);
	text[0] = (uint8) kind;
	memcpy(text + 1, id, len);
	ks_mac(mac, text, len + 1, digest);
	memcpy(&out->key, digest, sizeof(out->key));
	memcpy(out->partition_key, digest + sizeof(out->key), KS_PARTITION_KEY_LENGTH);
}

KsLimitKey
ks_principal_key(const KsPrincipal *principal, const KsLimitKey *limit)
{
	return (KsLimitKey){principal->key.a ^ limit->a, principal->key.b ^ limit->b};
}

bool
ks_ip_parse(const char *text, uint8 out[16])
{
	static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

	if (strchr(text, ':') != NULL)
		return inet_pton(AF_INET6, text, out) == 1;
	memcpy(out, mapped, sizeof(mapped));
	return inet_pton(AF_INET, text, out + sizeof(mapped)) == 1;
}

bool
ks_ip_is_v4(const uint8 ip[16])
{
	static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

	return memcmp(ip, mapped, sizeof(mapped)) == 0;
}

bool
ks_ip_is_loopback(const uint8 ip[16])
{
	static const uint8 loopback[16] = {[15] = 1};

	return ks_ip_is_v4(ip) ? ip[12] == 127 : memcmp(ip, loopback, 16) == 0;
}

void
ks_ip_principal(const uint8 ip[16], KsPrincipal *out)
{
	ks_principal(KS_PRINCIPAL_IP, ip, ks_ip_is_v4(ip) ? 16 : 8, out);
}
