-- Rate limits: taking them, the keeper's duties, metrics.

create or replace function keelson.rate_limit_take(name text, key text, cost integer default 1)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_rate_limit_take';
comment on function keelson.rate_limit_take(text, text, integer) is
    'Count something under a limit of the class custom, for the key (a telephone number, a document); 429 RATE_LIMITED when there is no room. What was counted stays counted though the transaction rolls back.';
grant execute on function keelson.rate_limit_take(text, text, integer) to keelson_app, keelson_admin;

create or replace function keelson._rate_limit_fits(name text, charge boolean)
returns boolean
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_rate_limit_fits';
comment on function keelson._rate_limit_fits(text, boolean) is
    'Whether the limit of the class custom has room for one more of the request''s address (IPv6: its /64), which with charge it then counts. True where no limit holds, is disabled, or no address is known. Raises nothing.';

create or replace function keelson._rate_limit_refund(rate_class text)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_rate_limit_refund';
comment on function keelson._rate_limit_refund(text) is
    'When the transaction commits, give back what the limits of this class were charged for the running request: a login that succeeded.';

create or replace function keelson._limits_changed()
returns trigger
language c
as 'MODULE_PATHNAME', 'ks_limits_changed';
comment on function keelson._limits_changed() is
    'Trigger: make every backend read the table anew.';

create or replace function keelson._user_rate_limits_changed()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks_user_rate_limits_changed';
comment on function keelson._user_rate_limits_changed() is
    'Make every backend forget, when this transaction commits, what limits single users have; tables of users have no triggers.';

create or replace function keelson._limits_status(
    out entries bigint,
    out capacity bigint,
    out admitted bigint,
    out refused bigint,
    out evicted bigint,
    out evicted_protected bigint,
    out exhausted bigint,
    out exempted bigint,
    out merged_violations bigint,
    out pressure double precision
)
language c
volatile
as 'MODULE_PATHNAME', 'ks_limits_status';
comment on function keelson._limits_status() is
    'How full the counters'' shared memory is, what has been decided since the server started, and how pressed the server is (0 to 1).';

create or replace function keelson._limit_left(most integer, rank integer, top_rank integer)
returns integer
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_limit_left';
comment on function keelson._limit_left(integer, integer, integer) is
    'What the load leaves of an adaptive limit for a rank of tiers, of 0 to top_rank.';

-- The keeper's duties.

create or replace function keelson._violation_room()
returns integer
language sql
volatile
as $$
select 10000 - pg_catalog.count(*)::integer
from (
    select from keelson.rate_limit_violations as v
    where v.hour_at = pg_catalog.date_trunc('hour', pg_catalog.clock_timestamp())
    limit 10000
) as these
$$;
comment on function keelson._violation_room() is
    'How many rows this hour may still get.';

create or replace function keelson._violation_record(
    user_id uuid,
    ip_address inet,
    route_id integer,
    name text,
    is_shadow boolean,
    refusals bigint,
    first_at timestamptz,
    last_at timestamptz
)
returns boolean
language sql
volatile
as $$
insert into keelson.rate_limit_violations as v
    (user_id, hour_at, ip_address, endpoint, name, is_shadow, refusals, first_at, last_at)
values (
    $1, pg_catalog.date_trunc('hour', $8), $2,
    coalesce((select r.method || ' ' || r.template from keelson.routes as r where r.id = $3), 'other'),
    $4, $5, $6, $7, $8
)
on conflict on constraint rate_limit_violations_pkey do update
set refusals = v.refusals + excluded.refusals,
    first_at = least(v.first_at, excluded.first_at),
    last_at = greatest(v.last_at, excluded.last_at)
returning v.xmax = 0
$$;
comment on function keelson._violation_record(uuid, inet, integer, text, boolean, bigint, timestamptz, timestamptz) is
    'Add refusals to their hour; true when that made a row.';

create or replace function keelson._block_automatic(address inet, signal text)
returns void
language plpgsql
volatile
as $$
declare
    rule keelson.block_rules;
begin
    select * into rule from keelson.block_rules as b where b.signal = _block_automatic.signal and b.is_enabled;
    if not found
        or exists (select from keelson.blocks as b where b.network && address and (b.expires_at is null or b.expires_at > pg_catalog.now()))
        or exists (select from keelson.exempt_networks as e where e.network && address and (e.expires_at is null or e.expires_at > pg_catalog.now()))
    then
        return;
    end if;
    delete from keelson.blocks as b where b.network && address;
    -- So many and no more: the oldest gives way.
    delete from keelson.blocks as b
    where b.network in (
        select old.network from keelson.blocks as old where old.is_automatic order by old.created_at desc offset 9999
    );
    insert into keelson.blocks (network, reason, is_automatic, expires_at)
    values (pg_catalog.network(address), rule.description, true, pg_catalog.now() + rule.block_for);
    perform keelson.audit('admin.block', pg_catalog.jsonb_build_object(
        'network', pg_catalog.network(address), 'reason', rule.description, 'isAutomatic', true, 'expiresAt', pg_catalog.now() + rule.block_for
    ));
end
$$;
comment on function keelson._block_automatic(inet, text) is
    'Block the address or network as the rule for the signal says, unless it is exempt or blocked already.';

create or replace function keelson._limits_cleanup()
returns integer
language plpgsql
volatile
as $$
declare
    removed integer;
