/*
 * smtp.c
 *	  The courier's deliveries of kind "mail": one recipient each, over SMTP.
 *
 * A delivery's id is the mail's, its ref the user whom the mail concerns; all
 * belong to one owner, so that one courier sends them over few connections,
 * and each recipients' domain is a lane, for its throttle and its breaker.
 * What a mail says is opened here, between the claim and the sending, and wiped
 * when that is over.
 *
 * 250 at the end is delivered. A refusal of the recipient or of the text (5xx)
 * is final; one of us (login, sender, TLS) is the operator's to mend, and tried
 * again like 4xx, until the mail is not worth sending any more. Whatever breaks
 * before the last reply was read is tried again with the same Message-ID.
 */
#include "postgres.h"

#include <curl/curl.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/guc.h"
#include "core/spi.h"
#include "courier/columns.h"
#include "courier/courier.h"
#include "courier/kinds.h"
#include "courier/lanes.h"
#include "recovery/message.h"
#include "recovery/smtp.h"
#include "secrets/crypto.h"

/* No longer than a lease allows for, see claim.c. */
#define TIMEOUT_MS 45000
/* A server that asks for it is left alone for so long at least. */
#define DEFERRED_US (5 * 60 * USECS_PER_SEC)

/* The mail server, as it is to be spoken to; of one turn. */
typedef struct Server
{
	const char *refusal; /* why there is none */
	const char *url;     /* without name and password, our own name as its path */
	const char *user;
	const char *password;
	const char *sender;
	const char *sender_name;
} Server;

/* What is remembered of a mail until it is settled. */
typedef struct Mail
{
	TimestampTz expires_at;
	const char *state;  /* in which it ends, where that is known before it is sent */
	const char *reason; /* why the attempt has failed, with the server's reply */
} Mail;

static KsPlan server_plan = {
	"select keelson._secret_get('smtp_url'), keelson._mail_sender(), keelson._product_name(), keelson._mail_domain()", 0, {0}};

static KsPlan mails_plan = {
	"select w.place, m.state, m.recipient, m.message_id, m.created_at, m.expires_at,"
	" m.expires_at <= clock_timestamp(), keelson._mail_is_suppressed(m.recipient, m.is_security),"
	" c.words ->> 'subject', c.words ->> 'text', c.words ->> 'html', c.words ->> 'unsubscribe'"
	" from unnest($1, $2, $3) as w (place, user_id, id)"
	" left join keelson.mail_messages as m on m.user_id = w.user_id and m.id = w.id"
	" cross join lateral (select case when m.content is not null then"
	"  convert_from(keelson.unseal(m.content, row('mail', null, m.id)::keelson.seal_context), 'UTF8')::jsonb end) as c (words)",
	3,
	{INT4ARRAYOID, UUIDARRAYOID, UUIDARRAYOID}};

static KsPlan settle_plan = {
	"select keelson._mails_settle($1, $2, $3, $4)", 4, {UUIDARRAYOID, UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID}};

static const int32 schedule[] = {10, 60, 300, 900, 1800, 3600, 7200, 14400, 14400, 28800, 28800, 43200, 43200, 43200};

static void build(KsDelivery **deliveries, int count);
static Server *find_server(MemoryContext cxt);
static const char *take_url(Server *server, const char *url, const char *our_name);
static const char *part(CURLU *parsed, CURLUPart which, unsigned int flags);
static void build_one(KsDelivery *delivery, const Server *server, HeapTuple row, TupleDesc desc);
static void end_unsent(KsDelivery *delivery, KsVerdict verdict, const char *state, const char *reason);
static void write_message(KsDelivery *delivery, const Server *server, HeapTuple row, TupleDesc desc);
static void judge(KsDelivery *delivery);
static void settled(KsDelivery **deliveries, int count);
static const char *state_of(const KsDelivery *delivery);
static char *reason_of(const KsDelivery *delivery);

static const KsCourierKind kind = {"mail", build, judge, settled, schedule, lengthof(schedule)};

/* The same as keelson._mail_owner(). */
static const KsCourierOwner owner = {
	.id = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x6d}},
	.most_in_flight = &ks_guc_mail_connections,
	.lane_rate = &ks_guc_mail_domain_rate,
};

void
ks_smtp_init(void)
{
	ks_courier_kind_register(&kind);
	ks_courier_owner_register(&owner);
}

static void
build(KsDelivery **deliveries, int count)
{
	static const Oid types[] = {INT4OID, UUIDOID, UUIDOID};
	KsColumns *columns = ks_columns_create(count, lengthof(types), types);
	const Server *server = find_server(CurrentMemoryContext);
	SPITupleTable *rows;
	uint64 row_count;
	Datum values[3];

	for (int i = 0; i < count; i++)
	{
		values[0] = Int32GetDatum(i);
		values[1] = UUIDPGetDatum(&deliveries[i]->ref);
		values[2] = UUIDPGetDatum(&deliveries[i]->id);
		ks_columns_add(columns, values, NULL);
	}
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&mails_plan, values, NULL, true, 0);
	rows = SPI_tuptable;
	row_count = SPI_processed;
	for (uint64 i = 0; i < row_count; i++)
	{
		bool is_null;

		build_one(deliveries[DatumGetInt32(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &is_null))], server, rows->vals[i], rows->tupdesc);
	}
	SPI_freetuptable(rows);
}

