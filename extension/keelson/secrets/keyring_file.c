/*
 * keyring_file.c
 *	  The keyring's text: where it comes from, and what it must look like.
 *
 * Lines, of words with blanks between them; # begins a comment line:
 *
 *	key <id> <base64 of 32 bytes>
 *	passphrase <id> <rounds> <base64 of a salt> <the passphrase, to the line's end>
 *	primary <id>
 *
 * Runs in the postmaster while the server starts, and in the keeper at reload,
 * hence: no ereport(ERROR), no palloc, every descriptor and child accounted
 * for. All buffers are on the stack and are wiped.
 */
#include "postgres.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"

#include "core/clock.h"
#include "secrets/keyring_file.h"

#define MAX_TEXT 65536
#define MAX_SALT 64
#define MIN_SALT 16
#define MIN_ROUNDS 100000
#define MAX_ROUNDS 100000000
#define COMMAND_LIMIT_MS 10000
#define COMMAND_SLICE_MS 100

extern char **environ;

static bool read_file(const char *file, char *text, size_t *len, char *problem);
static bool check_file(int fd, const char *file, char *problem);
static bool is_in_data_directory(const char *file);
static bool read_command(const char *command, char *text, size_t *len, char *problem);
static pid_t start_command(const char *command, int *output);
static bool read_output(int fd, char *text, size_t *len, char *problem);
static bool finish_command(pid_t pid, bool is_wanted, char *problem);
static bool parse(char *text, size_t len, KsKeyring *ring, char *problem);
static bool parse_line(char *line, KsKeyring *ring, bool *has_primary, char *problem);
static bool parse_key(char *rest, uint8 *key, char *problem);
static bool parse_passphrase(char *rest, uint8 *key, char *problem);
static bool add_key(KsKeyring *ring, uint32 id, const uint8 *key, char *problem);
static bool settle_primary(KsKeyring *ring, bool has_primary, char *problem);
static char *next_word(char **rest);
static bool parse_number(const char *word, uint32 limit, uint32 *number);
static bool decode_base64(const char *word, uint8 *out, size_t room, size_t *len);
static int64 now_ms(void);
static bool fail(char *problem, const char *fmt, ...) pg_attribute_printf(2, 3);

bool
ks_keyring_read(const char *file, const char *command, KsKeyring *ring, char problem[KS_KEYRING_PROBLEM_LENGTH])
{
	char text[MAX_TEXT + 1];
	size_t len = 0;
	bool done;

	problem[0] = '\0';
	if (file != NULL && file[0] != '\0')
		done = read_file(file, text, &len, problem);
	else if (command != NULL && command[0] != '\0')
		done = read_command(command, text, &len, problem);
	else
		done = fail(problem, "neither keelson.keyring_file nor keelson.keyring_command is set");
	done = done && parse(text, len, ring, problem);
	ks_wipe(text, sizeof(text));
	return done;
}

/* Read all of the file, after looking at who else may. */
static bool
read_file(const char *file, char *text, size_t *len, char *problem)
{
	ssize_t got = 0;
	int fd;

	if (file[0] != '/')
		return fail(problem, "keelson.keyring_file is not an absolute path");
	/* Not blocking: a pipe without a writer must not hold up the server. */
	fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return fail(problem, "could not open the keyring file: %s", strerror(errno));
	if (!check_file(fd, file, problem))
	{
		close(fd);
		return false;
	}
	while (*len <= MAX_TEXT && (got = read(fd, text + *len, MAX_TEXT + 1 - *len)) > 0)
		*len += (size_t) got;
	if (got < 0)
		(void) fail(problem, "could not read the keyring file: %s", strerror(errno));
	close(fd);
	if (got >= 0 && *len > MAX_TEXT)
		return fail(problem, "the keyring file is longer than %d bytes", MAX_TEXT);
	return got >= 0;
}

static bool
check_file(int fd, const char *file, char *problem)
{
	struct stat status;

	if (fstat(fd, &status) != 0)
		return fail(problem, "could not look at the keyring file: %s", strerror(errno));
	if (!S_ISREG(status.st_mode))
		return fail(problem, "the keyring file is not a regular file");
	if (status.st_mode & (S_IRWXG | S_IRWXO))
		return fail(problem, "the keyring file has mode %04o: others than its owner may use it, it must be 0600", (unsigned) status.st_mode & 07777);
	if (status.st_uid != geteuid() && status.st_uid != 0)
		return fail(problem, "the keyring file belongs to neither the server's user nor root");
	if (is_in_data_directory(file))
		return fail(problem, "the keyring file lies inside the data directory, whose backups would hold it");
	return true;
}

/* Does the file, links followed, lie below the data directory? */
static bool
is_in_data_directory(const char *file)
{
	char real_file[PATH_MAX];
	char real_data[PATH_MAX];
	size_t len;

	if (DataDir == NULL || realpath(DataDir, real_data) == NULL || realpath(file, real_file) == NULL)
		return false;
	len = strlen(real_data);
	return strncmp(real_file, real_data, len) == 0 && real_file[len] == '/';
}

