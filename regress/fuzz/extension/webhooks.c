/*
 * webhooks.c
 *	  Fuzzes the signatures of incoming webhooks: the headers that carry them,
 *	  and the keys they are checked with.
 *
 * The header is signed for real and then changed as the input says; only what
 * is signed is taken.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "incoming/signature.h"
#include "secrets/crypto.h"
#include "secrets/seal.h"
#include "targets.h"

#define SECRET "whsec_test_secret"
#define MOMENT INT64CONST(1614265330)
#define BODY "{\"id\":\"evt_test_webhook\",\"object\":\"event\"}"

extern Datum ks__webhook_verify(PG_FUNCTION_ARGS);

/* The schemes of webhooks in kind: where the signature stands, of what it is, how it is written. */
static const struct
{
	const char *scheme;
	const char *header; /* %s: the signature */
	const char *content;
} schemes[] = {
	{"{\"algorithm\":\"hmac-sha256\",\"header\":\"s\",\"format\":\"pairs\",\"content\":\"{timestamp}.{body}\"}", "t=1614265330,v1=%s", "1614265330." BODY},
	{"{\"algorithm\":\"hmac-sha256\",\"header\":\"s\",\"format\":\"list\",\"idHeader\":\"i\",\"timestampHeader\":\"t\",\"content\":\"{id}.{timestamp}.{body}\"}",
	 "v1,%s", "msg_1.1614265330." BODY},
	{"{\"algorithm\":\"hmac-sha256\",\"header\":\"s\",\"prefix\":\"sha256=\"}", "sha256=%s", BODY},
};

static Datum jsonb(const char *text);
static char *make_header(int which);
static bool is_taken(int which, const char *header, const char *body);
static Datum array_of(Datum element, Oid type, int len, bool by_value, char align);

/* The first byte chooses the scheme, the second whether header or body is the input. */
void
fuzz_webhook_signature(const uint8 *data, size_t size)
{
	int which;
	char *header;
	char *given;

	if (size < 2 || pg_encoding_verifymbstr(PG_UTF8, (const char *) data + 2, (int) size - 2) != (int) size - 2 || memchr(data + 2, 0, size - 2) != NULL)
		return;
	which = data[0] % lengthof(schemes);
	header = make_header(which);
	given = pnstrdup((const char *) data + 2, size - 2);
	switch (data[1] % 3)
	{
		case 0:
			/* Of any bytes: taken only where the whole signature stands in it. */
			if (is_taken(which, given, BODY))
				REQUIRE(strstr(given, strrchr(header, which == 1 ? ',' : '=') + 1) != NULL);
			break;
		case 1:
			REQUIRE(is_taken(which, header, given) == (strcmp(given, BODY) == 0));
			break;
		case 2:
			/* More items beside it: taken, unless they bring a second time or too many signatures. */
			(void) is_taken(which, psprintf("%s%s%s", header, which == 1 ? " " : ",", given), BODY);
			break;
	}
}

static char *
make_header(int which)
{
	uint8 mac[KS_SHA256_LENGTH];
	char hex[2 * KS_SHA256_LENGTH + 1];

	(void) ks_hmac(KS_SHA256, (const uint8 *) SECRET, strlen(SECRET), schemes[which].content, strlen(schemes[which].content), mac);
	for (int i = 0; i < KS_SHA256_LENGTH; i++)
		snprintf(hex + 2 * i, 3, "%02x", mac[i]);
	return psprintf(schemes[which].header, hex);
}

static bool
is_taken(int which, const char *header, const char *body)
{
	LOCAL_FCINFO(fcinfo, 7);
	KsSealContext context = {.purpose = "fuzz-server"};
	bytea *secret = ks_seal(&context, SECRET, strlen(SECRET));
	StringInfoData headers;

	initStringInfo(&headers);
	appendStringInfoString(&headers, "{\"t\":\"1614265330\",\"i\":\"msg_1\",\"s\":");
	escape_json(&headers, header);
	appendStringInfoChar(&headers, '}');
	InitFunctionCallInfoData(*fcinfo, NULL, 7, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = jsonb(schemes[which].scheme);
	fcinfo->args[1].value = array_of(PointerGetDatum(secret), BYTEAOID, -1, false, TYPALIGN_INT);
	fcinfo->args[2].value = array_of(UUIDPGetDatum(&context.row_id), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR);
	fcinfo->args[3].value = array_of(CStringGetTextDatum("fuzz-server"), TEXTOID, -1, false, TYPALIGN_INT);
	fcinfo->args[4].value = jsonb(headers.data);
	fcinfo->args[5].value = PointerGetDatum(cstring_to_text(body));
	fcinfo->args[6].value = TimestampTzGetDatum(time_t_to_timestamptz(MOMENT));
	for (int i = 0; i < 7; i++)
		fcinfo->args[i].isnull = false;
	(void) ks__webhook_verify(fcinfo);
	return fcinfo->isnull;
}

static Datum
jsonb(const char *text)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

static Datum
array_of(Datum element, Oid type, int len, bool by_value, char align)
{
	return PointerGetDatum(construct_array(&element, 1, type, len, by_value, align));
}

/* A signature and a secret of any bytes, with a line break between: all algorithms, all forms. */
void
fuzz_webhook_key(const uint8 *data, size_t size)
{
	const char *text = (const char *) data;
	const char *line = memchr(text, '\n', size);
	size_t len = line != NULL ? (size_t) (line - text) : size;
	const char *secret = line != NULL ? line + 1 : text;
	size_t secret_len = line != NULL ? size - len - 1 : 0;
	KsSignatures *signatures = palloc0(sizeof(KsSignatures));

	(void) ks_signatures_add(signatures, text, len, true);
	(void) ks_signatures_add(signatures, text, len, false);
	REQUIRE(signatures->count <= 2);
	for (int algorithm = 0; algorithm < KS_WEBHOOK_TOKEN; algorithm++)
		for (int form = KS_KEY_TEXT; form <= KS_KEY_WHSEC; form++)
		{
			bool is_key = true;

			REQUIRE(!ks_signatures_match(signatures, algorithm, form, secret, secret_len, BODY, strlen(BODY), &is_key));
		}
}
