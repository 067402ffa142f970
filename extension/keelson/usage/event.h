/*
 * event.h
 *	  Usage events on their way in, and what is wrong with them.
 */
#ifndef KS_USAGE_EVENT_H
#define KS_USAGE_EVENT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/uuid.h"

#include "dispatch/fault.h"

typedef struct KsUsageEvent
{
	int index; /* in the batch */
	bool has_user;
	bool is_duplicate; /* its key was there */
	bool is_conflict;  /* for other content */
	pg_uuid_t user_id;
	pg_uuid_t id;
	int32 day;     /* of its partition */
	Datum feature; /* text */
	Datum minutes; /* numeric */
	int32 requests;
	TimestampTz occurred_at;
	bool is_dated; /* occurred_at was given */
	bool is_keyed;
	pg_uuid_t key_hash;
	pg_uuid_t content_hash; /* of what was given */
} KsUsageEvent;

typedef struct KsUsageBatch
{
	KsUsageEvent *events;
	int count;
	bool is_list; /* of `events`: faults are named by index */
	KsFaults faults;
	StringInfoData words;    /* the faults for a person, one a line */
	const char *first_field; /* at fault */
} KsUsageBatch;

/*
 * Read the arguments of keelson.usage_record() and check them all. Faults are
 * collected; what the caller may not do at all is an error.
 */
extern void ks_usage_read(FunctionCallInfo fcinfo, KsUsageBatch *batch);

#endif /* KS_USAGE_EVENT_H */
