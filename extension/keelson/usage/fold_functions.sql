-- Rollups: folding, aggregating again, proving, and what retention takes.

create or replace function keelson.usage_fold(batch integer default 20000)
returns bigint
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_usage_fold';
comment on function keelson.usage_fold(integer) is
    'Fold up to so many events, whose transactions have ended, into the rollups; returns how many. The keeper does it every two seconds.';
grant execute on function keelson.usage_fold(integer) to keelson_admin, keelson_jobs;

create or replace function keelson._usage_fold(
    present_era integer,
    batch integer,
    out folded bigint,
    out horizon xid8,
    out is_all boolean,
    out tail_from date,
    out next_from date,
    out next_era integer,
    out next_xid xid8
)
language plpgsql
volatile
-- What was planned for other values, or without knowing the values, would read whole partitions.
set plan_cache_mode = 'force_custom_plan'
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    mark keelson.usage_watermark;
    last record;
begin
    -- Before the events are looked for: what has ended by now is seen then.
    horizon := pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot());
    select * into strict mark from keelson.usage_watermark;
    with batch as materialized (
        select e.user_id, e.feature, e.minutes, e.requests, e.occurred_at, e.era, e.xid, e.id
        from keelson.usage_events as e
        where e.id >= keelson._uuid7_floor(mark.tail_from::timestamp at time zone 'UTC')
            and (e.era, e.xid, e.id) > (mark.era, mark.xid, mark.event_id)
            and (e.era < present_era or e.era = present_era and e.xid < horizon)
        order by e.era, e.xid, e.id
        limit _usage_fold.batch
    ),
    quarters as materialized (
        select b.user_id, pg_catalog.date_bin('15 minutes', b.occurred_at, '2000-01-01 00:00+00') as quarter_at, b.feature,
            pg_catalog.sum(b.minutes) as minutes, pg_catalog.sum(b.requests) as requests
        from batch as b
        group by 1, 2, 3
    ),
    days as materialized (
        select q.user_id, (q.quarter_at at time zone 'UTC')::date as day, q.feature,
            pg_catalog.sum(q.minutes) as minutes, pg_catalog.sum(q.requests)::bigint as requests
        from quarters as q
        group by 1, 2, 3
    ),
    into_quarters as (
        insert into keelson.usage_quarters as q (user_id, quarter_at, feature, minutes, requests)
        select n.user_id, n.quarter_at, n.feature, n.minutes, n.requests from quarters as n
        on conflict on constraint usage_quarters_pkey do update
        set minutes = q.minutes + excluded.minutes, requests = q.requests + excluded.requests
    ),
    into_days as (
        insert into keelson.usage_days as d (user_id, day, feature, minutes, requests)
        select n.user_id, n.day, n.feature, n.minutes, n.requests from days as n
        on conflict on constraint usage_days_pkey do update
        set minutes = d.minutes + excluded.minutes, requests = d.requests + excluded.requests
    ),
    into_totals as (
        insert into keelson.usage_totals as t (user_id, feature, minutes, requests)
        select n.user_id, n.feature, pg_catalog.sum(n.minutes), pg_catalog.sum(n.requests) from days as n
        group by 1, 2
        on conflict on constraint usage_totals_pkey do update
        set minutes = t.minutes + excluded.minutes, requests = t.requests + excluded.requests
    )
    select b.era, b.xid, b.id, pg_catalog.count(*) over () as events, array(select distinct n.user_id from days as n) as users into last
    from batch as b
    order by b.era desc, b.xid desc, b.id desc
    limit 1;
    folded := coalesce(last.events, 0);
    if folded > 0 then
        update keelson.usage_watermark
        set era = last.era, xid = last.xid, event_id = last.id, folded_at = pg_catalog.clock_timestamp();
        select * into strict mark from keelson.usage_watermark;
        perform keelson._quotas_watch(last.users);
    end if;
    is_all := folded < batch and not exists (
        select from keelson.usage_events as e
        where e.id >= keelson._uuid7_floor(mark.tail_from::timestamp at time zone 'UTC')
            and (e.era, e.xid, e.id) > (mark.era, mark.xid, mark.event_id)
    );
    tail_from := mark.tail_from;
    next_from := mark.next_from;
    next_era := mark.next_era;
    next_xid := mark.next_xid;
