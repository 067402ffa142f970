-- Users' endpoints.

do $types$
begin
    if pg_catalog.to_regtype('keelson.webhook_endpoint') is null then
        create type keelson.webhook_endpoint as (
            id uuid,
            url text,
            description text,
            events text[],
            filter text,
            transform jsonb,
            headers jsonb,
            rate_limit integer,
            retry_schedule integer[],
            enabled boolean,
            disabled_reason text,
            breaker text,
            created_at timestamptz,
            updated_at timestamptz,
            secret text
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_event_type') is null then
        create type keelson.webhook_event_type as (
            name text,
            description text,
            schema jsonb,
            sample jsonb
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_dry_run') is null then
        create type keelson.webhook_dry_run as (
            matches boolean,
            method text,
            url text,
            headers jsonb,
            body text
        );
    end if;
end
$types$;
comment on type keelson.webhook_endpoint is 'Where a user wants to be told of events.';
comment on column keelson.webhook_endpoint.events is 'Types of events, or globs such as user.*.';
comment on column keelson.webhook_endpoint.filter is 'A jsonpath predicate over the payload.';
comment on column keelson.webhook_endpoint.transform is 'A template of the body that is sent instead.';
comment on column keelson.webhook_endpoint.headers is 'Header fields that are sent besides; values are not shown again.';
comment on column keelson.webhook_endpoint.rate_limit is 'At most so many deliveries a second; null: no limit.';
comment on column keelson.webhook_endpoint.retry_schedule is 'Seconds to wait after each failure; null: the usual ones.';
comment on column keelson.webhook_endpoint.disabled_reason is 'user, gone or failing; null while it is enabled.';
comment on column keelson.webhook_endpoint.breaker is 'closed, open, half_open, forced_open or forced_closed.';
comment on column keelson.webhook_endpoint.secret is 'What deliveries are signed with; shown once, when it is made.';
comment on type keelson.webhook_event_type is 'A type of event that endpoints can be told of.';
comment on type keelson.webhook_dry_run is 'What an endpoint would be sent.';
comment on column keelson.webhook_dry_run.matches is 'Whether the endpoint wants such an event.';

create or replace function keelson._webhook_envelope(event_type text, payload jsonb)
returns jsonb
language sql
stable
as $$
select pg_catalog.jsonb_build_object(
    'id', '019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e', 'type', event_type,
    'timestamp', keelson._time_text(pg_catalog.now()), 'data', payload
)
$$;
comment on function keelson._webhook_envelope(text, jsonb) is
    'What transforms see of an event, for trying them.';

create or replace function keelson._webhook_header_names(headers jsonb)
returns text[]
language sql
immutable
as $$ select coalesce(pg_catalog.array_agg(h.name order by h.name), '{}') from pg_catalog.jsonb_object_keys(headers) as h (name) $$;
comment on function keelson._webhook_header_names(jsonb) is
    'The names of header fields, in order.';

create or replace function keelson._webhook_headers_seal(user_id uuid, endpoint_id uuid, headers jsonb)
returns bytea
language plpgsql
volatile
as $$
begin
    if headers is null or headers = '{}' then
        return null;
    end if;
    return keelson.seal(pg_catalog.convert_to(headers::text, 'UTF8'), row('webhook-headers', user_id, endpoint_id)::keelson.seal_context);
end
$$;
comment on function keelson._webhook_headers_seal(uuid, uuid, jsonb) is
    'Header fields as they are stored: their values may be credentials of the receiver''s. Null where there are none.';

create or replace function keelson._webhook_secret_make(user_id uuid, endpoint_id uuid, out secret text, out sealed bytea)
language plpgsql
volatile
as $$
begin
    secret := 'whsec_' || pg_catalog.encode(keelson._random_bytes(32), 'base64');
    sealed := keelson.seal(pg_catalog.convert_to(secret, 'UTF8'), row('webhook-endpoint', user_id, endpoint_id)::keelson.seal_context);
end
$$;
comment on function keelson._webhook_secret_make(uuid, uuid) is
    'A new secret to sign with, in clear and sealed.';

create or replace function keelson._webhook_endpoint(endpoint_id uuid, secret text default null)
returns keelson.webhook_endpoint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    made keelson.webhook_endpoint;
begin
    select
        e.id, e.url, e.description, e.events, e.filter, e.transform,
        (select coalesce(jsonb_object_agg(h.name, '***'), '{}') from unnest(e.header_names) as h (name)),
        l.rate::integer, l.schedule, e.is_enabled, e.disabled_reason, coalesce(l.breaker, 'closed'), e.created_at, e.updated_at,
        _webhook_endpoint.secret
    into made
    from keelson.webhook_endpoints as e
    left join keelson.courier_lanes as l on l.user_id = e.user_id and l.lane = e.id
    where e.user_id = keelson.current_user_id() and e.id = endpoint_id;
    if made.id is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such webhook endpoint', field => 'id');
    end if;
    return made;
end
$$;
comment on function keelson._webhook_endpoint(uuid, text) is
    'An endpoint of the acting user as clients see it; 404 where there is none.';

create or replace function keelson.webhook_create(
    url text,
    events text[],
    description text default null,
    filter text default null,
    transform jsonb default null,
    headers jsonb default null,
    rate_limit integer default null,
    retry_schedule integer[] default null,
    enabled boolean default true
)
returns keelson.webhook_endpoint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    made uuid := keelson.uuid7();
    secret record;
begin
    if url is null or keelson._url_fault(url) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('the URL of a webhook %s', coalesce(keelson._url_fault(url), 'is needed')), field => 'url');
    end if;
    perform keelson._webhook_check_events(events);
    perform keelson._webhook_check_filter(filter);
    perform keelson._webhook_check_transform(transform, events);
    perform keelson._webhook_check_headers(headers);
    perform keelson._webhook_check_limits(rate_limit, retry_schedule);
    perform keelson._webhook_check_description(description);
    -- One at a time for each user, so that the bound holds.
    perform pg_advisory_xact_lock(hashtextextended('keelson.webhooks ' || me, 0));
    if (select count(*) from keelson.webhook_endpoints as e where e.user_id = me) >= 50 then
        perform keelson.raise(409, 'CONFLICT', 'a user has at most 50 webhook endpoints', 'Remove one that is not needed.');
    end if;
    secret := keelson._webhook_secret_make(me, made);
    insert into keelson.webhook_endpoints (user_id, id, url, description, events, filter, transform, headers, header_names, is_enabled, disabled_at, disabled_reason, secret)
    values (
        me, made, keelson._url_normal(webhook_create.url), webhook_create.description, webhook_create.events, webhook_create.filter,
        webhook_create.transform, keelson._webhook_headers_seal(me, made, webhook_create.headers),
        keelson._webhook_header_names(webhook_create.headers), coalesce(enabled, true),
        case when not enabled then now() end, case when not enabled then 'user' end, secret.sealed
    );
    insert into keelson.courier_lanes (user_id, lane, is_paused, rate, schedule)
    values (me, made, not coalesce(enabled, true), rate_limit, retry_schedule);
    perform keelson.audit('webhook.change', jsonb_build_object('what', 'added', 'endpointId', made));
    return keelson._webhook_endpoint(made, secret.secret);
end
$$;
comment on function keelson.webhook_create(text, text[], text, text, jsonb, jsonb, integer, integer[], boolean) is
    'Add an endpoint that is told of events: types or globs, a jsonpath predicate over the payload, a template of the body, further header fields, at most so many deliveries a second, seconds to wait after each failure. The secret that deliveries are signed with is shown this once.';
grant execute on function keelson.webhook_create(text, text[], text, text, jsonb, jsonb, integer, integer[], boolean) to keelson_app;

create or replace function keelson.webhook_list("limit" integer default 20, cursor text default null)
returns setof keelson.webhook_endpoint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    before_id uuid := keelson.cursor_decode(cursor) ->> 'id';
begin
    return query
    select shown.*
    from keelson.webhook_endpoints as e
    cross join lateral keelson._webhook_endpoint(e.id) as shown
    where e.user_id = me and (before_id is null or e.id < before_id)
    order by e.id desc
    limit keelson.page_by("limit", 'id');
end
$$;
comment on function keelson.webhook_list(integer, text) is
    'The webhook endpoints of the user who is signed in, newest first.';
grant execute on function keelson.webhook_list(integer, text) to keelson_app;

create or replace function keelson.webhook_get(id uuid)
returns keelson.webhook_endpoint
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    return keelson._webhook_endpoint(id);
end
$$;
comment on function keelson.webhook_get(uuid) is
    'A webhook endpoint of the user who is signed in.';
grant execute on function keelson.webhook_get(uuid) to keelson_app;

create or replace function keelson.webhook_update(
    id uuid,
    url text default null,
    events text[] default null,
    description text default null,
    filter text default null,
    transform jsonb default null,
    headers jsonb default null,
    rate_limit integer default null,
    retry_schedule integer[] default null,
    enabled boolean default null
)
returns keelson.webhook_endpoint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    seen keelson.webhook_endpoints;
    present keelson.webhook_endpoints;
    lane keelson.courier_lanes;
    -- Outside a request null says nothing; inside it takes away.
    is_request boolean := (keelson.current_request()).method is not null;
    has_description boolean := description is not null or is_request and keelson.given('description');
    has_filter boolean := filter is not null or is_request and keelson.given('filter');
    has_transform boolean := transform is not null or is_request and keelson.given('transform');
    has_headers boolean := headers is not null or is_request and keelson.given('headers');
begin
    -- All that takes time is done before anything is locked.
    select * into seen from keelson.webhook_endpoints as e where e.user_id = me and e.id = webhook_update.id;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such webhook endpoint', field => 'id');
    end if;
    if url is not null and keelson._url_fault(url) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('the URL of a webhook %s', keelson._url_fault(url)), field => 'url');
    end if;
    if events is not null then
        perform keelson._webhook_check_events(events);
    end if;
    perform keelson._webhook_check_description(description);
    perform keelson._webhook_check_filter(filter);
    if has_transform or events is not null then
        perform keelson._webhook_check_transform(case when has_transform then transform else seen.transform end, coalesce(events, seen.events));
    end if;
    perform keelson._webhook_check_headers(headers);
    perform keelson._webhook_check_limits(rate_limit, retry_schedule);
    select * into present from keelson.webhook_endpoints as e where e.user_id = me and e.id = webhook_update.id for update;
    -- A transform was checked with the events that it is for: both are to be as they were then.
    if not found or (has_transform or events is not null) and (present.transform, present.events) is distinct from (seen.transform, seen.events) then
        perform keelson.raise(409, 'CONFLICT', 'the webhook endpoint has just been changed', 'Try again.');
    end if;
    select * into lane from keelson.courier_lanes as l where l.user_id = me and l.lane = webhook_update.id for update;
    present.url := coalesce(keelson._url_normal(url), present.url);
    present.events := coalesce(events, present.events);
    if has_description then
        present.description := description;
    end if;
    if has_filter then
        present.filter := filter;
    end if;
    if has_transform then
        present.transform := transform;
    end if;
    if has_headers then
        present.headers := keelson._webhook_headers_seal(me, webhook_update.id, headers);
        present.header_names := keelson._webhook_header_names(headers);
    end if;
    if rate_limit is not null or is_request and keelson.given('rate_limit') then
        lane.rate := rate_limit;
    end if;
    if retry_schedule is not null or is_request and keelson.given('retry_schedule') then
        lane.schedule := retry_schedule;
    end if;
    if enabled is not null and enabled <> present.is_enabled then
        present.is_enabled := enabled;
        present.disabled_at := case when not enabled then now() end;
        present.disabled_reason := case when not enabled then 'user' end;
        lane.failing_since := null;
        lane.breaker := case when lane.breaker in ('forced_open', 'forced_closed') then lane.breaker else 'closed' end;
    end if;
    update keelson.webhook_endpoints as e
    set url = present.url, events = present.events, description = present.description, filter = present.filter,
        transform = present.transform, headers = present.headers, header_names = present.header_names, is_enabled = present.is_enabled,
        disabled_at = present.disabled_at, disabled_reason = present.disabled_reason, version = e.version + 1, updated_at = now()
    where e.user_id = me and e.id = webhook_update.id;
    insert into keelson.courier_lanes as l (user_id, lane, is_paused, rate, schedule)
    values (me, webhook_update.id, not present.is_enabled, lane.rate, lane.schedule)
    on conflict on constraint courier_lanes_pkey do update
    set is_paused = excluded.is_paused, rate = excluded.rate, schedule = excluded.schedule,
        failing_since = lane.failing_since, breaker = coalesce(lane.breaker, l.breaker), changed_at = now();
    perform keelson._courier_hint(me, webhook_update.id, true);
    perform keelson.audit('webhook.change', jsonb_build_object('what', 'changed', 'endpointId', webhook_update.id));
    return keelson._webhook_endpoint(webhook_update.id);