/* The server of the secret smtp_url. */
static Server *
find_server(MemoryContext cxt)
{
	Server *server = MemoryContextAllocZero(cxt, sizeof(Server));
	HeapTuple row;
	TupleDesc desc;
	char *url;

	(void) ks_spi_execute(&server_plan, NULL, NULL, true, 1);
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	url = SPI_getvalue(row, desc, 1);
	server->sender = SPI_getvalue(row, desc, 2);
	server->sender_name = SPI_getvalue(row, desc, 3);
	server->refusal = url == NULL ? "no mail server is configured" : take_url(server, url, SPI_getvalue(row, desc, 4));
	if (url != NULL)
		ks_wipe(url, strlen(url));
	return server;
}

/* Take the URL apart, by what connects to it; returns what is wrong with it, or NULL. */
static const char *
take_url(Server *server, const char *url, const char *our_name)
{
	CURLU *parsed = curl_url();
	const char *fault = NULL;
	const char *scheme = NULL;
	const char *host = NULL;
	const char *port = NULL;

	if (parsed == NULL)
		return "there was no memory for the mail server's URL";
	if (curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK)
	{
		scheme = part(parsed, CURLUPART_SCHEME, 0);
		host = part(parsed, CURLUPART_HOST, 0);
		port = part(parsed, CURLUPART_PORT, 0);
		server->user = part(parsed, CURLUPART_USER, CURLU_URLDECODE);
		server->password = part(parsed, CURLUPART_PASSWORD, CURLU_URLDECODE);
	}
	curl_url_cleanup(parsed);
	if (scheme == NULL || host == NULL || (strcmp(scheme, "smtp") != 0 && strcmp(scheme, "smtps") != 0))
		fault = "the mail server's URL is not as smtps://user:password@host:465 or smtp://host:587";
	else
		server->url = psprintf("%s://%s:%s/%s", scheme, host,
							   port != NULL ? port : strcmp(scheme, "smtps") == 0 ? "465"
																				  : "587",
							   our_name);
	return fault;
}

/* A part of the URL in memory of ours; NULL without it. */
static const char *
part(CURLU *parsed, CURLUPart which, unsigned int flags)
{
	char *text = NULL;
	char *copy = NULL;

	if (curl_url_get(parsed, which, &text, flags) == CURLUE_OK && text != NULL)
	{
		copy = pstrdup(text);
		ks_wipe(text, strlen(text));
	}
	curl_free(text);
	return copy;
}

static void
build_one(KsDelivery *delivery, const Server *server, HeapTuple row, TupleDesc desc)
{
	Mail *mail = MemoryContextAllocZero(delivery->cxt, sizeof(Mail));
	const char *state = SPI_getvalue(row, desc, 2);
	bool is_null;

	delivery->kind_data = mail;
	if (state == NULL || strcmp(state, "pending") != 0)
		end_unsent(delivery, KS_CANCELLED, NULL, "the mail is gone");
	else if (DatumGetBool(SPI_getbinval(row, desc, 8, &is_null)))
		end_unsent(delivery, KS_CANCELLED, "suppressed", "nobody sends to the address");
	else if (DatumGetBool(SPI_getbinval(row, desc, 7, &is_null)))
		end_unsent(delivery, KS_EXHAUSTED, "expired", "it is not worth sending any more");
	else
	{
		mail->expires_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 6, &is_null));
		if (server->refusal != NULL)
			delivery->request.refusal = MemoryContextStrdup(delivery->cxt, server->refusal);
		else
			write_message(delivery, server, row, desc);
	}
}

static void
end_unsent(KsDelivery *delivery, KsVerdict verdict, const char *state, const char *reason)
{
	Mail *mail = delivery->kind_data;

	mail->state = state;
	delivery->request.refusal = reason;
	delivery->verdict = verdict;
}

