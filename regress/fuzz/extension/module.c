/*
 * module.c
 *	  keelson_fuzz(target, arguments): runs libFuzzer inside a server.
 *
 * It is linked into a build of the extension and runs in a server of one
 * process (postgres --single), which libFuzzer ends when it has done: the exit
 * status is libFuzzer's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "catalog/pg_type.h"

#include "targets.h"

int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*one)(const uint8_t *data, size_t size));

static const struct
{
	const char *name;
	Target target;
} targets[] = {
	{"access_key", fuzz_access_key},
	{"glob", fuzz_glob},
	{"image", fuzz_image},
	{"jwk", fuzz_jwk},
	{"jws", fuzz_jws},
	{"jwt_claims", fuzz_jwt_claims},
	{"json_agreement", fuzz_json_agreement},
	{"mail", fuzz_mail},
	{"scalar", fuzz_scalar},
	{"seal", fuzz_seal},
	{"token", fuzz_token},
	{"url", fuzz_url},
	{"webhook_key", fuzz_webhook_key},
	{"webhook_signature", fuzz_webhook_signature},
};

/* What keelson_fuzz() was asked to run; set once. */
static Target running;

static int run_one(const uint8_t *data, size_t size);

PG_FUNCTION_INFO_V1(keelson_fuzz);

/* keelson_fuzz(target text, variadic arguments text[]) */
Datum
keelson_fuzz(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum *elements;
	int count;
	int argc = 0;
	char **argv;

	for (int i = 0; i < lengthof(targets); i++)
		if (strcmp(targets[i].name, name) == 0)
			running = targets[i].target;
	if (running == NULL)
		elog(ERROR, "no such target: %s", name);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	argv = palloc0((count + 2) * sizeof(char *));
	argv[argc++] = name;
	for (int i = 0; i < count; i++)
		argv[argc++] = TextDatumGetCString(elements[i]);
	LLVMFuzzerRunDriver(&argc, &argv, run_one);
	exit(0);
}

/* Whatever the input leaves behind goes with its subtransaction. */
static int
run_one(const uint8_t *data, size_t size)
{
	MemoryContext cxt = CurrentMemoryContext;
	static char fault[2048];

	fault[0] = '\0';
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		running(data, size);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		snprintf(fault, sizeof(fault), "%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cxt);
	if (fault[0] != '\0')
	{
		fprintf(stderr, "an error was raised: %s\n", fault);
		__builtin_trap();
	}
	return 0;
}

bool
fuzz_raises(void (*call)(void *argument), void *argument, int *sqlstate)
{
	MemoryContext cxt = CurrentMemoryContext;
	volatile bool has_raised = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		call(argument);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		*sqlstate = CopyErrorData()->sqlerrcode;
		FlushErrorState();
		has_raised = true;
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cxt);
	return has_raised;
}