end
$$;
comment on function keelson._usage_fold(integer, integer) is
    'Fold up to so many events, under the lock of whoever writes rollups; returns how many, the horizon up to which all were looked at, whether none that is committed is left, and the watermark''s days.';

create or replace function keelson.usage_reaggregate(day date)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    mark keelson.usage_watermark;
    since timestamptz := day::timestamp at time zone 'UTC';
    until timestamptz := (day + 1)::timestamp at time zone 'UTC';
    changed bigint;
    changed_users uuid[];
    changed_features text[];
begin
    if day is null or day not between date '2000-01-01' and date '9999-12-30' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a day is needed', field => 'day');
    end if;
    perform pg_advisory_xact_lock(x'4b656c736f6e5531'::bigint);
    select * into strict mark from keelson.usage_watermark;
    if mark.expired_until >= day - 1 then
        perform keelson.raise(409, 'CONFLICT', format('events of %s are no longer kept: its rollups stand', day));
    end if;
    with fresh as materialized (
        select e.user_id, date_bin('15 minutes', e.occurred_at, '2000-01-01 00:00+00') as quarter_at, e.feature,
            sum(e.minutes) as minutes, sum(e.requests) as requests
        from keelson.usage_events as e
        where e.occurred_at >= since and e.occurred_at < until
            and (e.era, e.xid, e.id) <= (mark.era, mark.xid, mark.event_id)
        group by 1, 2, 3
    ),
    fresh_days as materialized (
        select f.user_id, f.feature, sum(f.minutes) as minutes, sum(f.requests)::bigint as requests
        from fresh as f
        group by 1, 2
    ),
    changes as materialized (
        select user_id, feature, coalesce(f.minutes, 0) - coalesce(d.minutes, 0) as minutes,
            coalesce(f.requests, 0) - coalesce(d.requests, 0) as requests
        from fresh_days as f
        full join (select * from keelson.usage_days as d where d.day = usage_reaggregate.day) as d using (user_id, feature)
        where (f.minutes, f.requests) is distinct from (d.minutes, d.requests)
    ),
    less_quarters as (
        delete from keelson.usage_quarters as q
        where q.quarter_at >= since and q.quarter_at < until
            and not exists (
                select from fresh as f where (f.user_id, f.quarter_at, f.feature) = (q.user_id, q.quarter_at, q.feature)
            )
    ),
    into_quarters as (
        insert into keelson.usage_quarters as q (user_id, quarter_at, feature, minutes, requests)
        select f.user_id, f.quarter_at, f.feature, f.minutes, f.requests from fresh as f
        on conflict on constraint usage_quarters_pkey do update
        set minutes = excluded.minutes, requests = excluded.requests
        where (q.minutes, q.requests) is distinct from (excluded.minutes, excluded.requests)
    ),
    less_days as (
        delete from keelson.usage_days as d
        where d.day = usage_reaggregate.day
            and not exists (select from fresh_days as f where (f.user_id, f.feature) = (d.user_id, d.feature))
    ),
    into_days as (
        insert into keelson.usage_days as d (user_id, day, feature, minutes, requests)
        select f.user_id, usage_reaggregate.day, f.feature, f.minutes, f.requests from fresh_days as f
        on conflict on constraint usage_days_pkey do update
        set minutes = excluded.minutes, requests = excluded.requests
        where (d.minutes, d.requests) is distinct from (excluded.minutes, excluded.requests)
    )
    select count(*), array_agg(c.user_id), array_agg(c.feature) into changed, changed_users, changed_features from changes as c;
    -- Totals are the sum of the days.
    with pairs as (
        select d.user_id, d.feature from keelson.usage_days as d where d.day = usage_reaggregate.day
        union
        select c.user_id, c.feature from unnest(changed_users, changed_features) as c (user_id, feature)
    ),
    sums as materialized (
        select p.user_id, p.feature, sum(d.minutes) as minutes, sum(d.requests)::bigint as requests
        from pairs as p
        left join keelson.usage_days as d using (user_id, feature)
        group by 1, 2
    ),
    less_totals as (
        delete from keelson.usage_totals as t
        where exists (select from sums as s where (s.user_id, s.feature) = (t.user_id, t.feature) and s.requests is null)
    )
    insert into keelson.usage_totals as t (user_id, feature, minutes, requests)
    select s.user_id, s.feature, s.minutes, s.requests from sums as s where s.requests is not null
    on conflict on constraint usage_totals_pkey do update
    set minutes = excluded.minutes, requests = excluded.requests
    where (t.minutes, t.requests) is distinct from (excluded.minutes, excluded.requests);
    return changed;