static void
write_message(KsDelivery *delivery, const Server *server, HeapTuple row, TupleDesc desc)
{
	KsRequest *request = &delivery->request;
	KsMessage message = {.from = server->sender, .from_name = server->sender_name};
	MemoryContext save = MemoryContextSwitchTo(delivery->cxt);
	bool is_null;

	message.to = SPI_getvalue(row, desc, 3);
	message.message_id = SPI_getvalue(row, desc, 4);
	message.created_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 5, &is_null));
	message.subject = SPI_getvalue(row, desc, 9);
	message.text = SPI_getvalue(row, desc, 10);
	message.html = SPI_getvalue(row, desc, 11);
	message.unsubscribe_url = SPI_getvalue(row, desc, 12);
	MemoryContextSwitchTo(delivery->cxt);
	request->body = ks_message_format(&message, &request->body_length);
	ks_wipe((char *) message.text, strlen(message.text));
	if (message.html != NULL)
		ks_wipe((char *) message.html, strlen(message.html));
	request->mail_from = pstrdup(server->sender);
	request->mail_to = pstrdup(message.to);
	request->url = pstrdup(server->url);
	request->user = server->user == NULL ? NULL : pstrdup(server->user);
	request->password = server->password == NULL ? NULL : pstrdup(server->password);
	request->timeout_ms = TIMEOUT_MS;
	request->is_trusted = true;
	request->is_tls_optional = ks_guc_smtp_tls == KS_TLS_OPTIONAL;
	MemoryContextSwitchTo(save);
}

/* A reply decides; and no attempt is planned for when the mail is not worth sending any more. */
static void
judge(KsDelivery *delivery)
{
	KsAnswer *outcome = &delivery->outcome;
	Mail *mail = delivery->kind_data;

	/* A reply tells whom it is about: it stands with the mail, which goes with its user, and not in the log. */
	if (mail != NULL)
		mail->reason = reason_of(delivery);
	outcome->response_length = 0;
	if (outcome->status >= 500 && outcome->stage >= KS_MAIL_RECIPIENT)
	{
		delivery->verdict = KS_EXHAUSTED;
		delivery->is_lane_well = true;
	}
	if (delivery->verdict != KS_RETRY)
		return;
	if (outcome->status >= 400)
		delivery->retry_at = Max(delivery->retry_at, GetCurrentTimestamp() + ks_jitter(DEFERRED_US));
	if (mail != NULL && delivery->retry_at >= mail->expires_at)
		delivery->verdict = KS_EXHAUSTED;
}

/* Record what became of the mails, in the transaction that settles their deliveries. */
static void
settled(KsDelivery **deliveries, int count)
{
	static const Oid types[] = {UUIDOID, UUIDOID, TEXTOID, TEXTOID};
	KsColumns *columns = ks_columns_create(count, lengthof(types), types);
	Datum values[4];

	for (int i = 0; i < count; i++)
	{
		KsRequest *request = &deliveries[i]->request;
		const Mail *mail = deliveries[i]->kind_data;
		const char *reason = mail != NULL && mail->reason != NULL ? mail->reason : deliveries[i]->outcome.error;
		bool nulls[4] = {false, false, false, reason == NULL};

		if (request->body != NULL)
			ks_wipe((char *) request->body, request->body_length);
		if (request->password != NULL)
			ks_wipe((char *) request->password, strlen(request->password));
		request->body_length = 0;
		request->password = NULL;
		if (deliveries[i]->verdict == KS_RELEASED)
			continue;
		values[0] = UUIDPGetDatum(&deliveries[i]->ref);
		values[1] = UUIDPGetDatum(&deliveries[i]->id);
		values[2] = CStringGetTextDatum(state_of(deliveries[i]));
		values[3] = reason == NULL ? (Datum) 0 : CStringGetTextDatum(reason);
		ks_columns_add(columns, values, nulls);
	}
	if (columns->rows == 0)
		return;
	ks_columns_arrays(columns, values);
	(void) ks_spi_execute(&settle_plan, values, NULL, false, 0);
}

static const char *
state_of(const KsDelivery *delivery)
{
	const Mail *mail = delivery->kind_data;

	if (delivery->verdict == KS_RETRY)
		return "pending";
	if (delivery->verdict == KS_DELIVERED)
		return "sent";
	return mail != NULL && mail->state != NULL ? mail->state : "failed";
}

/* Why the attempt has failed: with the server's reply, where there is one; NULL for one that has not. */
static char *
reason_of(const KsDelivery *delivery)
{
	const KsAnswer *outcome = &delivery->outcome;
	MemoryContext save;
	StringInfoData out;

	if (outcome->error == NULL)
		return NULL;
	save = MemoryContextSwitchTo(delivery->cxt);
	initStringInfo(&out);
	appendStringInfoString(&out, outcome->error);
	if (outcome->status >= 400 && outcome->response_length > 0)
	{
		appendStringInfoString(&out, ": ");
		for (size_t i = 0; i < Min(outcome->response_length, 300); i++)
			appendStringInfoChar(&out, outcome->response[i] >= ' ' && outcome->response[i] <= '~' ? outcome->response[i] : '?');
	}
	MemoryContextSwitchTo(save);
	return out.data;
}

PG_FUNCTION_INFO_V1(ks__smtp_url_fault);

/* keelson._smtp_url_fault(url text) */
Datum
ks__smtp_url_fault(PG_FUNCTION_ARGS)
{
	Server server = {0};
	char *url = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *fault = take_url(&server, url, "localhost");

	ks_wipe(url, strlen(url));
	if (fault == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(fault));
}
