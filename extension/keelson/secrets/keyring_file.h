/*
 * keyring_file.h
 *	  Reads a keyring from a file or from a command's output.
 */
#ifndef KS_KEYRING_FILE_H
#define KS_KEYRING_FILE_H

#include "postgres.h"

#include "secrets/crypto.h"

#define KS_KEYRING_MAX_KEYS 16
#define KS_KEYRING_PROBLEM_LENGTH 200

typedef struct KsMasterKey
{
	uint32 id;
	uint8 key[KS_KEY_LENGTH];
} KsMasterKey;

typedef struct KsKeyring
{
	int count;
	uint32 primary; /* its id */
	KsMasterKey keys[KS_KEYRING_MAX_KEYS];
} KsKeyring;

/*
 * Read the keyring from the file, or else from the command's standard output.
 * Raises no error, since the postmaster calls it: returns false with a problem
 * in words, which name neither a path nor anything of the contents. The caller
 * wipes *ring.
 */
extern bool ks_keyring_read(const char *file, const char *command, KsKeyring *ring, char problem[KS_KEYRING_PROBLEM_LENGTH]);

#endif /* KS_KEYRING_FILE_H */
