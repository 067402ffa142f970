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

-- A search by type or by address goes day by day: a day that is over has an index for it, another is looked through, as
-- all are by whoever seeks nothing that there is an index of. What a user did, and what was no success, is found by the
-- table's own indexes, in all days at once.
create or replace function keelson._audit_spans(from_id uuid, until_id uuid, by_day boolean)
returns table (name text, low uuid, high uuid, is_indexed boolean)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not by_day then
        return query select 'audit_events', from_id, until_id, false;
        return;
    end if;
    -- Before its partitions, none of which then goes.
    lock table only keelson.audit_events in access share mode;
    return query
    select p.name, greatest(p.from_id, _audit_spans.from_id), least(p.until_id, _audit_spans.until_id), p.indexed_at is not null
    from keelson.audit_partitions as p
    where p.dropped_at is null and p.from_id < _audit_spans.until_id and p.until_id > _audit_spans.from_id
        and pg_relation_size(to_regclass('keelson.' || p.name)) > 0
    order by p.from_at desc;
end
$$;
comment on function keelson._audit_spans(uuid, uuid, boolean) is
    'The days with events whose ids are in [from_id, until_id), the newest first, and whether they are indexed by type and address; or all as one.';

-- What an index finds of a span; the rest of the filter is asked of what it found.
create or replace function keelson._audit_sought(name text, by_user boolean, by_address boolean, by_type boolean, by_outcome boolean)
returns text
language plpgsql
immutable
as $$
begin
    return '(select e.* from keelson.' || pg_catalog.quote_ident(name) || ' as e where e.id >= $1 and e.id < $2 and ' || case
        when by_user then 'e.user_id = $4'
        when by_address then 'e.address_hash = any ($5)'
        when by_type then 'e.event_type = $6'
        when by_outcome then $sql$e.outcome <> 'success'$sql$
        else 'true'
    end || ' order by e.id desc limit $3) as e';
end
$$;
comment on function keelson._audit_sought(text, boolean, boolean, boolean, boolean) is
    'The part of a statement that finds events of a span by one of these, or by nothing but the span: ids from $1 to $2, $3 at most, of user $4, by the addresses $5, of type $6.';

create or replace function keelson._audit_matches(
    sought text,
    low uuid,
    high uuid,
    most bigint,
    filter jsonb,
    hashes bytea[],
    row_limit integer,
    out matches keelson.audit_event[],
    out last_id uuid
)
language plpgsql
stable
as $$
#variable_conflict use_column
declare
    e record;
begin
    matches := '{}';
    for e in execute 'select e.* from ' || sought
            || ' where ($5 is null or e.address_hash = any ($5)) and ($6 is null or e.event_type = $6)'
            || ' and ($7 is null or e.outcome = $7) and ($8 is null or e.actor = $8) order by e.id desc limit $9'
        using low, high, most, (filter ->> 'userId')::uuid, hashes, filter ->> 'type', filter ->> 'outcome', filter ->> 'actor', row_limit
    loop
        last_id := e.id;
        matches := matches || keelson._audit_event(
            e.id, e.event_type, e.outcome, e.user_id, e.actor, e.actor_id, e.data, e.personal, e.request_id
        );
    end loop;
end
$$;
comment on function keelson._audit_matches(text, uuid, uuid, bigint, jsonb, bytea[], integer) is
    'The newest so many events of those sought that fit the filter, and the id of the last of them.';

create or replace function keelson._audit_search_indexed(
    sought text,
    low uuid,
    high uuid,
    budget integer,
    filter jsonb,
    hashes bytea[],
    row_limit integer,
    out matches keelson.audit_event[],
    out looked integer,
    out next_id uuid
)
language plpgsql
stable
-- Of a day there may be no statistics yet: from the newest on by an index, not by sorting all of it.
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
    select m.matches, m.last_id into matches, next_id from keelson._audit_matches(sought, low, high, budget, filter, hashes, row_limit) as m;
    if pg_catalog.cardinality(matches) = row_limit then
        return;
    end if;
    next_id := null;
    execute 'select count(*) from ' || sought into looked using low, high, budget, (filter ->> 'userId')::uuid, hashes, filter ->> 'type';
    if looked = budget then
        execute 'select e.id from ' || sought || ' order by e.id limit 1' into next_id
        using low, high, budget, (filter ->> 'userId')::uuid, hashes, filter ->> 'type';
    end if;
end
$$;
comment on function keelson._audit_search_indexed(text, uuid, uuid, integer, jsonb, bytea[], integer) is
    'The newest events of a span that fit, by an index; how many were looked at, and the id before which to go on, null when the span is done.';