end
$$;
alter function keelson.usage_reaggregate(date) owner to keelson_system;
comment on function keelson.usage_reaggregate(date) is
    'Make the rollups of a day, UTC, anew from its events, and the totals of its users anew from their days; returns how many users'' features changed. Doing it again changes nothing. 409 where retention has taken events of the day.';
grant execute on function keelson.usage_reaggregate(date) to keelson_admin, keelson_jobs;

do $types$
begin
    if pg_catalog.to_regtype('keelson.usage_difference') is null then
        create type keelson.usage_difference as (
            rollup text,
            day date,
            user_id uuid,
            feature text,
            minutes numeric,
            minutes_expected numeric,
            requests bigint,
            requests_expected bigint
        );
    end if;
end
$types$;
comment on type keelson.usage_difference is
    'A rollup that does not say what it should, as keelson.usage_reconcile() finds it.';
comment on column keelson.usage_difference.rollup is 'quarters or days, held against events; totals, held against days.';
comment on column keelson.usage_difference.minutes is 'What the rollup says; null where it has no row.';
comment on column keelson.usage_difference.minutes_expected is 'What it should say; null where it should have no row.';

create or replace function keelson.usage_reconcile(since date default null, until date default null)
returns setof keelson.usage_difference
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    shown date;
    first_at timestamptz;
    next_at timestamptz;
    lower_user uuid := '00000000-0000-0000-0000-000000000000';
    upper_user uuid;
begin
    -- Days with all of their events, one after the other.
    for shown in
        select d::date
        from keelson.usage_watermark as w,
            generate_series(
                greatest(since, (w.expired_until + 2), (select min(p.day) - 36 from keelson._partitions('usage_events') as p))::timestamp,
                least(until, (now() at time zone 'UTC')::date + 1)::timestamp, interval '1 day'
            ) as d
        order by 1
    loop
        first_at := shown::timestamp at time zone 'UTC';
        next_at := (shown + 1)::timestamp at time zone 'UTC';
        return query
        with events as materialized (
            select e.user_id, date_bin('15 minutes', e.occurred_at, '2000-01-01 00:00+00') as quarter_at, e.feature,
                sum(e.minutes) as minutes, sum(e.requests) as requests
            from keelson.usage_events as e, keelson.usage_watermark as w
            where e.occurred_at >= first_at and e.occurred_at < next_at and (e.era, e.xid, e.id) <= (w.era, w.xid, w.event_id)
            group by 1, 2, 3
        ),
        event_days as (
            select e.user_id, e.feature, sum(e.minutes) as minutes, sum(e.requests)::bigint as requests from events as e group by 1, 2
        )
        select 'quarters', shown, user_id, feature, q.minutes, e.minutes, q.requests, e.requests
        from events as e
        full join (select * from keelson.usage_quarters as q where q.quarter_at >= first_at and q.quarter_at < next_at) as q
            using (user_id, quarter_at, feature)
        where (q.minutes, q.requests) is distinct from (e.minutes, e.requests)
        union all
        select 'days', shown, user_id, feature, d.minutes, e.minutes, d.requests, e.requests
        from event_days as e
        full join (select * from keelson.usage_days as d where d.day = shown) as d using (user_id, feature)
        where (d.minutes, d.requests) is distinct from (e.minutes, e.requests);
    end loop;
    -- Totals against days, some thousand users at a time.
    loop
        select max(t.user_id::text)::uuid into upper_user
        from (select d.user_id from keelson.usage_days as d where d.user_id > lower_user order by d.user_id limit 50000) as t;
        return query
        select 'totals', null::date, user_id, feature, t.minutes, d.minutes, t.requests, d.requests
        from (
            select d.user_id, d.feature, sum(d.minutes) as minutes, sum(d.requests)::bigint as requests
            from keelson.usage_days as d
            where d.user_id > lower_user and d.user_id <= upper_user
            group by 1, 2
        ) as d
        full join (
            select * from keelson.usage_totals as t
            where t.user_id > lower_user and (upper_user is null or t.user_id <= upper_user)
        ) as t using (user_id, feature)
        where (t.minutes, t.requests) is distinct from (d.minutes, d.requests);
        exit when upper_user is null;
        lower_user := upper_user;
    end loop;