end
$$;
comment on function keelson.webhook_update(uuid, text, text[], text, text, jsonb, jsonb, integer, integer[], boolean) is
    'Change a webhook endpoint; what is not given stays, null takes filter, transform, headers and limits away. What waits for a disabled endpoint is sent once it is enabled again.';
grant execute on function keelson.webhook_update(uuid, text, text[], text, text, jsonb, jsonb, integer, integer[], boolean) to keelson_app;

create or replace function keelson._webhook_remove(user_id uuid, endpoint_id uuid, detail jsonb default '{}')
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.webhook_endpoints as e where e.user_id = _webhook_remove.user_id and e.id = endpoint_id;
    if not found then
        return false;
    end if;
    -- What waits is claimed, found without an endpoint, and cancelled.
    delete from keelson.courier_lanes as l where l.user_id = _webhook_remove.user_id and l.lane = endpoint_id;
    perform keelson._courier_hint(user_id, endpoint_id, true);
    perform keelson.audit('webhook.change', jsonb_build_object('what', 'removed', 'endpointId', endpoint_id) || detail, user_id => user_id);
    return true;
end
$$;
alter function keelson._webhook_remove(uuid, uuid, jsonb) owner to keelson_system;
comment on function keelson._webhook_remove(uuid, uuid, jsonb) is
    'Remove an endpoint of the user; false when there is none.';

