/*
 * texts.c
 *	  Fuzzes the reading of what outsiders write: JSON, values, URLs, pictures,
 *	  globs; and the writing of mails.
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/uuid.h"
#include "courier/guard.h"
#include "dispatch/json_in.h"
#include "dispatch/scalar_in.h"
#include "identity/image.h"
#include "recovery/message.h"
#include "secrets/jose_json.h"
#include "targets.h"
#include "webhooks/glob.h"

/* Of the gateway (json.h), which is linked in. */
bool gw_json_check(const char *body, size_t len, const char **reason, size_t *offset);

static void walk(const KsJson *value, int depth);
static void check_url(const char *url);
static const char *host_of(const char *url, size_t *len);
static bool is_inside(const char *host);
static bool matches(const char *glob, size_t glob_len, const char *name, size_t len);

/*
 * The gateway and the database read JSON alike: what one takes the other takes,
 * and the server's jsonb takes it then too. What tokens may hold is less.
 */
void
fuzz_json_agreement(const uint8 *data, size_t size)
{
	const char *text = (const char *) data;
	const char *reason;
	size_t offset;
	bool is_good;
	Jsonb *object;

	is_good = gw_json_check(text, size, &reason, &offset);
	REQUIRE(is_good == (ks_json_check(text, (int) size) == NULL));
	object = ks_json_object(text, size);
	REQUIRE(object == NULL || is_good);
	if (is_good)
	{
		KsJson value = ks_json_value(text, (int) size);

		walk(&value, 0);
	}
}

static void
walk(const KsJson *value, int depth)
{
	KsJsonCursor cursor;
	KsJson name;
	KsJson member;

	REQUIRE(depth <= KS_JSON_MAX_DEPTH);
	switch (value->kind)
	{
		case KS_JSON_STRING:
			REQUIRE(ks_json_unescape(value) != NULL && ks_json_shown(value) != NULL);
			REQUIRE(ks_json_equals(value, ks_json_unescape(value), (int) strlen(ks_json_unescape(value))));
			break;
		case KS_JSON_ARRAY:
			for (cursor = ks_json_open(value); ks_json_next_element(&cursor, &member);)
				walk(&member, depth + 1);
			break;
		case KS_JSON_OBJECT:
			for (cursor = ks_json_open(value); ks_json_next_member(&cursor, &name, &member);)
			{
				REQUIRE(name.kind == KS_JSON_STRING);
				walk(&member, depth + 1);
			}
			break;
		default:
			break;
	}
}

/* What was read says the same when it is written and read again. */
void
fuzz_scalar(const uint8 *data, size_t size)
{
	const char *text = (const char *) data;
	int len = (int) size;
	int64 integer;
	double number;
	Datum numeric;
	pg_uuid_t uuid;
	TimestampTz moment;
	DateADT day;
	bool has_numeric;

	has_numeric = ks_read_numeric(text, len, &numeric) == KS_READ;
	if (ks_read_integer(text, len, PG_INT64_MIN, PG_INT64_MAX, &integer) == KS_READ && has_numeric)
		REQUIRE(DatumGetBool(DirectFunctionCall2(numeric_eq, numeric, DirectFunctionCall1(int8_numeric, Int64GetDatum(integer)))));
	if (ks_read_double(text, len, &number) == KS_READ)
		REQUIRE(number == number);
	if (ks_uuid_read(text, size, &uuid))
		REQUIRE(pg_strncasecmp(DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&uuid))), text, size) == 0);
	if (ks_read_timestamptz(text, len, &moment) == KS_READ)
	{
		char *shown = DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(moment)));
		Datum again = DirectFunctionCall3(timestamptz_in, CStringGetDatum(shown), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

		REQUIRE(DatumGetTimestampTz(again) == moment);
	}
	if (ks_read_date(text, len, &day) == KS_READ)
		REQUIRE(strncmp(DatumGetCString(DirectFunctionCall1(date_out, DateADTGetDatum(day))), text, size) == 0);
}

/* With and without private targets, which tests and development are allowed. */
void
fuzz_url(const uint8 *data, size_t size)
{
	char *url = pnstrdup((const char *) data, size);
	struct sockaddr_storage address = {0};

	ks_guc_environment = KS_PRODUCTION;
	ks_guc_allow_private_targets = false;
	check_url(url);
	(void) ks_guard_allows_text(url, 443, false);
	ks_guc_allow_private_targets = true;
	check_url(url);
	ks_guc_allow_private_targets = false;
	memcpy((char *) &address + sizeof(sa_family_t), data, Min(size, sizeof(address) - sizeof(sa_family_t)));
	address.ss_family = size % 2 == 0 ? AF_INET : AF_INET6;
	if (ks_guard_allows((struct sockaddr *) &address, false))
	{
		char shown[INET6_ADDRSTRLEN];

		inet_ntop(address.ss_family, size % 2 == 0 ? (void *) &((struct sockaddr_in *) &address)->sin_addr : (void *) &((struct sockaddr_in6 *) &address)->sin6_addr, shown, sizeof(shown));
		REQUIRE(!is_inside(shown));
	}
}

/* A good URL stays what it is, and by another reading than the guard's its host is none of ours. */
static void
check_url(const char *url)
{
	char *normal = NULL;
	char *again = NULL;
	const char *host;
	size_t len;

	if (ks_url_check(url, &normal) != NULL)
		return;
	REQUIRE(ks_url_check(normal, &again) == NULL && strcmp(normal, again) == 0);
	REQUIRE(strncmp(normal, "https://", 8) == 0 || (ks_guc_allow_private_targets && strncmp(normal, "http://", 7) == 0));
	host = host_of(normal, &len);
	REQUIRE(len > 0 && memchr(host, '@', len) == NULL);
	if (!ks_guc_allow_private_targets)
		REQUIRE(!is_inside(pnstrdup(host, len)));
}

