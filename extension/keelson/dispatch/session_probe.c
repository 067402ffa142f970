/*
 * session_probe.c
 *	  Whether a session goes on: asked at every authenticated request, so that
 *	  one which ends is refused by the next statement.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/timestamp.h"

#include "core/probe.h"
#include "dispatch/session_probe.h"

enum
{
	AAL,
	EXPIRES_AT,
	ENDED_AT
};

/* The places in it are written by core/probe.c. */
static KsProbeTable sessions = {
	.name = "sessions",
	.key_count = 2,
	.keys = {"user_id", "id"},
	.columns = {[AAL] = "aal", [EXPIRES_AT] = "expires_at", [ENDED_AT] = "ended_at"}};

typedef struct Judgement
{
	bool is_good; /* the session is going on */
	int aal;
} Judgement;

static void judge(const KsProbeRow *row, void *arg);

bool
ks_session_probe(const pg_uuid_t *user_id, const pg_uuid_t *session_id, int *aal)
{
	const pg_uuid_t *const key[] = {user_id, session_id};
	Judgement judgement = {false};

	(void) ks_probe(&sessions, key, judge, &judgement);
	*aal = judgement.aal;
	return judgement.is_good;
}

static void
judge(const KsProbeRow *row, void *arg)
{
	Judgement *judgement = arg;
	bool is_null;
	TimestampTz expires_at;

	(void) ks_probe_column(row, ENDED_AT, &is_null);
	if (!is_null)
		return;
	expires_at = DatumGetTimestampTz(ks_probe_column(row, EXPIRES_AT, &is_null));
	if (is_null || expires_at <= GetCurrentStatementStartTimestamp())
		return;
	judgement->aal = DatumGetInt16(ks_probe_column(row, AAL, &is_null));
	judgement->is_good = true;
}
