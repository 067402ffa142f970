/*
 * transfer.h
 *	  One request to the outside by libcurl: HTTP or SMTP, with our guards on it.
 *
 * A transfer belongs to a process that drives it, by multi.c in a courier or
 * by ks_transfer_perform() where somebody waits for the reply. libcurl's
 * memory is malloc's; nothing is palloc-ed or raised inside its callbacks.
 */
#ifndef KS_TRANSFER_H
#define KS_TRANSFER_H

#include "postgres.h"

#include <curl/curl.h>

#include "utils/timestamp.h"

#define KS_RESPONSE_READ (64 * 1024)
#define KS_RESPONSE_KEPT (16 * 1024)
#define KS_ADDRESS_LENGTH 64

/* How far a mail has come: what a refusal is about. */
typedef enum KsMailStage
{
	KS_MAIL_GREETING, /* connecting, TLS, login */
	KS_MAIL_SENDER,
	KS_MAIL_RECIPIENT,
	KS_MAIL_TEXT
} KsMailStage;

/* What is to be sent. Its memory must live until the transfer has ended. */
typedef struct KsRequest
{
	const char *refusal;      /* why there is nothing to send, else NULL */
	const char *url;          /* as ks_url_check() has accepted it; for mail smtp:// or smtps:// */
	const char *method;       /* NULL: POST with a body, else GET */
	struct curl_slist *lines; /* header fields, "Name: value", by ks_request_header() */
	const char *body;
	size_t body_length;
	int timeout_ms;           /* of all of it; 0: the setting */
	size_t response_read;     /* bytes of the response that are read at most; 0: KS_RESPONSE_READ */
	size_t response_kept;     /* bytes of the response that are kept; 0: KS_RESPONSE_KEPT */
	bool wants_cache_control; /* the outcome tells that field */
	bool is_trusted;          /* the operator's own target: private addresses and ports are allowed */
	const char *mail_from;    /* of mail: the envelope; NULL for HTTP */
	const char *mail_to;
	bool is_tls_optional; /* of mail: to go on without TLS where the server offers none */
	const char *user;
	const char *password;
} KsRequest;

/* What came of it. */
typedef struct KsAnswer
{
	TimestampTz started_at;
	int status;          /* HTTP's, or SMTP's last reply; 0 without one */
	KsMailStage stage;   /* of mail: what the last reply was about */
	const char *error;   /* why it failed where that is no status, else NULL; static or in the owner's memory */
	const char *code;    /* the same for programs: timeout, dns, connect, tls, blocked, too_large, … */
	bool is_timeout;     /* nobody answered in time */
	bool is_unreachable; /* no connection came about */
	int http_version;    /* 10, 11, 20, or 0 */
	int name_us;         /* since the start, 0 where it was not needed: the name was known, … */
	int connect_us;      /* … the connection made, … */
	int tls_us;          /* … its TLS agreed on, … */
	int first_byte_us;   /* … and the first byte of the response came */
	int total_us;
	int retry_after;                 /* seconds that the receiver asks for, 0: none */
	char address[KS_ADDRESS_LENGTH]; /* that the connection went to */
	const char *response;            /* the kept part of the body, or SMTP's last reply, not terminated; lives until the transfer is used again */
	size_t response_length;
	size_t response_size;      /* of all that was read */
	const char *content_type;  /* as long as the response */
	const char *cache_control; /* the same, where the request wants it */
} KsAnswer;

/* What a transfer's handle is set up for. */
typedef enum KsTransferKind
{
	KS_TRANSFER_NOTHING,
	KS_TRANSFER_HTTP,
	KS_TRANSFER_MAIL
} KsTransferKind;

/* A reusable transfer; everything in it is malloc's. */
typedef struct KsTransfer
{
	CURL *easy;
	char *buffer; /* of the response */
	size_t buffer_size;
	size_t kept;
	size_t kept_most;
	size_t read;
	size_t read_most;
	bool is_trusted;
	bool wants_cache_control;
	bool is_started;   /* handed to libcurl since it was prepared */
	bool is_blocked;   /* the guard has refused the address */
	bool is_too_large; /* the response was cut off */
	bool is_connected; /* the request went out, over a new connection or an old one */
	bool is_named;     /* the name was resolved, or needed no resolving */
	KsTransferKind kind;
	char ca_file[MAXPGPATH]; /* keelson.courier_ca_file, as it is set up for */
	const char *upload;
	size_t upload_left;
	KsMailStage stage;
	bool is_leaving; /* of mail: it was told that we go */
	char error[CURL_ERROR_SIZE];
	struct curl_slist *recipient;
	void *owner; /* whoever drives it */
} KsTransfer;

/* Set libcurl up in this process; in a process that sends, never in the postmaster. */
extern void ks_transfer_global_init(void);

extern KsTransfer *ks_transfer_create(void);

/* Make the handle ready for the request. False: libcurl is out of memory. */
extern bool ks_transfer_prepare(KsTransfer *transfer, const KsRequest *request);

/* Tell what came of it, once libcurl says that it has ended so. */
extern void ks_transfer_finish(KsTransfer *transfer, CURLcode code, KsAnswer *outcome);

/*
 * Send and wait, in any backend; interrupts are served. The outcome's strings
 * are palloc-ed. Not to be called by whoever holds locks or has written.
 */
extern void ks_transfer_perform(const KsRequest *request, KsAnswer *outcome);

/* Add a header field; raises an error for one that could break out of its line. */
extern void ks_request_header(KsRequest *request, const char *name, const char *value);

#endif /* KS_TRANSFER_H */
