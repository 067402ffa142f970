-- Rate limits: the endpoints of administration.

create type keelson.rate_limit as (
    name text,
    rate_class text,
    counted_by text,
    max_requests integer,
    window_seconds bigint,
    is_enabled boolean,
    is_shadow boolean,
    is_adaptive boolean,
    description text,
    tiers jsonb
);
comment on type keelson.rate_limit is
    'A rate limit: at most max_requests in any window of window_seconds. tiers: what holds for the users of a tier instead.';

create type keelson.rate_limit_counters as (
    admitted bigint,
    refused bigint,
    exempted bigint,
    counters bigint,
    counters_max bigint,
    evicted bigint,
    evicted_protected bigint,
    pressure double precision
);
comment on type keelson.rate_limit_counters is
    'What rate limits have decided since the server started, how full their memory is, and how pressed the server is (0 to 1).';

create type keelson.rate_limits_overview as (
    limits keelson.rate_limit[],
    counters keelson.rate_limit_counters,
    blocks bigint,
    exempt_networks text[],
    refusals_last_hour bigint,
    user_overrides bigint
);
comment on type keelson.rate_limits_overview is
    'Rate limits at a glance.';

create or replace function keelson._rate_limit_tiers(name text)
returns jsonb
language sql
stable
as $$
select coalesce(
    pg_catalog.jsonb_object_agg(t.tier, pg_catalog.jsonb_build_object(
        'maxRequests', t.max_requests,
        'windowSeconds', extract(epoch from t.time_window)::bigint
    )),
    '{}'
)
from keelson.tier_rate_limits as t
where t.name = _rate_limit_tiers.name
$$;
comment on function keelson._rate_limit_tiers(text) is
    'What a limit says for tiers, by tier.';

create or replace function keelson.admin_rate_limits()
returns keelson.rate_limits_overview
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    overview keelson.rate_limits_overview;
begin
    perform keelson.permission_require('limits.read');
    overview.limits := array(
        select row(
            l.name, l.rate_class, l.counted_by, l.max_requests, extract(epoch from l.time_window)::bigint,
            l.is_enabled, l.is_shadow, l.is_adaptive, l.description, keelson._rate_limit_tiers(l.name)
        )::keelson.rate_limit
        from keelson.rate_limits as l
        order by l.rate_class, l.name
    );
    overview.counters := (
        select row(
            s.admitted, s.refused, s.exempted, s.entries, s.capacity, s.evicted, s.evicted_protected, s.pressure
        )::keelson.rate_limit_counters
        from keelson._limits_status() as s
    );
    overview.blocks := (select count(*) from keelson.blocks as b where b.expires_at is null or b.expires_at > now());
    overview.exempt_networks := array(
        select e.network::text from keelson.exempt_networks as e
        where e.expires_at is null or e.expires_at > now()
        order by e.network
        limit 100
    );
    select s.refusals_last_hour, s.user_overrides into overview.refusals_last_hour, overview.user_overrides
    from keelson._rate_limit_sums() as s;
    return overview;
end
$$;
comment on function keelson.admin_rate_limits() is
    'Rate limits at a glance: the limits, what they have decided, blocks and exemptions. Needs the permission limits.read.';
grant execute on function keelson.admin_rate_limits() to keelson_app;

create or replace function keelson._rate_limit_sums(out refusals_last_hour bigint, out user_overrides bigint)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
select
    (
        select coalesce(sum(v.refusals), 0)::bigint from keelson.rate_limit_violations as v
        where v.hour_at >= date_trunc('hour', now()) - interval '1 hour' and v.last_at > now() - interval '1 hour' and not v.is_shadow
    ),
    (select count(*) from keelson.user_rate_limits)
$$;
alter function keelson._rate_limit_sums() owner to keelson_system;
comment on function keelson._rate_limit_sums() is
    'Refusals recorded in the last hour, and overrides for single users.';

