-- keelson.openapi(): the description of the API, read from the live catalogue: routes, functions, types,
-- domains and their comments. What the catalogue does not say is not claimed.
--
-- Rules that an author of endpoints can rely on:
--   * the summary is the first sentence of the function's comment (or of the route's description);
--   * an error is named by its code; a code of a product's own carries its status: '409 SLOT_TAKEN';
--   * types are described as openapi_types_functions.sql says.
-- Everything is ordered, so that two calls give the same document. The helpers take a route's id; the planner
-- folds keelson._openapi_routes() into them, so that each reads its one row.

create or replace function keelson._openapi_codes()
returns table (status text, code text)
language sql
immutable
parallel safe
as $$
values
    ('400', 'BAD_REQUEST'), ('400', 'INVALID_TOKEN'), ('400', 'MALFORMED_JSON'), ('400', 'VALIDATION_FAILED'),
    ('401', 'INVALID_CREDENTIALS'), ('401', 'SECOND_FACTOR_REQUIRED'), ('401', 'TOKEN_EXPIRED'),
    ('401', 'TOKEN_REUSED'), ('401', 'UNAUTHENTICATED'),
    ('403', 'CAPTCHA_REQUIRED'), ('403', 'CSRF_FAILED'), ('403', 'EMAIL_UNVERIFIED'), ('403', 'FORBIDDEN'),
    ('403', 'HTTPS_REQUIRED'), ('403', 'IP_BLOCKED'), ('403', 'TIER_REQUIRED'),
    ('404', 'NOT_FOUND'), ('405', 'METHOD_NOT_ALLOWED'), ('408', 'REQUEST_TIMEOUT'),
    ('409', 'CONFLICT'), ('409', 'EMAIL_TAKEN'), ('409', 'IDEMPOTENCY_CONFLICT'), ('409', 'IDEMPOTENCY_IN_PROGRESS'),
    ('410', 'GONE'), ('413', 'PAYLOAD_TOO_LARGE'), ('414', 'URI_TOO_LONG'), ('415', 'UNSUPPORTED_MEDIA_TYPE'),
    ('423', 'ACCOUNT_LOCKED'), ('429', 'QUOTA_EXCEEDED'), ('429', 'RATE_LIMITED'), ('431', 'HEADERS_TOO_LARGE'),
    ('500', 'INTERNAL'), ('502', 'UPSTREAM_FAILED'), ('503', 'UNAVAILABLE'), ('504', 'TIMEOUT');
$$;
comment on function keelson._openapi_codes() is 'The error codes of the contract and the status that each comes with.';

create or replace function keelson._openapi_status_name(status text)
returns text
language sql
immutable
parallel safe
as $$
    select coalesce(
        '{
            "200": "Done", "201": "Created", "202": "Accepted", "204": "Done, without a body",
            "400": "The request is malformed or has bad fields", "401": "Nobody is signed in, or the credential does not hold",
            "403": "Not allowed", "404": "There is no such thing", "405": "The path takes another method",
            "408": "The request came too slowly", "409": "It clashes with what is there", "410": "It is gone",
            "413": "The body is too large", "414": "The address is too long", "415": "The body is of another type",
            "423": "The account is locked", "429": "Too many requests: try again later", "431": "The headers are too large",
            "500": "A fault inside", "502": "Another service failed", "503": "Not available now: try again later",
            "504": "It took too long and was undone"
        }'::jsonb ->> _openapi_status_name.status,
        'Status ' || _openapi_status_name.status);
$$;
comment on function keelson._openapi_status_name(text) is 'What an HTTP status means here, in a few words.';

create or replace function keelson._openapi_type_named(name text)
returns oid
language sql
stable
parallel safe
as $$
    select case when _openapi_type_named.name like '%[]' then t.typarray else t.oid end
    from parse_ident(rtrim(_openapi_type_named.name, '[]')) as names
    join pg_catalog.pg_namespace as n on n.nspname = names[1]::name
    join pg_catalog.pg_type as t on t.typnamespace = n.oid and t.typname = names[2]::name
    where _openapi_type_named.name like '%.%'
    union all
    select to_regtype(_openapi_type_named.name)
    where _openapi_type_named.name not like '%.%';
$$;
comment on function keelson._openapi_type_named(text) is
    'The type of this name, found without a right to use its schema.';

