-- Webhooks: events and their types, templates, partitions, accounting.

create or replace function keelson.webhook_emit(
    event_type text,
    payload jsonb,
    user_id uuid default null,
    ordering_key text default null
)
returns uuid
language c
volatile
as 'MODULE_PATHNAME', 'ks_webhook_emit_sql';
comment on function keelson.webhook_emit(text, jsonb, uuid, text) is
    'Tell the user''s endpoints (the acting user''s unless another is given) of an event of a registered type once this transaction commits; returns the event''s id, null when no endpoint wants it. Events of one ordering key reach an endpoint one after the other.';
grant execute on function keelson.webhook_emit(text, jsonb, uuid, text) to keelson_app, keelson_admin;

create or replace function keelson.webhook_event_type(
    name text,
    description text,
    sample jsonb,
    schema jsonb default '{"type": "object"}'
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null or name !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' or char_length(name) > 63 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of an event type has two words or more with dots between them, such as report.ready', field => 'name');
    end if;
    if coalesce(description, '') = '' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an event type needs a description', field => 'description');
    end if;
    if jsonb_typeof(sample) is distinct from 'object' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an event type needs a sample of its payload, an object', field => 'sample');
    end if;
    if jsonb_typeof(schema) is distinct from 'object' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the schema of an event type is an object', field => 'schema');
    end if;
    if exists (select from keelson.webhook_event_types as t where t.name = webhook_event_type.name and t.is_reserved) then
        perform keelson.raise(409, 'CONFLICT', 'this event type is the core''s', field => 'name');
    end if;
    insert into keelson.webhook_event_types as t (name, description, schema, sample)
    values (webhook_event_type.name, webhook_event_type.description, webhook_event_type.schema, webhook_event_type.sample)
    on conflict on constraint webhook_event_types_pkey do update
    set description = excluded.description, schema = excluded.schema, sample = excluded.sample;
end
$$;
comment on function keelson.webhook_event_type(text, text, jsonb, jsonb) is
    'Register a type of event that users can be told of, with a sample of its payload and a JSON Schema; or describe it anew. Registered once, it stays.';
grant execute on function keelson.webhook_event_type(text, text, jsonb, jsonb) to keelson_admin;

create or replace function keelson._webhook_emit_to(endpoint_id uuid, event_type text, payload jsonb)
returns uuid
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_webhook_emit_to';
comment on function keelson._webhook_emit_to(uuid, text, jsonb) is
    'Send an event to one endpoint of the acting user, whatever it wants.';

create or replace function keelson._webhook_signature(secret bytea, id text, moment bigint, body bytea)
returns text
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_webhook_signature';
comment on function keelson._webhook_signature(bytea, text, bigint, bytea) is
    'The signature v1 of Standard Webhooks over id, Unix seconds and body under a secret whsec_….';

create or replace function keelson._webhook_glob_matches(glob text, name text)
returns boolean
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_webhook_glob_matches';
comment on function keelson._webhook_glob_matches(text, text) is
    'Whether the name of an event type matches; an asterisk stands for any characters.';

-- Templates: JSON in which strings hold {{ jsonpath }}.

create or replace function keelson._webhook_render(template jsonb, input jsonb)
returns jsonb
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    whole constant text := '^\s*\{\{((?:(?!\}\}).)+)\}\}\s*$';
    place constant text := '\{\{((?:(?!\}\}).)+)\}\}';
    words text;
    around text[];
    value jsonb;
    made text;
    path record;