/* Read what the command prints; give it ten seconds, and no second chance. */
static bool
read_command(const char *command, char *text, size_t *len, char *problem)
{
	int output;
	pid_t pid = start_command(command, &output);
	bool done;

	if (pid < 0)
		return fail(problem, "could not start the keyring command: %s", strerror(errno));
	done = read_output(output, text, len, problem);
	close(output);
	return finish_command(pid, done, problem);
}

/*
 * Start the command by the shell, in a process group of its own, with nothing
 * to read, signals as in a fresh process, and its output in a pipe.
 */
static pid_t
start_command(const char *command, int *output)
{
	char *argv[] = {"sh", "-c", (char *) command, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	sigset_t all;
	int ends[2];
	pid_t pid;
	int code;

	if (pipe2(ends, O_CLOEXEC) != 0)
		return -1;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	code = posix_spawn(&pid, "/bin/sh", &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	close(ends[1]);
	if (code != 0)
	{
		close(ends[0]);
		errno = code;
		return -1;
	}
	*output = ends[0];
	return pid;
}

/* Read to the end of the output, no longer than the limit and no more than fits. */
static bool
read_output(int fd, char *text, size_t *len, char *problem)
{
	int64 deadline = now_ms() + COMMAND_LIMIT_MS;

	for (;;)
	{
		struct pollfd ready = {fd, POLLIN, 0};
		ssize_t got;

		/* In slices, so that a worker told to stop stops. */
		if (now_ms() >= deadline)
			return fail(problem, "the keyring command took longer than %d seconds", COMMAND_LIMIT_MS / 1000);
		if (ProcDiePending)
			return fail(problem, "the keyring command was cut short, the server stops");
		if (poll(&ready, 1, COMMAND_SLICE_MS) <= 0)
			continue;
		got = read(fd, text + *len, MAX_TEXT + 1 - *len);
		if (got == 0)
			return true;
		if (got < 0 && errno != EINTR)
			return fail(problem, "could not read from the keyring command: %s", strerror(errno));
		*len += got > 0 ? (size_t) got : 0;
		if (*len > MAX_TEXT)
			return fail(problem, "the keyring command printed more than %d bytes", MAX_TEXT);
	}
}

/*
 * Have the command end: one whose output is complete may take a second for it,
 * any other is killed, and what it started with it.
 */
static bool
finish_command(pid_t pid, bool is_wanted, char *problem)
{
	int64 deadline = now_ms() + (is_wanted ? 1000 : 0);
	int status = 0;
	pid_t ended;

	while ((ended = waitpid(pid, &status, WNOHANG)) == 0 && now_ms() < deadline)
		(void) poll(NULL, 0, 10);
	if (ended == 0)
	{
		kill(-pid, SIGKILL);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (!is_wanted)
		return false;
	if (ended == 0)
		return fail(problem, "the keyring command closed its output and did not end");
	/* The postmaster's own SIGCHLD handler cannot have been first: it is blocked. */
	if (ended == pid && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
		return fail(problem, "the keyring command failed with %s %d", WIFEXITED(status) ? "status" : "signal",
					WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	return true;
}

/* Take the text apart; it is changed on the way. */
static bool
parse(char *text, size_t len, KsKeyring *ring, char *problem)
{
	char *line = text;
	int number = 0;
	bool has_primary = false;

	memset(ring, 0, sizeof(*ring));
	if (memchr(text, '\0', len) != NULL)
		return fail(problem, "the keyring is not text");
	text[len] = '\0';
	while (line != NULL)
	{
		char *end = strchr(line, '\n');
		char what[KS_KEYRING_PROBLEM_LENGTH];

		if (end != NULL)
			*end = '\0';
		number++;
		what[0] = '\0';
		if (!parse_line(line, ring, &has_primary, what))
			return fail(problem, "line %d of the keyring: %s", number, what);
		line = end != NULL ? end + 1 : NULL;
	}
	return settle_primary(ring, has_primary, problem);
}

static bool
parse_line(char *line, KsKeyring *ring, bool *has_primary, char *problem)
{
	uint8 key[KS_KEY_LENGTH];
	char *rest = line;
	char *kind;
	char *word;
	uint32 id;
	bool done;

	line[strcspn(line, "\r")] = '\0';
	kind = next_word(&rest);
	if (kind == NULL || kind[0] == '#')
		return true;
	word = next_word(&rest);
	if (strcmp(kind, "key") != 0 && strcmp(kind, "passphrase") != 0 && strcmp(kind, "primary") != 0)
		return fail(problem, "it must begin with \"key\", \"passphrase\", \"primary\" or \"#\"");
	if (word == NULL || !parse_number(word, PG_INT32_MAX, &id) || id == 0)
		return fail(problem, "the second word must be a key's id, from 1 to %d", PG_INT32_MAX);
	if (strcmp(kind, "primary") == 0)
	{
		if (*has_primary || next_word(&rest) != NULL)
			return fail(problem, "one line says which key is the primary, with its id and nothing more");
		*has_primary = true;
		ring->primary = id;
		return true;
	}
	done = strcmp(kind, "key") == 0 ? parse_key(rest, key, problem) : parse_passphrase(rest, key, problem);
	done = done && add_key(ring, id, key, problem);
	ks_wipe(key, sizeof(key));
	return done;
}

static bool
parse_key(char *rest, uint8 *key, char *problem)
{
	char *word = next_word(&rest);
	size_t len;

	if (word == NULL || next_word(&rest) != NULL || !decode_base64(word, key, KS_KEY_LENGTH, &len) || len != KS_KEY_LENGTH)
		return fail(problem, "a key is %d bytes in base64", KS_KEY_LENGTH);
	return true;
}

static bool
parse_passphrase(char *rest, uint8 *key, char *problem)
{
	uint8 salt[MAX_SALT];
	size_t salt_len;
	uint32 rounds;
	char *word = next_word(&rest);

	if (word == NULL || !parse_number(word, MAX_ROUNDS, &rounds) || rounds < MIN_ROUNDS)
		return fail(problem, "a passphrase's rounds of PBKDF2 are %d to %d", MIN_ROUNDS, MAX_ROUNDS);
	word = next_word(&rest);
	if (word == NULL || !decode_base64(word, salt, sizeof(salt), &salt_len) || salt_len < MIN_SALT)
		return fail(problem, "a passphrase's salt is %d to %d bytes in base64", MIN_SALT, MAX_SALT);
	if (rest[0] == '\0')
		return fail(problem, "the passphrase is missing");
	if (!ks_pbkdf2_sha256(rest, strlen(rest), salt, salt_len, (int) rounds, key, KS_KEY_LENGTH))
		return fail(problem, "PBKDF2 failed");
	return true;
}

static bool
add_key(KsKeyring *ring, uint32 id, const uint8 *key, char *problem)
{
	static const uint8 zeros[KS_KEY_LENGTH];

	if (ring->count == KS_KEYRING_MAX_KEYS)
		return fail(problem, "a keyring has at most %d keys", KS_KEYRING_MAX_KEYS);
	if (ks_equal(key, zeros, KS_KEY_LENGTH))
		return fail(problem, "key %u is all zeros", id);
	for (int i = 0; i < ring->count; i++)
	{
		if (ring->keys[i].id == id)
			return fail(problem, "key %u stands there twice", id);
		if (ks_equal(ring->keys[i].key, key, KS_KEY_LENGTH))
			return fail(problem, "key %u is the same as key %u", id, ring->keys[i].id);
	}
	ring->keys[ring->count].id = id;
	memcpy(ring->keys[ring->count].key, key, KS_KEY_LENGTH);
	ring->count++;
	return true;
}

/* Of one key nobody need say that it is the primary. */
static bool
settle_primary(KsKeyring *ring, bool has_primary, char *problem)
{
	if (ring->count == 0)
		return fail(problem, "the keyring holds no key");
	if (!has_primary && ring->count > 1)
		return fail(problem, "the keyring does not say which of its keys is the primary");
	if (!has_primary)
		ring->primary = ring->keys[0].id;
	for (int i = 0; i < ring->count; i++)
		if (ring->keys[i].id == ring->primary)
			return true;
	return fail(problem, "the keyring's primary is key %u, which it does not hold", ring->primary);
}

/* Cut the next word off the rest, or NULL; the rest begins at the word after. */
static char *
next_word(char **rest)
{
	char *word = *rest + strspn(*rest, " \t");
	char *end = word + strcspn(word, " \t");

	if (word[0] == '\0')
		return NULL;
	*rest = end + strspn(end, " \t");
	*end = '\0';
	return word;
}

static bool
parse_number(const char *word, uint32 limit, uint32 *number)
{
	uint64 value = 0;

	for (const char *c = word; *c != '\0'; c++)
	{
		if (!isdigit((unsigned char) *c) || (value = value * 10 + (uint64) (*c - '0')) > limit)
			return false;
	}
	*number = (uint32) value;
	return word[0] != '\0';
}

/* Decode base64, standard (with its padding) or URL-safe. */
static bool
decode_base64(const char *word, uint8 *out, size_t room, size_t *len)
{
	char canonical[128];
	size_t length = strlen(word);

	while (length > 0 && word[length - 1] == '=' && strlen(word) - length < 2)
		length--;
	if (length >= sizeof(canonical) || KS_BASE64URL_BYTES(length) > room)
		return false;
	for (size_t i = 0; i < length; i++)
		canonical[i] = word[i] == '+' ? '-' : word[i] == '/' ? '_'
															 : word[i];
	if (!ks_base64url_decode(canonical, length, out, len))
	{
		ks_wipe(canonical, sizeof(canonical));
		return false;
	}
	ks_wipe(canonical, sizeof(canonical));
	return true;
}

static int64
now_ms(void)
{
	return ks_clock_ns(CLOCK_MONOTONIC) / 1000000;
}

/* Put the problem in words; returns false, for the caller to return. */
static bool
fail(char *problem, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(problem, KS_KEYRING_PROBLEM_LENGTH, fmt, args);
	va_end(args);
	return false;
}
