-- Webhooks that others send: types, taking one in, how they are.

do $types$
begin
    if pg_catalog.to_regtype('keelson.webhook_source') is null then
        create type keelson.webhook_source as (
            name text,
            preset text,
            settings jsonb,
            enabled boolean,
            secrets integer,
            created_at timestamptz,
            updated_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_source_secret') is null then
        create type keelson.webhook_source_secret as (
            id uuid,
            expires_at timestamptz,
            created_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_received') is null then
        create type keelson.webhook_received as (
            id uuid,
            duplicate boolean
        );
    end if;
    if pg_catalog.to_regtype('keelson.incoming_event') is null then
        create type keelson.incoming_event as (
            id uuid,
            source text,
            external_id text,
            type text,
            occurred_at timestamptz,
            received_at timestamptz,
            headers jsonb,
            payload jsonb
        );
    end if;
    if pg_catalog.to_regtype('keelson.failed_webhook') is null then
        create type keelson.failed_webhook as (
            id uuid,
            source text,
            external_id text,
            type text,
            state text,
            failures integer,
            error_code text,
            error text,
            handler text,
            first_failed_at timestamptz,
            last_failed_at timestamptz,
            next_retry_at timestamptz,
            resolved_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_health') is null then
        create type keelson.webhook_health as (
            status text,
            pending integer,
            processed integer,
            failed integer,
            exhausted integer,
            resolved integer,
            oldest_pending_at timestamptz
        );
    end if;
end
$types$;
comment on type keelson.webhook_source is 'Who may send us webhooks.';
comment on column keelson.webhook_source.settings is 'What is otherwise than in the preset.';
comment on column keelson.webhook_source.secrets is 'How many secrets its signatures are checked with.';
comment on type keelson.webhook_source_secret is 'A secret of a source, which is not shown.';
comment on column keelson.webhook_source_secret.expires_at is 'It counts until then; null: until it is removed.';
comment on type keelson.webhook_received is 'A webhook that was taken.';
comment on column keelson.webhook_received.id is 'Our id of the event; null for one that had come before.';
comment on column keelson.webhook_received.duplicate is 'Whether the event had come before; then nothing else was done.';
comment on type keelson.incoming_event is 'An event that a source has sent, as handlers get it.';
comment on column keelson.incoming_event.external_id is 'The event''s id at its source.';
comment on column keelson.incoming_event.occurred_at is 'When it happened, as the event says; null where it does not.';
comment on column keelson.incoming_event.headers is 'The header fields that the source''s settings name.';
comment on type keelson.failed_webhook is 'An incoming event whose handling has failed.';
comment on column keelson.failed_webhook.state is 'failed, exhausted or resolved.';
comment on column keelson.failed_webhook.error_code is 'The SQLSTATE of the last error, or crash.';
comment on column keelson.failed_webhook.next_retry_at is 'When it is tried again by itself; null: not any more.';
comment on type keelson.webhook_health is 'How incoming webhooks are; a count stops at 10,000.';
comment on column keelson.webhook_health.status is 'ok; degraded: some are exhausted, or wait for more than a minute.';
comment on column keelson.webhook_health.pending is 'Acknowledged, and to be handled.';
comment on column keelson.webhook_health.processed is 'Handled in the last 24 hours.';
comment on column keelson.webhook_health.failed is 'To be tried again by themselves.';
comment on column keelson.webhook_health.exhausted is 'Waiting for a hand.';
comment on column keelson.webhook_health.resolved is 'Handled after all, in the last 30 days.';

create or replace function keelson._incoming_wake()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks__incoming_wake';
comment on function keelson._incoming_wake() is
    'Have the worker look for events to handle once this transaction commits.';

create or replace function keelson._webhook_place(place text, headers jsonb, payload jsonb, body bytea)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    found jsonb;
begin
    if place = 'hash' then
        return encode(sha256(body), 'hex');
    elsif place like 'header:%' then
        return nullif(headers ->> substr(place, 8), '');
    end if;
    found := payload #> string_to_array(substr(place, 6), '.');
    return case when jsonb_typeof(found) in ('string', 'number') then nullif(found #>> '{}', '') end;
end
$$;
comment on function keelson._webhook_place(text, jsonb, jsonb, bytea) is
    'What stands in a request at a place such as header:x-event-id, body:data.id, or is the body''s hash; null for nothing.';

create or replace function keelson._webhook_moment(value text)
returns timestamptz
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Unix time: seconds, or milliseconds where seconds would lie beyond the year 5000.
    if value ~ '^[0-9]{1,13}(\.[0-9]{1,9})?$' then
        return to_timestamp(case when value::numeric > 1e11 then value::numeric / 1000 else value::numeric end::double precision);
    elsif value ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+(Z|[+-][0-9]{2}:?[0-9]{2})$' then
        return value::timestamptz;
    end if;
    return null;
exception when data_exception then
    return null;
end
$$;
comment on function keelson._webhook_moment(text) is
    'The moment that a text means: Unix seconds or milliseconds, or RFC 3339; null when it is none.';

create or replace function keelson._webhook_refuse(source text, fault text)
returns void
language plpgsql
volatile
as $$
begin
    perform keelson._webhook_rejected(source, fault);
    if fault in ('unknown_source', 'unconfigured') then
        perform keelson.raise(404, 'NOT_FOUND', case fault
            when 'unknown_source' then 'there is no such source of webhooks'
            else 'this source of webhooks has no secret yet'
        end, field => 'source');
    elsif fault = 'not_json' then
        perform keelson.raise(400, 'MALFORMED_JSON', 'the body is not a JSON object');
    end if;
    perform keelson.raise(400, 'BAD_REQUEST', case fault
        when 'missing' then 'the signature is missing'
        when 'malformed' then 'the signature is malformed'
        when 'too_old' then 'the signature is too old'
        when 'too_new' then 'the signature is from the future'
        when 'no_id' then 'the event has no id'
        else 'the signature is not the body''s'
    end);
end
$$;
comment on function keelson._webhook_refuse(text, text) is
    'Count and refuse a webhook that is not taken.';

create or replace function keelson._webhook_verify_any(source text, settings jsonb, headers jsonb, body bytea)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    secrets bytea[];
    ids uuid[];
    purposes text[];
    scheme jsonb;
    verdict text;
    fault text;
begin
    select coalesce(array_agg(k.secret), '{}'), coalesce(array_agg(k.id), '{}'), coalesce(array_agg(k.purpose), '{}')
    into secrets, ids, purposes
    from keelson._webhook_source_secrets(source) as k;
    for scheme in select s.scheme from jsonb_array_elements(settings -> 'schemes') with ordinality as s (scheme, place) order by s.place loop
        continue when (scheme ->> 'until')::timestamptz <= now();
        scheme := case when settings ? 'tolerance' then jsonb_build_object('tolerance', settings -> 'tolerance') else '{}' end || scheme;
        verdict := keelson._webhook_verify(scheme, secrets, ids, purposes, headers, body, clock_timestamp());
        if verdict is null then
            return scheme;
        end if;
        -- The most that can be said: of a signature that is there.
        if fault is null or fault = 'missing' then
            fault := verdict;
        end if;
    end loop;
    if cardinality(secrets) = 0 and not jsonb_path_exists(settings, '$.schemes[*].keys[*]') then
        fault := 'unconfigured';
    end if;
    perform keelson._webhook_refuse(source, coalesce(fault, 'missing'));
    return null;
end
$$;
comment on function keelson._webhook_verify_any(text, jsonb, jsonb, bytea) is
    'The scheme by which the body is signed; refuses the request when it is by none.';

create or replace function keelson._webhook_payload(source text, body bytea)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    payload jsonb;
begin
    begin
        payload := convert_from(body, 'UTF8')::jsonb;
    exception when data_exception or program_limit_exceeded then
        payload := null;
    end;
    if jsonb_typeof(payload) is distinct from 'object' then
        perform keelson._webhook_refuse(source, 'not_json');
    end if;
    return payload;
end
$$;
comment on function keelson._webhook_payload(text, bytea) is
    'The body as the JSON object that it is; refuses what is none.';

create or replace function keelson.webhook_receive(id text, body bytea, headers jsonb)
returns keelson.webhook_received
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    source text := id;
    settings jsonb;
    scheme jsonb;
    payload jsonb;
    event_id uuid := keelson.uuid7();
    external_id text;
    occurred_at timestamptz;
begin
    select p.settings || s.settings into settings
    from keelson.webhook_sources as s
    join keelson.webhook_presets as p on p.name = s.preset
    where s.name = source and s.is_enabled;
    if settings is null then
        perform keelson._webhook_refuse('', 'unknown_source');
    end if;
    body := coalesce(body, '');
    scheme := keelson._webhook_verify_any(source, settings, headers, body);
    payload := keelson._webhook_payload(source, body);
    select p.value into external_id
    from jsonb_array_elements_text(settings -> 'id') with ordinality as i (place, number)
    cross join lateral (select keelson._webhook_place(i.place, headers, payload, body) as value) as p
    where char_length(p.value) between 1 and 255
    order by i.number
    limit 1;
    if external_id is null then
        perform keelson._webhook_refuse(source, 'no_id');
    end if;
    occurred_at := keelson._webhook_moment(keelson._webhook_place(settings ->> 'occurredAt', headers, payload, body));
    perform keelson._webhook_require_fresh(source, settings, scheme, occurred_at);
    -- Limits are for those who cannot sign.
    perform keelson._rate_limit_refund('general');
    insert into keelson.webhook_receipts (id_hash)
    values (sha256(convert_to(source, 'UTF8') || '\x00'::bytea || convert_to(external_id, 'UTF8')))
    on conflict do nothing;
    if not found then
        return row(null, true)::keelson.webhook_received;
    end if;
    insert into keelson.incoming_events (id, source, external_id, event_type, occurred_at, headers, body, due_at)
    values (
        event_id, source, external_id,
        coalesce(left(keelson._webhook_place(settings ->> 'type', headers, payload, body), 255), ''),
        occurred_at, keelson._webhook_headers(settings, headers), body, now()
    );
    perform keelson._incoming_wake();
    return row(event_id, false)::keelson.webhook_received;
end
$$;
comment on function keelson.webhook_receive(text, bytea, jsonb) is
    'Take a webhook of the source that id names (stripe, ghl, or one that was set up): its signature is checked, the event is stored, and handled after the reply. An event that has come before is acknowledged, and nothing else is done.';
grant execute on function keelson.webhook_receive(text, bytea, jsonb) to keelson_app;

create or replace function keelson._webhook_require_fresh(source text, settings jsonb, scheme jsonb, occurred_at timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    tolerance interval := make_interval(secs => (settings ->> 'tolerance')::integer);
begin
    -- Where a header holds the time that is signed, it was looked at; a token signs nothing.
    if tolerance is null or not settings ? 'occurredAt' or scheme ->> 'content' like '%{timestamp}%' or scheme ->> 'algorithm' = 'token' then
        return;
    elsif occurred_at is null then
        perform keelson._webhook_refuse(source, 'malformed');
    elsif occurred_at < clock_timestamp() - tolerance then
        perform keelson._webhook_refuse(source, 'too_old');
    elsif occurred_at > clock_timestamp() + tolerance then
        perform keelson._webhook_refuse(source, 'too_new');
    end if;
end
$$;
comment on function keelson._webhook_require_fresh(text, jsonb, jsonb, timestamptz) is
    'Refuse a webhook whose time stands in the signed body and is not now, more or less, where the settings have a tolerance.';

create or replace function keelson._webhook_headers(settings jsonb, headers jsonb)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
select coalesce(jsonb_object_agg(h.name, left(headers ->> h.name, 1024)), '{}')
from jsonb_array_elements_text(settings -> 'headers') as h (name)
where headers ? h.name
$$;
comment on function keelson._webhook_headers(jsonb, jsonb) is
    'The header fields that are kept with the event.';

-- How they are.

create or replace function keelson._webhook_count(states text[])
returns integer
language sql
stable
as $$
select pg_catalog.count(*)::integer
from (select from keelson.failed_webhook_events as f where f.state = any (states) limit 10000) as counted
$$;
comment on function keelson._webhook_count(text[]) is
    'How many failed events are in one of the states; stops at 10,000.';

create or replace function keelson.webhook_health()
returns keelson.webhook_health
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    health keelson.webhook_health;
begin
    health.failed := keelson._webhook_count('{failed}');
    health.exhausted := keelson._webhook_count('{exhausted}');
    health.resolved := keelson._webhook_count('{resolved}');
    select count(*), min(waiting.received_at) into health.pending, health.oldest_pending_at
    from (
        select e.received_at from keelson.incoming_events as e
        where e.due_at <= now() and not exists (select from keelson.failed_webhook_events as f where f.id = e.id)
        order by e.due_at, e.id
        limit 10000
    ) as waiting;
    select count(*) into health.processed
    from (
        select from keelson.incoming_events as e where e.processed_at > now() - interval '24 hours' limit 10000
    ) as done;
    health.status := case
        when health.exhausted > 0 or health.oldest_pending_at < now() - interval '1 minute' then 'degraded'
        else 'ok'
    end;
    return health;
end
$$;
comment on function keelson.webhook_health() is
    'How many incoming webhooks are in which state, and whether any waits for a hand.';
grant execute on function keelson.webhook_health() to keelson_app;

create or replace function keelson._incoming_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
with health as materialized (select * from keelson.webhook_health())
select 'keelson_webhooks_incoming', pg_catalog.jsonb_build_object('state', s.state), s.events::double precision, 'gauge',
    'Incoming webhook events by state; a count stops at 10,000.'
from health as h
cross join lateral (values
    ('pending', h.pending), ('failed', h.failed), ('exhausted', h.exhausted), ('processed', h.processed)
) as s (state, events)
union all
select 'keelson_webhooks_incoming_exhausted_today', null::jsonb, coalesce((
    select d.exhausted from keelson.webhook_exhaustions as d where d.day = (pg_catalog.now() at time zone 'UTC')::date
), 0)::double precision, 'gauge', 'Incoming webhook events that were given up today (UTC); more than five are recorded in the audit trail.'
union all
select 'keelson_webhooks_incoming_rejected_total', pg_catalog.jsonb_build_object('source', r.source, 'fault', r.fault), r.rejections::double precision, 'counter',
    'Incoming webhooks that were not taken, by source (empty: none that is known) and fault.'
from keelson.webhook_rejections as r
$$;
comment on function keelson._incoming_metrics() is
    'Samples of incoming webhooks.';
