/*
 * sanitise.c
 *	  Names and shapes of secrets and of personal data.
 *
 * Names are compared without case and punctuation, so that api_key, apiKey and
 * API-Key are one. Shapes are looked for at the beginning of each word of each
 * string, names included; only the word goes, not the sentence around it.
 * It errs on the side of taking out: the trail is not the place for secrets.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "audit/sanitise.h"

#define REDACTED "[redacted]"
#define MAX_NAME 64
#define MIN_CARD 13
#define MAX_CARD 19

/* What a name must not contain, and what it must not be. */
static const char *const secret_parts[] = {
	"password", "passwd", "passphrase", "passcode", "secret", "authorization", "cookie", "apikey", "accesskey",
	"privatekey", "signingkey", "encryptionkey", "credential", "cardnumber", "creditcard", "recoverycode", "bearer",
	"jwt", "csrf", "securitycode"};
static const char *const secret_names[] = {
	"pwd", "pass", "pin", "otp", "totp", "cvv", "cvc", "cvv2", "pan", "ssn", "iban", "auth", "key", "mnemonic", "seed"};

/* Counts of tokens are no tokens: of these names numbers stay. */
static const char *const token_parts[] = {"token"};

static const char *const personal_names[] = {
	"personal", "email", "emailaddress", "oldemail", "newemail", "previousemail", "mail", "name", "firstname",
	"lastname", "fullname", "displayname", "username", "nickname", "phone", "phonenumber", "mobile", "address",
	"street", "city", "zip", "zipcode", "postcode", "birthday", "birthdate", "dateofbirth", "gender", "ip",
	"ipaddress", "useragent", "latitude", "longitude", "location", "avatarurl"};

/* How a word begins that is a secret, and how long it is at least. */
typedef struct Shape
{
	const char *prefix;
	int min_length;
} Shape;

static const Shape shapes[] = {
	{"ks_", 12}, {"ksr_", 12}, {"ksd_", 12}, {"whsec_", 12}, {"sk-", 12}, {"sk_", 12}, {"rk_", 12}, {"pk_live_", 12}, {"gsk_", 12}, {"AIza", 20}, {"AKIA", 16}, {"ASIA", 16}, {"ghp_", 12}, {"gho_", 12}, {"ghs_", 12}, {"ghu_", 12}, {"github_pat_", 16}, {"glpat-", 12}, {"xoxb-", 12}, {"xoxp-", 12}, {"xoxa-", 12}, {"SG.", 20}, {"eyJ", 20}, {"$argon2", 12}, {"$2a$", 12}, {"$2b$", 12}, {"$2y$", 12}, {"-----BEGIN", 10}};

typedef struct Walk
{
	bool is_personal; /* something personal was met */
} Walk;

static JsonbValue *clean(Walk *walk, const char *name, int len, JsonbValue *value);
static JsonbValue *clean_container(Walk *walk, JsonbContainer *container);
static JsonbValue *clean_string(Walk *walk, JsonbValue *value);
static int normalise(const char *name, int len, char out[MAX_NAME]);
static bool contains(const char *name, const char *const *parts, int count);
static bool is_one_of(const char *name, const char *const *names, int count);
static bool is_secret_name(const char *name, const JsonbValue *value);
static int secret_length(const char *at, const char *end);
static int card_length(const char *at, const char *end);
static bool is_card(const char *digits, int count);
static bool is_word(char c);
static bool is_inner(char c);
static bool is_email(const char *string, int len);
static JsonbValue string_value(const char *string, int len);

