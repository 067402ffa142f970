/*
 * error.c
 *	  The one place that raises errors of class KS, for C and for SQL.
 */
#include "postgres.h"

#include <stdarg.h>

#include "fmgr.h"
#include "utils/builtins.h"

#include "core/error.h"

KS_NORETURN static void report_error(int status, const char *code, const char *field, const char *hint, const char *detail, const char *message);
static char *optional_text(FunctionCallInfo fcinfo, int argno);

bool
ks_is_error(int sqlstate)
{
	return (sqlstate & ((1 << 12) - 1)) == (MAKE_SQLSTATE('K', 'S', '0', '0', '0') & ((1 << 12) - 1));
}

int
ks_error_status(int sqlstate)
{
	int status = 0;

	for (int i = 2; i < 5; i++)
		status = status * 10 + (PGUNSIXBIT(sqlstate >> (6 * i)) - '0');
	return status;
}

void
ks_raise(int status, const char *code, const char *hint, const char *fmt, ...)
{
	char message[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	report_error(status, code, NULL, hint, NULL, message);
}

void
ks_raise_field(int status, const char *code, const char *field, const char *hint, const char *fmt, ...)
{
	char message[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	report_error(status, code, field, hint, NULL, message);
}

void
ks_raise_detail(int status, const char *code, const char *field, const char *detail, const char *fmt, ...)
{
	char message[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	report_error(status, code, field, NULL, detail, message);
}

PG_FUNCTION_INFO_V1(ks_raise_sql);

/* keelson.raise(status int, code text, message text, hint text, field text) */
Datum
ks_raise_sql(PG_FUNCTION_ARGS)
{
	int status;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an error needs a status, a code and a message")));
	status = PG_GETARG_INT32(0);
	if (status < 400 || status > 599)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the status of an error is 400 to 599, not %d", status)));
	report_error(status, optional_text(fcinfo, 1), optional_text(fcinfo, 4), optional_text(fcinfo, 3), NULL, optional_text(fcinfo, 2));
}

/* Report the error; field, hint and detail may be NULL. */
static void
report_error(int status, const char *code, const char *field, const char *hint, const char *detail, const char *message)
{
	ereport(ERROR,
			(errcode(KS_SQLSTATE(status)),
			 errmsg_internal("%s", message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 err_generic_string(PG_DIAG_CONSTRAINT_NAME, code),
			 field ? err_generic_string(PG_DIAG_COLUMN_NAME, field) : 0));
}

/* The text of an argument, or NULL. */
static char *
optional_text(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argno));
}
