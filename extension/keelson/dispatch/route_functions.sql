-- Registration of endpoints.

create or replace function keelson.route(
    endpoint text,
    function text,
    role name default 'keelson_app',
    permission text default null,
    scope text default null,
    is_public boolean default false,
    rate_class text default 'general',
    rate_cost integer default 1,
    rate_wait interval default '0',
    timeout interval default '30 seconds',
    body_limit integer default 1048576,
    pool text default 'fast',
    kind text default 'once',
    is_raw boolean default false,
    content_types text[] default null,
    version text default 'v1',
    status integer default 200,
    returns regtype default null,
    errors text[] default '{}',
    examples jsonb default null,
    deprecated_at timestamptz default null,
    sunset_at timestamptz default null,
    successor text default null,
    description text default null,
    tier text default null,
    needs_verified_email boolean default false,
    factor_within interval default null
)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    named keelson._endpoint := keelson._route_endpoint(endpoint);
    wanted keelson.routes;
    existing keelson.routes;
    target oid;
begin
    wanted.method := named.method;
    wanted.template := named.template;
    wanted.shape := named.shape;
    wanted.version := version;
    target := keelson._route_function(function);
    wanted.function := (select format('%I.%I', n.nspname, p.proname)
                     from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
                     where p.oid = target);
    wanted.owner := keelson._route_owner(target);
    wanted.description := coalesce(description, obj_description(target, 'pg_proc'));
    if wanted.description is null then
        perform keelson._route_fault(endpoint, format('function %s has no comment', wanted.function),
            'Write one with "comment on function": it is the endpoint''s documentation.');
    end if;
    perform keelson._route_role_check(endpoint, role, target);
    -- Whoever registers a route has it run code: as nobody that they could not be.
    if role <> 'keelson_app' and not pg_has_role(session_user, role, 'member') then
        perform keelson._route_fault(endpoint, format('"%s" is no member of role "%s"', session_user, role),
            'Use keelson_app, or have a member or a superuser register it.');
    end if;
    perform keelson._route_arguments_check(endpoint, wanted.template, target, is_raw);
    perform keelson._route_result_check(endpoint, kind, target);
    -- A GET whose function makes its reply itself may name what it answers beside JSON.
    perform keelson._route_settings_check(
        endpoint, wanted.method, permission, scope, is_public, rate_class, rate_cost, rate_wait, timeout, body_limit,
        pool, kind, is_raw, case when wanted.method <> 'GET' or returns is null then content_types end, version, status, deprecated_at, sunset_at
    );
    if tier is not null then
        perform keelson._route_tier_check(endpoint, tier, is_public);
    end if;
    perform keelson._route_proof_check(endpoint, is_public, needs_verified_email, factor_within);
    wanted.role := role;
    wanted.tier := tier;
    wanted.needs_verified_email := needs_verified_email;
    wanted.factor_within_s := extract(epoch from factor_within);
    wanted.permission := permission;
    wanted.scope := scope;
    wanted.is_public := is_public;
    wanted.rate_class := rate_class;
    wanted.rate_cost := rate_cost;
    wanted.rate_wait_ms := extract(epoch from rate_wait) * 1000;
    wanted.timeout_ms := extract(epoch from timeout) * 1000;
    wanted.body_limit := body_limit;
    wanted.pool := pool;
    wanted.kind := kind;
    wanted.is_raw := is_raw;
    wanted.content_types := content_types;
    wanted.status := status;
    wanted.returns := returns::text;
    wanted.errors := coalesce(errors, '{}');
    wanted.examples := examples;
    wanted.deprecated_at := deprecated_at;
    wanted.sunset_at := sunset_at;
    wanted.successor := successor;
    select * into existing
    from keelson.routes
    where routes.method = wanted.method and routes.shape = wanted.shape and routes.version = wanted.version;
    if existing.owner <> wanted.owner then
        perform keelson._route_fault(endpoint, format('"%s %s" is an endpoint of %s', existing.method, existing.template, existing.owner),
            'Choose another path, or another version.');
    end if;
    return keelson._route_store(to_jsonb(wanted), to_jsonb(existing));
end
$$;
comment on function keelson.route(
    text, text, name, text, text, boolean, text, integer, interval, interval, integer, text, text, boolean, text[],
    text, integer, regtype, text[], jsonb, timestamptz, timestamptz, text, text, text, boolean, interval
) is
    'Register an endpoint such as ''GET /hello/:name'' for a function, or change it; returns its id. It is served within a second, with the function''s comment as its documentation.';
grant execute on function keelson.route(
    text, text, name, text, text, boolean, text, integer, interval, interval, integer, text, text, boolean, text[],
    text, integer, regtype, text[], jsonb, timestamptz, timestamptz, text, text, text, boolean, interval
) to keelson_admin;

create or replace function keelson.route_remove(endpoint text, version text default 'v1')
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    named keelson._endpoint := keelson._route_endpoint(endpoint);
begin
    delete from keelson.routes
    where routes.method = named.method and routes.shape = named.shape and routes.version = route_remove.version;
    return found;
end
$$;
comment on function keelson.route_remove(text, text) is
    'Take the endpoint away; false when there is none.';
grant execute on function keelson.route_remove(text, text) to keelson_admin;

