/*
 * tap: a test program's output in the Test Anything Protocol.
 *
 * ok(condition, …) is one test; the plan is printed at the end by done(), whose
 * result is the exit status.
 */
#ifndef KEELSON_TAP_H
#define KEELSON_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int tap_count;
static int tap_failed;

__attribute__((format(printf, 2, 3), unused)) static bool
ok(bool condition, const char *fmt, ...)
{
	char name[1024];
	va_list args;
	char *at;

	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	/* What would end the line, or be a directive, must not stand in a name. */
	for (at = name; *at != '\0'; at++)
		if ((unsigned char) *at < 0x20 || *at == '#')
			*at = '.';
	printf("%s %d - %s\n", condition ? "ok" : "not ok", ++tap_count, name);
	tap_failed += !condition;
	return condition;
}

__attribute__((unused)) static bool
is_string(const char *got, const char *expected, const char *name)
{
	bool same = got != NULL && strcmp(got, expected) == 0;

	ok(same, "%s", name);
	if (!same)
		printf("# got:      %s\n# expected: %s\n", got != NULL ? got : "(null)", expected);
	return same;
}

__attribute__((unused)) static bool
is_number(long long got, long long expected, const char *name)
{
	ok(got == expected, "%s", name);
	if (got != expected)
		printf("# got:      %lld\n# expected: %lld\n", got, expected);
	return got == expected;
}

__attribute__((unused)) static void
skip(const char *name, const char *why)
{
	printf("ok %d - %s # SKIP %s\n", ++tap_count, name, why);
}

__attribute__((unused)) static int
done(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed > 0;
}

#endif
