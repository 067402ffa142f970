/*
 * answer.c
 *	  What came of a request to the outside: figures, and in our words why there
 *	  is no whole response.
 */
#include "postgres.h"

#include <time.h>

#include "mb/pg_wchar.h"

#include "courier/transfer.h"

/* What libcurl says, and what we do. */
static const struct
{
	CURLcode code;
	const char *name;
	const char *text;
	bool is_unreachable;
} known[] = {
	{CURLE_COULDNT_RESOLVE_HOST, "dns", "the host name could not be resolved", true},
	{CURLE_COULDNT_CONNECT, "connect", "the connection was refused or could not be made", true},
	{CURLE_SSL_CONNECT_ERROR, "tls", "TLS could not be agreed on", true},
	{CURLE_PEER_FAILED_VERIFICATION, "tls", "the TLS certificate could not be verified", true},
	{CURLE_SSL_CACERT_BADFILE, "tls", "our own list of trusted certificates could not be read", true},
	{CURLE_GOT_NOTHING, "reset", "the connection was closed without a response", false},
	{CURLE_RECV_ERROR, "reset", "the connection was broken while the response was awaited", false},
	{CURLE_SEND_ERROR, "reset", "the connection was broken while the request was sent", false},
	{CURLE_PARTIAL_FILE, "reset", "the connection was closed before the response was complete", false},
	{CURLE_HTTP2, "protocol", "the response broke the rules of HTTP/2", false},
	{CURLE_HTTP2_STREAM, "protocol", "the response broke the rules of HTTP/2", false},
	{CURLE_WEIRD_SERVER_REPLY, "protocol", "the response was not understood", false},
	{CURLE_UNSUPPORTED_PROTOCOL, "protocol", "the response was not understood", false},
	{CURLE_LOGIN_DENIED, "login", "the server refused our name and password", false},
};

static int http_version(CURL *easy);
static int micros(CURL *easy, CURLINFO info);
static const char *header(CURL *easy, const char *name);
static const char *as_text(const char *value);
static int retry_after(const char *value);
static void explain(const KsTransfer *transfer, CURLcode code, KsAnswer *outcome);
static void explain_timeout(const KsTransfer *transfer, KsAnswer *outcome);
static void explain_mail(const KsTransfer *transfer, CURLcode code, KsAnswer *outcome);

void
ks_transfer_finish(KsTransfer *transfer, CURLcode code, KsAnswer *outcome)
{
	CURL *easy = transfer->easy;
	long status = 0;
	char *address = NULL;
	char *content_type = NULL;

	/* What never began has no figures but those of the request before. */
	if (!transfer->is_started)
	{
		memset((char *) outcome + offsetof(KsAnswer, status), 0, sizeof(*outcome) - offsetof(KsAnswer, status));
		explain(transfer, code, outcome);
		return;
	}
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(easy, CURLINFO_PRIMARY_IP, &address);
	curl_easy_getinfo(easy, CURLINFO_CONTENT_TYPE, &content_type);
	outcome->status = status;
	outcome->stage = transfer->stage;
	outcome->http_version = http_version(easy);
	outcome->name_us = micros(easy, CURLINFO_NAMELOOKUP_TIME_T);
	outcome->connect_us = micros(easy, CURLINFO_CONNECT_TIME_T);
	outcome->tls_us = micros(easy, CURLINFO_APPCONNECT_TIME_T);
	outcome->first_byte_us = micros(easy, CURLINFO_STARTTRANSFER_TIME_T);
	outcome->total_us = micros(easy, CURLINFO_TOTAL_TIME_T);
	outcome->retry_after = retry_after(header(easy, "retry-after"));
	strlcpy(outcome->address, address != NULL ? address : "", sizeof(outcome->address));
	outcome->response = transfer->buffer;
	outcome->response_length = transfer->kept;
	outcome->response_size = transfer->read;
	outcome->content_type = as_text(content_type);
	outcome->cache_control = transfer->wants_cache_control ? as_text(header(easy, "cache-control")) : NULL;
	outcome->error = NULL;
	outcome->code = NULL;
	outcome->is_timeout = false;
	outcome->is_unreachable = false;
	if (code != CURLE_OK)
		explain(transfer, code, outcome);
}

