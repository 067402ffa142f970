-- Deliveries to users' endpoints: looking at them, testing, sending again.

do $types$
begin
    if pg_catalog.to_regtype('keelson.webhook_attempt') is null then
        create type keelson.webhook_attempt as (
            number integer,
            at timestamptz,
            status integer,
            duration_ms double precision,
            error text,
            error_code text,
            address text,
            http_version text,
            timings jsonb,
            response text
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_delivery') is null then
        create type keelson.webhook_delivery as (
            id uuid,
            event_id uuid,
            type text,
            state text,
            attempts integer,
            next_attempt_at timestamptz,
            created_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_delivery_detail') is null then
        create type keelson.webhook_delivery_detail as (
            id uuid,
            event_id uuid,
            endpoint_id uuid,
            type text,
            state text,
            ordering_key text,
            next_attempt_at timestamptz,
            created_at timestamptz,
            finished_at timestamptz,
            body jsonb,
            attempts keelson.webhook_attempt[]
        );
    end if;
    if pg_catalog.to_regtype('keelson.webhook_replay') is null then
        create type keelson.webhook_replay as (
            replayed integer,
            more boolean
        );
    end if;
end
$types$;
comment on type keelson.webhook_attempt is 'One attempt at a delivery.';
comment on column keelson.webhook_attempt.status is 'The receiver''s HTTP status; null where it gave none.';
comment on column keelson.webhook_attempt.error_code is 'timeout, dns, connect, tls, reset, protocol, too_large, blocked, refused; null where there was a status.';
comment on column keelson.webhook_attempt.timings is 'Milliseconds until the name was resolved, the connection made, TLS agreed on, the first byte received.';
comment on column keelson.webhook_attempt.response is 'The first 16 KiB of what the receiver answered.';
comment on type keelson.webhook_delivery is 'An event on its way to an endpoint.';
comment on column keelson.webhook_delivery.state is 'pending, in_flight, delivered, exhausted, cancelled or quarantined.';
comment on column keelson.webhook_delivery.next_attempt_at is 'Null where there is none to come by itself, or what it waits for is over first.';
comment on type keelson.webhook_delivery_detail is 'An event on its way to an endpoint, with all attempts.';
comment on column keelson.webhook_delivery_detail.body is 'The event, before the endpoint''s transform.';
comment on type keelson.webhook_replay is 'How many deliveries go out again.';
comment on column keelson.webhook_replay.more is 'Whether more fit than are sent again at once: ask again.';

create or replace function keelson._delivery_state(claim_id bigint, is_quarantined boolean)
returns text
language sql
immutable
parallel safe
as $$ select case when is_quarantined then 'quarantined' when claim_id is not null then 'in_flight' else 'pending' end $$;
comment on function keelson._delivery_state(bigint, boolean) is
    'The state of a delivery that is not done.';

create or replace function keelson.webhook_test(id uuid)
returns keelson.webhook_delivery
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    event uuid;
    made keelson.webhook_delivery;
begin
    perform keelson._webhook_require_enabled(id);
    event := keelson._webhook_emit_to(webhook_test.id, 'webhook.test', jsonb_build_object('message', 'Hello from Keelson'));
    select d.id, event, 'webhook.test', 'pending', 0, d.due_at, keelson._uuid7_time(d.id)
    into made
    from keelson.deliveries as d
    where d.user_id = me and d.ref = event and d.id >= event;
    return made;
end
$$;
comment on function keelson.webhook_test(uuid) is
    'Send a webhook.test event to the endpoint; its delivery tells what came of it.';
grant execute on function keelson.webhook_test(uuid) to keelson_app;

-- Looks at 10,000 deliveries of the user at most, so that it costs the same
-- however many there are: a page may be short, and says where to go on.
create or replace function keelson._webhook_deliveries_search(
    endpoint_id uuid,
    wanted_state text,
    wanted_type text,
    row_limit integer,
    before_id uuid,
    out matches keelson.webhook_delivery[],
    out next_id uuid
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant integer := 10000;
    me uuid := keelson.current_user_id();
    top uuid := coalesce(before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    seen integer := 0;
    d record;
    event_type text;
begin
    matches := '{}';
    for d in
        select * from (
            (
                select w.id, w.lane, w.kind, w.ref, keelson._delivery_state(w.claim_id, w.is_quarantined) as state, w.attempts,
                    nullif(w.due_at, 'infinity') as due_at
                from keelson.deliveries as w where w.user_id = me and w.id < top order by w.id desc limit most
            )
            union all
            (
                select l.id, l.lane, l.kind, l.ref, l.state, l.attempts, null
                from keelson.deliveries_log as l where l.user_id = me and l.id < top order by l.id desc limit most
            )
        ) as both_tables
        order by id desc
        limit most
    loop
        seen := seen + 1;
        next_id := d.id;
        continue when d.lane <> endpoint_id or d.kind <> 'webhook' or d.state <> coalesce(wanted_state, d.state);
        event_type := (select e.event_type from keelson.webhook_events as e where e.user_id = me and e.id = d.ref);
        continue when event_type is distinct from coalesce(wanted_type, event_type);
        matches := matches || row(d.id, d.ref, event_type, d.state, d.attempts, d.due_at, keelson._uuid7_time(d.id))::keelson.webhook_delivery;
        exit when cardinality(matches) = row_limit;
    end loop;
    if cardinality(matches) < row_limit and seen < most then
        next_id := null;
    end if;
end
$$;
comment on function keelson._webhook_deliveries_search(uuid, text, text, integer, uuid) is
    'The acting user''s newest deliveries to the endpoint that fit, before the given one, and the id before which to go on.';

create or replace function keelson.webhook_deliveries(
    id uuid,
    state text default null,
    type text default null,
    "limit" integer default 20,
    cursor text default null
)
returns setof keelson.webhook_delivery
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    page record;
begin
    perform keelson.acting_user_id();
    perform keelson._webhook_endpoint(webhook_deliveries.id);
    perform keelson._page_limit_require("limit");
    if state not in ('pending', 'in_flight', 'delivered', 'exhausted', 'cancelled', 'quarantined') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'there is no such state of a delivery', field => 'state');
    end if;
    page := keelson._webhook_deliveries_search(webhook_deliveries.id, state, type, "limit", (keelson.cursor_decode(cursor) ->> 'before')::uuid);
    perform keelson.page("limit", case when page.next_id is not null then keelson.cursor_encode(jsonb_build_object('before', page.next_id)) end);
    return query select * from unnest(page.matches);
end
$$;
comment on function keelson.webhook_deliveries(uuid, text, text, integer, text) is
    'Deliveries to a webhook endpoint, newest first, all or those in a state or of a type of event.';
grant execute on function keelson.webhook_deliveries(uuid, text, text, integer, text) to keelson_app;

create or replace function keelson._webhook_attempts(delivery_id uuid)
returns keelson.webhook_attempt[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(
            a.number, a.started_at, a.status, a.total_us / 1000.0, coalesce(a.error, case when a.status is not null and a.status not between 200 and 299 then 'the receiver answered ' || a.status end),
            a.code, a.address, case a.http_version when 10 then '1.0' when 11 then '1.1' when 20 then '2' end,
            case when a.total_us is not null then jsonb_build_object(
                'nameMs', a.name_us / 1000.0, 'connectMs', a.connect_us / 1000.0, 'tlsMs', a.tls_us / 1000.0, 'firstByteMs', a.first_byte_us / 1000.0
            ) end,
            a.response
        )::keelson.webhook_attempt
        from (
            select t.number, t.started_at, t.status, t.code, t.error, t.address, t.http_version,
                t.name_us, t.connect_us, t.tls_us, t.first_byte_us, t.total_us, t.response
            from keelson.delivery_attempts as t
            where t.user_id = keelson.current_user_id() and t.delivery_id = _webhook_attempts.delivery_id
            union all
            select l.attempts, l.started_at, l.status, l.code, l.error, l.address, l.http_version,
                l.name_us, l.connect_us, l.tls_us, l.first_byte_us, l.total_us, l.response
            from keelson.deliveries_log as l
            where l.user_id = keelson.current_user_id() and l.id = _webhook_attempts.delivery_id and l.started_at is not null
        ) as a
        order by a.number
    );
end
$$;
comment on function keelson._webhook_attempts(uuid) is
    'All attempts at a delivery of the acting user, oldest first.';

create or replace function keelson.webhook_delivery_get(id uuid, delivery_id uuid)
returns keelson.webhook_delivery_detail
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    found_row record;
    event keelson.webhook_events;
begin
    select d.ref, d.lane, keelson._delivery_state(d.claim_id, d.is_quarantined) as state, d.ordering_key, nullif(d.due_at, 'infinity') as due_at,
        null::timestamptz as finished_at
    into found_row
    from keelson.deliveries as d where d.user_id = me and d.id = delivery_id and d.lane = webhook_delivery_get.id
    union all
    select l.ref, l.lane, l.state, l.ordering_key, null, l.finished_at
    from keelson.deliveries_log as l where l.user_id = me and l.id = delivery_id and l.lane = webhook_delivery_get.id;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such delivery', field => 'delivery_id');
    end if;
    select * into event from keelson.webhook_events as e where e.user_id = me and e.id = found_row.ref;
    return row(
        delivery_id, found_row.ref, found_row.lane, event.event_type, found_row.state, found_row.ordering_key, found_row.due_at,
        keelson._uuid7_time(delivery_id), found_row.finished_at, event.body::jsonb, keelson._webhook_attempts(delivery_id)
    )::keelson.webhook_delivery_detail;
end
$$;
comment on function keelson.webhook_delivery_get(uuid, uuid) is
    'A delivery to a webhook endpoint, with the event and all attempts.';
grant execute on function keelson.webhook_delivery_get(uuid, uuid) to keelson_app;

-- Sending again: the same delivery, so that each event has one for each endpoint.

create or replace function keelson._webhook_replay(endpoint_id uuid, ids uuid[])
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.current_user_id();
    replayed integer;
begin
    with gone as (
        delete from keelson.deliveries_log as l
        where l.user_id = me and l.id = any (ids) and l.lane = endpoint_id and l.kind = 'webhook'
        returning l.*
    ),
    kept as (
        insert into keelson.delivery_attempts (
            user_id, delivery_id, number, started_at, status, code, error, address, http_version,
            name_us, connect_us, tls_us, first_byte_us, total_us, response, response_size
        )
        select
            g.user_id, g.id, g.attempts, g.started_at, g.status, g.code, g.error, g.address, g.http_version,
            g.name_us, g.connect_us, g.tls_us, g.first_byte_us, g.total_us, g.response, g.response_size
        from gone as g where g.started_at is not null
    )
    insert into keelson.deliveries (user_id, id, lane, kind, ref, due_at, attempts, attempts_before, ordering_key)
    select g.user_id, g.id, g.lane, g.kind, g.ref, now(), g.attempts, g.attempts, g.ordering_key from gone as g;
    get diagnostics replayed = row_count;
    if replayed > 0 then
        perform keelson._courier_hint(me, endpoint_id);
    end if;
    return replayed;
end
$$;
comment on function keelson._webhook_replay(uuid, uuid[]) is
    'Let finished deliveries of the acting user wait again, with the schedule from its beginning; returns how many.';

create or replace function keelson._webhook_require_enabled(endpoint_id uuid)
returns void
language plpgsql
stable
as $$
begin
    if not (keelson._webhook_endpoint(endpoint_id)).enabled then
        perform keelson.raise(409, 'CONFLICT', 'the webhook endpoint is disabled', 'Enable it first.');
    end if;
end
$$;
comment on function keelson._webhook_require_enabled(uuid) is
    '409 where the acting user''s endpoint is disabled, 404 where there is none.';

create or replace function keelson.webhook_delivery_replay(id uuid, delivery_id uuid)
returns keelson.webhook_delivery_detail
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
begin
    perform keelson._webhook_require_enabled(webhook_delivery_replay.id);
    if keelson._webhook_replay(webhook_delivery_replay.id, array[delivery_id]) = 0 then
        -- It waits: then at once.
        update keelson.deliveries as d
        set due_at = now(), attempts_before = d.attempts
        where d.user_id = me and d.id = delivery_id and d.lane = webhook_delivery_replay.id
            and d.claim_id is null and d.due_at < 'infinity';
        if found then
            perform keelson._courier_hint(me, webhook_delivery_replay.id);
        elsif exists (
            select from keelson.deliveries as d where d.user_id = me and d.id = delivery_id and d.lane = webhook_delivery_replay.id
        ) then
            perform keelson.raise(409, 'CONFLICT', 'the delivery is being sent, waits for an earlier one, or is quarantined');
        else
            perform keelson.raise(404, 'NOT_FOUND', 'there is no such delivery', field => 'delivery_id');
        end if;
    end if;
    return keelson.webhook_delivery_get(webhook_delivery_replay.id, delivery_id);
end
$$;
comment on function keelson.webhook_delivery_replay(uuid, uuid) is
    'Send a delivery again, whatever became of it, or now if it waits. The receiver sees the same webhook-id.';
grant execute on function keelson.webhook_delivery_replay(uuid, uuid) to keelson_app;

create or replace function keelson._webhook_replayable(
    endpoint_id uuid,
    wanted_state text,
    wanted_type text,
    first_id uuid,
    end_id uuid,
    row_limit integer
)
returns uuid[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
-- Planned for the state that is wanted: what is not 'delivered' has an index of its own.
set plan_cache_mode = force_custom_plan
as $$
begin
    return array(
        select l.id
        from keelson.deliveries_log as l
        where l.user_id = keelson.current_user_id() and l.lane = endpoint_id and l.state = wanted_state and l.kind = 'webhook'
            and l.id >= first_id and l.id < end_id
            -- What was sent again already is not sent a third time by asking for the rest.
            and (wanted_state <> 'delivered' or l.finished_at < now())
            and (wanted_type is null or exists (
                select from keelson.webhook_events as e
                where e.user_id = keelson.current_user_id() and e.id = l.ref and e.event_type = wanted_type
            ))
        order by l.id
        limit row_limit
    );
end
$$;
comment on function keelson._webhook_replayable(uuid, text, text, uuid, uuid, integer) is
    'Finished deliveries of the acting user''s endpoint in that state, of one type of event or all, the oldest first; at most so many.';

create or replace function keelson.webhook_replay(
    id uuid,
    since timestamptz,
    until timestamptz default null,
    state text default 'exhausted',
    type text default null
)
returns keelson.webhook_replay
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant integer := 1000;
    ids uuid[];
begin
    perform keelson.acting_user_id();
    perform keelson._webhook_require_enabled(webhook_replay.id);
    if since is null or since < now() - interval '10 years' or since > now() then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'since is a time in the past', field => 'since');
    end if;
    if state is null or state not in ('exhausted', 'cancelled', 'delivered') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'deliveries that are exhausted, cancelled or delivered can be sent again', field => 'state');
    end if;
    if type is not null and not exists (select from keelson.webhook_event_types as t where t.name = webhook_replay.type) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'there is no such type of event', field => 'type');
    end if;
    ids := keelson._webhook_replayable(
        webhook_replay.id, webhook_replay.state, webhook_replay.type, keelson._uuid7_floor(since),
        keelson._uuid7_floor(least(coalesce(until, now()), now()) + interval '1 millisecond'), most + 1
    );
    return row(keelson._webhook_replay(webhook_replay.id, ids[1:most]), cardinality(ids) > most)::keelson.webhook_replay;
end
$$;
comment on function keelson.webhook_replay(uuid, timestamptz, timestamptz, text, text) is
    'Send again what was asked for in a time and is exhausted (or cancelled, or delivered), all or of one type of event, the oldest first and up to 1,000 at once.';
grant execute on function keelson.webhook_replay(uuid, timestamptz, timestamptz, text, text) to keelson_app;
