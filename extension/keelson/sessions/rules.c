/*
 * rules.c
 *	  What a new password may not be.
 *
 * No rule asks for kinds of characters. Refused are what is short, what is
 * commonly used, what is the user's own name or address, and what repeats
 * itself or runs along the alphabet or a keyboard. The caller brings the
 * password to NFC; here it is compared in lower case and nothing is kept.
 */
#include "postgres.h"

#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"

#include "sessions/common.h"

/* An own word shorter than this says nothing about a password. */
#define OWN_WORD_MIN 4

/* So much must remain of a password once the user's own words are taken out. */
#define OWN_REST_MIN 8

#define DIFFERENT_MIN 5
#define UNFORESEEN_MIN 6

/* A password or a name in lower case, by code points. */
typedef struct Letters
{
	pg_wchar *at;
	int count;
} Letters;

static const char *fault_of(const char *password, ArrayType *own, int min_length);
static Letters letters_of(const char *lower);
static bool is_own(const char *lower, ArrayType *own, char one);
static void mark_own(Letters password, const char *own, char one, bool *marked);
static void mark(Letters password, const pg_wchar *word, int length, bool *marked);
static bool is_repeat(Letters password, int min_length);
static bool has_few_letters(Letters password);
static bool is_sequence(Letters password);
static int run_at(Letters password, int start);
static int keyboard_place(pg_wchar letter);
static bool is_word_letter(pg_wchar letter);

PG_FUNCTION_INFO_V1(ks__password_fault);

/*
 * keelson._password_fault(password, own words, least length): what speaks
 * against the password, as a sentence for its user, or null.
 */
Datum
ks__password_fault(PG_FUNCTION_ARGS)
{
	char *password = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *fault = fault_of(password, PG_GETARG_ARRAYTYPE_P(1), PG_GETARG_INT32(2));

	explicit_bzero(password, strlen(password));
	if (fault == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(fault));
}

static const char *
fault_of(const char *password, ArrayType *own, int min_length)
{
	char *lower = str_tolower(password, strlen(password), DEFAULT_COLLATION_OID);
	Letters letters = letters_of(lower);
	const char *fault = NULL;

	if (pg_mbstrlen(password) < min_length)
		fault = psprintf("the password must have at least %d characters", min_length);
	else if (ks_password_is_common(lower, strlen(lower)))
		fault = "the password is a commonly used one, perhaps with digits, signs or substituted letters";
	else if (is_own(lower, own, 'i') || is_own(lower, own, 'l'))
		fault = "the password must not be made of your e-mail address or name, or of this site's";
	else if (is_repeat(letters, min_length))
		fault = "the password must not repeat the same few characters over and over";
	else if (has_few_letters(letters))
		fault = psprintf("the password must have at least %d different characters", DIFFERENT_MIN);
	else if (is_sequence(letters))
		fault = "the password must not be a sequence such as 123456 or abcdef, or a row of keys";
	explicit_bzero(lower, strlen(lower));
	explicit_bzero(letters.at, sizeof(pg_wchar) * letters.count);
	return fault;
}

static Letters
letters_of(const char *lower)
{
	int len = strlen(lower);
	Letters letters;

	letters.at = palloc(sizeof(pg_wchar) * (len + 1));
	letters.count = pg_mb2wchar_with_len(lower, letters.at, len);
	return letters;
}

