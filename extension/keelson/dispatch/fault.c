/*
 * fault.c
 *	  Collect what is wrong with a request's arguments as the JSON array
 *	  "details": all that is wrong, up to a bound, not only the first.
 */
#include "postgres.h"

#include <stdarg.h>

#include "mb/pg_wchar.h"

#include "dispatch/fault.h"
#include "dispatch/json_out.h"

/* A client may name what it likes; this much of it is said back. */
#define PATH_SHOWN 200

void
ks_faults_begin(KsFaults *faults)
{
	faults->count = 0;
	faults->listed = KS_FAULTS_LISTED;
	initStringInfo(&faults->details);
	initStringInfo(&faults->path);
}

void
ks_fault(KsFaults *faults, const char *code, const char *fmt, ...)
{
	char message[1024];
	int len;
	va_list args;

	if (++faults->count > faults->listed)
		return;
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	/* What was too long ends where a character does. */
	len = strlen(message);
	len = pg_mbcliplen(message, len, len);
	if (faults->details.len > 0)
		appendStringInfoChar(&faults->details, ',');
	appendStringInfoString(&faults->details, "{\"field\":");
	ks_json_write_string(&faults->details, faults->path.data, faults->path.len);
	appendStringInfo(&faults->details, ",\"code\":\"%s\",\"message\":", code);
	ks_json_write_string(&faults->details, message, len);
	appendStringInfoChar(&faults->details, '}');
}

int
ks_faults_enter_member(KsFaults *faults, const char *name)
{
	int length = faults->path.len;

	if (length > 0)
		appendStringInfoChar(&faults->path, '.');
	appendBinaryStringInfo(&faults->path, name, pg_mbcliplen(name, strlen(name), PATH_SHOWN));
	return length;
}

int
ks_faults_enter_element(KsFaults *faults, int index)
{
	int length = faults->path.len;

	appendStringInfo(&faults->path, "[%d]", index);
	return length;
}

void
ks_faults_leave(KsFaults *faults, int length)
{
	faults->path.len = length;
	faults->path.data[length] = '\0';
}
