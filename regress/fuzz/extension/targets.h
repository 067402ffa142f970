/*
 * targets.h
 *	  What is fuzzed inside a server, where memory contexts, errors and jsonb
 *	  are the server's own.
 *
 * A target is called with each input in a subtransaction of its own, which is
 * rolled back. An error that it raises is a fault.
 */
#ifndef TARGETS_H
#define TARGETS_H

#include "postgres.h"

#include "require.h"

typedef void (*Target)(const uint8 *data, size_t size);

extern void fuzz_access_key(const uint8 *data, size_t size);
extern void fuzz_glob(const uint8 *data, size_t size);
extern void fuzz_image(const uint8 *data, size_t size);
extern void fuzz_jwk(const uint8 *data, size_t size);
extern void fuzz_jws(const uint8 *data, size_t size);
extern void fuzz_jwt_claims(const uint8 *data, size_t size);
extern void fuzz_json_agreement(const uint8 *data, size_t size);
extern void fuzz_mail(const uint8 *data, size_t size);
extern void fuzz_scalar(const uint8 *data, size_t size);
extern void fuzz_seal(const uint8 *data, size_t size);
extern void fuzz_token(const uint8 *data, size_t size);
extern void fuzz_url(const uint8 *data, size_t size);
extern void fuzz_webhook_key(const uint8 *data, size_t size);
extern void fuzz_webhook_signature(const uint8 *data, size_t size);

/* Did the call raise an error? That is taken back, and *sqlstate says which. */
extern bool fuzz_raises(void (*call)(void *argument), void *argument, int *sqlstate);

#endif
