/*
 * transfer.c
 *	  Setting up an easy handle for a request, and sending one while somebody
 *	  waits.
 *
 * What never differs is set once per handle: no redirects, no proxy of the
 * environment, no .netrc, no cookies, TLS verified, no signals, quick exit from
 * resolver threads. Callbacks write malloc'd memory, answer by return values,
 * and neither raise errors nor palloc: a longjmp through libcurl would leave it
 * undefined.
 *
 * The guard sits in two callbacks: for the socket of a new connection, with the
 * very address that will be connected to, and before a request on any
 * connection, for those that are used again.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#include "core/error.h"
#include "core/guc.h"
#include "core/signals.h"
#include "courier/guard.h"
#include "courier/transfer.h"

#define CONNECT_TIMEOUT_MS 10000
#define CONNECTION_SECONDS 300
/* How long certificates of authorities are good that were read from their file. */
#define CA_SECONDS 300
#define MAX_HEADER_LINE 8192
#define MAIL_IDLE_SECONDS 30
#define MAX_REPLY_LINE 512

static void free_transfer(KsTransfer *transfer);
static bool set_up(KsTransfer *transfer, KsTransferKind kind);
static bool prepare_http(KsTransfer *transfer, const KsRequest *request);
static bool prepare_mail(KsTransfer *transfer, const KsRequest *request);
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
static int check_connection(void *arg, char *remote, char *local, int remote_port, int local_port);
static size_t take_response(char *data, size_t size, size_t count, void *arg);
static size_t give_upload(char *out, size_t size, size_t count, void *arg);
static int follow_mail(CURL *easy, curl_infotype type, char *data, size_t size, void *arg);
static bool keep(KsTransfer *transfer, const char *data, size_t len);
static void perform(KsTransfer *transfer, CURLM *multi, CURLcode *code);
static void copy_outcome(KsAnswer *outcome);

void
ks_transfer_global_init(void)
{
	static bool done = false;
	sigset_t saved;

	if (done)
		return;
	/* A resolver thread that gets no answer must not keep what waits for it for long. */
	setenv("RES_OPTIONS", "timeout:2 attempts:2", 0);
	ks_signals_block(&saved);
	if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
	{
		ks_signals_restore(&saved);
		elog(ERROR, "could not start libcurl");
	}
	ks_signals_restore(&saved);
	done = true;
}

KsTransfer *
ks_transfer_create(void)
{
	KsTransfer *transfer = calloc(1, sizeof(KsTransfer));

	if (transfer == NULL)
		return NULL;
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL)
	{
		free(transfer);
		return NULL;
	}
	return transfer;
}

static void
free_transfer(KsTransfer *transfer)
{
	curl_easy_cleanup(transfer->easy);
	curl_slist_free_all(transfer->recipient);
	free(transfer->buffer);
	free(transfer);
}

bool
ks_transfer_prepare(KsTransfer *transfer, const KsRequest *request)
{
	CURL *easy = transfer->easy;
	KsTransferKind kind = request->mail_from != NULL ? KS_TRANSFER_MAIL : KS_TRANSFER_HTTP;
	int timeout_ms = request->timeout_ms > 0 ? request->timeout_ms : ks_guc_courier_timeout * 1000;

	if ((transfer->kind != kind || strcmp(transfer->ca_file, ks_guc_courier_ca_file) != 0) && !set_up(transfer, kind))
		return false;
	transfer->kept = 0;
	transfer->read = 0;
	transfer->read_most = request->response_read > 0 ? request->response_read : KS_RESPONSE_READ;
	transfer->kept_most = request->response_kept > 0 ? Min(request->response_kept, transfer->read_most) : KS_RESPONSE_KEPT;
	transfer->is_trusted = request->is_trusted;
	transfer->wants_cache_control = request->wants_cache_control;
	transfer->is_blocked = false;
	transfer->is_too_large = false;
	transfer->is_named = false;
	transfer->is_connected = false;
	transfer->is_started = false;
	transfer->is_leaving = false;
	transfer->stage = KS_MAIL_GREETING;
	transfer->error[0] = '\0';
	if (curl_easy_setopt(easy, CURLOPT_URL, request->url) != CURLE_OK)
		return false;
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) timeout_ms);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) Min(timeout_ms, CONNECT_TIMEOUT_MS));
	return kind == KS_TRANSFER_MAIL ? prepare_mail(transfer, request) : prepare_http(transfer, request);
}

