/*
 * sanitise.c
 *	  Names and shapes of secrets and of personal data.
 *
 * Names are compared without case and punctuation, so that api_key, apiKey and
 * API-Key are one. Shapes are looked for at the beginning of each word of each
 * string, names included; only the word goes, not the sentence around it.
 * It errs on the side of taking out: the trail is not the place for secrets.
 *
 * Nearly all data has nothing to take out or to set apart. That is found out
 * first, and such data is kept as it came; only the rest is built anew.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "audit/sanitise.h"

#define REDACTED "[redacted]"
#define MAX_NAME 64
#define KNOWN_NAMES 64
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
	int prefix_length;
	int min_length;
} Shape;

#define SHAPE(prefix, min_length)              \
	{                                          \
		prefix, sizeof(prefix) - 1, min_length \
	}

static const Shape shapes[] = {
	SHAPE("ks_", 12), SHAPE("ksr_", 12), SHAPE("ksd_", 12), SHAPE("whsec_", 12), SHAPE("sk-", 12), SHAPE("sk_", 12), SHAPE("rk_", 12), SHAPE("pk_live_", 12), SHAPE("gsk_", 12), SHAPE("AIza", 20), SHAPE("AKIA", 16), SHAPE("ASIA", 16), SHAPE("ghp_", 12), SHAPE("gho_", 12), SHAPE("ghs_", 12), SHAPE("ghu_", 12), SHAPE("github_pat_", 16), SHAPE("glpat-", 12), SHAPE("xoxb-", 12), SHAPE("xoxp-", 12), SHAPE("xoxa-", 12), SHAPE("SG.", 20), SHAPE("eyJ", 20), SHAPE("$argon2", 12), SHAPE("$2a$", 12), SHAPE("$2b$", 12), SHAPE("$2y$", 12), SHAPE("-----BEGIN", 10)};

typedef struct Walk
{
	bool is_personal; /* something personal was met */
} Walk;

/* What is to be said of a name. */
typedef struct JudgedName
{
	int len; /* of the name as it was given; 0: none was */
	char given[MAX_NAME];
	bool is_personal;
	bool is_secret; /* of whatever but null and booleans */
	bool is_token;  /* of whatever but those and numbers */
	bool is_clean;  /* nothing in the name itself has to go */
} JudgedName;

/* Names judged before, each where its hash says; written by judge() alone. Most are written in some function's text. */
static JudgedName judged[KNOWN_NAMES];

static bool is_harmless(Jsonb *data);
static bool is_harmless_value(const JsonbValue *value);
static const JudgedName *judge(const char *name, int len);
static void judge_anew(JudgedName *result, const char *name, int len);
static JsonbValue *clean(Walk *walk, const char *name, int len, JsonbValue *value);
static JsonbValue *clean_container(Walk *walk, JsonbContainer *container);
static JsonbValue *clean_string(Walk *walk, JsonbValue *value);
static char *normalise(const char *name, int len);
static bool contains(const char *name, const char *const *parts, int count);
static bool is_one_of(const char *name, const char *const *names, int count);
static bool is_secret_name(const JudgedName *name, const JsonbValue *value);
static const char *next_secret(const char *from, const char *at, const char *end, int *len);
static int secret_length(const char *at, const char *end);
static int card_length(const char *at, const char *end);
static bool is_card(const char *digits, int count);
static bool is_card_number(Numeric number);
static bool is_word(char c);
static bool is_inner(char c);
static bool is_email(const char *string, int len);
static JsonbValue string_value(const char *string, int len);

void
ks_audit_sanitise(Jsonb *data, Jsonb **open, Jsonb **personal)
{
	JsonbParseState *states[2] = {NULL, NULL};
	int counts[2] = {0, 0};
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue name = {0}, value;
	Jsonb **results[2] = {open, personal};

	if (is_harmless(data))
	{
		*open = data;
		*personal = NULL;
		return;
	}
	for (int i = 0; i < 2; i++)
		pushJsonbValue(&states[i], WJB_BEGIN_OBJECT, NULL);
	iterator = JsonbIteratorInit(&data->root);
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

/* Is there nothing to take out or to set apart? What holds objects or arrays is not looked into. */
static bool
is_harmless(Jsonb *data)
{
	JsonbIterator *iterator = JsonbIteratorInit(&data->root);
	JsonbIteratorToken token;
	JsonbValue value;
	const JudgedName *name = NULL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = judge(value.val.string.val, value.val.string.len);
			if (name->is_personal || !name->is_clean)
				return false;
		}
		else if (token == WJB_VALUE && (is_secret_name(name, &value) || !is_harmless_value(&value)))
			return false;
	}
	return true;
}