void
ks_audit_sanitise(Jsonb *data, Jsonb **open, Jsonb **personal)
{
	JsonbParseState *states[2] = {NULL, NULL};
	int counts[2] = {0, 0};
	JsonbIterator *iterator = JsonbIteratorInit(&data->root);
	JsonbIteratorToken token;
	JsonbValue name = {0}, value;
	Jsonb **results[2] = {open, personal};

	for (int i = 0; i < 2; i++)
		pushJsonbValue(&states[i], WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = value;
		else if (token == WJB_VALUE)
		{
			Walk walk = {false};
			JsonbValue *cleaned = clean(&walk, name.val.string.val, name.val.string.len, &value);
			JsonbValue *key = clean_string(&walk, &name);
			int part = walk.is_personal ? 1 : 0;

			pushJsonbValue(&states[part], WJB_KEY, key);
			pushJsonbValue(&states[part], WJB_VALUE, cleaned);
			counts[part]++;
		}
	}
	for (int i = 0; i < 2; i++)
	{
		JsonbValue *whole = pushJsonbValue(&states[i], WJB_END_OBJECT, NULL);

		*results[i] = counts[i] > 0 ? JsonbValueToJsonb(whole) : NULL;
	}
}

/* The value of a member of that name (NULL: an element) as it may be kept. */
static JsonbValue *
clean(Walk *walk, const char *name, int len, JsonbValue *value)
{
	char plain[MAX_NAME];
	JsonbValue *result;

	if (name != NULL && normalise(name, len, plain) > 0)
	{
		if (is_one_of(plain, personal_names, lengthof(personal_names)))
			walk->is_personal = true;
		if (is_secret_name(plain, value))
		{
			result = palloc(sizeof(JsonbValue));
			*result = string_value(REDACTED, strlen(REDACTED));
			return result;
		}
	}
	if (value->type == jbvBinary)
		return clean_container(walk, value->val.binary.data);
	if (value->type == jbvString)
		return clean_string(walk, value);
	if (value->type == jbvNumeric)
	{
		char *digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		int count = strlen(digits);

		if (strspn(digits, "0123456789") == count && is_card(digits, count))
		{
			result = palloc(sizeof(JsonbValue));
			*result = string_value(REDACTED, strlen(REDACTED));
			return result;
		}
	}
	result = palloc(sizeof(JsonbValue));
	*result = *value;
	return result;
}

static JsonbValue *
clean_container(Walk *walk, JsonbContainer *container)
{
	JsonbParseState *state = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue name = {0}, value;
	JsonbValue *result = NULL;

	check_stack_depth();
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		switch (token)
		{
			case WJB_KEY:
				name = value;
				result = pushJsonbValue(&state, WJB_KEY, clean_string(walk, &name));
				break;
			case WJB_VALUE:
				result = pushJsonbValue(&state, WJB_VALUE, clean(walk, name.val.string.val, name.val.string.len, &value));
				break;
			case WJB_ELEM:
				result = pushJsonbValue(&state, WJB_ELEM, clean(walk, NULL, 0, &value));
				break;
			default:
				result = pushJsonbValue(&state, token, NULL);
		}
	}
	return result;
}

/* The string with its secret words taken out. */
static JsonbValue *
clean_string(Walk *walk, JsonbValue *value)
{
	const char *from = value->val.string.val;
	const char *end = from + value->val.string.len;
	const char *kept = from;
	JsonbValue *result = palloc(sizeof(JsonbValue));
	StringInfoData out = {0};

	*result = *value;
	for (const char *at = from; at < end;)
	{
		int len = at > from && *at != ':' && is_inner(at[-1]) ? 0 : secret_length(at, end);

		if (len == 0)
		{
			at++;
			continue;
		}
		if (out.data == NULL)
			initStringInfo(&out);
		appendBinaryStringInfo(&out, kept, at - kept);
		appendStringInfoString(&out, REDACTED);
		at += len;
		kept = at;
	}
	if (out.data != NULL)
	{
		appendBinaryStringInfo(&out, kept, end - kept);
		*result = string_value(out.data, out.len);
	}
	if (is_email(from, value->val.string.len))
		walk->is_personal = true;
	return result;
}

/* Lower case, letters and digits alone, terminated; returns the length. */
static int
normalise(const char *name, int len, char out[MAX_NAME])
{
	int count = 0;

	for (int i = 0; i < len && count < MAX_NAME - 1; i++)
	{
		char c = pg_ascii_tolower((unsigned char) name[i]);

		if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
			out[count++] = c;
	}
	out[count] = '\0';
	return count;
}

