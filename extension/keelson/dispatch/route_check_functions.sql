-- What keelson.route() demands of an endpoint.

create type keelson._endpoint as (
    method text,
    template text,
    shape text
);
comment on type keelson._endpoint is
    'What ''GET /hello/:name'' says: the shape is the template with its parameters made anonymous.';

create or replace function keelson._route_fault(endpoint text, message text, hint text)
returns void
language plpgsql
as $$
begin
    raise exception 'endpoint "%": %', endpoint, message
        using errcode = 'invalid_parameter_value', hint = coalesce(hint, '');
end
$$;
comment on function keelson._route_fault(text, text, text) is
    'Refuse the registration of an endpoint.';

create or replace function keelson._route_endpoint(endpoint text)
returns keelson._endpoint
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    named keelson._endpoint;
    parts text[] := regexp_match(endpoint, '^\s*([A-Za-z]+)\s+/?(\S*?)/?\s*$');
    segment text;
    parameters text[] := '{}';
begin
    if parts is null then
        perform keelson._route_fault(endpoint, 'it is not a method and a path', 'Write it as in "GET /hello/:name".');
    end if;
    named.method := upper(parts[1]);
    if named.method <> all (array['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) then
        perform keelson._route_fault(endpoint, format('method "%s" is not supported', named.method),
            'The methods are GET, POST, PUT, PATCH and DELETE; HEAD and OPTIONS are answered by the gateway.');
    end if;
    named.template := regexp_replace(parts[2], '^api/', '');
    if named.template = '' or length(named.template) > 1024 then
        perform keelson._route_fault(endpoint, 'the path is empty or longer than 1024 characters', null);
    end if;
    if named.template ~ '^v[0-9]+(/|$)' then
        perform keelson._route_fault(endpoint, 'the path names a version', 'Give it as version => ''v1''.');
    end if;
    foreach segment in array string_to_array(named.template, '/') loop
        if segment !~ '^(:[a-z][A-Za-z0-9]*|[A-Za-z0-9._~-]+)$' or segment in ('.', '..') then
            perform keelson._route_fault(endpoint, format('segment "%s" is not valid', segment),
                'A segment is a parameter such as ":userId", or made of letters, digits, ".", "_", "~" and "-".');
        elsif segment = any (parameters) then
            perform keelson._route_fault(endpoint, format('parameter "%s" stands in it twice', segment), null);
        elsif segment like ':%' then
            parameters := parameters || segment;
        end if;
    end loop;
    if cardinality(parameters) > 8 then
        perform keelson._route_fault(endpoint, 'the path has more than 8 parameters', null);
    end if;
    named.shape := regexp_replace(named.template, ':[A-Za-z0-9]+', ':', 'g');
    return named;
end
$$;
comment on function keelson._route_endpoint(text) is
    'Method, template and shape of an endpoint such as ''GET /hello/:name''.';

create or replace function keelson._route_function(function text)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    names text[] := parse_ident(function);
    found_functions oid[];
begin
    if cardinality(names) <> 2 then
        perform keelson._route_fault(function, 'the function is not named with its schema', null);
    end if;
    select array_agg(p.oid) into found_functions
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = names[1] and p.proname = names[2];
    if found_functions is null then
        raise exception 'function "%" does not exist', function using errcode = 'undefined_function';
    elsif cardinality(found_functions) > 1 then
        raise exception 'function "%" exists more than once', function
            using errcode = 'ambiguous_function',
                  hint = 'An endpoint''s function has a name of its own.';
    elsif not exists (
        select from pg_proc as p where p.oid = found_functions[1] and p.prokind = 'f'
    ) then
        raise exception '"%" is not a plain function', function using errcode = 'wrong_object_type';
    end if;
    return found_functions[1];
end
$$;
comment on function keelson._route_function(text) is
    'The one function with this qualified name.';

create or replace function keelson._route_owner(function oid)
returns text
language sql
stable
as $$
select coalesce(
    (
        select e.extname::text
        from pg_catalog.pg_depend as d
        join pg_catalog.pg_extension as e on e.oid = d.refobjid
        where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
            and d.objid = function
            and d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
            and d.deptype = 'e'
    ),
    (
        select n.nspname::text
        from pg_catalog.pg_proc as p
        join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
        where p.oid = function
    )
)
$$;
comment on function keelson._route_owner(oid) is
    'The extension that the function belongs to, or else its schema: the owner of its endpoints.';

create or replace function keelson._route_role_check(endpoint text, role name, function oid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    schema regnamespace := (select p.pronamespace from pg_proc as p where p.oid = function);
    reachable name;
begin
    if not exists (select from pg_roles as r where r.rolname = role) then
        raise exception 'role "%" does not exist', role using errcode = 'undefined_object';
    end if;
    select r.rolname into reachable
    from pg_roles as r
    where pg_has_role(role, r.oid, 'member')
        and (
            r.rolsuper
            or r.rolbypassrls
            -- It can make itself a member of any role but a superuser's.
            or r.rolcreaterole
            or r.rolname in ('keelson_owner', 'keelson_system', 'keelson_admin', 'keelson_jobs', 'keelson_gateway')
            -- As good as a superuser, or past the grants on our tables.
            or r.rolname in (
                'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files',
                'pg_read_all_data', 'pg_write_all_data', 'pg_signal_backend'
            )
        )
    order by r.rolname = role desc, r.rolname
    limit 1;
    if reachable = role then
        perform keelson._route_fault(endpoint, format('it may not run as role "%s"', role),
            'Use keelson_app, or a role of the product''s own.');
    elsif reachable is not null then
        perform keelson._route_fault(endpoint, format('it may not run as role "%s", a member of "%s"', role, reachable),
            'Use keelson_app, or a role of the product''s own.');
    elsif not has_schema_privilege(role, schema, 'usage') then
        perform keelson._route_fault(endpoint, format('role "%s" may not use schema %s', role, schema),
            format('Run: grant usage on schema %s to %I;', schema, role));
    elsif not has_function_privilege(role, function, 'execute') then
        perform keelson._route_fault(endpoint, format('role "%s" may not execute %s', role, function::regprocedure),
            format('Run: grant execute on function %s to %I;', function::regprocedure, role));
    end if;
end
$$;
comment on function keelson._route_role_check(text, name, oid) is
    'Refuse a role that could get past row-level security or administer, and one that may not call the function.';

create or replace function keelson._runs_as(what text, role name, function oid, owner text)
returns name
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if owner = 'keelson' then
        -- Our own run as who may look across users; none of them is anybody's to register.
        if not pg_has_role(session_user, 'keelson_owner', 'member') then
            perform keelson.raise(403, 'FORBIDDEN', 'the core''s functions are run by the core alone');
        end if;
        return null;
    end if;
    perform keelson._route_role_check(what, role, function);
    if role <> 'keelson_app' and not pg_has_role(session_user, role, 'member') then
        perform keelson.raise(403, 'FORBIDDEN', format('"%s" is no member of role "%s"', session_user, role), field => 'role');
    end if;
    return role;
end
$$;
comment on function keelson._runs_as(text, name, oid, text) is
    'The role that a function runs as which whoever registers it wants called: one that they are a member of or keelson_app, and null for the core''s own. Refuses all else.';

create or replace function keelson._route_arguments_check(endpoint text, template text, function oid, is_raw boolean)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    argument record;
    parameter text;
    names text[] := '{}';
begin
    for argument in
        select a.name, a.mode, a.type, t.typtype
        from pg_proc as p
        cross join lateral unnest(
            coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes, p.proargnames
        ) as a (type, mode, name)
        join pg_type as t on t.oid = a.type
        where p.oid = function and coalesce(a.mode, 'i') not in ('o', 't')
    loop
        if coalesce(argument.mode, 'i') <> 'i' then
            perform keelson._route_fault(endpoint, format('argument "%s" is not a plain input', argument.name), null);
        elsif coalesce(argument.name, '') !~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' then
            perform keelson._route_fault(endpoint, format('argument "%s" is not named in snake_case', coalesce(argument.name, '')),
                'Names of arguments become names of JSON members: letters, digits and single underscores.');
        elsif argument.typtype = 'p' then
            perform keelson._route_fault(endpoint, format('argument "%s" has type %s', argument.name, argument.type::regtype),
                'An argument has a type of its own.');
        elsif keelson._camel_case(argument.name) = any (names) then
            perform keelson._route_fault(endpoint, format('two arguments are "%s" in JSON', keelson._camel_case(argument.name)), null);
        end if;
        names := names || keelson._camel_case(argument.name);
    end loop;
    for parameter in
        select m[1] from regexp_matches(template, ':([A-Za-z0-9]+)', 'g') as m
    loop
        if parameter <> all (names) or is_raw and parameter in ('body', 'contentType', 'headers') then
            perform keelson._route_fault(endpoint, format('the function has no argument for parameter ":%s"', parameter),
                'The parameter userId is for the argument user_id.');
        end if;
    end loop;
end
$$;
comment on function keelson._route_arguments_check(text, text, oid, boolean) is
    'Refuse a function whose arguments a request could not name, or that lacks one of the path''s parameters.';

create or replace function keelson._route_result_check(endpoint text, kind text, function oid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    result record;
begin
    select p.proretset as is_set, p.prorettype::regtype as type, t.typtype, p.proallargtypes is not null as has_columns
    into result
    from pg_proc as p
    join pg_type as t on t.oid = p.prorettype
    where p.oid = function;
    if result.typtype = 'p' and result.type <> 'void'::regtype
        and not (result.type = 'record'::regtype and result.has_columns)
    then
        perform keelson._route_fault(endpoint, format('%s returns type %s', function::regprocedure, result.type),
            'Return a composite type, jsonb, keelson.reply, a plain type or void.');
    elsif result.is_set and result.type = 'keelson.reply'::regtype then
        perform keelson._route_fault(endpoint, format('%s returns several replies', function::regprocedure), null);
    elsif kind = 'rows' and not result.is_set then
        perform keelson._route_fault(endpoint, format('%s does not return a set', function::regprocedure),
            'An endpoint of kind rows is sent row by row.');
    end if;
end
$$;
comment on function keelson._route_result_check(text, text, oid) is
    'Refuse a function whose result could not be written as a reply.';

create or replace function keelson._route_settings_check(
    endpoint text,
    method text,
    permission text,
    scope text,
    is_public boolean,
    rate_class text,
    rate_cost integer,
    rate_wait interval,
    timeout interval,
    body_limit integer,
    pool text,
    kind text,
    is_raw boolean,
    content_types text[],
    version text,
    status integer,
    deprecated_at timestamptz,
    sunset_at timestamptz
)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    fault text;
begin
    select faults.message into fault
    from (values
        (1, version !~ '^v[1-9][0-9]{0,2}$', 'version is not one such as v1'),
        (2, permission is not null and not exists (select from keelson.permissions as p where p.name = permission),
            format('permission "%s" does not exist', permission)),
        (3, scope !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$', 'scope is not one such as usage.write'),
        (4, is_public and coalesce(permission, scope) is not null, 'a public endpoint can demand neither permission nor scope'),
        (5, rate_class not in ('general', 'api', 'auth', 'reset'), 'rate_class is not general, api, auth or reset'),
        (6, rate_cost not between 1 and 1000000, 'rate_cost is not between 1 and 1000000'),
        (7, rate_wait not between '0' and '30 seconds', 'rate_wait is not between 0 and 30 seconds'),
        (8, timeout < '1 millisecond' or timeout > '1 hour', 'timeout is not between 1 millisecond and 1 hour'),
        (9, body_limit not between 0 and 10485760, 'body_limit is not between 0 and 10485760'),
        (10, pool not in ('fast', 'slow', 'upstream'), 'pool is not fast, slow or upstream'),
        (11, kind not in ('once', 'rows', 'watch'), 'kind is not once, rows or watch'),
        (12, kind in ('rows', 'watch') and method <> 'GET', format('an endpoint of kind %s has the method GET', kind)),
        (13, content_types is not null and not is_raw, 'content_types are for raw endpoints; the others take JSON'),
        (14, status not between 200 and 299, 'status is not between 200 and 299'),
        (15, sunset_at is not null and (deprecated_at is null or sunset_at < deprecated_at),
            'sunset_at does not come after deprecated_at'),
        (16, is_public is null or rate_class is null or rate_cost is null or rate_wait is null or timeout is null or body_limit is null or pool is null
            or kind is null or is_raw is null or version is null or status is null,
            'a setting without which an endpoint cannot be is null')
    ) as faults (place, is_fault, message)
    where faults.is_fault
    order by faults.place
    limit 1;
    if fault is not null then
        perform keelson._route_fault(endpoint, fault, null);
    end if;
end
$$;
comment on function keelson._route_settings_check(
    text, text, text, text, boolean, text, integer, interval, interval, integer, text, text, boolean, text[], text, integer,
    timestamptz, timestamptz
) is
    'Refuse settings of an endpoint that are out of range or contradict each other.';

create or replace function keelson._route_tier_check(endpoint text, tier text, is_public boolean)
returns void
language plpgsql
stable
as $$
begin
    if is_public then
        perform keelson._route_fault(endpoint, 'it is public and demands a tier', null);
    elsif not exists (select from keelson.tiers as t where t.id = tier) then
        perform keelson._route_fault(endpoint, pg_catalog.format('tier "%s" does not exist', tier), 'The tiers are the rows of keelson.tiers.');
    end if;
end
$$;
comment on function keelson._route_tier_check(text, text, boolean) is
    'Refuse a tier that does not exist, or that nobody could show.';

create or replace function keelson._route_proof_check(
    endpoint text,
    is_public boolean,
    needs_verified_email boolean,
    factor_within interval
)
returns void
language plpgsql
immutable
as $$
begin
    if needs_verified_email is null or factor_within not between interval '1 second' and interval '1 day' then
        perform keelson._route_fault(endpoint, 'factor_within is not between 1 second and 1 day, or needs_verified_email is null', null);
    elsif is_public and (needs_verified_email or factor_within is not null) then
        perform keelson._route_fault(endpoint, 'it is public and demands something of who calls it', null);
    end if;
end
$$;
comment on function keelson._route_proof_check(text, boolean, boolean, interval) is
    'Refuse a demand of a verified address or of a second factor that nobody could meet.';
