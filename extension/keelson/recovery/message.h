/*
 * message.h
 *	  A mail as it goes over the wire (RFC 5322, MIME).
 */
#ifndef KS_MESSAGE_H
#define KS_MESSAGE_H

#include "postgres.h"

#include "utils/timestamp.h"

/* What a mail is made of. All strings are UTF-8; the optional ones may be NULL. */
typedef struct KsMessage
{
	const char *from_name; /* optional */
	const char *from;
	const char *to;
	const char *subject;
	const char *message_id;
	const char *unsubscribe_url; /* optional: the mail can be unsubscribed from */
	const char *text;
	const char *html; /* optional */
	TimestampTz created_at;
} KsMessage;

/*
 * The mail, palloc-ed: the same bytes whenever it is made of the same.
 * Raises an error when something that becomes a header holds a control
 * character: no value can add a header or a recipient.
 */
extern char *ks_message_format(const KsMessage *message, size_t *length);

#endif /* KS_MESSAGE_H */
