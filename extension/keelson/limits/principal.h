/*
 * principal.h
 *	  Keys of counters: digests of who or what is counted.
 */
#ifndef KS_LIMITS_PRINCIPAL_H
#define KS_LIMITS_PRINCIPAL_H

#include "postgres.h"

#include "limits/decide.h"

#define KS_PARTITION_KEY_LENGTH 12

/* What kind of thing is counted, so that an address is never taken for a user. */
typedef enum KsPrincipalKind
{
	KS_PRINCIPAL_IP = 'i',
	KS_PRINCIPAL_USER = 'u',
	KS_PRINCIPAL_ACCESS_KEY = 'k',
	KS_PRINCIPAL_EMAIL = 'e',
	KS_PRINCIPAL_ACCOUNT = 'a', /* an account tried from an address */
	KS_PRINCIPAL_OTHER = 'o',   /* a product's own */
	KS_PRINCIPAL_LIMIT = 'l'    /* a limit itself */
} KsPrincipalKind;

/*
 * Two parts of one HMAC under a key that is made at server start: nobody can
 * aim at collisions, and the part that replies show as `pk` tells neither the
 * key of the counter nor whom it is about.
 */
typedef struct KsPrincipal
{
	KsLimitKey key;
	uint8 partition_key[KS_PARTITION_KEY_LENGTH];
} KsPrincipal;

extern void ks_principal(KsPrincipalKind kind, const void *id, size_t len, KsPrincipal *out);

/* The key under which a limit counts a principal. */
extern KsLimitKey ks_principal_key(const KsPrincipal *principal, const KsLimitKey *limit);

/* An IP address as 16 bytes, IPv4 mapped into IPv6; false when the text is none. */
extern bool ks_ip_parse(const char *text, uint8 out[16]);

/* Is it an IPv4 address? */
extern bool ks_ip_is_v4(const uint8 ip[16]);

extern bool ks_ip_is_loopback(const uint8 ip[16]);

/* What an address counts as: itself, or the /64 that it lies in. */
extern void ks_ip_principal(const uint8 ip[16], KsPrincipal *out);

extern void ks_principal_init(void);

#endif /* KS_LIMITS_PRINCIPAL_H */
