-- Calling another service with the user's own API key, and asking it whether
-- a key is good. A key goes to its service's host alone, and to nobody who
-- reads what comes back.

do $types$
begin
    if pg_catalog.to_regtype('keelson.upstream_answer') is null then
        create type keelson.upstream_answer as (
            status integer,
            content_type text,
            payload jsonb,
            body bytea
        );
    end if;
end
$types$;
comment on type keelson.upstream_answer is
    'What another service has answered.';
comment on column keelson.upstream_answer.status is 'Its HTTP status, whichever it was.';
comment on column keelson.upstream_answer.content_type is 'The body''s media type; null where it was not told.';
comment on column keelson.upstream_answer.payload is 'The body as JSON; null where it is none.';
comment on column keelson.upstream_answer.body is 'The body''s bytes, 1 MiB at most.';

create or replace function keelson._call_path_fault(path text)
returns text
language sql
immutable
as $$
select case
    when path is null or path !~ '^/[\u0021-\u007e]*$' or pg_catalog.char_length(path) > 2048 then
        'begins with a / and is written in ASCII without blanks, at most 2,048 characters'
    when path ~ '[\\#"<>^`]' then 'has none of \ # " < > ^ ` (write them as %XX)'
    when path ~* '/(\.|%2e){1,2}([/?]|%2f|$)' then 'does not go up'
end
$$;
comment on function keelson._call_path_fault(text) is
    'What a path below a service''s URL must be and this one is not; null when it can be one.';

create or replace function keelson._call_headers_require(headers jsonb, key_header text)
returns void
language plpgsql
immutable
as $$
declare
    own constant text[] := '{authorization,host,connection,content-length,content-type,transfer-encoding,te,trailer,upgrade,expect,cookie,keep-alive,accept-encoding,range,x-request-id,traceparent}';
    name text;
begin
    if pg_catalog.jsonb_typeof(headers) <> 'object' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'header fields are an object of texts', field => 'headers');
    end if;
    for name in select pg_catalog.lower(h.name) from pg_catalog.jsonb_object_keys(headers) as h (name) loop
        if name = any (own) or name = pg_catalog.lower(key_header) or name like 'proxy-%' then
            perform keelson.raise(400, 'VALIDATION_FAILED', pg_catalog.format('the header field %s is not the caller''s to set', name), field => 'headers');
        end if;
    end loop;
end
$$;
comment on function keelson._call_headers_require(jsonb, text) is
    'Raise 400 for header fields that are the connection''s, or the key''s.';

create or replace function keelson._call_service(
    service text,
    api_key text,
    path text,
    method text default 'GET',
    headers jsonb default '{}',
    body bytea default null
)
returns record
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson.api_key_services;
    request_id uuid := keelson.current_request_id();
    called record;
begin
    select * into s from keelson.api_key_services as known where known.service = _call_service.service;
    called := keelson._upstream_call(
        'api-key ' || s.service, s.base_url || path, method,
        headers || jsonb_build_object(s.key_header, s.key_prefix || api_key)
            || case when request_id is null then '{}' else jsonb_build_object('X-Request-ID', request_id) end,
        body, 10000, false
    );
    return called;
end
$$;
comment on function keelson._call_service(text, text, text, text, jsonb, bytea) is
    'Call the service, at its own URL, with the key.';

create or replace function keelson._api_key_is_good(service text, api_key text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson.api_key_services;
    called record;
begin
    select * into s from keelson.api_key_services as known where known.service = _api_key_is_good.service;
    if s.verify_path is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'keys of this service cannot be verified', field => 'verify');
    end if;
    called := keelson._call_service(service, api_key, s.verify_path);
    if called.status <> all (s.accepted_statuses || s.refused_statuses) then
        perform keelson.raise(502, 'UPSTREAM_FAILED', format('%s has not said whether the key is good', s.title), 'Try again later, or without verifying.');
    end if;
    return called.status = any (s.accepted_statuses);
end
$$;
comment on function keelson._api_key_is_good(text, text) is
    'Whether the service accepts the key, as it says itself; 502 where it says neither, 400 where it cannot be asked. Called before anything is written.';

