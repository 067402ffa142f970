/*
 * hashing.h
 *	  Hashes of passwords: a backend asks, the hasher computes.
 */
#ifndef KS_HASHING_H
#define KS_HASHING_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"

/* Room for a hash of any kind; a PHC string of argon2id is the longest. */
#define KS_HASH_SIZE 128

/* The longest input: 1,024 code points, each of which NFC may make thrice as long. */
#define KS_HASH_INPUT_MAX (1024 * 4 * 3)

typedef enum KsHashKind
{
	KS_HASH_MAKE,   /* argon2id, with a new salt */
	KS_HASH_ARGON2, /* does the argon2id hash come from the input? */
	KS_HASH_BCRYPT  /* does the bcrypt hash? */
} KsHashKind;

/*
 * Make an argon2id hash; false when there is not enough memory. Waits for the
 * hasher, cancellably; raises KS503 when too many wait already, or when it has
 * not begun within ten seconds.
 */
extern bool ks_hashing_make(const char *input, size_t len, int passes, int memory_kib, char hash[KS_HASH_SIZE]);

/* Does the hash come from the input? Waits and raises likewise. */
extern bool ks_hashing_matches(KsHashKind kind, const char *input, size_t len, const char *hash);

/* For the hasher: what is asked of it. */
typedef struct KsHashTask
{
	KsHashKind kind;
	int passes; /* of one that is made */
	int memory_kib;
	char hash[KS_HASH_SIZE]; /* made, or to compare with; padded with zeros */
	bool is_success;         /* it was made, it matches */
	size_t len;
	char input[KS_HASH_INPUT_MAX + 1]; /* ends with a zero */
} KsHashTask;

/*
 * Who may touch a request: the backend that asked (CLAIMED, DONE), the hasher
 * (RUNNING, ABANDONED), nobody (FREE, ASKED). Each step is one exchange:
 *
 *	FREE → CLAIMED → ASKED → RUNNING → DONE → CLAIMED → FREE
 *	                 ASKED → CLAIMED              it is wanted no longer
 *	                         RUNNING → ABANDONED → FREE      likewise
 *	                         RUNNING → ASKED      by the next hasher, where one was ended
 */
typedef enum KsHashState
{
	KS_HASH_FREE,
	KS_HASH_CLAIMED,
	KS_HASH_ASKED,
	KS_HASH_RUNNING,
	KS_HASH_ABANDONED,
	KS_HASH_DONE
} KsHashState;

typedef struct KsHashRequest
{
	pg_atomic_uint32 state;
	uint64 ticket; /* the lower, the longer it waits */
	TimestampTz asked_at;
	Latch *asker;
	KsHashTask task;
} KsHashRequest;

/* Take the step, if the request is in that state. */
extern bool ks_hashing_step(KsHashRequest *request, KsHashState from, KsHashState to);

/* How many may run at once; all requests, and how many they are. */
extern int ks_hashing_slots(void);
extern KsHashRequest *ks_hashing_requests(int *count);

/* Whom to wake; NULL: nobody is there. */
extern void ks_hashing_set_hasher(Latch *latch);

extern void ks_hashing_init(void);

#endif /* KS_HASHING_H */
