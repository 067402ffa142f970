-- The courier: partitions of its log, quarantine, breakers, requests of the server itself, figures.

create or replace function keelson._url_fault(url text)
returns text
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_url_fault';
comment on function keelson._url_fault(text) is
    'What a URL must be to be a target of ours and this one is not; null when it can be one. Parsed by what connects.';

create or replace function keelson._url_normal(url text)
returns text
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_url_normal';
comment on function keelson._url_normal(text) is
    'The URL as it will be connected to; null when it cannot be a target.';

create or replace function keelson._address_allowed(address text, port integer default 443)
returns boolean
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_address_allowed';
comment on function keelson._address_allowed(text, integer) is
    'Whether the guard lets a connection go to the address.';

create or replace function keelson._courier_hint(user_id uuid, lane uuid, is_changed boolean default false)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_courier_hint_sql';
comment on function keelson._courier_hint(uuid, uuid, boolean) is
    'Tell the courier, when this transaction commits, that the lane has something to send, or that its row has changed.';

-- Partitions.

create or replace function keelson.deliveries_partitions_make(days_ahead integer default 7, moment timestamptz default pg_catalog.now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._partitions_make('deliveries_log', days_ahead, moment)
        + keelson._partitions_make('delivery_attempts', days_ahead, moment);
end
$$;
comment on function keelson.deliveries_partitions_make(integer, timestamptz) is
    'Make the missing partitions of the log of deliveries from yesterday''s to so many days ahead; returns how many. The keeper does it every hour.';
grant execute on function keelson.deliveries_partitions_make(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson.deliveries_expire(keep_for interval default null, moment timestamptz default pg_catalog.now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    until_at timestamptz := moment - coalesce(keep_for, make_interval(days => current_setting('keelson.delivery_retention')::integer));
begin
    return (
        select count(*) filter (where keelson._partition_drop(t.name, p.day))
        from unnest(array['deliveries_log', 'delivery_attempts']) as t (name)
        cross join lateral keelson._partitions(t.name) as p
        where (p.day + 1)::timestamp at time zone 'UTC' <= until_at
            and not keelson._delivery_is_awaited(p.day)
    );
end
$$;
comment on function keelson.deliveries_expire(interval, timestamptz) is
    'Drop the partitions of the log of deliveries whose days are over, by default those older than keelson.delivery_retention, but not while a delivery waits that will be written there; returns how many.';
grant execute on function keelson.deliveries_expire(interval, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._delivery_is_awaited(day date)
returns boolean
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from keelson.deliveries as d
        where d.id >= keelson._uuid7_floor(day::timestamp at time zone 'UTC')
            and d.id < keelson._uuid7_floor((day + 1)::timestamp at time zone 'UTC')
    );
end
$$;
alter function keelson._delivery_is_awaited(date) owner to keelson_system;
comment on function keelson._delivery_is_awaited(date) is
    'Whether a delivery that was asked for on that day waits.';

-- Order.

create or replace function keelson._deliveries_unpark(user_ids uuid[], ids uuid[])
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    with done as (
        select distinct l.lane, l.ordering_key
        from unnest(user_ids, ids) as w (user_id, id)
        join keelson.deliveries_log as l on l.user_id = w.user_id and l.id = w.id
        where l.ordering_key is not null
    )
    update keelson.deliveries as d
    set due_at = clock_timestamp()
    from done as k
    cross join lateral (
        select h.user_id, h.id from keelson.deliveries as h
        where h.lane = k.lane and h.ordering_key = k.ordering_key
        order by h.id limit 1
    ) as head
    where d.user_id = head.user_id and d.id = head.id and d.due_at = 'infinity' and not d.is_quarantined;
end
$$;
comment on function keelson._deliveries_unpark(uuid[], uuid[]) is
    'After these deliveries are over: the next of each one''s ordering key is due.';

-- Quarantine.

create or replace function keelson._deliveries_quarantine(is_all boolean)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    quarantined bigint;
begin
    -- What was asked for since this server started did not come out of a copy of its files.
    update keelson.deliveries as d
    set is_quarantined = true, due_at = 'infinity', claim_id = null, lease_until = null
    where not d.is_quarantined and (is_all or keelson._uuid7_time(d.id) < pg_postmaster_start_time());
    get diagnostics quarantined = row_count;
    return quarantined;
end
$$;
comment on function keelson._deliveries_quarantine(boolean) is
    'Hold back all that waits, or only what waited before this server started; returns how many there are.';

create or replace function keelson.deliveries_release(created_from timestamptz default null, created_until timestamptz default null)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    released bigint;
begin
    with back as (
        update keelson.deliveries as d
        set is_quarantined = false, due_at = clock_timestamp()
        where d.is_quarantined
            and (created_from is null or keelson._uuid7_time(d.id) >= created_from)
            and (created_until is null or keelson._uuid7_time(d.id) < created_until)
        returning d.user_id, d.lane
    )
    select count(*), count(keelson._courier_hint(b.user_id, b.lane)) into released from back as b;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'deliveries released', 'count', released, 'databaseRole', session_user
    ));
    return released;
end
$$;
alter function keelson.deliveries_release(timestamptz, timestamptz) owner to keelson_system;
comment on function keelson.deliveries_release(timestamptz, timestamptz) is
    'Let deliveries go out that were quarantined because the database came from a backup, all or those asked for in that time; returns how many.';
grant execute on function keelson.deliveries_release(timestamptz, timestamptz) to keelson_admin;

create or replace function keelson.deliveries_discard(created_from timestamptz default null, created_until timestamptz default null)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    discarded bigint;
    ordered_users uuid[];
    ordered_ids uuid[];
begin
    with gone as (
        delete from keelson.deliveries as d
        where d.is_quarantined
            and (created_from is null or keelson._uuid7_time(d.id) >= created_from)
            and (created_until is null or keelson._uuid7_time(d.id) < created_until)
        returning d.*
    ),
    logged as (
        insert into keelson.deliveries_log (user_id, id, lane, kind, ref, state, attempts, ordering_key, finished_at, code, error)
        select g.user_id, g.id, g.lane, g.kind, g.ref, 'cancelled', g.attempts, g.ordering_key, now(), 'refused', 'it came back from a backup and was discarded'
        from gone as g
        returning user_id, id, lane, ordering_key
    )
    select count(*), array_agg(l.user_id) filter (where l.ordering_key is not null), array_agg(l.id) filter (where l.ordering_key is not null),
        count(keelson._courier_hint(l.user_id, l.lane)) filter (where l.ordering_key is not null)
    into discarded, ordered_users, ordered_ids
    from logged as l;
    -- What was asked for since the restore waits behind them.
    perform keelson._deliveries_unpark(ordered_users, ordered_ids);
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'deliveries discarded', 'count', discarded, 'databaseRole', session_user
    ));
    return discarded;