/* Does too little remain once the own words are taken out, unmasked alike? */
static bool
is_own(const char *lower, ArrayType *own, char one)
{
	int len = strlen(lower);
	char *plain = palloc0(len + 1);
	Letters password;
	bool *marked;
	Datum *values;
	bool *nulls;
	int count;
	int rest = 0;
	int found = 0;

	ks_password_unmask(lower, len, one, plain);
	password = letters_of(plain);
	marked = palloc0(password.count + 1);
	deconstruct_array(own, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			mark_own(password, TextDatumGetCString(values[i]), one, marked);
	for (int i = 0; i < password.count; i++)
		if (marked[i])
			found++;
		else if (is_word_letter(password.at[i]))
			rest++;
	explicit_bzero(plain, len);
	explicit_bzero(password.at, sizeof(pg_wchar) * password.count);
	return found > 0 && rest < OWN_REST_MIN;
}

/*
 * Mark where the own text, its part before an @, or one of its words stands in
 * the password, which is unmasked as these are.
 */
static void
mark_own(Letters password, const char *own, char one, bool *marked)
{
	char *lower = str_tolower(own, strlen(own), DEFAULT_COLLATION_OID);
	char *plain = palloc0(strlen(lower) + 1);
	Letters written = letters_of(lower);
	Letters unmasked;

	ks_password_unmask(lower, strlen(lower), one, plain);
	unmasked = letters_of(plain);
	mark(password, unmasked.at, unmasked.count, marked);
	for (int start = 0, end; start < written.count; start = end + 1)
	{
		for (end = start; end < written.count && is_word_letter(written.at[end]);)
			end++;
		mark(password, unmasked.at + start, end - start, marked);
		if (end < written.count && written.at[end] == '@')
			mark(password, unmasked.at, end, marked);
	}
}

/* Mark every place of the word in the password. */
static void
mark(Letters password, const pg_wchar *word, int length, bool *marked)
{
	if (length < OWN_WORD_MIN)
		return;
	for (int i = 0; i + length <= password.count; i++)
		if (memcmp(password.at + i, word, sizeof(pg_wchar) * length) == 0)
			memset(marked + i, true, length);
}

/* Is it one piece, shorter than a password may be, over and over? */
static bool
is_repeat(Letters password, int min_length)
{
	for (int unit = 1; unit < min_length && unit * 2 <= password.count; unit++)
		if (memcmp(password.at, password.at + unit, sizeof(pg_wchar) * (password.count - unit)) == 0)
			return true;
	return false;
}

static bool
has_few_letters(Letters password)
{
	pg_wchar seen[DIFFERENT_MIN];
	int count = 0;

	for (int i = 0; i < password.count && count < DIFFERENT_MIN; i++)
	{
		int j = 0;

		while (j < count && seen[j] != password.at[i])
			j++;
		if (j == count)
			seen[count++] = password.at[i];
	}
	return count < DIFFERENT_MIN;
}

/* Are there too few characters that do not follow from those before? */
static bool
is_sequence(Letters password)
{
	int unforeseen = 0;

	for (int i = 0; i < password.count; i += run_at(password, i))
		unforeseen++;
	return unforeseen < UNFORESEEN_MIN;
}

/*
 * The length of the run that starts here: three or more characters that are the
 * same, or neighbours in one direction by code point or on a row of keys; else 1.
 */
static int
run_at(Letters password, int start)
{
	int best = 1;

	for (int step = -1; step <= 1; step++)
	{
		int end = start + 1;

		while (end < password.count && (int) password.at[end] - (int) password.at[end - 1] == step)
			end++;
		best = Max(best, end - start);
		if (step == 0)
			continue;
		end = start + 1;
		while (end < password.count && keyboard_place(password.at[end - 1]) >= 0 &&
			   keyboard_place(password.at[end]) == keyboard_place(password.at[end - 1]) + step)
			end++;
		best = Max(best, end - start);
	}
	return best >= 3 ? best : 1;
}

/* Where the letter stands among the rows of keys, -1 if in none. */
static int
keyboard_place(pg_wchar letter)
{
	static const char rows[] = "1234567890  qwertyuiop  asdfghjkl  zxcvbnm";
	const char *place = letter > ' ' && letter < 0x7f ? strchr(rows, (int) letter) : NULL;

	return place == NULL ? -1 : place - rows;
}

/* A letter or digit, or anything beyond ASCII. */
static bool
is_word_letter(pg_wchar letter)
{
	return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') || letter > 0x7f;
}
