-- Reading the trail.

create or replace function keelson._audit_open(user_id uuid, id uuid, personal bytea)
returns jsonb
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_audit_open';
comment on function keelson._audit_open(uuid, uuid, bytea) is
    'The personal part of an event; null once the user''s key is erased.';

create or replace function keelson._audit_event(
    id uuid,
    event_type text,
    outcome text,
    user_id uuid,
    actor text,
    actor_id uuid,
    data jsonb,
    personal bytea,
    request_id uuid
)
returns keelson.audit_event
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    opened jsonb := keelson._audit_open(user_id, id, personal);
begin
    return row(
        id, event_type, outcome, nullif(user_id, '00000000-0000-0000-0000-000000000000'), actor, actor_id,
        coalesce(data, '{}') || coalesce(opened -> 'data', '{}'), (opened ->> 'ip')::inet, opened ->> 'userAgent', request_id,
        keelson._uuid7_time(id)
    )::keelson.audit_event;
end
$$;
comment on function keelson._audit_event(uuid, text, text, uuid, text, uuid, jsonb, bytea, uuid) is
    'An event as clients see it, its personal part opened.';

-- A search by type or by address goes day by day: a day that is over has an
-- index for it, the day in progress is looked through. All else is found by
-- the table's own indexes, in all days at once.
create or replace function keelson._audit_spans(from_id uuid, until_id uuid, by_day boolean)
returns table (low uuid, high uuid, is_indexed boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not by_day then
        return query select from_id, until_id, false;
        return;
    end if;
    return query
    select greatest(p.from_id, _audit_spans.from_id), least(p.until_id, _audit_spans.until_id), p.indexed_at is not null
    from keelson.audit_partitions as p
    where p.dropped_at is null and p.from_id < _audit_spans.until_id and p.until_id > _audit_spans.from_id
    order by p.from_id desc;
end
$$;
comment on function keelson._audit_spans(uuid, uuid, boolean) is
    'The days with events whose ids are in [from_id, until_id), the newest first, and whether they are indexed by type and address; or all as one.';

-- What an index finds of a span; the rest of the filter is asked of what it found.
create or replace function keelson._audit_sought(by_user boolean, by_address boolean, by_type boolean, by_outcome boolean)
returns text
language plpgsql
immutable
as $$
begin
    return '(select e.* from keelson.audit_events as e where e.id >= $1 and e.id < $2 and ' || case
        when by_user then 'e.user_id = $4'
        when by_address then 'e.address_hash = any ($5)'
        when by_type then 'e.event_type = $6'
        when by_outcome then $sql$e.outcome <> 'success'$sql$
        else 'true'
    end || ' order by e.id desc limit $3) as e';
end
$$;
comment on function keelson._audit_sought(boolean, boolean, boolean, boolean) is
    'The part of a statement that finds events of a span by one of these: ids from $1 to $2, $3 at most, of user $4, by the addresses $5, of type $6.';

-- Looks at 20,000 events and 100 days at most, so that it costs the same
-- however many there are: a page may be short, and says where to go on.
create or replace function keelson._audit_search(
    filter jsonb,
    row_limit integer,
    before_id uuid,
    out matches keelson.audit_event[],
    out next_id uuid
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
-- Of the day in progress there may be no statistics yet: from the newest on by an index, not by sorting all of it.
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    most_days constant integer := 100;
    budget integer := 20000;
    wanted_user constant uuid := (filter ->> 'userId')::uuid;
    wanted_type constant text := filter ->> 'type';
    hashes bytea[];
    from_id uuid := keelson._uuid7_floor(coalesce((filter ->> 'from')::timestamptz, '-infinity'));
    until_id uuid := least(coalesce(before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'), keelson._uuid7_ceiling((filter ->> 'to')::timestamptz));
    days integer := 0;
    looked integer;
    sought text;
    span record;
    e record;
begin
    if filter ->> 'ip' is not null then
        select array_agg(keelson._audit_address_hash(k.key_id, host((filter ->> 'ip')::inet))) into hashes
        from keelson._keyring_loaded() as k;
    end if;
    matches := '{}';
    for span in
        select * from keelson._audit_spans(from_id, until_id, wanted_user is null and (hashes is not null or wanted_type is not null))
    loop
        if days = most_days then
            return;
        end if;
        days := days + 1;
        sought := keelson._audit_sought(
            wanted_user is not null, span.is_indexed and hashes is not null, span.is_indexed and wanted_type is not null,
            coalesce(filter ->> 'outcome' <> 'success', false)
        );
        for e in execute 'select e.* from ' || sought
                || ' where ($5 is null or e.address_hash = any ($5)) and ($6 is null or e.event_type = $6)'
                || ' and ($7 is null or e.outcome = $7) and ($8 is null or e.actor = $8) order by e.id desc limit $9'
            using span.low, span.high, budget, wanted_user, hashes, wanted_type, filter ->> 'outcome', filter ->> 'actor',
                row_limit - cardinality(matches)
        loop
            next_id := e.id;
            matches := matches || keelson._audit_event(
                e.id, e.event_type, e.outcome, e.user_id, e.actor, e.actor_id, e.data, e.personal, e.request_id
            );
        end loop;
        if cardinality(matches) = row_limit then
            return;
        end if;
        execute 'select count(*) from ' || sought into looked using span.low, span.high, budget, wanted_user, hashes, wanted_type;
        if looked = budget then
            execute 'select e.id from ' || sought || ' order by e.id limit 1' into next_id
            using span.low, span.high, budget, wanted_user, hashes, wanted_type;
            return;
        end if;
        budget := budget - looked;
        next_id := span.low;
    end loop;
    next_id := null;
end
$$;
alter function keelson._audit_search(jsonb, integer, uuid) owner to keelson_system;
comment on function keelson._audit_search(jsonb, integer, uuid) is
    'The newest events that fit, before the given one, and the id before which to go on; null when there are no more.';

create or replace function keelson._audit_page(filter jsonb, row_limit integer, cursor text)
returns setof keelson.audit_event
language plpgsql
volatile
as $$
declare
    page record;
begin
    if row_limit is null or row_limit not between 1 and 100 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'limit is 1 to 100', field => 'limit');
    end if;
    page := keelson._audit_search(filter, row_limit, (keelson.cursor_decode(cursor) ->> 'before')::uuid);
    perform keelson.page(row_limit, keelson.cursor_encode(pg_catalog.jsonb_build_object('before', page.next_id)))
    where page.next_id is not null;
    perform keelson.page(row_limit, null) where page.next_id is null;
    return query select * from pg_catalog.unnest(page.matches);
end
$$;
comment on function keelson._audit_page(jsonb, integer, text) is
    'A page of events, newest first.';

create or replace function keelson.user_activity("limit" integer default 20, cursor text default null)
returns setof keelson.audit_event
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    -- Whence somebody else acted, who is known, is not the user's to know.
    return query
    select
        p.id, p.type, p.outcome, p.user_id, p.actor, p.actor_id, p.data,
        case when p.actor_id is null or p.actor_id = p.user_id then p.ip_address end,
        case when p.actor_id is null or p.actor_id = p.user_id then p.user_agent end,
        p.request_id, p.created_at
    from keelson._audit_page(jsonb_build_object('userId', keelson.current_user_id()), "limit", cursor) as p;
end
$$;
comment on function keelson.user_activity(integer, text) is
    'What has happened to the user who is signed in, newest first. Address and user agent are shown of what the user did, or somebody unknown; not of administrators.';
grant execute on function keelson.user_activity(integer, text) to keelson_app;

create or replace function keelson.admin_audit(
    type text default null,
    user_id uuid default null,
    actor text default null,
    ip inet default null,
    outcome text default null,
    "from" timestamptz default null,
    "to" timestamptz default null,
    "limit" integer default 20,
    cursor text default null
)
returns setof keelson.audit_event
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('audit.read');
    if type is not null and not exists (select from keelson.audit_event_types as t where t.name = admin_audit.type) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'there is no such type of event', field => 'type');
    end if;
    if outcome not in ('success', 'failure', 'denied') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an outcome is success, failure or denied', field => 'outcome');
    end if;
    if actor not in ('user', 'access_key', 'admin', 'system', 'anonymous') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an actor is user, access_key, admin, system or anonymous', field => 'actor');
    end if;
    if ip is not null and masklen(ip) < (case family(ip) when 4 then 32 else 128 end) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'events are looked for by an address, not by a network', field => 'ip');
    end if;
    return query select * from keelson._audit_page(jsonb_build_object(
        'type', type, 'userId', user_id, 'actor', actor, 'ip', host(ip), 'outcome', outcome, 'from', "from", 'to', "to"
    ), "limit", cursor);
end
$$;
comment on function keelson.admin_audit(text, uuid, text, inet, text, timestamptz, timestamptz, integer, text) is
    'Events of all users, newest first. A page looks at 20,000 events and 100 days at most, so it may hold fewer than asked for while there are more. By type and by address, days that are over are not looked through: they have an index.';
grant execute on function keelson.admin_audit(text, uuid, text, inet, text, timestamptz, timestamptz, integer, text) to keelson_app;

create or replace function keelson._audit_summary(from_at timestamptz, until_at timestamptz)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
with head as (
    select c.era, c.xid, c.event_id from keelson.audit_checkpoints as c order by c.size desc limit 1
),
counted as (
    select t.event_type, t.outcome, t.events
    from keelson.audit_totals as t
    where t.hour >= from_at and t.hour < until_at
    union all
    -- What is not sealed yet: a few seconds' worth.
    select e.event_type, e.outcome, 1
    from keelson.audit_events as e
    where (e.era, e.xid, e.id) > (
            coalesce((select h.era from head as h), 0),
            coalesce((select h.xid from head as h), '0'::xid8),
            coalesce((select h.event_id from head as h), '00000000-0000-0000-0000-000000000000')
        )
        and keelson._uuid7_time(e.id) >= from_at and keelson._uuid7_time(e.id) < until_at
),
grouped as (
    select c.event_type, c.outcome, sum(c.events)::bigint as events from counted as c group by c.event_type, c.outcome
)
select jsonb_build_object(
    'from', keelson._time_text(from_at),
    'to', keelson._time_text(until_at),
    'total', coalesce(sum(g.events), 0),
    'types', coalesce(jsonb_agg(jsonb_build_object('type', g.event_type, 'outcome', g.outcome, 'events', g.events)
        order by g.events desc, g.event_type, g.outcome), '[]')
)
from grouped as g
$$;
alter function keelson._audit_summary(timestamptz, timestamptz) owner to keelson_system;
comment on function keelson._audit_summary(timestamptz, timestamptz) is
    'How many events there were by type and outcome, in whole hours.';

create or replace function keelson.admin_audit_summary("from" timestamptz default null, "to" timestamptz default null)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('audit.read');
    return keelson._audit_summary(
        date_trunc('hour', greatest(coalesce("from", now() - interval '30 days'), '1970-01-01 00:00Z'), 'UTC'),
        date_trunc('hour', least(coalesce("to", now()), '9998-12-31 00:00Z'), 'UTC') + interval '1 hour'
    );
end
$$;
comment on function keelson.admin_audit_summary(timestamptz, timestamptz) is
    'How many events of each type and outcome there were: of the last 30 days, or of the time given, in whole hours.';
grant execute on function keelson.admin_audit_summary(timestamptz, timestamptz) to keelson_app;

create or replace function keelson.security_events("limit" integer default 100)
returns setof keelson.audit_event
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if "limit" is null or "limit" not between 1 and 10000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'limit is 1 to 10,000', field => 'limit');
    end if;
    return query
    select (keelson._audit_event(e.id, e.event_type, e.outcome, e.user_id, e.actor, e.actor_id, e.data, e.personal, e.request_id)).*
    from (
        select * from keelson.audit_events as f where f.outcome <> 'success' order by f.id desc limit "limit"
    ) as e
    order by e.id desc;