/* What never differs between requests of a kind. */
static bool
set_up(KsTransfer *transfer, KsTransferKind kind)
{
	CURL *easy = transfer->easy;

	curl_easy_reset(easy);
	transfer->kind = KS_TRANSFER_NOTHING;
	if (curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, kind == KS_TRANSFER_MAIL ? "smtp,smtps" : "http,https") != CURLE_OK ||
		curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "https") != CURLE_OK ||
		curl_easy_setopt(easy, CURLOPT_PROXY, "") != CURLE_OK ||
		curl_easy_setopt(easy, CURLOPT_USERAGENT, "Keelson/1.0") != CURLE_OK)
		return false;
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 1L);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	strlcpy(transfer->ca_file, ks_guc_courier_ca_file, sizeof(transfer->ca_file));
	if (transfer->ca_file[0] != '\0')
		curl_easy_setopt(easy, CURLOPT_CAINFO, transfer->ca_file);
	curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, (long) CA_SECONDS);
	curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long) CURLAUTH_NONE);
	curl_easy_setopt(easy, CURLOPT_MAXLIFETIME_CONN, (long) CONNECTION_SECONDS);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, check_connection);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_response);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_READFUNCTION, give_upload);
	curl_easy_setopt(easy, CURLOPT_READDATA, transfer);
	transfer->kind = kind;
	return true;
}

static bool
prepare_http(KsTransfer *transfer, const KsRequest *request)
{
	CURL *easy = transfer->easy;
	bool is_tls = pg_strncasecmp(request->url, "https:", 6) == 0;

	/* HTTP/2 where TLS offers it: then wait for the connection that is being made rather than open more. */
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) (is_tls ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
	curl_easy_setopt(easy, CURLOPT_PIPEWAIT, is_tls ? 1L : 0L);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->lines);
	if (request->body != NULL)
	{
		curl_easy_setopt(easy, CURLOPT_POST, 1L);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_length);
	}
	else
	{
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, NULL);
		curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
	}
	return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method) == CURLE_OK;
}

/* One recipient each: libcurl tells the last reply alone. */
static bool
prepare_mail(KsTransfer *transfer, const KsRequest *request)
{
	CURL *easy = transfer->easy;

	curl_slist_free_all(transfer->recipient);
	transfer->recipient = curl_slist_append(NULL, request->mail_to);
	transfer->upload = request->body;
	transfer->upload_left = request->body_length;
	curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
	curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t) request->body_length);
	curl_easy_setopt(easy, CURLOPT_USE_SSL, (long) (request->is_tls_optional ? CURLUSESSL_TRY : CURLUSESSL_ALL));
	/* Mail servers hang up on who is idle, and a mail's text is not sent twice by libcurl. */
	curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long) MAIL_IDLE_SECONDS);
	/* Whatever way to log in both sides know; HTTP's setting is that of SMTP too. */
	curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long) CURLAUTH_BASIC);
	curl_easy_setopt(easy, CURLOPT_DEBUGFUNCTION, follow_mail);
	curl_easy_setopt(easy, CURLOPT_DEBUGDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_VERBOSE, 1L);
	return transfer->recipient != NULL &&
		   curl_easy_setopt(easy, CURLOPT_MAIL_FROM, request->mail_from) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_MAIL_RCPT, transfer->recipient) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_USERNAME, request->user) == CURLE_OK &&
		   curl_easy_setopt(easy, CURLOPT_PASSWORD, request->password) == CURLE_OK;
}

