/*
 * reply.h
 *	  The reply to a request, as it grows.
 */
#ifndef KS_REPLY_H
#define KS_REPLY_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "utils/jsonb.h"

typedef struct KsHeader
{
	const char *name;
	JsonbValue value;
} KsHeader;

typedef struct KsPage KsPage;

typedef struct KsReply
{
	int status; /* 0 while there is no reply */
	KsHeader *headers;
	int header_count;
	int header_room;
	bytea *body; /* NULL for none */

	KsPage *page; /* NULL for none */
} KsReply;

/* Set a header; the strings must live as long as the reply. The latest word holds. */
extern void ks_reply_header(KsReply *reply, const char *name, const char *value);

/* Set a header for the gateway that is true. */
extern void ks_reply_flag(KsReply *reply, const char *name);

/* Take over the headers of a jsonb object; NULL for none. */
extern void ks_reply_headers(KsReply *reply, Jsonb *headers);

/* The headers as an object; NULL when there are none. */
extern Jsonb *ks_reply_headers_jsonb(const KsReply *reply);

/*
 * Make it a refusal: an error with a code and a message for a person. Returns
 * false, so that a step can return what this returns.
 */
extern bool ks_reply_refuse(KsReply *reply, int status, const char *code, const char *message);

/* The same with the elements of the array "details". */
extern bool ks_reply_refuse_details(KsReply *reply, int status, const char *code, const char *message, const char *details);

/* Begin a refusal's body: an object that lacks its closing brace. */
extern void ks_refusal_begin(StringInfo out, const char *code, const char *message);

/* The code that a refusal's body names, NULL when it names none. */
extern const char *ks_reply_code(const KsReply *reply);

/* The reply as a row of type keelson.reply, and back. */
extern Datum ks_reply_datum(const KsReply *reply, TupleDesc desc);
extern void ks_reply_take(KsReply *reply, Datum row);

#endif /* KS_REPLY_H */