create or replace function keelson.webhook_delete(id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not keelson._webhook_remove(keelson.acting_user_id(), webhook_delete.id) then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such webhook endpoint', field => 'id');
    end if;
end
$$;
comment on function keelson.webhook_delete(uuid) is
    'Remove a webhook endpoint; what was to be delivered to it is cancelled.';
grant execute on function keelson.webhook_delete(uuid) to keelson_app;

create or replace function keelson.webhook_rotate_secret(id uuid)
returns keelson.webhook_endpoint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    secret record;
begin
    perform keelson._webhook_endpoint(webhook_rotate_secret.id);
    secret := keelson._webhook_secret_make(me, webhook_rotate_secret.id);
    update keelson.webhook_endpoints as e
    set previous_secret = e.secret, previous_until = now() + interval '24 hours', secret = secret.sealed,
        version = e.version + 1, updated_at = now()
    where e.user_id = me and e.id = webhook_rotate_secret.id;
    perform keelson.audit('key.rotate', jsonb_build_object('what', 'webhook secret', 'endpointId', webhook_rotate_secret.id));
    return keelson._webhook_endpoint(webhook_rotate_secret.id, secret.secret);
end
$$;
comment on function keelson.webhook_rotate_secret(uuid) is
    'Make a new secret to sign deliveries with, shown this once. For 24 hours deliveries carry a signature of the old one too.';
grant execute on function keelson.webhook_rotate_secret(uuid) to keelson_app;

create or replace function keelson.webhook_event_types("limit" integer default 100, cursor text default null)
returns setof keelson.webhook_event_type
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    after_name text := keelson.cursor_decode(cursor) ->> 'name';
begin
    perform keelson.acting_user_id();
    return query
    select t.name, t.description, t.schema, t.sample
    from keelson.webhook_event_types as t
    where after_name is null or t.name > after_name
    order by t.name
    limit keelson.page_by("limit", 'name');
end
$$;
comment on function keelson.webhook_event_types(integer, text) is
    'The types of events that endpoints can be told of, each with a sample of its payload.';
grant execute on function keelson.webhook_event_types(integer, text) to keelson_app;

create or replace function keelson.webhook_dry_run(id uuid, type text, payload jsonb default null)
returns keelson.webhook_dry_run
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    endpoint keelson.webhook_endpoints;
    input jsonb := payload;
    event_id uuid := keelson.uuid7();
    moment bigint := extract(epoch from clock_timestamp());
    made keelson.webhook_dry_run;
    rendered record;
    secrets bytea[];
begin
    select * into endpoint from keelson.webhook_endpoints as e where e.user_id = me and e.id = webhook_dry_run.id;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such webhook endpoint', field => 'id');
    end if;
    if not exists (select from keelson.webhook_event_types as t where t.name = webhook_dry_run.type) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'there is no such type of event', field => 'type');
    end if;
    if input is null then
        input := (select t.sample from keelson.webhook_event_types as t where t.name = webhook_dry_run.type);
    elsif jsonb_typeof(input) <> 'object' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the payload of an event must be an object', field => 'payload');
    elsif pg_column_size(input) > 262144 then
        perform keelson.raise(413, 'PAYLOAD_TOO_LARGE', 'the payload of an event may have 256 KiB', field => 'payload');
    end if;
    begin
        made.matches := endpoint.is_enabled
            and exists (select from unnest(endpoint.events) as glob where keelson._webhook_glob_matches(glob, webhook_dry_run.type))
            and (endpoint.filter is null or keelson._webhook_filter_query(endpoint.filter, input) = '[true]');
    exception when data_exception or feature_not_supported or program_limit_exceeded or syntax_error_or_access_rule_violation then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the filter fails for this event, which is not sent then', field => 'filter');
    end;
    made.method := 'POST';
    made.url := endpoint.url;
    made.body := format('{"type":%s,"timestamp":%s,"data":%s}', to_json(type), to_json(keelson._time_text(now())), input);
    if endpoint.transform is not null then
        rendered := keelson._webhook_body(endpoint.transform, made.body::jsonb || jsonb_build_object('id', event_id));
        if rendered.fault is not null then
            perform keelson.raise(400, 'VALIDATION_FAILED', rendered.fault, field => 'transform');
        end if;
        made.body := rendered.body;
    end if;
    secrets := array[endpoint.secret] || case when endpoint.previous_until > now() then array[endpoint.previous_secret] else '{}' end;
    made.headers := (select coalesce(jsonb_object_agg(h.name, '***'), '{}') from unnest(endpoint.header_names) as h (name)) || jsonb_build_object(
        'Content-Type', 'application/json',
        'webhook-id', event_id,
        'webhook-timestamp', moment::text,
        'webhook-signature', (
            select string_agg(keelson._webhook_signature(
                keelson.unseal(s.secret, row('webhook-endpoint', me, endpoint.id)::keelson.seal_context),
                event_id::text, moment, convert_to(made.body, 'UTF8')
            ), ' ' order by s.place)
            from unnest(secrets) with ordinality as s (secret, place)
        )
    );
    return made;
end
$$;
comment on function keelson.webhook_dry_run(uuid, text, jsonb) is
    'What the endpoint would be sent for an event of the type, with the type''s sample or the payload given: header fields, signature, body, and whether it wants such an event. Sends nothing.';
grant execute on function keelson.webhook_dry_run(uuid, text, jsonb) to keelson_app;