end
$$;
alter function keelson.deliveries_discard(timestamptz, timestamptz) owner to keelson_system;
comment on function keelson.deliveries_discard(timestamptz, timestamptz) is
    'Cancel deliveries that were quarantined because the database came from a backup, all or those asked for in that time; returns how many.';
grant execute on function keelson.deliveries_discard(timestamptz, timestamptz) to keelson_admin;

-- Breakers.

create or replace function keelson.courier_breaker_set(lane uuid, state text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    whose uuid;
begin
    if state is null or state not in ('closed', 'forced_open', 'forced_closed') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a breaker is set to closed, forced_open or forced_closed', field => 'state');
    end if;
    update keelson.courier_lanes as l
    set breaker = state, breaker_until = null, breaker_trips = 0, changed_at = now()
    where l.lane = courier_breaker_set.lane
    returning l.user_id into whose;
    if whose is null then
        select d.user_id into whose from keelson.deliveries as d where d.lane = courier_breaker_set.lane limit 1;
        if whose is null then
            perform keelson.raise(404, 'NOT_FOUND', 'there is no such lane', 'It is the id of a webhook endpoint.', 'lane');
        end if;
        insert into keelson.courier_lanes (user_id, lane, breaker) values (whose, courier_breaker_set.lane, state)
        on conflict on constraint courier_lanes_pkey do update set breaker = excluded.breaker, breaker_until = null, breaker_trips = 0;
    end if;
    perform keelson._courier_hint(whose, courier_breaker_set.lane, true);
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'circuit breaker', 'lane', courier_breaker_set.lane, 'state', state, 'databaseRole', session_user
    ), user_id => nullif(whose, '00000000-0000-0000-0000-000000000000'));
end
$$;
alter function keelson.courier_breaker_set(uuid, text) owner to keelson_system;
comment on function keelson.courier_breaker_set(uuid, text) is
    'Close a lane''s circuit breaker, or force it open (nothing is sent, nothing is lost) or closed (everything is tried) until told otherwise.';
grant execute on function keelson.courier_breaker_set(uuid, text) to keelson_admin;

-- Requests of the server itself.

create or replace function keelson._http_request(
    purpose text,
    url text,
    handler regproc,
    context jsonb default null,
    method text default null,
    headers jsonb default '{}',
    body text default null,
    timeout interval default '10 seconds',
    is_trusted boolean default false,
    lane uuid default null,
    user_id uuid default '00000000-0000-0000-0000-000000000000'
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    request uuid := keelson.uuid7();
    -- Requests to one host share a lane.
    wanted_lane uuid := coalesce(lane, md5('http ' || coalesce(substring(url from '^[a-z]+://[^/?#]+'), url))::uuid);
begin
    if not is_trusted and keelson._url_fault(url) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('the URL %s', keelson._url_fault(url)), field => 'url');
    end if;
    insert into keelson.http_requests (user_id, id, purpose, url, method, headers, body, timeout_ms, is_trusted, handler, context)
    values (
        _http_request.user_id, request, purpose, url, method, coalesce(headers, '{}'), body,
        extract(epoch from timeout) * 1000, is_trusted, handler::text, context
    );
    insert into keelson.deliveries (user_id, id, lane, kind, ref, due_at)
    values (_http_request.user_id, request, wanted_lane, 'http', request, clock_timestamp());
    perform keelson._courier_hint(_http_request.user_id, wanted_lane);
    return request;