create or replace function keelson._api_key_open(service text, out id uuid, out api_key text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    acting uuid := keelson.acting_user_id();
    sealed bytea;
begin
    perform keelson._require(service, 'service');
    select k.id, k.sealed_key into id, sealed
    from keelson.user_api_keys as k
    where k.user_id = acting and k.service = _api_key_open.service;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no key stored for this service', field => 'service');
    end if;
    api_key := convert_from(keelson._unseal_at_once(
        sealed, row('api-key', acting, id)::keelson.seal_context, jsonb_build_object('what', 'API key', 'service', service, 'isSent', true)
    ), 'UTF8');
end
$$;
comment on function keelson._api_key_open(text) is
    'The acting user''s API key for a service, to be sent there at once; in the trail though nothing is written. 404 where there is none.';

create or replace function keelson.call_with_key(
    service text,
    path text,
    method text default 'GET',
    payload jsonb default null,
    headers jsonb default '{}',
    body bytea default null,
    content_type text default null
)
returns keelson.upstream_answer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson.api_key_services;
    opened record;
    called record;
    answer keelson.upstream_answer;
begin
    perform keelson.acting_user_id();
    perform keelson._require(service, 'service'), keelson._require(path, 'path');
    select * into s from keelson.api_key_services as known where known.service = call_with_key.service;
    if s.base_url is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'this service cannot be called', field => 'service');
    elsif keelson._call_path_fault(path) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('the path %s', keelson._call_path_fault(path)), field => 'path');
    elsif method is null or method not in ('GET', 'POST', 'PUT', 'PATCH', 'DELETE') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the method is GET, POST, PUT, PATCH or DELETE', field => 'method');
    elsif payload is not null and body is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a call has a payload or a body, not both', field => 'body');
    elsif method = 'GET' and (payload is not null or body is not null) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a GET has no body', field => 'method');
    end if;
    headers := coalesce(headers, '{}');
    perform keelson._call_headers_require(headers, s.key_header);
    body := coalesce(body, convert_to(payload::text, 'UTF8'));
    if octet_length(body) > 1048576 then
        perform keelson.raise(413, 'PAYLOAD_TOO_LARGE', 'what is sent has 1 MiB at most', field => 'body');
    end if;
    if body is not null then
        headers := headers || jsonb_build_object('Content-Type', coalesce(content_type, case when payload is null then 'application/octet-stream' else 'application/json' end));
    end if;
    opened := keelson._api_key_open(service);
    called := keelson._call_service(service, opened.api_key, path, method, headers, body);
    perform keelson._key_used(keelson.current_user_id(), opened.id);
    answer.status := called.status;
    answer.content_type := called.content_type;
    answer.payload := keelson._json_or_null(called.answer);
    answer.body := called.answer;
    return answer;
end
$$;
comment on function keelson.call_with_key(text, text, text, jsonb, jsonb, bytea, text) is
    'Call another service with the acting user''s own API key for it, which the caller does not get to see: below the service''s own URL alone, redirects not followed, 10 seconds and 1 MiB at most, before anything is written, in an endpoint of the pool upstream. payload is sent as JSON, or body as it is. Returns whatever was answered; 404 without a key, 502 UPSTREAM_FAILED without an answer, 503 UNAVAILABLE after several of these. Each call is in the audit trail.';
grant execute on function keelson.call_with_key(text, text, text, jsonb, jsonb, bytea, text) to keelson_app;

create or replace function keelson._json_or_null(data bytea)
returns jsonb
language plpgsql
immutable
as $$
begin
    return pg_catalog.convert_from(data, 'UTF8')::jsonb;
exception when data_exception or program_limit_exceeded then
    return null;
end
$$;
comment on function keelson._json_or_null(bytea) is
    'The bytes as JSON; null where they are none.';

create or replace function keelson.user_api_key_verify(service text)
returns keelson.api_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    opened record;
    is_good boolean;
    verified keelson.api_key;
begin
    opened := keelson._api_key_open(user_api_key_verify.service);
    is_good := keelson._api_key_is_good(user_api_key_verify.service, opened.api_key);
    perform keelson._key_used(keelson.current_user_id(), opened.id);
    -- Of the key that was sent: another may have taken its place meanwhile.
    update keelson.user_api_keys as k
    set is_verified = is_good, verified_at = now()
    where k.user_id = keelson.current_user_id() and k.service = user_api_key_verify.service and k.id = opened.id
    returning k.service, k.key_name, k.masked_key, k.created_at, k.updated_at, k.last_used_at, k.is_verified, k.verified_at
    into verified.service, verified.key_name, verified.masked_key, verified.created_at, verified.updated_at, verified.last_used_at,
        verified.verified, verified.verified_at;
    if not found then
        perform keelson.raise(409, 'CONFLICT', 'the key was replaced or removed meanwhile', field => 'service');
    end if;
    return verified;
end
$$;
comment on function keelson.user_api_key_verify(text) is
    'Ask the service whether it accepts the key that the user keeps for it: the answer is in verified. 404 without a key, 400 where the service cannot be asked, 502 where it says neither.';
grant execute on function keelson.user_api_key_verify(text) to keelson_app;

create or replace function keelson._user_api_keys_used(user_ids uuid[], ids uuid[], used_at timestamptz[])
returns setof integer
language sql
volatile
as $$
with used as (
    select *
    from rows from (pg_catalog.unnest(user_ids), pg_catalog.unnest(ids), pg_catalog.unnest(used_at))
        with ordinality as u (user_id, id, used_at, place)
),
free as (
    select k.user_id, k.service, k.id
    from keelson.user_api_keys as k
    join used as u on k.user_id = u.user_id and k.id = u.id
    for no key update of k skip locked
),
written as (
    update keelson.user_api_keys as k
    set last_used_at = greatest(k.last_used_at, u.used_at)
    from used as u
    join free as f on f.user_id = u.user_id and f.id = u.id
    where k.user_id = f.user_id and k.service = f.service and k.id = f.id
    returning k.id
)
select u.place::integer
from used as u
where u.id not in (select w.id from written as w)
    and exists (select from keelson.user_api_keys as k where k.user_id = u.user_id and k.id = u.id)
order by 1
$$;
comment on function keelson._user_api_keys_used(uuid[], uuid[], timestamptz[]) is
    'Write down when the users'' own API keys were last used; returns the places of those that somebody has locked just now.';
