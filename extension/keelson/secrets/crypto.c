/*
 * crypto.c
 *	  OpenSSL's digests, MACs, key derivation and AES-256-GCM.
 *
 * Fetching an algorithm and making a context costs several times what hashing
 * a token does, so both are made once per process, on first use, and freed
 * when the process ends. Contexts keep the last key they were given; those of
 * ks_hmac() lose it when the transaction ends, the others when their owner
 * says so.
 *
 * OpenSSL's error queue belongs to the whole process (libpq's and the server's
 * TLS read it): whoever sees a call fail empties it before returning.
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "secrets/crypto.h"

/* As much randomness as is drawn ahead for nonces. */
#define NONCE_POOL_LENGTH 2048

struct KsMac
{
	EVP_MAC_CTX *ctx;
};

struct KsGcm
{
	EVP_CIPHER_CTX *ctx;
	bool seals;
	bool is_keyed;
};

static const struct
{
	const char *name;
	size_t length;
} digests[KS_DIGEST_COUNT] = {
	[KS_SHA1] = {"SHA1", 20},
	[KS_SHA256] = {"SHA256", 32},
	[KS_SHA512] = {"SHA512", 64},
};

/* Made on first use, freed by release(); written nowhere else. */
static EVP_MD *sha256;
static EVP_MD_CTX *sha256_ctx;
static EVP_MAC *hmac;
static EVP_MAC_CTX *hmac_ctx[KS_DIGEST_COUNT];
static EVP_KDF *hkdf;
static EVP_CIPHER *aes_gcm;

/* Do contexts of ks_hmac() hold keys of this transaction? */
static bool hmac_is_keyed[KS_DIGEST_COUNT];

/* Randomness drawn ahead, by this process alone: a child begins with none. */
static struct
{
	int pid;
	size_t left;
	uint8 bytes[NONCE_POOL_LENGTH];
} nonce_pool;

static void prepare(void);
static void release(int code, Datum arg);
static void forget_keys(XactEvent event, void *arg);
static EVP_MAC_CTX *make_hmac(KsDigest digest);
static void mac_once(EVP_MAC_CTX *ctx, const uint8 *key, size_t keylen, const void *data, size_t len, uint8 *out, size_t out_len);
static void gcm_start(KsGcm *gcm, const uint8 *key, const uint8 *nonce, const void *aad, size_t aad_len);

void
ks_sha256(const void *data, size_t len, uint8 out[KS_SHA256_LENGTH])
{
	prepare();
	if (sha256 == NULL)
		sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (sha256_ctx == NULL)
		sha256_ctx = EVP_MD_CTX_new();
	if (sha256 == NULL || sha256_ctx == NULL ||
		!EVP_DigestInit_ex2(sha256_ctx, sha256, NULL) ||
		!EVP_DigestUpdate(sha256_ctx, data, len) ||
		!EVP_DigestFinal_ex(sha256_ctx, out, NULL))
		ks_crypto_fail("hash");
}

size_t
ks_hmac(KsDigest digest, const uint8 *key, size_t keylen, const void *data, size_t len, uint8 *out)
{
	/* OpenSSL takes a missing key for "as before", an empty one is another. */
	static const uint8 empty[1];

	if (hmac_ctx[digest] == NULL)
		hmac_ctx[digest] = make_hmac(digest);
	hmac_is_keyed[digest] = true;
	mac_once(hmac_ctx[digest], keylen > 0 ? key : empty, keylen, data, len, out, digests[digest].length);
	return digests[digest].length;
}

KsMac *
ks_mac_create(const uint8 *key, size_t keylen)
{
	KsMac *mac = MemoryContextAllocZero(TopMemoryContext, sizeof(KsMac));

	mac->ctx = make_hmac(KS_SHA256);
	if (!EVP_MAC_init(mac->ctx, key, keylen, NULL))
	{
		ks_mac_free(mac);
		ks_crypto_fail("key a MAC");
	}
	return mac;
}

void
ks_mac(KsMac *mac, const void *data, size_t len, uint8 out[KS_SHA256_LENGTH])
{
	mac_once(mac->ctx, NULL, 0, data, len, out, KS_SHA256_LENGTH);
}

void
ks_mac_free(KsMac *mac)
{
	if (mac == NULL)
		return;
	EVP_MAC_CTX_free(mac->ctx);
	pfree(mac);
}