end
$$;
alter function keelson.security_events(integer) owner to keelson_system;
comment on function keelson.security_events(integer) is
    'The newest events that were no success: failed log-ins, refusals, theft of tokens, failures.';
grant execute on function keelson.security_events(integer) to keelson_admin;

create or replace function keelson._audit_counters(out name text, out value bigint)
returns setof record
language c
volatile
as 'MODULE_PATHNAME', 'ks_audit_counters';
comment on function keelson._audit_counters() is
    'What the trail has counted since the server started, and how full its ring is.';

create or replace function keelson._audit_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language plpgsql
volatile
as $$
begin
    return query
    select 'keelson_audit_' || c.name, null::jsonb, c.value::double precision,
        case when c.name like '%\_total' then 'counter' else 'gauge' end,
        case c.name
            when 'written_total' then 'Audit events written with their action.'
            when 'fallbacks_total' then 'Audit events whose insert failed, so that they went by shared memory.'
            when 'pushed_total' then 'Audit events put into the ring in shared memory.'
            when 'repeated_total' then 'Refusals counted as repetitions of one in the ring.'
            when 'dropped_total' then 'Audit events that found no room in the ring.'
            when 'drained_total' then 'Audit events moved from the ring into the table.'
            when 'lost_total' then 'Audit events from the ring that could not be written.'
            when 'sealed_total' then 'Audit events sealed into the tree.'
            else 'Bytes of the ring that are taken.'
        end
    from keelson._audit_counters() as c
    union all
    select 'keelson_audit_tree_size', null::jsonb, coalesce(pg_catalog.max(c.size), 0)::double precision, 'gauge', 'Leaves of the sealed tree.'
    from keelson.audit_checkpoints as c;
end
$$;
comment on function keelson._audit_metrics() is
    'The trail''s counters as samples.';