/* 10, 11, 20, or 0 for any other. */
static int
http_version(CURL *easy)
{
	long version = 0;

	curl_easy_getinfo(easy, CURLINFO_HTTP_VERSION, &version);
	switch (version)
	{
		case CURL_HTTP_VERSION_1_0:
			return 10;
		case CURL_HTTP_VERSION_1_1:
			return 11;
		case CURL_HTTP_VERSION_2_0:
			return 20;
		default:
			return 0;
	}
}

static int
micros(CURL *easy, CURLINFO info)
{
	curl_off_t value = 0;

	curl_easy_getinfo(easy, info, &value);
	return (int) Min(value, PG_INT32_MAX);
}

/* A header field of the response, or NULL. */
static const char *
header(CURL *easy, const char *name)
{
	struct curl_header *found;

	return curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &found) == CURLHE_OK ? found->value : NULL;
}

/* What the database takes as text; NULL for other bytes, which a receiver may send in a header field. */
static const char *
as_text(const char *value)
{
	return value != NULL && pg_verify_mbstr(GetDatabaseEncoding(), value, strlen(value), true) ? value : NULL;
}

/* The seconds that a receiver asks for, by number or date. Newer versions of libcurl say six hours where it is more. */
static int
retry_after(const char *value)
{
	int64 seconds;
	time_t at;

	if (value == NULL || value[0] == '\0')
		return 0;
	if (strspn(value, "0123456789") == strlen(value))
		seconds = strtoll(value, NULL, 10);
	else
	{
		at = curl_getdate(value, NULL);
		seconds = at == -1 ? 0 : (int64) at - (int64) time(NULL);
	}
	return (int) Min(Max(seconds, 0), PG_INT32_MAX);
}

/* Say in our words why there is no whole response: stable, and without what lies inside our network. */
static void
explain(const KsTransfer *transfer, CURLcode code, KsAnswer *outcome)
{
	outcome->code = "failed";
	outcome->error = "the request failed";
	if (transfer->is_blocked)
	{
		outcome->code = "blocked";
		outcome->error = "the address is private, local or reserved, or its port is not allowed";
		outcome->address[0] = '\0';
		outcome->status = 0;
		outcome->is_unreachable = true;
		return;
	}
	if (transfer->is_too_large)
	{
		/* The status has come and counts; nobody needs so much of the rest. */
		outcome->code = outcome->status >= 200 && outcome->status < 300 ? NULL : "too_large";
		outcome->error = outcome->code == NULL ? NULL : "the response was larger than is taken";
		return;
	}
	if (code == CURLE_OPERATION_TIMEDOUT)
	{
		explain_timeout(transfer, outcome);
		return;
	}
	for (int i = 0; i < lengthof(known); i++)
		if (known[i].code == code)
		{
			outcome->code = known[i].name;
			outcome->error = known[i].text;
			outcome->is_unreachable = known[i].is_unreachable;
		}
	if (transfer->kind == KS_TRANSFER_MAIL)
		explain_mail(transfer, code, outcome);
	else
		outcome->status = 0;
}

static void
explain_timeout(const KsTransfer *transfer, KsAnswer *outcome)
{
	outcome->code = "timeout";
	outcome->is_timeout = true;
	outcome->is_unreachable = !transfer->is_connected;
	outcome->error = !transfer->is_named ? "the host name was not resolved in time"
					 : !transfer->is_connected
						 ? "no connection was made in time"
						 : "there was no complete response in time";
	/* A response that never ended is none, whatever it began with. */
	outcome->status = 0;
}

/* A mail server's refusal has a number; without one of those its last reply tells nothing of the end. */
static void
explain_mail(const KsTransfer *transfer, CURLcode code, KsAnswer *outcome)
{
	if (code == CURLE_USE_SSL_FAILED)
	{
		outcome->code = "tls";
		outcome->error = "the mail server offers no TLS";
	}
	else if (code != CURLE_LOGIN_DENIED && outcome->status >= 400 && outcome->status <= 599)
	{
		outcome->code = outcome->status < 500 ? "deferred" : "rejected";
		outcome->error = outcome->status < 500 ? "the mail server asks to try again later"
						 : transfer->stage < KS_MAIL_RECIPIENT
							 ? "the mail server refuses to take mail from us"
							 : "the mail server refuses the mail";
	}
	else
		outcome->status = 0;
}
