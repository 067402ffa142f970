/*
 * target: a request target, taken apart and percent-decoded in place.
 */
#ifndef GW_TARGET_H
#define GW_TARGET_H

#include "text.h"

#define GW_TARGET_SEGMENTS 16
#define GW_TARGET_PARAMS 65 /* one more than GW_FRAMING_PARAMS_MAX separators */

enum GwTargetFault
{
	GW_TARGET_OK,
	GW_TARGET_NO_PATH,     /* CONNECT's form, an empty target: 400 */
	GW_TARGET_BAD_ESCAPE,  /* %zz, %00, %2f, %5c in the path, a dot segment: 400 */
	GW_TARGET_BAD_UTF8,    /* 400 */
	GW_TARGET_MANY_PARAMS, /* 400 */
	GW_TARGET_DEEP         /* more segments than any route: 404 */
};

struct GwParam
{
	struct GwSlice name;
	struct GwSlice value;
};

/* Slices point into the buffer given to gw_target_parse. */
struct GwTarget
{
	bool is_asterisk; /* "OPTIONS *" */
	size_t nsegments;
	size_t nparams;
	struct GwSlice segments[GW_TARGET_SEGMENTS]; /* of the path, without a trailing empty one */
	struct GwParam params[GW_TARGET_PARAMS];
};

/*
 * Takes the raw target (origin form, or absolute form, whose scheme and
 * authority are dropped) apart, decoding inside "raw", which must stay valid
 * as long as target is used. A query name without "=" has an empty value.
 */
enum GwTargetFault gw_target_parse(struct GwTarget *target, char *raw, size_t len)
	__attribute__((warn_unused_result));

/* A sentence for the client about a fault. */
const char *gw_target_message(enum GwTargetFault fault);

#endif