begin
    delete from keelson.blocks where blocks.expires_at <= pg_catalog.now();
    delete from keelson.exempt_networks where exempt_networks.expires_at <= pg_catalog.now();
    delete from keelson.user_rate_limits where user_rate_limits.expires_at <= pg_catalog.now();
    delete from keelson.rate_limit_violations as v
    where v.ctid = any (array(
        select old.ctid from keelson.rate_limit_violations as old
        where old.hour_at < pg_catalog.now() - interval '30 days'
        order by old.hour_at
        limit 10000
    ));
    get diagnostics removed = row_count;
    return removed;
end
$$;
comment on function keelson._limits_cleanup() is
    'Remove blocks, exemptions and overrides that have expired, and up to 10,000 violations older than 30 days; returns how many of these.';

create or replace function keelson._limits_remnants_purge(batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    place regclass;
    purged bigint := 0;
begin
    foreach place in array array['keelson.blocks', 'keelson.exempt_networks', 'keelson.user_rate_limits']::regclass[] loop
        purged := purged + keelson._purge(place, 'expires_at', pg_catalog.now() - interval '1 hour', batch - purged);
    end loop;
    return purged;
end
$$;
comment on function keelson._limits_remnants_purge(integer) is
    'Remove blocks, exemptions and overrides that expired more than an hour ago, at most so many; returns how many. The second line behind the keeper.';

create or replace function keelson._load_measure(
    previous_calls bigint,
    previous_microseconds bigint,
    queue integer,
    out pressure double precision,
    out calls bigint,
    out microseconds bigint
)
language plpgsql
volatile
as $$
declare
    signal record;
    value double precision;
begin
    pressure := 0;
    select coalesce(pg_catalog.sum(c.answered + c.refused + c.failed), 0), coalesce(pg_catalog.sum(c.seconds) * 1000000, 0)
    into calls, microseconds
    from keelson._dispatch_counters() as c;
    for signal in select * from keelson.load_signals as s where s.is_enabled loop
        value := case signal.signal
            when 'connections' then (
                select 100.0 * pg_catalog.count(*) filter (where a.state = 'active') / nullif(pg_catalog.count(*), 0)
                from pg_catalog.pg_stat_activity as a where a.usename = 'keelson_gateway'
            )
            when 'queue' then queue
            when 'latency' then (microseconds - previous_microseconds) / 1000.0 / nullif(calls - previous_calls, 0)
        end;
        pressure := greatest(pressure, (value - signal.calm_at) / (signal.full_at - signal.calm_at));
    end loop;
    pressure := least(pressure, 1);
end
$$;
comment on function keelson._load_measure(bigint, bigint, integer) is
    'The pressure that the enabled signals show, 0 to 1, and the dispatcher''s counters for the next measurement.';

create or replace function keelson._limits_write_down()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks_limits_write_down';
comment on function keelson._limits_write_down() is
    'Do the keeper''s duty now: move violations and automatic blocks from shared memory into the tables.';

create or replace function keelson._limits_measure()
returns double precision
language c
volatile
as 'MODULE_PATHNAME', 'ks_limits_measure';
comment on function keelson._limits_measure() is
    'Do the keeper''s duty now: measure the load; returns the pressure, 0 to 1.';

create or replace function keelson._limits_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
with status as materialized (select * from keelson._limits_status())
select sample.*
from status, lateral (
    values
        ('keelson_limits_decisions_total', '{"outcome": "admitted"}'::jsonb, status.admitted::double precision, 'counter',
            'Decisions of rate limits, by outcome.'),
        ('keelson_limits_decisions_total', '{"outcome": "refused"}', status.refused, 'counter',
            'Decisions of rate limits, by outcome.'),
        ('keelson_limits_exempt_total', null, status.exempted, 'counter',
            'Requests that no rate limit counted since their network or user is exempt.'),
        ('keelson_limits_counters', null, status.entries, 'gauge', 'Counters of rate limits in shared memory.'),
        ('keelson_limits_counters_max', null, status.capacity, 'gauge', 'Counters that shared memory has room for.'),
        ('keelson_limits_evicted_total', '{"space": "open"}', status.evicted, 'counter',
            'Counters that gave way to others although they still counted something.'),
        ('keelson_limits_evicted_total', '{"space": "protected"}', status.evicted_protected, 'counter',
            'Counters that gave way to others although they still counted something.'),
        ('keelson_limits_exhausted_total', null, status.exhausted, 'counter', 'Refusals for want of shared memory.'),
        ('keelson_limits_violations_merged_total', null, status.merged_violations, 'counter',
            'Refusals recorded without user and address, since too many came at once.'),
        ('keelson_limits_pressure', null, status.pressure, 'gauge',
            'How pressed the server is, from 0 to 1: adaptive limits shrink with it.')
) as sample
union all
select
    'keelson_limits_blocks', pg_catalog.jsonb_build_object('automatic', b.is_automatic),
    pg_catalog.count(*)::double precision, 'gauge', 'Blocked networks.'
from keelson.blocks as b
where b.expires_at is null or b.expires_at > pg_catalog.now()
group by b.is_automatic
union all
select
    'keelson_limits_allowed', pg_catalog.jsonb_build_object('limit', l.name, 'rank', r.rank),
    keelson._limit_left(l.max_requests, r.rank, (select coalesce(pg_catalog.max(t.rank), 0) from keelson.tier_ranks as t))::double precision,
    'gauge', 'Requests in a window that an adaptive limit allows at present, by the rank of the tier.'
from keelson.rate_limits as l
cross join (select 0 as rank union select t.rank from keelson.tier_ranks as t) as r
where l.is_adaptive and l.is_enabled
$$;
comment on function keelson._limits_metrics() is
    'Samples of rate limits and blocks.';
