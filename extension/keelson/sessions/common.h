/*
 * common.h
 *	  The list of commonly used passwords.
 */
#ifndef KS_COMMON_H
#define KS_COMMON_H

#include "postgres.h"

/*
 * Is the password (lower case, UTF-8) a commonly used one in disguise? Looks
 * through letter substitutions, digits and signs before and after, signs
 * within, and doubling. The first call of a backend reads the list.
 */
extern bool ks_password_is_common(const char *password, int len);

/* Replace the usual substitutes of letters; '1', '!' and '|' become `one`. */
extern void ks_password_unmask(const char *from, int len, char one, char *to);

#endif /* KS_COMMON_H */