create or replace function keelson._openapi_routes()
returns table (
    id int,
    method text,
    path text,
    tag text,
    function oid,
    operation text,
    status text,
    returns oid,
    is_list boolean,
    is_writing boolean,
    takes_body boolean,
    description text
)
language sql
stable
as $$
    with described as (
        select r.id, r.method, r.function, p.oid, p.proname, p.prorettype, p.proretset,
            case when r.template like '.well-known/%' then '/' else '/api/' end
                || case
                    when exists (
                        select
                        from keelson.effective_routes as newer
                        where newer.method = r.method and newer.template = r.template
                            and substr(newer.version, 2)::int > substr(r.version, 2)::int)
                        then r.version || '/'
                    else ''
                end
                || regexp_replace(r.template, ':([A-Za-z0-9]+)', '{\1}', 'g') as path,
            case when p.prorettype = 'void'::regtype then '204' else r.status::text end as status,
            case
                when p.prorettype = 'keelson.reply'::regtype then keelson._openapi_type_named(r.returns)
                else p.prorettype
            end as returns,
            coalesce(nullif(r.description, ''), pg_catalog.obj_description(p.oid, 'pg_proc'), '') as description,
            split_part(r.template, '/', 1) as tag
        from keelson.effective_routes as r
        cross join lateral parse_ident(r.function) as names
        join pg_catalog.pg_namespace as n on n.nspname = names[1]::name
        join pg_catalog.pg_proc as p on p.pronamespace = n.oid and p.proname = names[2]::name
    )
    select d.id, d.method, d.path, d.tag, d.oid,
        case
            when not exists (
                select
                from keelson.effective_routes as other
                where other.id <> d.id and split_part(other.function, '.', 2) = split_part(d.function, '.', 2))
                then keelson._camel_case(d.proname)
            else keelson._camel_case(trim('_' from regexp_replace(lower(d.method || d.path), '[^a-z0-9]+', '_', 'g')))
        end,
        d.status, d.returns, d.proretset, d.method <> 'GET',
        d.method in ('POST', 'PUT', 'PATCH') and exists (
            select
            from keelson._openapi_arguments(d.oid) as argument
            where position('{' || argument.name || '}' in d.path) = 0),
        d.description
    from described as d
    order by d.path, d.method;
$$;
comment on function keelson._openapi_routes() is 'The routes with what the description says of each, ordered by path and method.';

create or replace function keelson._openapi_parameters(route_id int)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_agg(parameter.value order by parameter.place), '[]')
        from (
            select argument.place, jsonb_build_object(
                'name', argument.name,
                'in', case when is_path then 'path' else 'query' end,
                'required', is_path or argument.is_required,
                'schema', argument.schema)
            from keelson._openapi_routes() as route
            cross join lateral keelson._openapi_arguments(route.function) as argument
            cross join lateral (select position('{' || argument.name || '}' in route.path) > 0) as place (is_path)
            where route.id = _openapi_parameters.route_id
                and (is_path or route.method in ('GET', 'DELETE'))
            union all
            select 1000, '{"$ref": "#/components/parameters/IdempotencyKey"}'
            from keelson.effective_routes as r
            where r.id = _openapi_parameters.route_id and not r.is_public and r.method not in ('GET', 'HEAD')
        ) as parameter (place, value)
    );
end;
$$;
comment on function keelson._openapi_parameters(int) is 'The parameters of a route: those of its path, and for GET and DELETE the query''s.';

create or replace function keelson._openapi_body(route_id int)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select case
            when r.is_raw and exists (
                select from keelson._openapi_arguments(route.function) as argument where argument.name = 'body')
                then jsonb_build_object('required', true, 'content', (
                    select jsonb_object_agg(type, '{}'::jsonb)
                    from unnest(coalesce(nullif(r.content_types, '{}'), '{*/*}')) as type))
            else (
                select jsonb_build_object(
                    'required', bool_or(argument.is_required),
                    'content', jsonb_build_object('application/json', jsonb_build_object(
                        'schema', jsonb_build_object(
                            'type', 'object',
                            'additionalProperties', false,
                            'properties', jsonb_object_agg(argument.name,
                                case when argument.is_required then argument.schema else keelson._openapi_nullable(argument.schema) end))
                            || jsonb_strip_nulls(jsonb_build_object('required',
                                jsonb_agg(argument.name order by argument.place) filter (where argument.is_required))))
                        || jsonb_strip_nulls(jsonb_build_object('example', r.examples -> 'request'))))
                from keelson._openapi_arguments(route.function) as argument
                where route.takes_body
                    and position('{' || argument.name || '}' in route.path) = 0
                having count(*) > 0)
        end
        from keelson._openapi_routes() as route
        join keelson.effective_routes as r on r.id = route.id
        where route.id = _openapi_body.route_id
    );
