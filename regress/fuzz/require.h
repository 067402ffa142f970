/*
 * require.h
 *	  What a harness claims: stops with the words of the claim, and so that
 *	  libFuzzer keeps the input.
 */
#ifndef REQUIRE_H
#define REQUIRE_H

#include <stdio.h>

#define REQUIRE(condition)                                                                 \
	do                                                                                     \
	{                                                                                      \
		if (!(condition))                                                                  \
		{                                                                                  \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
			__builtin_trap();                                                              \
		}                                                                                  \
	} while (0)

#endif
