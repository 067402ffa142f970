/*
 * error.h
 *	  Errors that a client must tell apart.
 *
 * A Keelson error is a SQLSTATE of class KS whose last three characters are
 * the HTTP status; its code stands in CONSTRAINT NAME, the argument at fault,
 * if there is one, in COLUMN NAME.
 */
#ifndef KS_ERROR_H
#define KS_ERROR_H

#include "postgres.h"

#include "core/compat.h"

/* The SQLSTATE of an HTTP status, 400 to 599. */
#define KS_SQLSTATE(status) \
	MAKE_SQLSTATE('K', 'S', '0' + (status) / 100, '0' + (status) / 10 % 10, '0' + (status) % 10)

/* Does the SQLSTATE belong to class KS? */
extern bool ks_is_error(int sqlstate);

/* The HTTP status of a SQLSTATE of class KS. */
extern int ks_error_status(int sqlstate);

/*
 * Raise an error: the status, the code a program reads, what the person can
 * do (NULL: nothing known), and the message for a person.
 */
KS_NORETURN extern void ks_raise(int status, const char *code, const char *hint, const char *fmt, ...) pg_attribute_printf(4, 5);

/* The same, naming the argument (snake_case) that is at fault. */
KS_NORETURN extern void ks_raise_field(int status, const char *code, const char *field, const char *hint, const char *fmt, ...) pg_attribute_printf(5, 6);

/* The same with more to say: sentences for a person, one a line. */
KS_NORETURN extern void ks_raise_detail(int status, const char *code, const char *field, const char *detail, const char *fmt, ...) pg_attribute_printf(5, 6);

#endif /* KS_ERROR_H */