end
$$;
alter function keelson._http_request(text, text, regproc, jsonb, text, jsonb, text, interval, boolean, uuid, uuid) owner to keelson_system;
comment on function keelson._http_request(text, text, regproc, jsonb, text, jsonb, text, interval, boolean, uuid, uuid) is
    'Have the courier send a request once this transaction has committed, and call handler(context, status, body, error, cache_control, is_last) with each attempt''s answer. Tried again after 1, 5, 30 and 300 seconds. A trusted URL is the operator''s own and may be private.';

create or replace function keelson._http_answer(
    user_id uuid,
    id uuid,
    status integer,
    content_type text,
    cache_control text,
    body text,
    error text,
    is_last boolean
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    request keelson.http_requests;
begin
    select * into request from keelson.http_requests as r where r.user_id = _http_answer.user_id and r.id = _http_answer.id;
    if not found then
        return;
    end if;
    execute format('select %s($1, $2, $3, $4, $5, $6)', request.handler::regproc)
    using request.context, status, body, error, cache_control, is_last;
    if is_last then
        delete from keelson.http_requests as r where r.user_id = _http_answer.user_id and r.id = _http_answer.id;
    end if;
end
$$;
comment on function keelson._http_answer(uuid, uuid, integer, text, text, text, text, boolean) is
    'Hand an answer to the function that asked for it.';

-- Figures.

create or replace function keelson._courier_status(
    out attempts bigint,
    out delivered bigint,
    out retried bigint,
    out exhausted bigint,
    out cancelled bigint,
    out blocked bigint,
    out claimed bigint,
    out claim_us bigint,
    out in_flight integer,
    out lanes integer,
    out open_lanes integer,
    out is_fenced boolean
)
language c
volatile
as 'MODULE_PATHNAME', 'ks_courier_status';
comment on function keelson._courier_status() is
    'What the couriers have done since the server started, and whether they may send.';

create or replace function keelson._courier_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
select 'keelson_deliveries_total', pg_catalog.jsonb_build_object('outcome', o.name), o.value::double precision, 'counter',
    'Attempts at deliveries that were settled, by what came of them.'
from keelson._courier_status() as s
cross join lateral (values
    ('delivered', s.delivered), ('retried', s.retried), ('exhausted', s.exhausted), ('cancelled', s.cancelled)
) as o (name, value)
union all
select 'keelson_delivery_attempts_total', null::jsonb, s.attempts::double precision, 'counter', 'Requests that the couriers have begun.'
from keelson._courier_status() as s
union all
select 'keelson_deliveries_claimed_total', null::jsonb, s.claimed::double precision, 'counter', 'Deliveries that the couriers have taken to be sent.'
from keelson._courier_status() as s
union all
select 'keelson_deliveries_claim_seconds_total', null::jsonb, s.claim_us / 1e6::double precision, 'counter', 'Time that the couriers have spent on taking deliveries.'
from keelson._courier_status() as s
union all
select 'keelson_deliveries_blocked_total', null::jsonb, s.blocked::double precision, 'counter', 'Requests that went to an address which is not allowed.'
from keelson._courier_status() as s
union all
select 'keelson_deliveries_in_flight', null::jsonb, s.in_flight::double precision, 'gauge', 'Deliveries that are being sent.'
from keelson._courier_status() as s
union all
select 'keelson_courier_open_lanes', null::jsonb, s.open_lanes::double precision, 'gauge', 'Lanes whose circuit breaker is open and that have deliveries waiting.'
from keelson._courier_status() as s
$$;
comment on function keelson._courier_metrics() is
    'The couriers'' counters as samples.';

create or replace function keelson._courier_health()
returns jsonb
language plpgsql
volatile
as $$
declare
    status record;
    fence record;
begin
    select * into status from keelson._courier_status();
    select f.counter, f.restored_at into fence from keelson.courier_fence as f;
    return pg_catalog.jsonb_build_object(
        'state', case when not status.is_fenced then 'waiting' when status.open_lanes > 0 then 'degraded' else 'ok' end,
        'inFlight', status.in_flight,
        'openBreakers', status.open_lanes,
        'restoredAt', keelson._time_text(fence.restored_at)
    );
end
$$;
comment on function keelson._courier_health() is
    'The couriers for /health: waiting (for their file, or tables), degraded (some breaker is open) or ok.';
