/*
 * message.c
 *	  Writing a mail: headers by RFC 5322 and 2047, bodies by RFC 2045
 *	  (quoted-printable), text and HTML as multipart/alternative.
 *
 * Everything is ASCII, in lines that end in CR LF; addresses are so already
 * (keelson.email_address). libcurl doubles dots at the beginning of lines.
 */
#include "postgres.h"

#include "common/base64.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"

#include "recovery/message.h"

#define LINE_LENGTH 76
/* What fits into a line with an encoded word, after the header's name. */
#define WORD_BYTES 39
#define WORD_LENGTH (WORD_BYTES / 3 * 4)

static void add_header(StringInfo out, const char *name, const char *value);
static void require_line(const char *value);
static char *quoted_name(const char *name);
static char *encoded_words(const char *value);
static bool is_plain(const char *value);
static char *date_of(TimestampTz at);
static void add_body(StringInfo out, const char *type, const char *body);
static void add_quoted(StringInfo out, const char *body);
static bool is_literal(const char *at);

char *
ks_message_format(const KsMessage *message, size_t *length)
{
	StringInfoData out;
	char *boundary;

	initStringInfo(&out);
	add_header(&out, "Date", date_of(message->created_at));
	add_header(&out, "From", message->from_name == NULL ? message->from : psprintf("%s <%s>", quoted_name(message->from_name), message->from));
	add_header(&out, "To", psprintf("<%s>", message->to));
	add_header(&out, "Message-ID", message->message_id);
	require_line(message->subject);
	add_header(&out, "Subject", is_plain(message->subject) ? message->subject : encoded_words(message->subject));
	if (message->unsubscribe_url != NULL)
	{
		add_header(&out, "List-Unsubscribe", psprintf("<%s>", message->unsubscribe_url));
		add_header(&out, "List-Unsubscribe-Post", "List-Unsubscribe=One-Click");
	}
	else
		/* Nobody's holiday is to be answered to a notice; what can be unsubscribed from is no notice. */
		add_header(&out, "Auto-Submitted", "auto-generated");
	add_header(&out, "MIME-Version", "1.0");
	if (message->html == NULL)
	{
		add_body(&out, "text/plain", message->text);
		*length = out.len;
		return out.data;
	}
	/* Quoted-printable never holds "=_". */
	boundary = psprintf("=_%.36s", message->message_id + 1);
	add_header(&out, "Content-Type", psprintf("multipart/alternative;\r\n boundary=\"%s\"", boundary));
	appendStringInfo(&out, "\r\n--%s\r\n", boundary);
	add_body(&out, "text/plain", message->text);
	appendStringInfo(&out, "\r\n--%s\r\n", boundary);
	add_body(&out, "text/html", message->html);
	appendStringInfo(&out, "\r\n--%s--\r\n", boundary);
	*length = out.len;
	return out.data;
}

/* A value may be folded by us alone: a line break that is followed by a blank. */
static void
add_header(StringInfo out, const char *name, const char *value)
{
	const char *rest = value;
	const char *fold;

	while ((fold = strstr(rest, "\r\n ")) != NULL)
	{
		require_line(pnstrdup(rest, fold - rest));
		rest = fold + 3;
	}
	require_line(rest);
	appendStringInfo(out, "%s: %s\r\n", name, value);
}

static void
require_line(const char *value)
{
	for (const unsigned char *c = (const unsigned char *) value; *c != '\0'; c++)
		if (*c < ' ' || *c == 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a header of a mail holds a control character")));
}

/* A display name as a quoted string, or as encoded words. */
static char *
quoted_name(const char *name)
{
	StringInfoData out;

	require_line(name);
	if (!is_plain(name))
		return encoded_words(name);
	initStringInfo(&out);
	appendStringInfoChar(&out, '"');
	for (const char *c = name; *c != '\0'; c++)
	{
		if (*c == '"' || *c == '\\')
			appendStringInfoChar(&out, '\\');
		appendStringInfoChar(&out, *c);
	}
	appendStringInfoChar(&out, '"');
	return out.data;
}

/* May the value stand as it is: short, ASCII, and nothing that reads as an encoded word? */
static bool
is_plain(const char *value)
{
	for (const unsigned char *c = (const unsigned char *) value; *c != '\0'; c++)
		if (*c > '~')
			return false;
	return strlen(value) <= LINE_LENGTH - 10 && strstr(value, "=?") == NULL;
}

/* The value by RFC 2047, a word per line, cut between characters. */
static char *
encoded_words(const char *value)
{
	const char *at = value;
	StringInfoData out;

	initStringInfo(&out);
	while (*at != '\0')
	{
		char word[WORD_LENGTH + 1];
		int len = pg_encoding_mbcliplen(PG_UTF8, at, strlen(at), WORD_BYTES);
		int encoded = pg_b64_encode(at, len, word, sizeof(word));

		if (len <= 0 || encoded < 0)
			elog(ERROR, "a header of a mail could not be encoded");
		appendStringInfo(&out, "%s=?UTF-8?B?%.*s?=", out.len > 0 ? "\r\n " : "", encoded, word);
		at += len;
	}
	return out.data;
}

/* In UTC, since a mail is nobody's local matter. */
static char *
date_of(TimestampTz at)
{
	static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
	static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	pg_time_t seconds = timestamptz_to_time_t(at);
	struct pg_tm *tm = pg_gmtime(&seconds);

	if (tm == NULL)
		elog(ERROR, "a mail has no time");
	return psprintf("%s, %02d %s %04d %02d:%02d:%02d +0000", days[tm->tm_wday], tm->tm_mday, months[tm->tm_mon],
					tm->tm_year + 1900, tm->tm_hour, tm->tm_min, tm->tm_sec);
}

/* A part: its headers, an empty line, the body. */
static void
add_body(StringInfo out, const char *type, const char *body)
{
	add_header(out, "Content-Type", psprintf("%s; charset=utf-8", type));
	add_header(out, "Content-Transfer-Encoding", "quoted-printable");
	appendStringInfoString(out, "\r\n");
	add_quoted(out, body);
	appendStringInfoString(out, "\r\n");
}

/* Quoted-printable (RFC 2045, 6.7). Line breaks of any kind become CR LF. */
static void
add_quoted(StringInfo out, const char *body)
{
	int column = 0;

	for (const char *c = body; *c != '\0'; c++)
	{
		if (*c == '\n' || *c == '\r')
		{
			if (*c == '\r' && c[1] == '\n')
				c++;
			appendStringInfoString(out, "\r\n");
			column = 0;
			continue;
		}
		if (column + 3 > LINE_LENGTH - 1)
		{
			appendStringInfoString(out, "=\r\n");
			column = 0;
		}
		if (is_literal(c))
		{
			appendStringInfoChar(out, *c);
			column++;
		}
		else
		{
			appendStringInfo(out, "=%02X", (unsigned char) *c);
			column += 3;
		}
	}
}

/* Does the character stand for itself? A blank does not at the end of a line. */
static bool
is_literal(const char *at)
{
	if (*at == ' ' || *at == '\t')
		return at[1] != '\0' && at[1] != '\r' && at[1] != '\n';
	return *at > ' ' && *at <= '~' && *at != '=';
}
