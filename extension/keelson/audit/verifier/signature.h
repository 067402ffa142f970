/*
 * signature.h
 *	  Signed checkpoints: JWTs of type audit-checkpoint (ES256).
 */
#ifndef SIGNATURE_H
#define SIGNATURE_H

#include "merkle.h"
#include "text.h"

typedef struct Checkpoint
{
	uint64_t size;
	Hash root;
} Checkpoint;

/* NULL, and *checkpoint filled, when the key (a JWK) has signed the token; else what is wrong. */
const char *checkpoint_open(Slice token, Slice key, Checkpoint *checkpoint);

#endif /* SIGNATURE_H */
