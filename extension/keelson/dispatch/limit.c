/*
 * limit.c
 *	  Rate limits and blocks as steps of a request.
 *
 * A credential that proves nothing is counted as no credential: by address.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "dispatch/json_in.h"
#include "dispatch/limit.h"
#include "limits/limits.h"
#include "tiers/tiers.h"

static const char *named_email(const KsCall *call);
static const char *email_in_paths(const KsCall *call);
static const char *email_in_body(const KsCall *call);
static const char *email_of(const KsJson *object);
static bool refuse(KsCall *call, const KsLimitsRefusal *refusal);

bool
ks_limit_address_step(KsCall *call)
{
	KsLimitsRefusal refusal;

	if (ks_limits_begin(&call->route->limits, named_email(call), call->token != NULL, &refusal))
		return true;
	return refuse(call, &refusal);
}

/*
 * The e-mail address that a request to sign in or to be mailed names, or NULL:
 * wherever an argument may stand. One that is named twice is refused later.
 */
static const char *
named_email(const KsCall *call)
{
	KsRateClass rate_class = call->route->limits.rate_class;
	const char *email;

	if (rate_class != KS_RATE_AUTH && rate_class != KS_RATE_RESET)
		return NULL;
	email = email_in_paths(call);
	return email != NULL ? email : email_in_body(call);
}

/* In {"path": {...}, "query": {...}}. */
static const char *
email_in_paths(const KsCall *call)
{
	const char *email = NULL;
	KsJsonCursor cursor;
	KsJson whole, name, part;

	if (call->path_and_query == NULL)
		return NULL;
	whole = ks_json_value(call->path_and_query, call->path_and_query_len);
	if (whole.kind != KS_JSON_OBJECT)
		return NULL;
	cursor = ks_json_open(&whole);
	while (email == NULL && ks_json_next_member(&cursor, &name, &part))
		email = email_of(&part);
	return email;
}

/* In a body that is not refused for its size. */
static const char *
email_in_body(const KsCall *call)
{
	KsJson body;

	if (call->body == NULL || call->body_len > call->route->body_limit || ks_json_check(call->body, call->body_len) != NULL)
		return NULL;
	body = ks_json_value(call->body, call->body_len);
	return email_of(&body);
}

/* The object's member "email", if it has one that is a string. */
static const char *
email_of(const KsJson *object)
{
	KsJsonCursor cursor;
	KsJson name, value;

	if (object->kind != KS_JSON_OBJECT)
		return NULL;
	cursor = ks_json_open(object);
	while (ks_json_next_member(&cursor, &name, &value))
		if (value.kind == KS_JSON_STRING && ks_json_equals(&name, "email", 5))
			return ks_json_unescape(&value);
	return NULL;
}

bool
ks_limit_caller_step(KsCall *call)
{
	const KsIdentity *identity = &call->credential.identity;
	bool is_known = call->credential.proof == KS_PROOF_VALID && identity->has_user;
	KsLimitsSubject who = {
		.user_id = &identity->user_id,
		.access_key_id = identity->has_access_key ? &identity->access_key_id : NULL};
	KsLimitsRefusal refusal;

	if (is_known && ks_limits_by_tier())
		who.tier = ks_tier_of(&identity->user_id)->id;
	if (ks_limits_admit(is_known ? &who : NULL, &refusal))
		return true;
	return refuse(call, &refusal);
}

static bool
refuse(KsCall *call, const KsLimitsRefusal *refusal)
{
	StringInfoData body;

	initStringInfo(&body);
	ks_refusal_begin(&body, refusal->code, refusal->message);
	if (refusal->extra != NULL)
		appendStringInfoString(&body, refusal->extra);
	appendStringInfoChar(&body, '}');
	call->reply.status = refusal->status;
	call->reply.body = cstring_to_text_with_len(body.data, body.len);
	return false;
}

void
ks_limit_headers(KsCall *call)
{
	KsLimitsHeader headers[KS_LIMITS_HEADERS];
	bool is_redirect = call->reply.status >= 300 && call->reply.status < 400;
	int count = is_redirect ? 0 : ks_limits_headers(headers);

	for (int i = 0; i < count; i++)
		ks_reply_header(&call->reply, headers[i].name, headers[i].value);
}
