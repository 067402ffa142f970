/*
 * merkle.h
 *	  Verifying of RFC 6962 proofs, as RFC 9162, 2.1.3.2 and 2.1.4.2 have it.
 */
#ifndef MERKLE_H
#define MERKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_LENGTH 32
#define MAX_PROOF 64

typedef struct Hash
{
	uint8_t bytes[HASH_LENGTH];
} Hash;

Hash leaf_hash(const uint8_t *leaf, size_t len);

bool inclusion_holds(uint64_t index, uint64_t size, const Hash *leaf, const Hash *proof, size_t count, const Hash *root);
bool consistency_holds(uint64_t size1, uint64_t size2, const Hash *root1, const Hash *root2, const Hash *proof, size_t count);

#endif /* MERKLE_H */
