-- What is not sealed yet, and where to look for it.
--
-- Events have no order by transaction that could be read off: a day has an index of ranges (BRIN) instead, which tells of
-- each 32 pages the lowest and highest id, era and transaction. So what is looked for is found by a span of those, and
-- sorted. For what has such a span the planner is to take that index and nothing else, whatever it knows or does not know of
-- the day: not the table as a whole, and not the primary key read from end to end, which a random page that costs much rules
-- out. Its costs then mean nothing, and no helpers and no compiler are to be set to work for them.

do $operators$
begin
    if not exists (select from pg_catalog.pg_opclass as o where o.opcname = 'xid8_minmax_ops') then
        create operator class keelson.xid8_minmax_ops
        default for type pg_catalog.xid8 using brin as
            operator 1 pg_catalog.<,
            operator 2 pg_catalog.<=,
            operator 3 pg_catalog.=,
            operator 4 pg_catalog.>=,
            operator 5 pg_catalog.>,
            function 1 pg_catalog.brin_minmax_opcinfo(internal),
            function 2 pg_catalog.brin_minmax_add_value(internal, internal, internal, internal),
            function 3 pg_catalog.brin_minmax_consistent(internal, internal, internal),
            function 4 pg_catalog.brin_minmax_union(internal, internal, internal);
    end if;
end
$operators$;

create or replace function keelson._audit_day_is_settled(partition regclass, day integer, bytes bigint, size bigint)
returns boolean
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__audit_day_is_settled';
comment on function keelson._audit_day_is_settled(regclass, integer, bigint, bigint) is
    'Whether it is known that the partition, of a day since 1970, which has so many bytes, holds nothing that the tree of that size does not.';

create or replace function keelson._audit_day_note(partition regclass, day integer, bytes bigint)
returns xid8
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__audit_day_note';
comment on function keelson._audit_day_note(regclass, integer, bigint) is
    'Note how often the day was written to, unless that is noted; returns a transaction id that is above all of those who did.';

create or replace function keelson._audit_day_settle(partition regclass, day integer, next xid8, size bigint)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__audit_day_settle';
comment on function keelson._audit_day_settle(regclass, integer, xid8, bigint) is
    'Settle the day: all who have written to it before the id that was noted have ended, and the tree of that size holds what they wrote.';

create or replace function keelson._audit_day_summarised(partition regclass, day integer)
returns bigint
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__audit_day_summarised';
comment on function keelson._audit_day_summarised(regclass, integer) is
    'How many ranges of the day its index is known to know.';

create or replace function keelson._audit_day_summarise(partition regclass, day integer, ranges bigint)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__audit_day_summarise';
comment on function keelson._audit_day_summarise(regclass, integer, bigint) is
    'Remember how many ranges of the day its index knows.';

create or replace function keelson._audit_unsettled_days(size bigint)
returns table (name text, partition regclass, day integer, bytes bigint, is_over boolean)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The table before its partitions, as who changes or drops one has it: none goes until the transaction ends.
    lock table only keelson.audit_events in access share mode;
    -- Yesterday and what comes after it is looked at in any case.
    return query
    select p.name, place.partition, place.day, heap.bytes, place.is_over
    from keelson.audit_partitions as p
    cross join lateral (
        select to_regclass('keelson.' || p.name) as partition, (extract(epoch from p.from_at) / 86400)::integer as day,
            p.until_at <= now() - interval '1 day' as is_over
    ) as place
    cross join lateral (select pg_relation_size(place.partition) as bytes) as heap
    where p.dropped_at is null and heap.bytes > 0 and (
        not place.is_over
        or not coalesce(keelson._audit_day_is_settled(place.partition, place.day, heap.bytes, _audit_unsettled_days.size), false)
    )
    order by p.from_at;
end
$$;
comment on function keelson._audit_unsettled_days(bigint) is
    'The partitions that may hold events which the tree of that size, the newest that is seen, does not; of what day since 1970 each is, and whether that has long been over.';

create or replace function keelson._audit_unsettled(size bigint)
returns text[]
language sql
volatile
as $$
select coalesce(pg_catalog.array_agg(d.name), '{}') from keelson._audit_unsettled_days(size) as d
$$;
comment on function keelson._audit_unsettled(bigint) is
    'The names of the partitions that may hold events which the tree of that size, the newest that is seen, does not.';