end;
$$;
comment on function keelson._openapi_body(int) is 'The body that a route takes, null where it takes none.';

create or replace function keelson._openapi_headers(status text)
returns jsonb
language sql
immutable
parallel safe
as $$
    select '{
            "X-Request-ID": {"$ref": "#/components/headers/RequestId"},
            "RateLimit": {"$ref": "#/components/headers/RateLimit"},
            "RateLimit-Policy": {"$ref": "#/components/headers/RateLimitPolicy"},
            "X-RateLimit-Limit": {"$ref": "#/components/headers/RateLimitLimit"},
            "X-RateLimit-Remaining": {"$ref": "#/components/headers/RateLimitRemaining"},
            "X-RateLimit-Reset": {"$ref": "#/components/headers/RateLimitReset"}
        }'::jsonb
        || case
            when _openapi_headers.status in ('423', '429', '503')
                then '{"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}'::jsonb
            else '{}'
        end;
$$;
comment on function keelson._openapi_headers(text) is 'The headers that come with a reply of this status.';

create or replace function keelson._openapi_texts(content_types text[])
returns jsonb
language sql
immutable
parallel safe
as $$
    select jsonb_object_agg(type, '{}'::jsonb) from unnest(_openapi_texts.content_types) as type;
$$;
comment on function keelson._openapi_texts(text[]) is 'Bodies of these types, of which no more is said; null without any.';

create or replace function keelson._openapi_success(route_id int)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_build_object(route.status, jsonb_build_object(
                'description', keelson._openapi_status_name(route.status),
                'headers', keelson._openapi_headers(route.status))
            || case
                when route.status = '204' then '{}'
                when r.kind = 'watch' then '{"content": {"text/event-stream": {"schema": {"type": "string"}}}}'
                when r.is_raw then jsonb_build_object('content', case
                    when r.method = 'GET' then coalesce(keelson._openapi_texts(r.content_types), '{"*/*": {}}')
                    else '{"*/*": {}}'
                end)
                when r.kind = 'rows' then jsonb_build_object('content', jsonb_build_object('application/json', jsonb_build_object(
                    'schema', jsonb_build_object('type', 'array', 'items', keelson._openapi_schema(route.returns)))))
                else jsonb_build_object('content', coalesce(keelson._openapi_texts(r.content_types), '{}') || jsonb_build_object('application/json',
                    jsonb_build_object('schema', keelson._openapi_envelope(route.returns, route.is_list))
                    || case
                        when r.examples ? 'response' then jsonb_build_object('example', jsonb_build_object(
                            'success', true,
                            'data', r.examples -> 'response',
                            'meta', '{"requestId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "timestamp": "2025-01-15T00:00:00Z"}'::jsonb))
                        else '{}'
                    end))
            end)
        from keelson._openapi_routes() as route
        join keelson.effective_routes as r on r.id = route.id
        where route.id = _openapi_success.route_id
    );
end;
$$;
comment on function keelson._openapi_success(int) is 'The reply of a route that goes well, under its status.';

create or replace function keelson._openapi_envelope(returns oid, is_list boolean)
returns jsonb
language plpgsql
stable
parallel safe
as $$
begin
    return (
        select jsonb_build_object(
            'type', 'object',
            'required', '["success", "data", "meta"]'::jsonb,
            'properties', jsonb_build_object(
                'success', '{"const": true}'::jsonb,
                'data', case
                    when _openapi_envelope.is_list then jsonb_build_object('type', 'array', 'items', item.schema)
                    else item.schema
                end,
                'meta', jsonb_build_object('$ref', '#/components/schemas/'
                    || case when _openapi_envelope.is_list then 'ListMeta' else 'Meta' end)))
        from (select coalesce(keelson._openapi_schema(_openapi_envelope.returns), '{}')) as item (schema)
    );
