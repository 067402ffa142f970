/*
 * violations.h
 *	  Who was refused: counted in shared memory, written down by the keeper.
 */
#ifndef KS_LIMITS_VIOLATIONS_H
#define KS_LIMITS_VIOLATIONS_H

#include "postgres.h"

#include "utils/uuid.h"

/* The name under which refusals of blocked addresses are counted. */
#define KS_VIOLATION_BLOCK "block"

/* And that for refusals that the gateway has repeated. */
#define KS_VIOLATION_REPEATED "repeated"

/*
 * Count refusals by the limit of this name; user and address may be NULL. The
 * address counts as what limits count it as (a /64 for IPv6).
 */
extern void ks_violation_add(const pg_uuid_t *user_id, const uint8 ip[16], int32 route_id, const char *name, bool is_shadow, int64 count);

/* Ask for an automatic block of the address, for the reason (a row of keelson.block_rules). */
extern void ks_block_request(const uint8 ip[16], int reason);

/* Count a request that no limit counts. */
extern void ks_violation_exempt(void);
extern int64 ks_violations_exempted(void);

/* Refusals that found no room and were counted together with others, since the server started. */
extern int64 ks_violations_merged(void);

extern void ks_violations_init(void);

#endif /* KS_LIMITS_VIOLATIONS_H */