/* libcurl's callback: a socket for a new connection, if it may be made. */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	KsTransfer *transfer = arg;

	transfer->is_named = true;
	if (!ks_guard_allows(&address->addr, transfer->is_trusted))
	{
		transfer->is_blocked = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* libcurl's callback: a request is about to go out on a connection, perhaps an old one. */
static int
check_connection(void *arg, char *remote, char *local, int remote_port, int local_port)
{
	KsTransfer *transfer = arg;

	transfer->is_named = true;
	if (ks_guard_allows_text(remote, remote_port, transfer->is_trusted))
	{
		transfer->is_connected = true;
		return CURL_PREREQFUNC_OK;
	}
	transfer->is_blocked = true;
	return CURL_PREREQFUNC_ABORT;
}

/* libcurl's callback: a part of the response. */
static size_t
take_response(char *data, size_t size, size_t count, void *arg)
{
	KsTransfer *transfer = arg;
	size_t len = size * count;

	if (!keep(transfer, data, Min(len, transfer->kept_most - transfer->kept)))
		return 0;
	transfer->read += len;
	if (transfer->read > transfer->read_most)
	{
		transfer->is_too_large = true;
		return 0;
	}
	return len;
}

/* Add to what is kept; false without memory. */
static bool
keep(KsTransfer *transfer, const char *data, size_t len)
{
	if (len == 0)
		return true;
	if (transfer->kept + len > transfer->buffer_size)
	{
		size_t wanted = Max(transfer->kept + len, 1024);
		char *larger = realloc(transfer->buffer, wanted);

		if (larger == NULL)
			return false;
		transfer->buffer = larger;
		transfer->buffer_size = wanted;
	}
	memcpy(transfer->buffer + transfer->kept, data, len);
	transfer->kept += len;
	return true;
}

/* libcurl's callback: a part of the mail. */
static size_t
give_upload(char *out, size_t size, size_t count, void *arg)
{
	KsTransfer *transfer = arg;
	size_t len = Min(size * count, transfer->upload_left);

	memcpy(out, transfer->upload, len);
	transfer->upload += len;
	transfer->upload_left -= len;
	return len;
}

/*
 * libcurl's callback: what goes over the wire. Of what we say only how far we
 * are, since a login is among it; of what the server says the last reply.
 */
static int
follow_mail(CURL *easy, curl_infotype type, char *data, size_t size, void *arg)
{
	static const struct
	{
		const char *command;
		KsMailStage stage;
	} stages[] = {{"MAIL FROM:", KS_MAIL_SENDER}, {"RCPT TO:", KS_MAIL_RECIPIENT}, {"DATA", KS_MAIL_TEXT}};
	KsTransfer *transfer = arg;

	if (type == CURLINFO_HEADER_OUT)
	{
		/* What is answered to that tells nothing of the mail. */
		transfer->is_leaving = size >= 4 && memcmp(data, "QUIT", 4) == 0;
		for (int i = 0; i < lengthof(stages); i++)
			if (size >= strlen(stages[i].command) && memcmp(data, stages[i].command, strlen(stages[i].command)) == 0)
				transfer->stage = stages[i].stage;
	}
	else if (type == CURLINFO_HEADER_IN && !transfer->is_leaving)
	{
		while (size > 0 && (data[size - 1] == '\r' || data[size - 1] == '\n'))
			size--;
		transfer->kept = 0;
		(void) keep(transfer, data, Min(size, MAX_REPLY_LINE));
	}
	return 0;
}

void
ks_request_header(KsRequest *request, const char *name, const char *value)
{
	struct curl_slist *line;
	struct curl_slist **last = &request->lines;

	if (name[0] == '\0' || strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~") != strlen(name))
		ks_raise(400, "VALIDATION_FAILED", NULL, "a header field's name has letters, digits and hyphens");
	for (const unsigned char *c = (const unsigned char *) value; *c != '\0'; c++)
		if ((*c < ' ' && *c != '\t') || *c == 0x7f)
			ks_raise(400, "VALIDATION_FAILED", NULL, "a header field's value has no control characters");
	if (strlen(name) + strlen(value) > MAX_HEADER_LINE)
		ks_raise(400, "VALIDATION_FAILED", NULL, "a header field has at most %d bytes", MAX_HEADER_LINE);
	/* libcurl only reads the list: it may be palloc's. "Name;" is how it is told of an empty value. */
	line = palloc(sizeof(*line));
	line->data = value[0] == '\0' ? psprintf("%s;", name) : psprintf("%s: %s", name, value);
	line->next = NULL;
	while (*last != NULL)
		last = &(*last)->next;
	*last = line;
}

void
ks_transfer_perform(const KsRequest *request, KsAnswer *outcome)
{
	KsTransfer *volatile transfer = NULL;
	CURLM *volatile multi = NULL;
	CURLcode code = CURLE_OUT_OF_MEMORY;

	memset(outcome, 0, sizeof(*outcome));
	outcome->started_at = GetCurrentTimestamp();
	if (request->refusal != NULL)
	{
		outcome->error = request->refusal;
		outcome->code = "refused";
		return;
	}
	ks_transfer_global_init();
	PG_TRY();
	{
		transfer = ks_transfer_create();
		multi = curl_multi_init();
		if (transfer == NULL || multi == NULL || !ks_transfer_prepare(transfer, request))
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory")));
		perform(transfer, multi, &code);
		ks_transfer_finish(transfer, code, outcome);
		copy_outcome(outcome);
	}
	PG_FINALLY();
	{
		if (transfer != NULL)
			free_transfer(transfer);
		if (multi != NULL)
			curl_multi_cleanup(multi);
	}
	PG_END_TRY();
}

/* Drive the one transfer to its end, at libcurl's pace and never longer than a moment without looking at interrupts. */
static void
perform(KsTransfer *transfer, CURLM *multi, CURLcode *code)
{
	sigset_t saved;
	CURLMsg *message;
	int running = 1;
	int left;

	transfer->is_started = true;
	ks_signals_block(&saved);
	curl_multi_add_handle(multi, transfer->easy);
	while (running > 0)
	{
		curl_multi_perform(multi, &running);
		if (running > 0)
			curl_multi_poll(multi, NULL, 0, 50, NULL);
		ks_signals_restore(&saved);
		/* An error frees the handle, which takes it out of the multi handle first. */
		CHECK_FOR_INTERRUPTS();
		ks_signals_block(&saved);
	}
	message = curl_multi_info_read(multi, &left);
	*code = message != NULL && message->msg == CURLMSG_DONE ? message->data.result : CURLE_FAILED_INIT;
	curl_multi_remove_handle(multi, transfer->easy);
	ks_signals_restore(&saved);
}

/* Bring what belongs to the transfer into memory of the caller's. */
static void
copy_outcome(KsAnswer *outcome)
{
	char *response = palloc(outcome->response_length + 1);

	if (outcome->response_length > 0)
		memcpy(response, outcome->response, outcome->response_length);
	response[outcome->response_length] = '\0';
	outcome->response = response;
	if (outcome->content_type != NULL)
		outcome->content_type = pstrdup(outcome->content_type);
	if (outcome->cache_control != NULL)
		outcome->cache_control = pstrdup(outcome->cache_control);
}