end;
$$;
comment on function keelson._openapi_envelope(oid, boolean) is 'What stands around a reply''s data.';

create or replace function keelson._openapi_errors(route_id int)
returns table (status text, codes text[])
language sql
stable
as $$
    with given (word) as (
        select unnest(r.errors)
        from keelson.effective_routes as r
        where r.id = _openapi_errors.route_id
        union
        select general.word
        from keelson._openapi_routes() as route
        join keelson.effective_routes as r on r.id = route.id
        cross join lateral (values
            -- A request's head may be malformed, and a name in its query unknown, where nothing is asked for too.
            ('BAD_REQUEST', true),
            ('VALIDATION_FAILED', true),
            ('MALFORMED_JSON', route.takes_body and not r.is_raw),
            ('PAYLOAD_TOO_LARGE', route.takes_body),
            ('UNSUPPORTED_MEDIA_TYPE', route.takes_body),
            ('UNAUTHENTICATED', not r.is_public),
            ('TOKEN_EXPIRED', not r.is_public),
            -- A signed-in user may do without a permission what an access key may not without a scope.
            ('FORBIDDEN', not r.is_public),
            ('TIER_REQUIRED', r.tier is not null),
            ('EMAIL_UNVERIFIED', r.needs_verified_email),
            ('SECOND_FACTOR_REQUIRED', r.factor_within_s is not null or r.tier is not null),
            -- Of a signed-in caller, where it is public too.
            ('CSRF_FAILED', route.is_writing),
            ('IDEMPOTENCY_CONFLICT', route.is_writing),
            ('IDEMPOTENCY_IN_PROGRESS', route.is_writing),
            ('RATE_LIMITED', true), ('INTERNAL', true), ('UNAVAILABLE', true), ('TIMEOUT', true)
        ) as general (word, holds)
        where route.id = _openapi_errors.route_id and general.holds
    )
    select coalesce(named.status, substring(given.word from '^\d{3}'), '4XX') as status,
        array_agg(distinct substring(given.word from '[A-Z0-9_]+$'))
    from given
    left join keelson._openapi_codes() as named on named.code = given.word
    group by 1
    order by 1;
$$;
comment on function keelson._openapi_errors(int) is
    'The errors that a route may answer, by status: those that it names and those that its kind brings along.';

create or replace function keelson._openapi_failures(route_id int)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select coalesce(jsonb_object_agg(failure.status, jsonb_build_object(
            'description', keelson._openapi_status_name(failure.status) || ': ' || array_to_string(failure.codes, ', ') || '.',
            'headers', keelson._openapi_headers(failure.status),
            'content', jsonb_build_object(
                'application/json', jsonb_build_object('schema', jsonb_build_object('allOf', jsonb_build_array(
                    '{"$ref": "#/components/schemas/Error"}'::jsonb,
                    jsonb_build_object('properties', jsonb_build_object('code', jsonb_build_object('enum', to_jsonb(failure.codes))))))),
                'application/problem+json', '{"schema": {"$ref": "#/components/schemas/Problem"}}'::jsonb))), '{}')
        from keelson._openapi_errors(_openapi_failures.route_id) as failure
    );
end;
$$;
comment on function keelson._openapi_failures(int) is 'The replies of a route that is refused or fails, by status.';

create or replace function keelson._openapi_security(route_id int)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select case
            when r.is_public then '[]'
            else jsonb_build_array(
                jsonb_build_object('bearer', to_jsonb(array_remove(array[r.permission], null))),
                jsonb_build_object('cookie', to_jsonb(array_remove(array[r.permission], null))))
                || case
                    when r.scope is null then '[]'
                    else jsonb_build_array(jsonb_build_object('accessKey', jsonb_build_array(r.scope)))
                end
        end
        from keelson.effective_routes as r
        where r.id = _openapi_security.route_id
    );
end;
$$;
comment on function keelson._openapi_security(int) is 'The credentials that a route takes, with the permission or scope that it asks.';

