/*
 * verify.c
 *	  Is this request signed as its source signs? On the bytes as they came.
 *
 * A scheme is data: an object whose members say where the signature stands,
 * how it is written, and what it is of. docs/incoming.md lists them;
 * keelson._webhook_settings_check() has seen to it that they are sound.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "incoming/signature.h"
#include "secrets/crypto.h"
#include "secrets/seal.h"

#define HEADER_MAX 4096
#define TIMESTAMP_DIGITS_MAX 12
#define ID_MAX 255
#define SECRETS_MAX 16

/* What keeps a request from being taken; the names are the rejections' kinds. */
#define MISSING "missing"
#define MALFORMED "malformed"
#define TOO_OLD "too_old"
#define TOO_NEW "too_new"
#define MISMATCH "mismatch"
#define UNCONFIGURED "unconfigured"

typedef struct Scheme
{
	KsWebhookAlgorithm algorithm;
	KsKeyForm key_form;
	const char *format;
	const char *prefix;
	const char *signature_key;
	const char *timestamp_key;
	const char *content;
	bool is_hex;
	int64 tolerance;
	const char *id;
	char *header;    /* the field that holds the signatures */
	char *timestamp; /* digits, or NULL */
	KsSignatures signatures;
} Scheme;

/* The sealed secrets of the source. */
typedef struct Secrets
{
	int count;
	Datum *values;
	Datum *ids;
	Datum *purposes;
} Secrets;

static char *member(Jsonb *object, const char *name);
static const char *member_or(Jsonb *object, const char *name, const char *otherwise);
static void read_scheme(Jsonb *object, Jsonb *headers, Scheme *scheme);
static bool is_superseded(Jsonb *object, Jsonb *headers);
static const char *read_signatures(Scheme *scheme);
static const char *read_plain(Scheme *scheme);
static const char *read_listed(Scheme *scheme, const char *separators, char assigns);
static bool take_timestamp(Scheme *scheme, const char *text, size_t length);
static const char *check_time(const Scheme *scheme, TimestampTz now);
static const char *make_content(const Scheme *scheme, const bytea *body, StringInfo content);
static void read_secrets(FunctionCallInfo fcinfo, Secrets *secrets);
static bool match_secrets(const Scheme *scheme, const Secrets *secrets, StringInfo content, bool *has_key);
static bool match_public_keys(const Scheme *scheme, Jsonb *object, StringInfo content, bool *has_key);

PG_FUNCTION_INFO_V1(ks__webhook_verify);

/*
 * keelson._webhook_verify(scheme jsonb, secrets bytea[], ids uuid[], purposes text[],
 *		headers jsonb, body bytea, moment timestamptz)
 */
Datum
ks__webhook_verify(PG_FUNCTION_ARGS)
{
	Jsonb *object = PG_GETARG_JSONB_P(0);
	Jsonb *headers = PG_GETARG_JSONB_P(4);
	const bytea *body = PG_GETARG_BYTEA_PP(5);
	Scheme *scheme = palloc0(sizeof(Scheme));
	StringInfoData content;
	Secrets secrets;
	const char *fault;
	bool has_key = false;
	bool matches;

	read_scheme(object, headers, scheme);
	if (scheme->header == NULL || is_superseded(object, headers))
		PG_RETURN_TEXT_P(cstring_to_text(MISSING));
	fault = read_signatures(scheme);
	if (fault == NULL)
		fault = check_time(scheme, PG_GETARG_TIMESTAMPTZ(6));
	initStringInfo(&content);
	if (fault == NULL)
		fault = make_content(scheme, body, &content);
	if (fault != NULL)
		PG_RETURN_TEXT_P(cstring_to_text(fault));
	read_secrets(fcinfo, &secrets);
	matches = match_secrets(scheme, &secrets, &content, &has_key);
	matches |= match_public_keys(scheme, object, &content, &has_key);
	if (matches)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(has_key ? MISMATCH : UNCONFIGURED));
}

/* The string, or the digits, under the name; NULL without one. */
static char *
member(Jsonb *object, const char *name)
{
	JsonbValue *found = getKeyJsonValueFromContainer(&object->root, name, strlen(name), NULL);

	if (found == NULL)
		return NULL;
	if (found->type == jbvString)
		return pnstrdup(found->val.string.val, found->val.string.len);
	if (found->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(found->val.numeric)));
	return NULL;
}