-- By spans of time, each found by the index of ranges, the newest first: the first of a second, each then four times the one
-- before, and a quarter of it where that holds more than may be looked at. A day of few pages is one span.
create or replace function keelson._audit_search_unindexed(
    sought text,
    name text,
    low uuid,
    high uuid,
    budget integer,
    filter jsonb,
    hashes bytea[],
    row_limit integer,
    out matches keelson.audit_event[],
    out looked integer,
    out next_id uuid
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
-- As said in days_functions.sql.
set enable_seqscan = off
set random_page_cost = 10000
set jit = off
set max_parallel_workers_per_gather = 0
as $$
#variable_conflict use_column
declare
    few constant bigint := 4194304;
    least_width constant interval := '1 millisecond';
    top uuid := high;
    bottom uuid;
    width interval;
    next_width interval := '1 second';
    found record;
    n integer;
begin
    matches := '{}';
    looked := 0;
    -- A day that is not over ends now, but for a clock that was set back.
    width := case
        when pg_relation_size(to_regclass('keelson.' || name)) < few then '1 day'
        else greatest(next_width, keelson._uuid7_time(high) - now())
    end;
    while top > low loop
        bottom := greatest(low, keelson._uuid7_floor(keelson._uuid7_time(top) - width));
        execute format('select count(*) from (select from keelson.%I as e where e.id >= $1 and e.id < $2 limit $3) as within', name)
        into n using bottom, top, budget - looked + 1;
        if n > budget - looked and width > least_width then
            exit when looked > budget / 2;
            width := greatest(least_width, width / 4);
            continue;
        end if;
        select m.matches, m.last_id into found
        from keelson._audit_matches(sought, bottom, top, null, filter, hashes, row_limit - cardinality(matches)) as m;
        matches := matches || found.matches;
        looked := looked + n;
        top := bottom;
        if cardinality(matches) = row_limit then
            next_id := found.last_id;
            return;
        end if;
        exit when looked >= budget;
        width := next_width;
        next_width := next_width * 4;
    end loop;
    if top > low then
        next_id := top;
        looked := budget;
    end if;
end
$$;
comment on function keelson._audit_search_unindexed(text, text, uuid, uuid, integer, jsonb, bytea[], integer) is
    'The newest events of a span of a day that fit, by looking through it; how many were looked at, and the id before which to go on, null when the span is done.';

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
as $$
#variable_conflict use_column
declare
    most_days constant integer := 100;
    budget integer := 20000;
    by_user constant boolean := filter ->> 'userId' is not null;
    by_outcome constant boolean := coalesce(filter ->> 'outcome' <> 'success', false);
    hashes bytea[];
    from_id uuid := keelson._uuid7_floor(coalesce((filter ->> 'from')::timestamptz, '-infinity'));
    until_id uuid := least(coalesce(before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'), keelson._uuid7_ceiling((filter ->> 'to')::timestamptz));
    by_day boolean;
    days integer := 0;
    by_address boolean;
    by_type boolean;
    sought text;
    span record;
    part record;
begin
    if filter ->> 'ip' is not null then
        select array_agg(keelson._audit_address_hash(k.key_id, host((filter ->> 'ip')::inet))) into hashes
        from keelson._keyring_loaded() as k;
    end if;
    matches := '{}';
    by_day := not by_user and (hashes is not null or filter ->> 'type' is not null or not by_outcome);
    for span in select * from keelson._audit_spans(from_id, until_id, by_day) loop
        if days = most_days then
            return;
        end if;
        days := days + 1;
        by_address := span.is_indexed and hashes is not null;
        by_type := span.is_indexed and filter ->> 'type' is not null;
        sought := keelson._audit_sought(span.name, by_user, by_address, by_type, by_outcome);
        if by_user or by_address or by_type or by_outcome then
            part := keelson._audit_search_indexed(sought, span.low, span.high, budget, filter, hashes, row_limit - cardinality(matches));
        else
            part := keelson._audit_search_unindexed(sought, span.name, span.low, span.high, budget, filter, hashes, row_limit - cardinality(matches));
        end if;
        matches := matches || part.matches;
        next_id := coalesce(part.next_id, span.low);
        if part.next_id is not null then
            return;
        end if;
        budget := budget - part.looked;
        if budget <= 0 then
            return;
        end if;
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
with counted as (
    select t.event_type, t.outcome, t.events
    from keelson.audit_totals as t
    where t.hour >= from_at and t.hour < until_at
    union all
    -- What is not sealed yet: a few seconds' worth.
    select e.event_type, e.outcome, e.events from keelson._audit_unsealed_totals(from_at, until_at) as e
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
    select shown.*
    from (
        select * from keelson.audit_events as f where f.outcome <> 'success' order by f.id desc limit "limit"
    ) as e
    cross join lateral keelson._audit_event(
        e.id, e.event_type, e.outcome, e.user_id, e.actor, e.actor_id, e.data, e.personal, e.request_id
    ) as shown
    order by e.id desc;
end
$$;
alter function keelson.security_events(integer) owner to keelson_system;
comment on function keelson.security_events(integer) is
    'The newest events that were no success: failed logins, refusals, theft of tokens, failures.';
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