static bool
contains(const char *name, const char *const *parts, int count)
{
	for (int i = 0; i < count; i++)
		if (strstr(name, parts[i]) != NULL)
			return true;
	return false;
}

static bool
is_one_of(const char *name, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* That a secret was given, or was not, is none. */
static bool
is_secret_name(const char *name, const JsonbValue *value)
{
	if (value->type == jbvNull || value->type == jbvBool)
		return false;
	if (value->type != jbvNumeric && contains(name, token_parts, lengthof(token_parts)))
		return true;
	return contains(name, secret_parts, lengthof(secret_parts)) || is_one_of(name, secret_names, lengthof(secret_names));
}

/* How many bytes from here are a secret, 0 if none. */
static int
secret_length(const char *at, const char *end)
{
	const char *stop = at;

	if (*at >= '0' && *at <= '9')
		return card_length(at, end);
	for (int i = 0; i < lengthof(shapes); i++)
	{
		int len = strlen(shapes[i].prefix);

		if (end - at < shapes[i].min_length || memcmp(at, shapes[i].prefix, len) != 0)
			continue;
		/* A PEM block goes to the end. */
		if (*at == '-')
			return end - at;
		while (stop < end && (is_word(*stop) || strchr(".+/=~$,", *stop) != NULL))
			stop++;
		return stop - at >= shapes[i].min_length ? stop - at : 0;
	}
	/* The password of a URL, with what is before and after it up to the host. */
	if (*at != ':' || end - at < 5 || memcmp(at, "://", 3) != 0)
		return 0;
	for (stop = at + 3; stop < end && strchr("/?# \t\n", *stop) == NULL; stop++)
		if (*stop == '@')
			return memchr(at + 3, ':', stop - at - 3) != NULL ? stop - at : 0;
	return 0;
}

/* A card's number, in groups or not. */
static int
card_length(const char *at, const char *end)
{
	char digits[MAX_CARD + 1];
	int count = 0;
	const char *stop = at;
	const char *last = at;

	for (; stop < end && count <= MAX_CARD; stop++)
	{
		if (*stop >= '0' && *stop <= '9')
		{
			if (count == MAX_CARD)
				return 0;
			digits[count++] = *stop;
			last = stop + 1;
		}
		else if ((*stop != ' ' && *stop != '-') || stop[-1] == ' ' || stop[-1] == '-')
			break;
	}
	if (last < end && is_inner(*last))
		return 0;
	return is_card(digits, count) ? last - at : 0;
}

/* Do the digits begin as a card's number does, and end with the right check digit (Luhn)? */
static bool
is_card(const char *digits, int count)
{
	int sum = 0;

	if (count < MIN_CARD || count > MAX_CARD || digits[0] < '2' || digits[0] > '6')
		return false;
	for (int i = 0; i < count; i++)
	{
		int digit = digits[count - 1 - i] - '0';

		if (i % 2 == 1)
			digit = digit < 5 ? 2 * digit : 2 * digit - 9;
		sum += digit;
	}
	return sum % 10 == 0;
}

static bool
is_word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/* Does a word go on after this? */
static bool
is_inner(char c)
{
	return is_word(c) && c != '-';
}

/* Is there an @ between two words, with a dot after it? */
static bool
is_email(const char *string, int len)
{
	const char *end = string + len;

	for (const char *at = memchr(string, '@', len); at != NULL; at = memchr(at + 1, '@', end - at - 1))
	{
		const char *host = at + 1;

		if (at == string || !is_word(at[-1]))
			continue;
		while (host < end && is_word(*host))
			host++;
		if (host > at + 1 && host + 1 < end && *host == '.' && is_word(host[1]))
			return true;
	}
	return false;
}

static JsonbValue
string_value(const char *string, int len)
{
	JsonbValue value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = len;
	return value;
}