create or replace function keelson._audit_source(names text[])
returns text
language sql
immutable
as $$
select '(' || pg_catalog.string_agg(pg_catalog.format(
    'select user_id, id, era, xid, event_type, outcome, actor, actor_id, request_id, data, personal from keelson.%I', name
), ' union all ') || ') as e'
from pg_catalog.unnest(names) as name
$$;
comment on function keelson._audit_source(text[]) is
    'What follows "from", to read these partitions as e; null for none.';

create or replace function keelson._audit_source_after(names text[])
returns text
language sql
immutable
as $$
select keelson._audit_source(names) || ' where (e.era > $1 or e.era = $1 and e.xid >= $2 and (e.xid, e.id) > ($2, $3))'
$$;
comment on function keelson._audit_source_after(text[]) is
    'The same, of the events alone that come after the one of era $1, transaction $2 and id $3 in the order of the tree.';

-- From one transaction to the next, a span of them at a time, so that the work is bounded by what is asked for, however far
-- sealing is behind. Of the transaction at the edge, should it have written more than that, a span of time after the other.
create or replace function keelson._audit_unsealed(
    size bigint,
    after_era integer,
    after_xid xid8,
    after_id uuid,
    current_era integer,
    row_limit integer
)
returns table (
    id uuid,
    user_id uuid,
    era integer,
    xid xid8,
    event_type text,
    outcome text,
    actor text,
    actor_id uuid,
    request_id uuid,
    data jsonb,
    personal bytea
)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set random_page_cost = 10000
set jit = off
set max_parallel_workers_per_gather = 0
as $$
#variable_conflict use_column
declare
    columns constant text := 'select e.id, e.user_id, e.era, e.xid, e.event_type, e.outcome, e.actor, e.actor_id, e.request_id, e.data, e.personal';
    snapshot constant pg_snapshot := pg_current_snapshot();
    source constant text := keelson._audit_source(keelson._audit_unsettled(size));
    at_era integer := after_era;
    low bigint := after_xid::text::bigint;
    high bigint;
    until bigint;
    width bigint;
    top uuid := after_id;
    bottom uuid;
    step interval := '64 milliseconds';
    is_left boolean;
    got integer;
    wanted integer := row_limit;
begin
    if source is null then
        return;
    end if;
    execute 'select exists (select from ' || source || ' where e.era = $1 and e.xid = $2 and e.id > $3)' into is_left using after_era, after_xid, after_id;
    while is_left and wanted > 0 and top < 'ffffffff-ffff-ffff-ffff-ffffffffffff' loop
        bottom := top;
        top := case when step > interval '1 hour' then 'ffffffff-ffff-ffff-ffff-ffffffffffff' else keelson._uuid7_floor(keelson._uuid7_time(bottom) + step) end;
        return query execute columns || ' from ' || source || ' where e.era = $1 and e.xid = $2 and e.id > $3 and e.id <= $4 order by e.id limit $5'
        using after_era, after_xid, bottom, top, wanted;
        get diagnostics got = row_count;
        wanted := wanted - got;
        step := step * 16;
    end loop;
    loop
        -- Of an older era all have ended.
        until := case when at_era < current_era then 9223372036854775807 else pg_snapshot_xmin(snapshot)::text::bigint end;
        low := low + 1;
        width := row_limit;
        while wanted > 0 and low < until loop
            high := low + least(width, until - low);
            return query execute columns || ' from ' || source || ' where e.era = $1 and e.xid >= $2 and e.xid < $3 order by e.xid, e.id limit $4'
            using at_era, low::text::xid8, high::text::xid8, wanted;
            get diagnostics got = row_count;
            wanted := wanted - got;
            low := high;
            width := case when got = 0 then least(width, 1::bigint << 59) * 8 else least(width, 1::bigint << 40) * least(wanted / got + 1, 8) end;
        end loop;
        exit when wanted <= 0 or at_era >= current_era;
        execute 'select e.era, e.xid::text::bigint - 1 from ' || source || ' where e.era > $1 and e.era <= $2 order by e.era, e.xid limit 1'
        into at_era, low using at_era, current_era;
        exit when at_era is null;
    end loop;
end
$$;
comment on function keelson._audit_unsealed(bigint, integer, xid8, uuid, integer, integer) is
    'The next events to be sealed, so many at most, in the order of the tree: after the one given, the last of a tree of that size, those whose transactions have ended with all before them.';

