/*
 * captcha.c
 *	  Calling the function of the operator's that judges a CAPTCHA.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "core/guest.h"

PG_FUNCTION_INFO_V1(ks__captcha_call);

/* keelson._captcha_call(function text, role name, response text, ip_address inet) */
Datum
ks__captcha_call(PG_FUNCTION_ARGS)
{
	bool knows_address = !PG_ARGISNULL(3);
	Oid types[] = {TEXTOID, INETOID};
	Datum values[] = {PG_GETARG_DATUM(2), knows_address ? PG_GETARG_DATUM(3) : (Datum) 0};
	KsGuestQuery query = {
		.nargs = lengthof(types),
		.types = types,
		.values = values,
		.nulls = knows_address ? NULL : " n"};
	bool is_null;
	Datum is_solved;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		elog(ERROR, "who judges a CAPTCHA has a function, a role and a response");
	query.text = psprintf("select (%s($1, $2))::boolean", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	is_solved = ks_guest_call(&query, get_role_oid(NameStr(*PG_GETARG_NAME(1)), false), &is_null);
	/* What is not said to be solved is not. */
	PG_RETURN_BOOL(!is_null && DatumGetBool(is_solved));
}