create or replace function keelson._openapi_operation(route_id int)
returns jsonb
language plpgsql
stable
as $$
begin
    return (
        select jsonb_strip_nulls(jsonb_build_object(
                'operationId', route.operation,
                'tags', jsonb_build_array(route.tag),
                'summary', rtrim(substring(route.description from '^.*?(?:[.:;](?=\s)|$)'), '.:;'),
                'description', route.description,
                'deprecated', case when r.deprecated_at <= now() then true end,
                'x-sunset', r.sunset_at,
                'x-rate-class', r.rate_class,
                'requestBody', keelson._openapi_body(route.id)))
            || jsonb_build_object(
                'parameters', keelson._openapi_parameters(route.id),
                'security', keelson._openapi_security(route.id),
                'responses', keelson._openapi_success(route.id) || keelson._openapi_failures(route.id))
        from keelson._openapi_routes() as route
        join keelson.effective_routes as r on r.id = route.id
        where route.id = _openapi_operation.route_id
    );
end;
$$;
comment on function keelson._openapi_operation(int) is 'One route as OpenAPI has it.';

create or replace function keelson._openapi_own_paths()
returns jsonb
language sql
immutable
parallel safe
as $$
    select jsonb_object_agg(page.path, jsonb_build_object('get', jsonb_build_object(
        'operationId', page.operation,
        'tags', '["health"]'::jsonb,
        'summary', page.summary,
        'security', '[]'::jsonb,
        'responses', jsonb_build_object('200', jsonb_build_object('description', 'Done',
            'content', jsonb_build_object(page.type, '{}'::jsonb)))
            || case
                when page.can_fail then '{"503": {"description": "Not ready", "content": {"application/json": {}}}}'::jsonb
                else '{}'
            end)))
    from (values
        ('/live', 'live', 'Whether the gateway''s process runs; the database is not asked', 'application/json', false),
        ('/ready', 'ready', 'Whether requests can be served now', 'application/json', true),
        ('/health', 'health', 'The state of the whole in one word', 'application/json', true),
        ('/health/detailed', 'healthDetailed', 'The state of each part', 'application/json', true),
        ('/metrics', 'metrics', 'Counters for Prometheus', 'text/plain', false),
        ('/api/docs', 'docs', 'This description as a page', 'text/html', false)
    ) as page (path, operation, summary, type, can_fail);
$$;
comment on function keelson._openapi_own_paths() is 'The paths that the gateway answers itself.';

create or replace function keelson._openapi_shared()
returns jsonb
language sql
immutable
parallel safe
as $$
    select '{
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                "description": "The access token of a session, from registering, logging in or refreshing."},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "__Host-ks_access",
                "description": "The session''s cookie; a request that changes anything carries X-CSRF-Token too, equal to the cookie __Host-ks_csrf."},
            "accessKey": {"type": "apiKey", "in": "header", "name": "X-API-Key",
                "description": "A service''s key (ks_…); it may also stand as a bearer token."}
        },
        "headers": {
            "RequestId": {"description": "The request''s id: the client''s own if it sent a UUID, else a new one.",
                "schema": {"type": "string", "format": "uuid"}},
            "RateLimit": {"description": "What is left of each limit, and for how many seconds (RateLimit header fields of the IETF).",
                "schema": {"type": "string"}},
            "RateLimitPolicy": {"description": "The limits that count this request.", "schema": {"type": "string"}},
            "RateLimitLimit": {"description": "How many requests the tightest limit allows.", "schema": {"type": "integer"}},
            "RateLimitRemaining": {"description": "How many of them are left.", "schema": {"type": "integer"}},
            "RateLimitReset": {"description": "When they are all there again, in Unix seconds.", "schema": {"type": "integer"}},
            "RetryAfter": {"description": "After how many seconds to try again.", "schema": {"type": "integer"}}
        },
        "parameters": {
            "IdempotencyKey": {"name": "Idempotency-Key", "in": "header", "required": false,
                "description": "Any text of the caller''s choice: a repetition with the same key and body gets the first reply again, for 24 hours.",
                "schema": {"type": "string", "maxLength": 255}}
        },
        "schemas": {
            "Meta": {"type": "object", "description": "What goes with every reply.", "required": ["requestId", "timestamp"],
                "properties": {"requestId": {"type": "string", "format": "uuid"}, "timestamp": {"type": "string", "format": "date-time"}}},
            "Pagination": {"type": "object", "description": "Where a list goes on.", "required": ["limit", "nextCursor"],
                "properties": {"limit": {"type": "integer"},
                    "nextCursor": {"type": ["string", "null"], "description": "To be given as cursor for the next page; null on the last."}}},
            "ListMeta": {"description": "What goes with a list.", "allOf": [{"$ref": "#/components/schemas/Meta"},
                {"type": "object", "properties": {"pagination": {"$ref": "#/components/schemas/Pagination"}}}]},
            "ErrorDetail": {"type": "object", "description": "One field that is at fault.", "required": ["field", "code", "message"],
                "properties": {"field": {"type": "string", "description": "The argument''s name; of a part of it with its place, such as events[2].minutes."},
                    "code": {"type": "string", "description": "REQUIRED, UNKNOWN, DUPLICATE, INVALID_TYPE, INVALID_VALUE, OUT_OF_RANGE or TOO_LONG, or the error''s own code."},
                    "message": {"type": "string", "description": "For a person, to be shown beside the field."}}},
            "Error": {"type": "object", "description": "A refusal or failure.", "required": ["success", "error", "code", "meta"],
                "properties": {"success": {"const": false}, "error": {"type": "string", "description": "For a person."},
                    "code": {"type": "string", "description": "For a program."}, "hint": {"type": "string", "description": "What can be done about it."},
                    "details": {"type": "array", "items": {"$ref": "#/components/schemas/ErrorDetail"}},
                    "meta": {"$ref": "#/components/schemas/Meta"}}},
            "Problem": {"type": "object", "description": "The same as RFC 9457 has it, for clients that accept application/problem+json.",
                "required": ["type", "title", "status"],
                "properties": {"type": {"type": "string", "format": "uri-reference"}, "title": {"type": "string"},
                    "status": {"type": "integer"}, "detail": {"type": "string"}, "instance": {"type": "string", "description": "The request''s id."}, "code": {"type": "string"},
                    "hint": {"type": "string"}, "details": {"type": "array", "items": {"$ref": "#/components/schemas/ErrorDetail"}}}}
        }
    }'::jsonb;
