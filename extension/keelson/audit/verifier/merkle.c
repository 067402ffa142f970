/*
 * merkle.c
 *	  Two loops over a proof, written from the RFC alone: nothing is shared with
 *	  the program that made it.
 */
#include "merkle.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

static Hash digest(const uint8_t *data, size_t len);
static Hash node_hash(const Hash *left, const Hash *right);
static bool equal(const Hash *a, const Hash *b);

Hash
leaf_hash(const uint8_t *leaf, size_t len)
{
	uint8_t *input = malloc(len + 1);
	Hash hash;

	if (input == NULL)
		abort();
	input[0] = 0;
	memcpy(input + 1, leaf, len);
	hash = digest(input, len + 1);
	free(input);
	return hash;
}

bool
inclusion_holds(uint64_t index, uint64_t size, const Hash *leaf, const Hash *proof, size_t count, const Hash *root)
{
	uint64_t fn = index;
	uint64_t sn = size - 1;
	Hash hash = *leaf;

	if (index >= size)
		return false;
	for (size_t i = 0; i < count; i++)
	{
		if (sn == 0)
			return false;
		if ((fn & 1) != 0 || fn == sn)
		{
			hash = node_hash(&proof[i], &hash);
			while ((fn & 1) == 0 && fn != 0)
			{
				fn >>= 1;
				sn >>= 1;
			}
		}
		else
			hash = node_hash(&hash, &proof[i]);
		fn >>= 1;
		sn >>= 1;
	}
	return sn == 0 && equal(&hash, root);
}

bool
consistency_holds(uint64_t size1, uint64_t size2, const Hash *root1, const Hash *root2, const Hash *proof, size_t count)
{
	uint64_t fn = size1 - 1;
	uint64_t sn = size2 - 1;
	Hash hash1, hash2;
	size_t i = 0;

	/* An empty tree is the beginning of none: there is nothing to be consistent with. */
	if (size1 == 0 || size1 > size2)
		return false;
	if (size1 == size2)
		return count == 0 && equal(root1, root2);
	if (count == 0)
		return false;
	while ((fn & 1) != 0)
	{
		fn >>= 1;
		sn >>= 1;
	}
	/* A whole subtree's root stands for itself. */
	hash1 = hash2 = (size1 & (size1 - 1)) == 0 ? *root1 : proof[i++];
	for (; i < count; i++)
	{
		if (sn == 0)
			return false;
		if ((fn & 1) != 0 || fn == sn)
		{
			hash1 = node_hash(&proof[i], &hash1);
			hash2 = node_hash(&proof[i], &hash2);
			while ((fn & 1) == 0 && fn != 0)
			{
				fn >>= 1;
				sn >>= 1;
			}
		}
		else
			hash2 = node_hash(&hash2, &proof[i]);
		fn >>= 1;
		sn >>= 1;
	}
	return sn == 0 && equal(&hash1, root1) && equal(&hash2, root2);
}

static Hash
digest(const uint8_t *data, size_t len)
{
	Hash hash;

	if (EVP_Digest(data, len, hash.bytes, NULL, EVP_sha256(), NULL) != 1)
		abort();
	return hash;
}

static Hash
node_hash(const Hash *left, const Hash *right)
{
	uint8_t input[1 + 2 * HASH_LENGTH];

	input[0] = 1;
	memcpy(input + 1, left->bytes, HASH_LENGTH);
	memcpy(input + 1 + HASH_LENGTH, right->bytes, HASH_LENGTH);
	return digest(input, sizeof(input));
}

static bool
equal(const Hash *a, const Hash *b)
{
	return memcmp(a->bytes, b->bytes, HASH_LENGTH) == 0;
}