create or replace function keelson._audit_has_unsealed(names text[], era integer, xid xid8, id uuid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set random_page_cost = 10000
set jit = off
set max_parallel_workers_per_gather = 0
as $$
declare
    source constant text := keelson._audit_source_after(names);
    is_found boolean;
begin
    if source is null then
        return false;
    end if;
    execute 'select exists (select from ' || source || ')' into is_found using era, xid, id;
    return is_found;
end
$$;
comment on function keelson._audit_has_unsealed(text[], integer, xid8, uuid) is
    'Whether there are events in these partitions that come after the one given, the last that is sealed.';

create or replace function keelson._audit_unsealed_totals(from_at timestamptz, until_at timestamptz)
returns table (event_type text, outcome text, events bigint)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set random_page_cost = 10000
set jit = off
set max_parallel_workers_per_gather = 0
as $$
declare
    head keelson.audit_checkpoints;
    source text;
begin
    select * into head from keelson.audit_checkpoints as c order by c.size desc limit 1;
    source := keelson._audit_source_after(keelson._audit_unsettled(coalesce(head.size, 0)));
    if source is not null then
        return query execute 'select e.event_type, e.outcome, count(*) from ' || source
            || ' and keelson._uuid7_time(e.id) >= $4 and keelson._uuid7_time(e.id) < $5 group by e.event_type, e.outcome'
        using coalesce(head.era, 0), coalesce(head.xid, '0'), coalesce(head.event_id, '00000000-0000-0000-0000-000000000000'), from_at, until_at;
    end if;
end
$$;
comment on function keelson._audit_unsealed_totals(timestamptz, timestamptz) is
    'How many events of the time are not sealed yet, by type and outcome.';

-- What the keeper does when it has sealed.

create or replace function keelson._audit_days_settle()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    head keelson.audit_checkpoints;
    place record;
    next xid8;
begin
    select * into head from keelson.audit_checkpoints as c order by c.size desc limit 1;
    for place in select * from keelson._audit_unsettled_days(head.size) as d where d.is_over loop
        next := keelson._audit_day_note(place.partition, place.day, pg_relation_size(place.partition));
        -- This order, each with a snapshot of its own: see days.c.
        continue when next > pg_snapshot_xmin(pg_current_snapshot());
        if not keelson._audit_has_unsealed(array[place.name], head.era, head.xid, head.event_id) then
            perform keelson._audit_day_settle(place.partition, place.day, next, head.size);
        end if;
    end loop;
end
$$;
comment on function keelson._audit_days_settle() is
    'Find out of which days that are over nothing is left to be sealed.';

create or replace function keelson._audit_days_summarise()
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place record;
    known bigint;
    made bigint := 0;
begin
    for place in
        select d.name, d.partition, d.day, i.ranges, w.pages,
            (d.bytes / current_setting('block_size')::bigint - 64) / w.pages as full_ones
        from keelson._audit_unsettled_days((select max(h.size) from keelson.audit_checkpoints as h)) as d
        cross join lateral (select keelson._audit_ranges_index(d.name) as ranges) as i
        cross join lateral (
            select coalesce(max(o.option_value::integer), 128) as pages
            from pg_class as c
            cross join lateral pg_options_to_table(c.reloptions) as o
            where c.oid = i.ranges and o.option_name = 'pages_per_range'
        ) as w
        where i.ranges is not null
    loop
        continue when place.full_ones <= 0;
        known := keelson._audit_day_summarised(place.partition, place.day);
        continue when known >= place.full_ones;
        begin
            execute format('lock table keelson.%I in share update exclusive mode nowait', place.name);
        exception when lock_not_available then
            -- A vacuum, which does the same, or an index being made: another time.
            continue;
        end;
        for range in known .. place.full_ones - 1 loop
            made := made + brin_summarize_range(place.ranges, range * place.pages);
        end loop;
        -- Once it is so: what the index knows stays, though the transaction may not. A range of which it knows nothing is read.
        perform keelson._audit_day_summarise(place.partition, place.day, place.full_ones);
    end loop;
    return made;
end
$$;
comment on function keelson._audit_days_summarise() is
    'Have the index of ranges of each day that is written to know of the pages that are full; returns of how many ranges it now does. The last pages are left alone: with them known, every insert would have to change what is known of them.';
