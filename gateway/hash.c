/*
 * hash: SipHash-1-3, for tables that a client can fill.
 */
#include <string.h>

#include "hash.h"
#include "uuid.h"

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))

static void
sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] = ROTATE(v[2], 32);
}

uint64_t
gw_hash(const char *data, size_t len)
{
	/* Drawn at the thread's first use. */
	static _Thread_local uint64_t key[2];
	uint64_t v[4];
	uint64_t word;
	size_t i;

	if (key[0] == 0)
		gw_random(key, sizeof(key));
	v[0] = key[0] ^ 0x736f6d6570736575U;
	v[1] = key[1] ^ 0x646f72616e646f6dU;
	v[2] = key[0] ^ 0x6c7967656e657261U;
	v[3] = key[1] ^ 0x7465646279746573U;
	for (i = 0; i <= len / 8; i++)
	{
		size_t left = len - i * 8;

		word = left < 8 ? (uint64_t) len << 56 : 0;
		memcpy(&word, data + i * 8, left < 8 ? left : 8);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	v[2] ^= 0xFF;
	for (i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