end
$$;
alter function keelson.usage_reconcile(date, date) owner to keelson_system;
comment on function keelson.usage_reconcile(date, date) is
    'Hold the rollups against the events of the days from since to until, all that are kept by default, day by day, and the totals against the days; returns what differs, so no row is the proof. Reads alone, and may run beside everything else.';
grant execute on function keelson.usage_reconcile(date, date) to keelson_admin, keelson_jobs;

create or replace function keelson.usage_expire(batch integer default 100000, moment timestamptz default pg_catalog.now())
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    keep_for interval := current_setting('keelson.usage_retention')::interval;
    place record;
    dropped bigint := 0;
    last_dropped date;
    cleared bigint;
    is_cleared boolean;
begin
    if batch is null or batch not between 1 and 1000000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a batch is 1 to 1,000,000 rows', field => 'batch');
    end if;
    perform pg_advisory_xact_lock(x'4b656c736f6e5531'::bigint);
    -- What hung on the partitions dropped before: their events' keys, and quarters of an hour that lie before all of them.
    select w.expired_until into last_dropped
    from keelson.usage_watermark as w
    where w.expired_until is distinct from w.cleared_until;
    if found then
        delete from keelson.usage_keys as k
        where k.ctid = any (array(select g.ctid from keelson.usage_keys as g where g.recorded_on <= last_dropped limit batch));
        get diagnostics cleared = row_count;
        is_cleared := cleared < batch;
        delete from keelson.usage_quarters as q
        where q.ctid = any (array(
            select g.ctid from keelson.usage_quarters as g
            where g.quarter_at < (last_dropped + 1)::timestamp at time zone 'UTC' - interval '36 days'
            limit batch
        ));
        get diagnostics cleared = row_count;
        if is_cleared and cleared < batch then
            update keelson.usage_watermark set cleared_until = last_dropped;
        end if;
    end if;
    -- Last, since it stops all who record until the transaction ends. Nothing goes that is not folded.
    for place in
        select p.day
        from keelson._partitions('usage_events') as p, keelson.usage_watermark as w
        where p.day < w.tail_from and (p.day + 1)::timestamp at time zone 'UTC' <= moment - keep_for
        order by p.day
    loop
        exit when not keelson._partition_drop('usage_events', place.day);
        update keelson.usage_watermark set expired_until = greatest(expired_until, place.day);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;
alter function keelson.usage_expire(integer, timestamptz) owner to keelson_system;
comment on function keelson.usage_expire(integer, timestamptz) is
    'Take the events that are older than keelson.usage_retention, whole days at a time, and so many of their keys and quarters of an hour at most; returns how many days. Rollups of days and totals stay.';
grant execute on function keelson.usage_expire(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._usage_partitions_settle()
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place record;
    made integer := 0;
begin
    for place in
        select p.name
        from keelson._partitions('usage_events') as p, keelson.usage_watermark as w
        where p.day < w.tail_from and to_regclass('keelson.' || p.name || '_occurred_at_idx') is null
        order by p.day
    loop
        execute format('create index %I on keelson.%I using brin (occurred_at)', place.name || '_occurred_at_idx', place.name);
        made := made + 1;
    end loop;
    return made;
end
$$;
comment on function keelson._usage_partitions_settle() is
    'Index the partitions of events that will not grow any more by time: a summary of pages finds a day, since events come nearly in that order. Returns how many.';