create or replace function keelson._address_text(address inet)
returns text
language sql
immutable
strict
parallel safe
as $$
select case
    when pg_catalog.family(address) = 4 then pg_catalog.host(address)
    when pg_catalog.masklen(address) > 0 then address::text
end
$$;
comment on function keelson._address_text(inet) is
    'The address of a violation: an IPv4 address, or an IPv6 network; null where it is not known.';

create type keelson.rate_limit_violation as (
    user_id uuid,
    ip_address text,
    endpoint text,
    name text,
    is_shadow boolean,
    refusals bigint,
    first_at timestamptz,
    last_at timestamptz
);
comment on type keelson.rate_limit_violation is
    'Refusals of one user, address, endpoint and limit within an hour. name is the limit, or block.';

create or replace function keelson.admin_rate_limit_violations(
    user_id uuid default null,
    ip_address text default null,
    "limit" integer default 20,
    cursor text default null
)
returns setof keelson.rate_limit_violation
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place jsonb := keelson.cursor_decode(cursor);
    network cidr;
    found_row record;
    previous record;
    shown integer := 0;
begin
    perform keelson.permission_require('limits.read');
    perform keelson._page_limit_require("limit");
    if ip_address is not null then
        network := keelson._network_parse(ip_address);
    end if;
    for found_row in select * from keelson._rate_limit_violations(user_id, network, place, "limit" + 1) loop
        if shown = "limit" then
            perform keelson.page("limit", keelson.cursor_encode(previous.place));
            return;
        end if;
        shown := shown + 1;
        previous := found_row;
        return next row(
            found_row.user_id, found_row.ip_address, found_row.endpoint, found_row.name, found_row.is_shadow,
            found_row.refusals, found_row.first_at, found_row.last_at
        )::keelson.rate_limit_violation;
    end loop;
    perform keelson.page("limit", null);
end
$$;
comment on function keelson.admin_rate_limit_violations(uuid, text, integer, text) is
    'Who was refused by rate limits and blocks, an hour''s refusals in one row, the latest hour first; of a user, or of an address, if given. Needs the permission limits.read.';
grant execute on function keelson.admin_rate_limit_violations(uuid, text, integer, text) to keelson_app;

create or replace function keelson._rate_limit_violations(
    of_user uuid,
    of_network inet,
    after jsonb,
    row_limit integer
)
returns table (
    user_id uuid,
    ip_address text,
    endpoint text,
    name text,
    is_shadow boolean,
    refusals bigint,
    first_at timestamptz,
    last_at timestamptz,
    place jsonb
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format(
        $query$
            select nullif(v.user_id, '00000000-0000-0000-0000-000000000000'),
                keelson._address_text(v.ip_address),
                v.endpoint, v.name, v.is_shadow, v.refusals, v.first_at, v.last_at,
                jsonb_build_array(v.hour_at, v.user_id, v.ip_address, v.endpoint, v.name)
            from keelson.rate_limit_violations as v
            where true %s %s %s
            order by v.hour_at desc, v.user_id desc, v.ip_address desc, v.endpoint desc, v.name desc
            limit $4
        $query$,
        case when of_user is not null then 'and v.user_id = $1' end,
        case
            when family(of_network) = 6 and masklen(of_network) >= 64 then 'and v.ip_address = network(set_masklen($2, 64))'
            when of_network is not null then 'and v.ip_address <<= $2'
        end,
        case when after is not null then
            'and (v.hour_at, v.user_id, v.ip_address, v.endpoint, v.name)'
            || ' < (($3 ->> 0)::timestamptz, ($3 ->> 1)::uuid, ($3 ->> 2)::inet, $3 ->> 3, $3 ->> 4)'
        end
    ) using of_user, of_network, after, row_limit;
end
$$;
alter function keelson._rate_limit_violations(uuid, inet, jsonb, integer) owner to keelson_system;
comment on function keelson._rate_limit_violations(uuid, inet, jsonb, integer) is
    'A page of violations, with the place of each for the cursor.';

create type keelson.rate_limit_offender as (
    subject text,
    refusals bigint,
    last_at timestamptz
);
comment on type keelson.rate_limit_offender is
    'A user, address, endpoint or limit, and how often requests were refused.';

create or replace function keelson.admin_rate_limit_top(
    by text default 'ip_address',
    hours integer default 1,
    "limit" integer default 20
)
returns setof keelson.rate_limit_offender
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('limits.read');
    perform keelson._page_limit_require("limit");
    if by is null or by not in ('user', 'ip_address', 'ipAddress', 'endpoint', 'name') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'by is user, ipAddress, endpoint or name', field => 'by');
    end if;
    if hours is null or hours not between 1 and 24 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'hours is 1 to 24', field => 'hours');
    end if;
    return query select * from keelson._rate_limit_top(by, hours, "limit");