static const char *
member_or(Jsonb *object, const char *name, const char *otherwise)
{
	const char *found = member(object, name);

	return found != NULL ? found : otherwise;
}

/* What the scheme says, with what the request has for it. */
static void
read_scheme(Jsonb *object, Jsonb *headers, Scheme *scheme)
{
	const char *timestamp_header = member(object, "timestampHeader");
	const char *id_header = member(object, "idHeader");

	if (!ks_webhook_algorithm_find(member_or(object, "algorithm", ""), &scheme->algorithm) ||
		!ks_key_form_find(member_or(object, "key", "text"), &scheme->key_form))
		elog(ERROR, "a scheme of signatures that nobody has checked");
	scheme->format = member_or(object, "format", "plain");
	scheme->prefix = member_or(object, "prefix", "");
	scheme->signature_key = member_or(object, "signatureKey", "v1");
	scheme->timestamp_key = member_or(object, "timestampKey", "t");
	scheme->content = member_or(object, "content", "{body}");
	scheme->is_hex = strcmp(member_or(object, "encoding", "hex"), "hex") == 0;
	scheme->tolerance = strtoll(member_or(object, "tolerance", "300"), NULL, 10);
	scheme->header = member(headers, member_or(object, "header", ""));
	if (id_header != NULL)
		scheme->id = member(headers, id_header);
	if (timestamp_header != NULL)
	{
		char *given = member(headers, timestamp_header);

		if (given != NULL && !take_timestamp(scheme, given, strlen(given)))
			scheme->timestamp = pstrdup("");
	}
}

/* Is there a newer kind of signature, beside which this one does not count? */
static bool
is_superseded(Jsonb *object, Jsonb *headers)
{
	const char *newer = member(object, "unlessHeader");

	return newer != NULL && member(headers, newer) != NULL;
}

static const char *
read_signatures(Scheme *scheme)
{
	if (strlen(scheme->header) > HEADER_MAX)
		return MALFORMED;
	if (strcmp(scheme->format, "pairs") == 0)
		return read_listed(scheme, ",", '=');
	if (strcmp(scheme->format, "list") == 0)
		return read_listed(scheme, " ", ',');
	return read_plain(scheme);
}

static const char *
read_plain(Scheme *scheme)
{
	size_t skipped = strlen(scheme->prefix);
	size_t length = strlen(scheme->header);

	if (scheme->algorithm == KS_WEBHOOK_TOKEN)
	{
		if (length == 0 || length > KS_SIGNATURE_BYTES)
			return MALFORMED;
		memcpy(scheme->signatures.bytes[0], scheme->header, length);
		scheme->signatures.lengths[0] = length;
		scheme->signatures.count = 1;
		return NULL;
	}
	if (strncmp(scheme->header, scheme->prefix, skipped) != 0 ||
		!ks_signatures_add(&scheme->signatures, scheme->header + skipped, length - skipped, scheme->is_hex))
		return MALFORMED;
	return NULL;
}

/* Items such as t=1,v1=ab or "v1,ab v1,cd"; kinds of signature that are not ours are passed by. */
static const char *
read_listed(Scheme *scheme, const char *separators, char assigns)
{
	bool is_full = false;

	for (const char *at = scheme->header; *at != '\0';)
	{
		size_t length;
		const char *value;
		size_t name_length;

		at += strspn(at, ", ");
		length = strcspn(at, separators);
		value = memchr(at, assigns, length);
		/* A blank separates items and nothing else: v1,ab is one of them. */
		if (value != NULL)
		{
			name_length = value - at;
			value++;
			if (assigns == '=' && name_length == strlen(scheme->timestamp_key) && strncmp(at, scheme->timestamp_key, name_length) == 0 &&
				!take_timestamp(scheme, value, at + length - value))
				return MALFORMED;
			if (name_length == strlen(scheme->signature_key) && strncmp(at, scheme->signature_key, name_length) == 0)
			{
				is_full = scheme->signatures.count == KS_SIGNATURES_MAX;
				(void) ks_signatures_add(&scheme->signatures, value, at + length - value, scheme->is_hex);
			}
		}
		at += length;
	}
	return scheme->signatures.count == 0 || is_full ? MALFORMED : NULL;
}

