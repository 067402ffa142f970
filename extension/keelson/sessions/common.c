/*
 * common.c
 *	  Commonly used passwords, and the disguises they go in.
 *
 * The list is a sorted file in the server's share directory, read whole by the
 * first look-up of a backend and kept until that ends (some 800 kB, in the few
 * backends that set passwords). A look-up is a bounded number of binary
 * searches, whatever the password's length.
 *
 * Disguises, alone and together: case (the caller's part), substituted letters
 * (p4$$w0rd), digits and signs before and after (password2024!), signs within
 * (pass-word), and repetition of the whole (passwordpassword).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "sessions/common.h"

#define LIST_FILE "keelson-common-passwords.txt"
#define LIST_MAX_SIZE (8 * 1024 * 1024)

/* A shorter rest is no word: "cat" between sixteen digits is not common. */
#define WORD_MIN 4

/*
 * Of the digits and signs around a word, so many may belong to it on either
 * side ("trustno1" with "2024" behind).
 */
#define KEPT_MAX 4

/* What is longer than this is judged by the other rules alone. */
#define PART_MAX 96

/* The list's words in their order. Written once, by load(). */
static const char **words;
static int word_count;
static int longest;

static void load(void);
static char *read_list(void);
static bool is_masked_word(const char *part, int len);
static bool is_unit(const char *part, int len);
static bool is_word(const char *part, int len);
static int compact(const char *from, int len, char *to);
static bool is_letter(char c);

bool
ks_password_is_common(const char *password, int len)
{
	int before = 0;
	int after = 0;

	if (words == NULL)
		load();
	while (before < len && !is_letter(password[before]))
		before++;
	while (after < len - before && !is_letter(password[len - 1 - after]))
		after++;
	/* All that stands around is taken off, or all but a few, or nothing. */
	for (int i = 0; i <= KEPT_MAX + 1; i++)
		for (int j = 0; j <= KEPT_MAX + 1; j++)
		{
			int left = i > KEPT_MAX ? 0 : Max(before - i, 0);
			int right = j > KEPT_MAX ? 0 : Max(after - j, 0);

			if (is_masked_word(password + left, len - left - right))
				return true;
		}
	return false;
}

void
ks_password_unmask(const char *from, int len, char one, char *to)
{
	static const char masks[] = "0@4$53789+(";
	static const char letters[] = "oaassetbgtc";

	for (int i = 0; i < len; i++)
	{
		const char *mask = from[i] == '\0' ? NULL : strchr(masks, from[i]);

		if (from[i] == '1' || from[i] == '!' || from[i] == '|')
			to[i] = one;
		else
			to[i] = mask == NULL ? from[i] : letters[mask - masks];
	}
}

/*
 * Read the list and find its lines; an error when it is missing or unsorted.
 * It stays in a child of TopMemoryContext, which is never reset.
 */
static void
load(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "keelson common passwords", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	char *list = read_list();
	int count = 0;
	const char **found;

	for (const char *c = list; *c != '\0'; c++)
		count += *c == '\n';
	found = palloc(mul_size(count + 1, sizeof(char *)));
	count = 0;
	for (char *line = list, *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
	{
		*end = '\0';
		if (count > 0 && strcmp(found[count - 1], line) >= 0)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIG_FILE_ERROR),
					 errmsg("the list of common passwords is not sorted at line %d", count + 1)));
		longest = Max(longest, end - line);
		found[count++] = line;
	}
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	word_count = count;
	words = found;
}

/* Return the file's text. */
static char *
read_list(void)
{
	char share[MAXPGPATH];
	char path[MAXPGPATH];
	FILE *file;
	char *list = palloc(LIST_MAX_SIZE + 1);
	size_t size;

	get_share_path(my_exec_path, share);
	snprintf(path, sizeof(path), "%s/extension/%s", share, LIST_FILE);
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open the list of common passwords \"%s\": %m", path),
				 errhint("Install the extension again: the list is one of its files.")));
	size = fread(list, 1, LIST_MAX_SIZE, file);
	if (ferror(file))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the list of common passwords \"%s\": %m", path)));
	FreeFile(file);
	list[size] = '\0';
	return repalloc(list, size + 1);
}

/*
 * Is the part a word, as it stands or with its letters unmasked, with the signs
 * within or without them?
 */
static bool
is_masked_word(const char *part, int len)
{
	static const char ones[] = {'1', 'i', 'l'};
	char plain[PART_MAX];
	char bare[PART_MAX];

	if (len > PART_MAX)
		return false;
	if (is_unit(part, len) || is_unit(bare, compact(part, len, bare)))
		return true;
	for (int i = 0; i < lengthof(ones); i++)
	{
		ks_password_unmask(part, len, ones[i], plain);
		if (is_unit(plain, len) || is_unit(bare, compact(plain, len, bare)))
			return true;
	}
	return false;
}

/* Is the part a word, or a word written several times over? */
static bool
is_unit(const char *part, int len)
{
	if (is_word(part, len))
		return true;
	for (int unit = WORD_MIN; unit <= Min(longest, len / 2); unit++)
		if (len % unit == 0 && memcmp(part, part + unit, len - unit) == 0 && is_word(part, unit))
			return true;
	return false;
}

static bool
is_word(const char *part, int len)
{
	int low = 0;
	int high = word_count;

	if (len < WORD_MIN || len > longest)
		return false;
	while (low < high)
	{
		int middle = low + (high - low) / 2;
		int order = strncmp(words[middle], part, len);

		if (order == 0 && words[middle][len] == '\0')
			return true;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* Copy without the signs and spaces of ASCII; return what is left's length. */
static int
compact(const char *from, int len, char *to)
{
	int n = 0;

	for (int i = 0; i < len; i++)
		if (is_letter(from[i]) || (from[i] >= '0' && from[i] <= '9'))
			to[n++] = from[i];
	return n;
}

/* A letter, or part of any character beyond ASCII. */
static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || IS_HIGHBIT_SET(c);
}