end
$$;
comment on function keelson.admin_rate_limit_top(text, integer, integer) is
    'Who, or what, was refused most in the last hours: by user, ipAddress, endpoint or name (the limit). Needs the permission limits.read.';
grant execute on function keelson.admin_rate_limit_top(text, integer, integer) to keelson_app;

create or replace function keelson._rate_limit_top(by text, hours integer, row_limit integer)
returns setof keelson.rate_limit_offender
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select grouped.subject, sum(grouped.refusals)::bigint, max(grouped.last_at)
from (
    select
        case by
            when 'user' then nullif(v.user_id, '00000000-0000-0000-0000-000000000000')::text
            when 'endpoint' then v.endpoint
            when 'name' then v.name
            else keelson._address_text(v.ip_address)
        end as subject,
        v.refusals,
        v.last_at
    from keelson.rate_limit_violations as v
    where v.hour_at > now() - make_interval(hours => hours + 1) and v.last_at > now() - make_interval(hours => hours)
        and not v.is_shadow
) as grouped
where grouped.subject is not null
group by grouped.subject
order by sum(grouped.refusals) desc, grouped.subject
limit row_limit
$$;
alter function keelson._rate_limit_top(text, integer, integer) owner to keelson_system;
comment on function keelson._rate_limit_top(text, integer, integer) is
    'The subjects with the most refusals.';

create or replace function keelson.admin_blocks("limit" integer default 20, cursor text default null)
returns setof keelson.block
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place jsonb := keelson.cursor_decode(cursor);
begin
    perform keelson.permission_require('limits.read');
    return query
    select b.network::text, b.reason, b.is_automatic, b.created_by, b.created_at, b.expires_at
    from keelson.blocks as b
    where (b.expires_at is null or b.expires_at > now())
        and (place is null or (b.created_at, b.network) < ((place ->> 'created_at')::timestamptz, (place ->> 'network')::cidr))
    order by b.created_at desc, b.network desc
    limit keelson.page_by("limit", 'created_at', 'network');
end
$$;
comment on function keelson.admin_blocks(integer, text) is
    'The blocked addresses and networks, the latest first. Needs the permission limits.read.';
grant execute on function keelson.admin_blocks(integer, text) to keelson_app;

create or replace function keelson.admin_block_add(network text, reason text, expires_at timestamptz default null)
returns keelson.block
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('limits.write');
    return keelson.block_add(network, reason, expires_at);
end
$$;
comment on function keelson.admin_block_add(text, text, timestamptz) is
    'Refuse all requests from an address or network, until the time or for good. Needs the permission limits.write.';
grant execute on function keelson.admin_block_add(text, text, timestamptz) to keelson_app;

create or replace function keelson.admin_block_remove(network text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('limits.write');
    if not keelson.block_remove(network) then
        perform keelson.raise(404, 'NOT_FOUND', 'this network is not blocked', field => 'network');
    end if;
end
$$;
comment on function keelson.admin_block_remove(text) is
    'Take the block of exactly this address or network away. Needs the permission limits.write.';
grant execute on function keelson.admin_block_remove(text) to keelson_app;