/* Keep the digits; false when they are none, or a second time is named. */
static bool
take_timestamp(Scheme *scheme, const char *text, size_t length)
{
	if (scheme->timestamp != NULL || length == 0 || length > TIMESTAMP_DIGITS_MAX || strspn(text, "0123456789") < length)
		return false;
	scheme->timestamp = pnstrdup(text, length);
	return true;
}

/* Is the time at which it was signed now, more or less? */
static const char *
check_time(const Scheme *scheme, TimestampTz now)
{
	int64 signed_at;
	int64 seconds;

	if (strstr(scheme->content, "{timestamp}") == NULL)
		return NULL;
	if (scheme->timestamp == NULL || scheme->timestamp[0] == '\0')
		return MALFORMED;
	signed_at = strtoll(scheme->timestamp, NULL, 10);
	seconds = timestamptz_to_time_t(now);
	if (signed_at < seconds - scheme->tolerance)
		return TOO_OLD;
	if (signed_at > seconds + scheme->tolerance)
		return TOO_NEW;
	return NULL;
}

/* What was signed: the scheme's content with its places filled. */
static const char *
make_content(const Scheme *scheme, const bytea *body, StringInfo content)
{
	for (const char *at = scheme->content; *at != '\0';)
	{
		if (strncmp(at, "{body}", 6) == 0)
		{
			appendBinaryStringInfo(content, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body));
			at += 6;
		}
		else if (strncmp(at, "{timestamp}", 11) == 0)
		{
			appendStringInfoString(content, scheme->timestamp);
			at += 11;
		}
		else if (strncmp(at, "{id}", 4) == 0)
		{
			/* With a dot in it, it would not be known where it ends. */
			if (scheme->id == NULL || scheme->id[0] == '\0' || strlen(scheme->id) > ID_MAX || strpbrk(scheme->id, ".:, ") != NULL)
				return MALFORMED;
			appendStringInfoString(content, scheme->id);
			at += 4;
		}
		else
			appendStringInfoChar(content, *at++);
	}
	return NULL;
}

static void
read_secrets(FunctionCallInfo fcinfo, Secrets *secrets)
{
	int id_count;
	int purpose_count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false, TYPALIGN_INT, &secrets->values, NULL, &secrets->count);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &secrets->ids, NULL, &id_count);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false, TYPALIGN_INT, &secrets->purposes, NULL, &purpose_count);
	if (secrets->count != id_count || secrets->count != purpose_count || secrets->count > SECRETS_MAX)
		elog(ERROR, "the secrets of a source are incomplete");
}

static bool
match_secrets(const Scheme *scheme, const Secrets *secrets, StringInfo content, bool *has_key)
{
	bool matches = false;

	for (int i = 0; i < secrets->count; i++)
	{
		KsSealContext context = {
			.purpose = TextDatumGetCString(secrets->purposes[i]),
			.row_id = *DatumGetUUIDP(secrets->ids[i])};
		bytea *secret = ks_unseal(&context, DatumGetByteaPP(secrets->values[i]));
		bool is_key;

		matches |= ks_signatures_match(&scheme->signatures, scheme->algorithm, scheme->key_form,
									   VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret), content->data, content->len, &is_key);
		*has_key |= is_key;
		ks_wipe(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret));
	}
	return matches;
}

/* Public keys are no secrets: they may stand in the scheme. */
static bool
match_public_keys(const Scheme *scheme, Jsonb *object, StringInfo content, bool *has_key)
{
	JsonbValue *keys = getKeyJsonValueFromContainer(&object->root, "keys", 4, NULL);
	bool matches = false;

	if (keys == NULL || keys->type != jbvBinary || !JsonContainerIsArray(keys->val.binary.data) ||
		(scheme->algorithm != KS_WEBHOOK_ED25519 && scheme->algorithm != KS_WEBHOOK_RSA_SHA256))
		return false;
	for (uint32 i = 0; i < JsonContainerSize(keys->val.binary.data); i++)
	{
		JsonbValue *key = getIthJsonbValueFromContainer(keys->val.binary.data, i);
		bool is_key = false;

		if (key != NULL && key->type == jbvString)
			matches |= ks_signatures_match(&scheme->signatures, scheme->algorithm, scheme->key_form,
										   key->val.string.val, key->val.string.len, content->data, content->len, &is_key);
		*has_key |= is_key;
	}
	return matches;
}