static bool
is_harmless_value(const JsonbValue *value)
{
	const char *string = value->val.string.val;
	int len;

	switch (value->type)
	{
		case jbvNull:
		case jbvBool:
			return true;
		case jbvNumeric:
			return !is_card_number(value->val.numeric);
		case jbvString:
			return next_secret(string, string, string + value->val.string.len, &len) == NULL &&
				   !is_email(string, value->val.string.len);
		default:
			return false;
	}
}

/* What is to be said of the name; stands until the next call. */
static const JudgedName *
judge(const char *name, int len)
{
	static JudgedName other; /* the last one too long to be kept */
	JudgedName *known;

	if (len == 0 || len > MAX_NAME)
	{
		judge_anew(&other, name, len);
		return &other;
	}
	known = &judged[hash_bytes((const unsigned char *) name, len) % KNOWN_NAMES];
	if (known->len != len || memcmp(known->given, name, len) != 0)
	{
		judge_anew(known, name, len);
		memcpy(known->given, name, len);
		known->len = len;
	}
	return known;
}

static void
judge_anew(JudgedName *result, const char *name, int len)
{
	char *plain = normalise(name, len);
	int secret_len;

	memset(result, 0, sizeof(*result));
	result->is_personal = is_one_of(plain, personal_names, lengthof(personal_names)) || is_email(name, len);
	result->is_secret = contains(plain, secret_parts, lengthof(secret_parts)) ||
						is_one_of(plain, secret_names, lengthof(secret_names));
	result->is_token = contains(plain, token_parts, lengthof(token_parts));
	result->is_clean = next_secret(name, name, name + len, &secret_len) == NULL;
}

/* The value of a member of that name (NULL: an element) as it may be kept. */
static JsonbValue *
clean(Walk *walk, const char *name, int len, JsonbValue *value)
{
	const JudgedName *known = name != NULL ? judge(name, len) : NULL;
	JsonbValue *result;

	if (known != NULL && known->is_personal)
		walk->is_personal = true;
	if (value->type == jbvBinary && (known == NULL || !is_secret_name(known, value)))
		return clean_container(walk, value->val.binary.data);
	result = palloc(sizeof(JsonbValue));
	if ((known != NULL && is_secret_name(known, value)) ||
		(value->type == jbvNumeric && is_card_number(value->val.numeric)))
		*result = string_value(REDACTED, strlen(REDACTED));
	else if (value->type == jbvString)
		return clean_string(walk, value);
	else
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
	int len;

	*result = *value;
	for (const char *at = next_secret(from, from, end, &len); at != NULL; at = next_secret(from, kept, end, &len))
	{
		if (out.data == NULL)
			initStringInfo(&out);
		appendBinaryStringInfo(&out, kept, at - kept);
		appendStringInfoString(&out, REDACTED);
		kept = at + len;
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

/* Lower case, letters and digits alone. */
static char *
normalise(const char *name, int len)
{
	char *out = palloc(len + 1);
	int count = 0;

	for (int i = 0; i < len; i++)
	{
		char c = pg_ascii_tolower((unsigned char) name[i]);

		if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
			out[count++] = c;
	}
	out[count] = '\0';
	return out;
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
is_secret_name(const JudgedName *name, const JsonbValue *value)
{
	if (value->type == jbvNull || value->type == jbvBool)
		return false;
	return name->is_secret || (name->is_token && value->type != jbvNumeric);
}

/* The first word that is a secret, looked for from `at` on in what begins with `from`, and its length; NULL for none. */
static const char *
next_secret(const char *from, const char *at, const char *end, int *len)
{
	for (; at < end; at++)
		if ((at == from || *at == ':' || !is_inner(at[-1])) && (*len = secret_length(at, end)) > 0)
			return at;
	return NULL;
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
		if (*at != shapes[i].prefix[0] || end - at < shapes[i].min_length || memcmp(at, shapes[i].prefix, shapes[i].prefix_length) != 0)
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
is_card_number(Numeric number)
{
	char *digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
	int count = strlen(digits);

	return strspn(digits, "0123456789") == count && is_card(digits, count);
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