begin
    case jsonb_typeof(template)
        when 'object' then
            return (select coalesce(jsonb_object_agg(m.key, keelson._webhook_render(m.value, input)), '{}') from jsonb_each(template) as m);
        when 'array' then
            -- A list of one path is the list of all that it finds.
            if jsonb_array_length(template) = 1 and jsonb_typeof(template -> 0) = 'string' and template ->> 0 ~ whole then
                return jsonb_path_query_array(input, substring(template ->> 0 from whole)::jsonpath, '{}', true);
            end if;
            return (
                select coalesce(jsonb_agg(keelson._webhook_render(m.value, input) order by m.place), '[]')
                from jsonb_array_elements(template) with ordinality as m (value, place)
            );
        when 'string' then
            words := template #>> '{}';
            if words ~ whole then
                return coalesce(jsonb_path_query_first(input, substring(words from whole)::jsonpath, '{}', true), 'null');
            end if;
            -- What is filled in is not looked at for places.
            around := regexp_split_to_array(words, place);
            made := around[1];
            for path in select m.groups[1] as words, m.number from regexp_matches(words, place, 'g') with ordinality as m (groups, number) loop
                value := jsonb_path_query_first(input, path.words::jsonpath, '{}', true);
                made := made || coalesce(value #>> '{}', '') || around[path.number + 1];
            end loop;
            return to_jsonb(made);
        else
            return template;
    end case;
end
$$;
comment on function keelson._webhook_render(jsonb, jsonb) is
    'The template with its {{ jsonpath }} places filled from the input: a string that is one path becomes the value it finds (null without one), a list of one such string the list of all, a path within text its text.';

create or replace function keelson._webhook_render_text(transform jsonb, input jsonb)
returns text
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_webhook_render_text';
comment on function keelson._webhook_render_text(jsonb, jsonb) is
    'What keelson._webhook_render() makes, as text; 400 VALIDATION_FAILED when that takes more than 100 ms of processor time.';

create or replace function keelson._webhook_filter_query(filter text, payload jsonb)
returns text
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_webhook_filter_query';
comment on function keelson._webhook_filter_query(text, jsonb) is
    'All that the jsonpath finds, a JSON array as text; 400 VALIDATION_FAILED when that takes more than 250 ms of processor time.';

create or replace function keelson._webhook_body(transform jsonb, input jsonb, out body text, out fault text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    body := keelson._webhook_render_text(transform, input);
    if octet_length(body) > 1048576 then
        body := null;
        fault := 'the transform makes more than 1 MiB of this event';
    end if;
exception when others then
    fault := 'the transform fails for this event: ' || left(sqlerrm, 200);
end
$$;
comment on function keelson._webhook_body(jsonb, jsonb) is
    'What a template makes of an event; or, where it fails, takes too long or makes more than 1 MiB, why there is nothing to send.';

-- Partitions.

create or replace function keelson.webhook_partitions_make(days_ahead integer default 7, moment timestamptz default pg_catalog.now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._partitions_make('webhook_events', days_ahead, moment);
end
$$;
comment on function keelson.webhook_partitions_make(integer, timestamptz) is
    'Make the missing partitions of events from yesterday''s to so many days ahead; returns how many. The keeper does it every hour.';
grant execute on function keelson.webhook_partitions_make(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson.webhook_events_expire(keep_for interval default null, moment timestamptz default pg_catalog.now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    until_at timestamptz := moment - coalesce(keep_for, make_interval(days => current_setting('keelson.delivery_retention')::integer));
    place record;
    dropped integer := 0;
begin
    for place in
        select p.day from keelson._partitions('webhook_events') as p
        where (p.day + 1)::timestamp at time zone 'UTC' <= until_at
        order by p.day
    loop
        -- Not what is still to be sent: it waits for its endpoint, or in quarantine.
        continue when keelson._webhook_is_awaited(place.day);
        if keelson._partition_drop('webhook_events', place.day) then
            dropped := dropped + 1;
        end if;
    end loop;
    return dropped;
end
$$;
comment on function keelson.webhook_events_expire(interval, timestamptz) is
    'Drop the partitions of events whose days are over, by default those older than keelson.delivery_retention, but not while one of their deliveries waits; returns how many.';
grant execute on function keelson.webhook_events_expire(interval, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._webhook_is_awaited(day date)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from keelson.deliveries as d
        where d.kind = 'webhook'
            and d.ref >= keelson._uuid7_floor(day::timestamp at time zone 'UTC')
            and d.ref < keelson._uuid7_floor((day + 1)::timestamp at time zone 'UTC')
    );
end
$$;
alter function keelson._webhook_is_awaited(date) owner to keelson_system;
comment on function keelson._webhook_is_awaited(date) is
    'Whether a delivery of an event of that day waits.';

-- What the courier does to endpoints.

create or replace function keelson._webhook_disable(user_id uuid, endpoint_id uuid, reason text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target text;
begin
    update keelson.webhook_endpoints as e
    set is_enabled = false, disabled_at = now(), disabled_reason = reason, version = e.version + 1, updated_at = now()
    where e.user_id = _webhook_disable.user_id and e.id = endpoint_id and e.is_enabled
    returning e.url into target;
    if target is null then
        return;
    end if;
    insert into keelson.courier_lanes as l (user_id, lane, is_paused)
    values (_webhook_disable.user_id, endpoint_id, true)
    on conflict on constraint courier_lanes_pkey do update set is_paused = true, changed_at = now();
    perform keelson._courier_hint(_webhook_disable.user_id, endpoint_id, true);
    perform keelson.audit(
        'webhook.change', jsonb_build_object('what', 'disabled', 'endpointId', endpoint_id, 'reason', reason), user_id => _webhook_disable.user_id
    );
    perform keelson.webhook_emit(
        'webhook.disabled', jsonb_build_object('endpointId', endpoint_id, 'url', target, 'reason', reason), _webhook_disable.user_id
    );
    perform keelson._notice(_webhook_disable.user_id, 'webhook.disabled', jsonb_build_object(
        'url', target,
        'reason', case reason when 'gone' then 'it answered that it is gone (410)' else 'it has answered with nothing but failures for five days' end
    ));
end
$$;
alter function keelson._webhook_disable(uuid, uuid, text) owner to keelson_system;
comment on function keelson._webhook_disable(uuid, uuid, text) is
    'Disable an endpoint that is gone or failing; its owner finds it in their activity and in a mail, and their other endpoints are told.';

-- Accounting.

create or replace function keelson.webhook_accounting(since timestamptz default '-infinity', until timestamptz default 'infinity')
returns table (expected bigint, found bigint, missing bigint, doubled bigint, unexpected bigint, states jsonb)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
with wanted as (
    select e.user_id, e.id, w.endpoint_id
    from keelson.webhook_events as e
    cross join lateral unnest(e.endpoint_ids) as w (endpoint_id)
    where keelson._uuid7_time(e.id) >= since and keelson._uuid7_time(e.id) < until
),
present as (
    select d.user_id, d.ref as id, d.lane as endpoint_id,
        case when d.is_quarantined then 'quarantined' when d.claim_id is not null then 'in_flight' else 'pending' end as state
    from keelson.deliveries as d
    where d.kind = 'webhook' and keelson._uuid7_time(d.ref) >= since and keelson._uuid7_time(d.ref) < until
    union all
    select l.user_id, l.ref, l.lane, l.state
    from keelson.deliveries_log as l
    where l.kind = 'webhook' and keelson._uuid7_time(l.ref) >= since and keelson._uuid7_time(l.ref) < until
),
counted as (
    select w.user_id is not null as is_wanted, p.present, p.states
    from wanted as w
    full join (
        select p.user_id, p.id, p.endpoint_id, count(*) as present, array_agg(p.state) as states
        from present as p
        group by 1, 2, 3
    ) as p using (user_id, id, endpoint_id)
)
select
    count(*) filter (where c.is_wanted),
    coalesce(sum(c.present), 0)::bigint,
    count(*) filter (where c.present is null),
    count(*) filter (where c.is_wanted and c.present > 1),
    count(*) filter (where not c.is_wanted),
    (
        select coalesce(jsonb_object_agg(s.state, s.deliveries), '{}')
        from (select p.state, count(*) as deliveries from present as p group by p.state) as s
    )
from counted as c
$$;
alter function keelson.webhook_accounting(timestamptz, timestamptz) owner to keelson_system;
comment on function keelson.webhook_accounting(timestamptz, timestamptz) is
    'Whether every event of the time has exactly one delivery for each endpoint that wanted it: expected and found are equal, missing, doubled and unexpected are 0. Reads all of it: for checking, not for every day.';
grant execute on function keelson.webhook_accounting(timestamptz, timestamptz) to keelson_admin;