$$;
comment on function keelson._openapi_shared() is 'The parts of the description that all operations share.';

create or replace function keelson.openapi()
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set quote_all_identifiers = off
as $$
    with operations (path, item) as (
        select route.path, jsonb_object_agg(lower(route.method), keelson._openapi_operation(route.id))
        from keelson._openapi_routes() as route
        group by route.path
    ),
    types (oids, given_oids) as (
        select array_agg(distinct used.oid) filter (where not used.is_given), array_agg(distinct used.oid) filter (where used.is_given)
        from keelson._openapi_routes() as route
        join pg_catalog.pg_proc as p on p.oid = route.function
        cross join lateral (
            select unnest(p.proargtypes::oid[]), true
            union all
            select route.returns, false where route.returns is not null and route.status <> '204'
        ) as used (oid, is_given)
        where used.oid not in ('void'::regtype, 'record'::regtype)
    ),
    shared (components) as (
        select keelson._openapi_shared()
    )
    select jsonb_build_object(
        'openapi', '3.1.0',
        'info', jsonb_build_object(
            'title', 'Keelson API',
            'version', (select e.extversion from pg_catalog.pg_extension as e where e.extname = 'keelson'),
            'description', 'Sign in by POST /api/auth/register or /api/auth/login, and send the accessToken of the reply as "Authorization: Bearer …". Read from the live catalogue: what is registered is here.',
            'license', '{"name": "PostgreSQL", "identifier": "PostgreSQL"}'::jsonb),
        'servers', jsonb_build_array(jsonb_build_object(
            'url', coalesce(nullif(current_setting('keelson.public_url', true), ''), 'http://127.0.0.1:8080'))),
        'tags', (
            select jsonb_agg(jsonb_build_object('name', tag) order by tag)
            from (select tag from keelson._openapi_routes() union select 'health') as tags (tag)),
        'paths', (select coalesce(jsonb_object_agg(operations.path, operations.item), '{}') from operations)
            || keelson._openapi_own_paths(),
        'components', shared.components || jsonb_build_object(
            'schemas', keelson._openapi_components(types.oids, types.given_oids) || (shared.components -> 'schemas')))
    from types, shared;
$$;
comment on function keelson.openapi() is
    'The API as OpenAPI 3.1, read from the live catalogue: routes, arguments, domains, replies, errors and comments.';
grant execute on function keelson.openapi() to keelson_app, keelson_admin;