static const char *
host_of(const char *url, size_t *len)
{
	const char *host = strstr(url, "://") + 3;

	if (host[0] == '[')
	{
		host++;
		*len = strcspn(host, "]");
	}
	else
		*len = strcspn(host, ":/?#");
	return host;
}

/* Loopback, private, link-local and the rest by their beginnings, and names without a dot. */
static bool
is_inside(const char *host)
{
	struct in_addr in4;
	struct in6_addr in6;

	if (inet_pton(AF_INET6, host, &in6) == 1)
	{
		if (!IN6_IS_ADDR_V4MAPPED(&in6))
			return IN6_IS_ADDR_LOOPBACK(&in6) || IN6_IS_ADDR_UNSPECIFIED(&in6) || IN6_IS_ADDR_LINKLOCAL(&in6) ||
				   IN6_IS_ADDR_SITELOCAL(&in6) || IN6_IS_ADDR_MULTICAST(&in6) || (in6.s6_addr[0] & 0xfe) == 0xfc;
		memcpy(&in4, in6.s6_addr + 12, sizeof(in4));
	}
	else if (inet_aton(host, &in4) == 0)
		return strchr(host, '.') == NULL || pg_strcasecmp(host, "localhost") == 0;
	in4.s_addr = ntohl(in4.s_addr);
	return in4.s_addr >> 24 == 127 || in4.s_addr >> 24 == 10 || in4.s_addr >> 24 == 0 || in4.s_addr >> 28 >= 14 ||
		   in4.s_addr >> 16 == 0xa9fe || in4.s_addr >> 16 == 0xc0a8 || in4.s_addr >> 20 == 0xac1 || in4.s_addr >> 22 == 0x191;
}

/* A picture has a size within bounds, and nothing stands behind it. */
void
fuzz_image(const uint8 *data, size_t size)
{
	KsImage image;
	uint8 *longer = palloc(size + 1);

	if (ks_image_read(data, size, &image) != NULL)
		return;
	REQUIRE(image.content_type != NULL && image.width > 0 && image.width <= 8192 && image.height > 0 && image.height <= 8192);
	memcpy(longer, data, size);
	longer[size] = '<';
	REQUIRE(ks_image_read(longer, size + 1, &image) != NULL);
	REQUIRE(size < 2 || ks_image_read(data, size - 1, &image) != NULL);
}

/* The glob stands before the first zero byte, the name behind it. */
void
fuzz_glob(const uint8 *data, size_t size)
{
	const char *glob = (const char *) data;
	const char *zero = memchr(glob, 0, size);
	size_t glob_len = zero != NULL ? (size_t) (zero - glob) : size / 2;
	const char *name = glob + glob_len + (zero != NULL ? 1 : 0);
	size_t len = (size_t) (glob + size - name);

	/* The plain way takes time beyond measure for long ones. */
	if (glob_len > 12 || len > 24)
		(void) ks_glob_matches(glob, glob_len, name, len);
	else
		REQUIRE(ks_glob_matches(glob, glob_len, name, len) == matches(glob, glob_len, name, len));
}

static bool
matches(const char *glob, size_t glob_len, const char *name, size_t len)
{
	if (glob_len == 0)
		return len == 0;
	if (*glob == '*')
		return matches(glob + 1, glob_len - 1, name, len) || (len > 0 && matches(glob, glob_len, name + 1, len - 1));
	return len > 0 && *glob == *name && matches(glob + 1, glob_len - 1, name + 1, len - 1);
}

typedef struct Mail
{
	KsMessage message;
	char *text;
	size_t len;
} Mail;

static void
format_mail(void *argument)
{
	Mail *mail = argument;

	mail->text = ks_message_format(&mail->message, &mail->len);
}

/* Name, subject and text, with a line break between. No value adds a header, and all lines are ASCII of bounded length. */
void
fuzz_mail(const uint8 *data, size_t size)
{
	char *values = pnstrdup((const char *) data, size);
	char *subject = strchr(values, '\n');
	char *body = subject != NULL ? strchr(subject + 1, '\n') : NULL;
	Mail mail = {{.from = "a@example.com", .to = "b@example.com", .message_id = "<0194e0a0-0000-7000-8000-000000000000@example.com>"}};
	int sqlstate;
	int headers = 0;

	if (body == NULL || pg_encoding_verifymbstr(PG_UTF8, values, (int) strlen(values)) != (int) strlen(values))
		return;
	*subject++ = '\0';
	*body++ = '\0';
	mail.message.from_name = *values != '\0' ? values : NULL;
	mail.message.subject = subject;
	mail.message.text = body;
	mail.message.html = size % 2 == 0 ? body : NULL;
	if (fuzz_raises(format_mail, &mail, &sqlstate))
	{
		REQUIRE(sqlstate == ERRCODE_INVALID_PARAMETER_VALUE);
		return;
	}
	for (const char *line = mail.text, *end; line < mail.text + mail.len; line = end + 2)
	{
		end = strstr(line, "\r\n");
		REQUIRE(end != NULL && end - line <= 998);
		for (const char *at = line; at < end; at++)
			REQUIRE((*at >= ' ' && *at <= '~') || *at == '\t');
		if (headers >= 0 && end == line)
		{
			REQUIRE(headers == (mail.message.html != NULL ? 8 : 9));
			headers = -1;
		}
		else if (headers >= 0 && *line != ' ')
			headers++;
	}
}