bool
ks_hkdf_sha256(const void *secret, size_t secret_len, const void *salt, size_t salt_len, const void *info, size_t info_len, uint8 *out, size_t out_len)
{
	EVP_KDF_CTX *ctx;
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *) secret, secret_len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *) salt, salt_len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *) info, info_len),
		OSSL_PARAM_construct_end()};
	bool done;

	if (out_len == 0 || out_len > 255 * KS_SHA256_LENGTH)
		return false;
	prepare();
	if (hkdf == NULL && (hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL)) == NULL)
		ks_crypto_fail("derive a key");
	ctx = EVP_KDF_CTX_new(hkdf);
	done = ctx != NULL && EVP_KDF_derive(ctx, out, out_len, params) == 1;
	EVP_KDF_CTX_free(ctx);
	if (!done)
		ks_crypto_fail("derive a key");
	return true;
}

bool
ks_pbkdf2_sha256(const void *password, size_t password_len, const void *salt, size_t salt_len, int rounds, uint8 *out, size_t out_len)
{
	bool done = rounds > 0 && out_len > 0 && out_len <= INT_MAX &&
				PKCS5_PBKDF2_HMAC(password, (int) password_len, salt, (int) salt_len, rounds, EVP_sha256(), (int) out_len, out) == 1;

	ERR_clear_error();
	return done;
}

KsGcm *
ks_gcm_create(bool seals)
{
	KsGcm *gcm;

	prepare();
	if (aes_gcm == NULL && (aes_gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL)) == NULL)
		ks_crypto_fail("find AES-256-GCM");
	gcm = MemoryContextAllocZero(TopMemoryContext, sizeof(KsGcm));
	gcm->seals = seals;
	gcm->ctx = EVP_CIPHER_CTX_new();
	if (gcm->ctx == NULL)
	{
		pfree(gcm);
		ks_crypto_fail("make a cipher");
	}
	return gcm;
}

void
ks_gcm_seal(KsGcm *gcm, const uint8 *key, const uint8 nonce[KS_NONCE_LENGTH], const void *aad, size_t aad_len, const void *in, size_t len, uint8 *out, uint8 tag[KS_TAG_LENGTH])
{
	int written;
	int rest;

	Assert(gcm->seals && len <= INT_MAX);
	gcm_start(gcm, key, nonce, aad, aad_len);
	if (!EVP_EncryptUpdate(gcm->ctx, out, &written, in, (int) len) ||
		!EVP_EncryptFinal_ex(gcm->ctx, out + written, &rest) ||
		!EVP_CIPHER_CTX_ctrl(gcm->ctx, EVP_CTRL_AEAD_GET_TAG, KS_TAG_LENGTH, tag))
		ks_crypto_fail("encrypt");
}

bool
ks_gcm_open(KsGcm *gcm, const uint8 *key, const uint8 nonce[KS_NONCE_LENGTH], const void *aad, size_t aad_len, const void *in, size_t len, uint8 *out, const uint8 tag[KS_TAG_LENGTH])
{
	int written = 0;
	int rest;

	Assert(!gcm->seals && len <= INT_MAX);
	gcm_start(gcm, key, nonce, aad, aad_len);
	if (EVP_DecryptUpdate(gcm->ctx, out, &written, in, (int) len) &&
		EVP_CIPHER_CTX_ctrl(gcm->ctx, EVP_CTRL_AEAD_SET_TAG, KS_TAG_LENGTH, (void *) tag) &&
		EVP_DecryptFinal_ex(gcm->ctx, out + written, &rest) > 0)
		return true;
	ks_wipe(out, len);
	ERR_clear_error();
	return false;
}

bool
ks_gcm_is_keyed(const KsGcm *gcm)
{
	return gcm->is_keyed;
}

void
ks_gcm_forget(KsGcm *gcm)
{
	if (gcm->is_keyed)
		EVP_CIPHER_CTX_reset(gcm->ctx);
	gcm->is_keyed = false;
}

void
ks_random(void *out, size_t len)
{
	if (!pg_strong_random(out, len))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not get random bytes")));
}