create or replace function keelson.route_override(
    endpoint text,
    version text default 'v1',
    is_enabled boolean default null,
    rate_class text default null,
    timeout interval default null,
    body_limit integer default null,
    pool text default null,
    deprecated_at timestamptz default null,
    sunset_at timestamptz default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    named keelson._endpoint := keelson._route_endpoint(endpoint);
begin
    if not exists (
        select from keelson.routes
        where routes.method = named.method and routes.shape = named.shape and routes.version = route_override.version
    ) then
        perform keelson._route_fault(endpoint, 'there is no such endpoint', null);
    end if;
    insert into keelson.route_overrides as override
        (method, shape, version, is_enabled, rate_class, timeout_ms, body_limit, pool, deprecated_at, sunset_at)
    values (
        named.method, named.shape, route_override.version, route_override.is_enabled, route_override.rate_class,
        extract(epoch from timeout) * 1000, route_override.body_limit, route_override.pool,
        route_override.deprecated_at, route_override.sunset_at
    )
    on conflict on constraint route_overrides_pkey do update
    set is_enabled = excluded.is_enabled,
        rate_class = excluded.rate_class,
        timeout_ms = excluded.timeout_ms,
        body_limit = excluded.body_limit,
        pool = excluded.pool,
        deprecated_at = excluded.deprecated_at,
        sunset_at = excluded.sunset_at,
        updated_at = now();
end
$$;
comment on function keelson.route_override(text, text, boolean, text, interval, integer, text, timestamptz, timestamptz) is
    'Say what this installation wants otherwise than the endpoint''s owner; arguments left null keep the owner''s word. Replaces the earlier override.';
grant execute on function keelson.route_override(text, text, boolean, text, interval, integer, text, timestamptz, timestamptz)
    to keelson_admin;

create or replace function keelson.route_override_remove(endpoint text, version text default 'v1')
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    named keelson._endpoint := keelson._route_endpoint(endpoint);
begin
    delete from keelson.route_overrides as override
    where override.method = named.method and override.shape = named.shape
        and override.version = route_override_remove.version;
    return found;
end
$$;
comment on function keelson.route_override_remove(text, text) is
    'Take the override of an endpoint away; false when there is none.';
grant execute on function keelson.route_override_remove(text, text) to keelson_admin;

create or replace function keelson.routes_begin(owner text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.routes set is_stale = true where routes.owner = routes_begin.owner;
end
$$;
comment on function keelson.routes_begin(text) is
    'Begin to name all endpoints of an owner (an extension, or a schema of functions) anew; routes_end(owner) in the same transaction takes those away that were not named.';
grant execute on function keelson.routes_begin(text) to keelson_admin;

create or replace function keelson.routes_end(owner text)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    delete from keelson.routes where routes.owner = routes_end.owner and routes.is_stale;
    get diagnostics removed = row_count;
    return removed;
end
$$;
comment on function keelson.routes_end(text) is
    'End what routes_begin(owner) began; returns how many endpoints went.';
grant execute on function keelson.routes_end(text) to keelson_admin;

create or replace function keelson._route_store(row_wanted jsonb, row_existing jsonb)
returns integer
language plpgsql
volatile
as $$
declare
    wanted keelson.routes := pg_catalog.jsonb_populate_record(null::keelson.routes, row_wanted);
    existing keelson.routes := pg_catalog.jsonb_populate_record(null::keelson.routes, row_existing);
begin
    if existing.id is null then
        insert into keelson.routes (
            owner, method, template, shape, version, function, role, permission, scope, is_public, rate_class,
            rate_cost, rate_wait_ms, timeout_ms, body_limit, pool, kind, is_raw, content_types, status, returns, errors, examples,
            description, deprecated_at, sunset_at, successor, tier, needs_verified_email, factor_within_s
        )
        values (
            wanted.owner, wanted.method, wanted.template, wanted.shape, wanted.version, wanted.function, wanted.role, wanted.permission,
            wanted.scope, wanted.is_public, wanted.rate_class, wanted.rate_cost, wanted.rate_wait_ms, wanted.timeout_ms,
            wanted.body_limit, wanted.pool, wanted.kind,
            wanted.is_raw, wanted.content_types, wanted.status, wanted.returns, wanted.errors, wanted.examples,
            wanted.description, wanted.deprecated_at, wanted.sunset_at, wanted.successor, wanted.tier,
            wanted.needs_verified_email, wanted.factor_within_s
        )
        returning id into wanted.id;
        return wanted.id;
    end if;
    wanted.id := existing.id;
    wanted.is_stale := existing.is_stale;
    wanted.created_at := existing.created_at;
    wanted.updated_at := existing.updated_at;
    if wanted is distinct from existing then
        wanted.updated_at := pg_catalog.now();
    end if;
    if wanted is distinct from existing or existing.is_stale then
        update keelson.routes
        set template = wanted.template,
            function = wanted.function,
            role = wanted.role,
            permission = wanted.permission,
            scope = wanted.scope,
            is_public = wanted.is_public,
            rate_class = wanted.rate_class,
            rate_cost = wanted.rate_cost,
            rate_wait_ms = wanted.rate_wait_ms,
            timeout_ms = wanted.timeout_ms,
            body_limit = wanted.body_limit,
            pool = wanted.pool,
            kind = wanted.kind,
            is_raw = wanted.is_raw,
            content_types = wanted.content_types,
            status = wanted.status,
            returns = wanted.returns,
            errors = wanted.errors,
            examples = wanted.examples,
            description = wanted.description,
            deprecated_at = wanted.deprecated_at,
            sunset_at = wanted.sunset_at,
            successor = wanted.successor,
            tier = wanted.tier,
            needs_verified_email = wanted.needs_verified_email,
            factor_within_s = wanted.factor_within_s,
            is_stale = false,
            updated_at = wanted.updated_at
        where routes.id = existing.id;
    end if;
    return wanted.id;
end
$$;
comment on function keelson._route_store(jsonb, jsonb) is
    'Write the endpoint (rows of keelson.routes), keeping the id of the one that it replaces; returns the id.';

create or replace function keelson._camel_case(name text)
returns text
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_camel_case_sql';
comment on function keelson._camel_case(text) is
    'The JSON name of an SQL name: user_id is userId.';
