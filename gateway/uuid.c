/*
 * uuid: request ids.
 *
 * Random bytes come from the kernel, 4 KiB at a time and thread, so that a
 * request pays for a copy and not for a system call.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "uuid.h"

#define BATCH_SIZE 4096

/* The two digits of every byte: each request writes forty of them. */
#define ROW(high) high "0" high "1" high "2" high "3" high "4" high "5" high "6" high "7" high "8" high "9" high "a" high "b" high "c" high "d" high "e" high "f"
static const char pairs[] = ROW("0") ROW("1") ROW("2") ROW("3") ROW("4") ROW("5") ROW("6") ROW("7")
	ROW("8") ROW("9") ROW("a") ROW("b") ROW("c") ROW("d") ROW("e") ROW("f");

/* The thread's bytes not yet handed out; "left" of them, at the end. */
static _Thread_local unsigned char batch[BATCH_SIZE];
static _Thread_local size_t batch_left;

void
gw_random(void *out, size_t len)
{
	if (len > batch_left)
	{
		size_t got = 0;

		while (got < BATCH_SIZE)
		{
			ssize_t n = getrandom(batch + got, BATCH_SIZE - got, 0);

			/* Only a signal can interrupt it; without randomness nothing may go on. */
			if (n > 0)
				got += (size_t) n;
			else if (n == 0)
				abort();
		}
		batch_left = BATCH_SIZE;
	}
	memcpy(out, batch + BATCH_SIZE - batch_left, len);
	batch_left -= len;
}

void
gw_hex(char *out, const unsigned char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		memcpy(out + 2 * i, pairs + 2 * bytes[i], 2);
}

void
gw_uuid7(char out[GW_UUID_SIZE])
{
	unsigned char bytes[16];
	struct timespec now;
	uint64_t ms;
	size_t i;

	clock_gettime(CLOCK_REALTIME, &now);
	ms = (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
	for (i = 0; i < 6; i++)
		bytes[i] = (unsigned char) (ms >> (40 - 8 * i));
	gw_random(bytes + 6, 10);
	bytes[6] = (unsigned char) ((bytes[6] & 0x0F) | 0x70);
	bytes[8] = (unsigned char) ((bytes[8] & 0x3F) | 0x80);
	memcpy(out, "00000000-0000-0000-0000-000000000000", GW_UUID_SIZE);
	gw_hex(out, bytes, 4);
	gw_hex(out + 9, bytes + 4, 2);
	gw_hex(out + 14, bytes + 6, 2);
	gw_hex(out + 19, bytes + 8, 2);
	gw_hex(out + 24, bytes + 10, 6);
}

bool
gw_uuid_is_valid(const char *text)
{
	int i;

	for (i = 0; i < 36; i++)
	{
		char c = text[i];
		bool is_dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (is_dash ? c != '-' : !((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')))
			return false;
	}
	return text[36] == '\0';
}
