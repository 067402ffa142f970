/*
 * principal.c
 *	  Keys of counters: digests of who or what is counted.
 *
 * The key of the HMAC is drawn when shared memory is made and never leaves the
 * server's memory. It is as new as the counters are, so nothing is lost by it.
 * Each process remembers the digests of the addresses and users that it last
 * met, since a request asks for two.
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

/* Digests of ids of at most this length are remembered. */
#define SHORT_ID 16
#define REMEMBERED 256

typedef struct Remembered
{
	uint8 kind; /* 0: nothing */
	uint8 len;
	uint8 id[SHORT_ID];
	KsPrincipal principal;
} Remembered;

/* Written by ks_principal(); an id has one place, which it may lose to another. */
static Remembered remembered[REMEMBERED];

static void init_key(void *area, bool found);
static Remembered *place_of(KsPrincipalKind kind, const uint8 *id, size_t len);
static void digest(KsPrincipalKind kind, const void *id, size_t len, KsPrincipal *out);

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
	Remembered *place;

	if (len > SHORT_ID)
	{
		digest(kind, id, len, out);
		return;
	}
	place = place_of(kind, id, len);
	if (place->kind != kind || place->len != len || memcmp(place->id, id, len) != 0)
	{
		place->kind = 0;
		digest(kind, id, len, &place->principal);
		memcpy(place->id, id, len);
		place->len = len;
		place->kind = kind;
	}
	*out = place->principal;
}

/* By the last bytes, in which ids of one kind differ most. */
static Remembered *
place_of(KsPrincipalKind kind, const uint8 *id, size_t len)
{
	uint32 sum = kind;

	for (size_t i = len > 4 ? len - 4 : 0; i < len; i++)
		sum = sum * 31 + id[i];
	return &remembered[sum % REMEMBERED];
}

static void
digest(KsPrincipalKind kind, const void *id, size_t len, KsPrincipal *out)
{
	uint8 text[1 + MAX_ID];
	uint8 mac_of_text[KS_SHA256_LENGTH];

	if (mac == NULL)
	{
		ks_require_shmem();
		mac = ks_mac_create(start_key, KS_KEY_LENGTH);
	}
	/* What is longer than any sensible id is shortened, not refused. */
	len = Min(len, MAX_ID);
	text[0] = (uint8) kind;
	memcpy(text + 1, id, len);
	ks_mac(mac, text, len + 1, mac_of_text);
	memcpy(&out->key, mac_of_text, sizeof(out->key));
	memcpy(out->partition_key, mac_of_text + sizeof(out->key), KS_PARTITION_KEY_LENGTH);
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