void
ks_random_nonce(uint8 *out, size_t len)
{
	Assert(len <= NONCE_POOL_LENGTH);
	if (nonce_pool.pid != MyProcPid || nonce_pool.left < len)
	{
		nonce_pool.left = 0;
		ks_random(nonce_pool.bytes, NONCE_POOL_LENGTH);
		nonce_pool.pid = MyProcPid;
		nonce_pool.left = NONCE_POOL_LENGTH;
	}
	nonce_pool.left -= len;
	memcpy(out, nonce_pool.bytes + nonce_pool.left, len);
}

bool
ks_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

void
ks_wipe(void *secret, size_t len)
{
	if (secret != NULL)
		OPENSSL_cleanse(secret, len);
}

void
ks_crypto_fail(const char *what)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());

	ERR_clear_error();
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not %s", what),
			 reason ? errdetail("OpenSSL says: %s.", reason) : 0));
}

/* Arrange, once in a process, for keys to be forgotten and contexts freed. */
static void
prepare(void)
{
	static int prepared_pid = 0;

	if (likely(prepared_pid == MyProcPid))
		return;
	if (prepared_pid == 0)
		RegisterXactCallback(forget_keys, NULL);
	on_proc_exit(release, (Datum) 0);
	prepared_pid = MyProcPid;
}

static void
release(int code, Datum arg)
{
	EVP_MD_CTX_free(sha256_ctx);
	EVP_MD_free(sha256);
	for (int i = 0; i < KS_DIGEST_COUNT; i++)
	{
		EVP_MAC_CTX_free(hmac_ctx[i]);
		hmac_ctx[i] = NULL;
	}
	EVP_MAC_free(hmac);
	EVP_KDF_free(hkdf);
	EVP_CIPHER_free(aes_gcm);
	sha256_ctx = NULL;
	sha256 = NULL;
	hmac = NULL;
	hkdf = NULL;
	aes_gcm = NULL;
}

/* At the end of a transaction, overwrite the keys that ks_hmac() was given. */
static void
forget_keys(XactEvent event, void *arg)
{
	static const uint8 zeros[KS_KEY_LENGTH];

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PARALLEL_COMMIT && event != XACT_EVENT_PARALLEL_ABORT)
		return;
	for (int i = 0; i < KS_DIGEST_COUNT; i++)
	{
		if (hmac_is_keyed[i] && hmac_ctx[i] != NULL && !EVP_MAC_init(hmac_ctx[i], zeros, sizeof(zeros), NULL))
			ERR_clear_error();
		hmac_is_keyed[i] = false;
	}
}

/* A MAC context for the digest, without a key. */
static EVP_MAC_CTX *
make_hmac(KsDigest digest)
{
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *) digests[digest].name, 0),
		OSSL_PARAM_construct_end()};
	EVP_MAC_CTX *ctx;

	prepare();
	if (hmac == NULL && (hmac = EVP_MAC_fetch(NULL, "HMAC", NULL)) == NULL)
		ks_crypto_fail("find HMAC");
	ctx = EVP_MAC_CTX_new(hmac);
	if (ctx == NULL || !EVP_MAC_CTX_set_params(ctx, params))
	{
		EVP_MAC_CTX_free(ctx);
		ks_crypto_fail("make a MAC");
	}
	return ctx;
}

/* The MAC of the data under the key; key NULL: under the context's own. */
static void
mac_once(EVP_MAC_CTX *ctx, const uint8 *key, size_t keylen, const void *data, size_t len, uint8 *out, size_t out_len)
{
	size_t written;

	if (!EVP_MAC_init(ctx, key, keylen, NULL) ||
		!EVP_MAC_update(ctx, data, len) ||
		!EVP_MAC_final(ctx, out, &written, out_len) ||
		written != out_len)
		ks_crypto_fail("compute a MAC");
}

/* Begin a message: key (NULL: as before), nonce, additional data. */
static void
gcm_start(KsGcm *gcm, const uint8 *key, const uint8 *nonce, const void *aad, size_t aad_len)
{
	int written;

	Assert(key != NULL || gcm->is_keyed);
	if (!EVP_CipherInit_ex2(gcm->ctx, gcm->is_keyed ? NULL : aes_gcm, key, nonce, gcm->seals, NULL))
		ks_crypto_fail("start a cipher");
	gcm->is_keyed = true;
	if (aad_len > 0 && !EVP_CipherUpdate(gcm->ctx, NULL, &written, aad, (int) aad_len))
		ks_crypto_fail("add to a cipher");
}
