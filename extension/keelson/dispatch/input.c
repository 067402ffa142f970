/*
 * input.c
 *	  Read JSON values as SQL types, noting what is at fault.
 *
 * input_scalar.c and input_compound.c read the values of base types. A
 * domain's checks are evaluated one by one, which tells the violated one
 * without an error; its comment, or else the domain's, is what the client
 * reads. The server's own messages never reach a client.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "executor/executor.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "dispatch/input_type.h"

static void choose(KsInputType *type);
static const char *domain_message(Oid domain, const char *constraint);
static Oid domain_parent(Oid type);

KsInputType *
ks_input_type(MemoryContext cxt, Oid type_oid)
{
	KsInputType *type = MemoryContextAllocZero(cxt, sizeof(KsInputType));

	type->cxt = cxt;
	type->type = type_oid;
	type->typmod = -1;
	type->base = getBaseTypeAndTypmod(type_oid, &type->typmod);
	type->is_domain = get_typtype(type_oid) == TYPTYPE_DOMAIN;
	if (type->is_domain)
		InitDomainConstraintRef(type_oid, &type->domain, cxt, true);
	choose(type);
	return type;
}

/* Choose how values of the base type are read. */
static void
choose(KsInputType *type)
{
	Oid function;
	Oid element = get_element_type(type->base);

	getTypeInputInfo(type->base, &function, &type->ioparam);
	fmgr_info_cxt(function, &type->input, type->cxt);
	if (OidIsValid(element))
	{
		type->read = ks_input_read_array;
		type->element = ks_input_type(type->cxt, element);
		get_typlenbyvalalign(element, &type->element_len, &type->element_byval, &type->element_align);
		return;
	}
	type->read = type_is_rowtype(type->base) ? ks_input_read_row : ks_input_scalar(type->base);
}

bool
ks_input_read(KsInputType *type, const KsJson *json, bool is_text, KsFaults *faults, Datum *out, bool *is_null)
{
	KsInputFrom from = {json, is_text, faults};

	*out = (Datum) 0;
	*is_null = json->kind == KS_JSON_NULL && type->base != JSONOID && type->base != JSONBOID;
	if (!*is_null && !type->read(type, &from, out))
		return false;
	return ks_input_check(type, *out, *is_null, faults);
}

bool
ks_input_check(KsInputType *type, Datum value, bool is_null, KsFaults *faults)
{
	ExprContext *econtext;
	const char *violated = NULL;
	ListCell *cell;

	if (!type->is_domain)
		return true;
	UpdateDomainConstraintRef(&type->domain);
	if (type->domain.constraints == NIL)
		return true;
	econtext = CreateStandaloneExprContext();
	econtext->domainValue_datum = value;
	econtext->domainValue_isNull = is_null;
	foreach (cell, type->domain.constraints)
	{
		DomainConstraintState *constraint = lfirst(cell);
		bool holds = constraint->constrainttype == DOM_CONSTRAINT_NOTNULL
						 ? !is_null
						 : ExecCheck(constraint->check_exprstate, econtext);

		if (!holds)
		{
			violated = constraint->name ? constraint->name : "";
			break;
		}
	}
	FreeExprContext(econtext, true);
	if (violated == NULL)
		return true;
	if (is_null)
		ks_fault(faults, "REQUIRED", "must not be null");
	else
		ks_fault(faults, "INVALID_VALUE", "%s", domain_message(type->type, violated));
	return false;
}

/*
 * What a domain says of a violation: the comment of the constraint, or of the
 * domain in the chain that has it, or of the outermost domain.
 */
static const char *
domain_message(Oid domain, const char *constraint)
{
	char *message = NULL;

	for (Oid type = domain; OidIsValid(type) && message == NULL; type = domain_parent(type))
	{
		Oid found = get_domain_constraint_oid(type, constraint, true);

		if (!OidIsValid(found))
			continue;
		message = GetComment(found, ConstraintRelationId, 0);
		if (message == NULL)
			message = GetComment(type, TypeRelationId, 0);
	}
	if (message == NULL)
		message = GetComment(domain, TypeRelationId, 0);
	return message ? message : "is not valid";
}

/* The type that a domain is made from; InvalidOid for what is no domain. */
static Oid
domain_parent(Oid type)
{
	HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid parent;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	parent = ((Form_pg_type) GETSTRUCT(tuple))->typbasetype;
	ReleaseSysCache(tuple);
	return parent;
}
