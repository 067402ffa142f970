/*
 * session_probe.h
 *	  Is a session still going on?
 */
#ifndef KS_SESSION_PROBE_H
#define KS_SESSION_PROBE_H

#include "postgres.h"

#include "utils/uuid.h"

/*
 * Look at the session's row as this statement's snapshot sees it: true when it
 * is there, has not been ended and has not run out. *aal is what the session
 * has reached.
 */
extern bool ks_session_probe(const pg_uuid_t *user_id, const pg_uuid_t *session_id, int *aal);

#endif /* KS_SESSION_PROBE_H */
