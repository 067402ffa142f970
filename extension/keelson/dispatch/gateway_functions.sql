-- What the gateway asks besides dispatch(): routes, readiness, health, metrics.

-- The gateway's sessions have the search path that the dispatcher pins, so
-- that pinning it costs nothing.
alter role keelson_gateway set search_path = pg_catalog, pg_temp;
-- Statistics of all sessions and of shared memory, for health and metrics.
grant pg_read_all_stats to keelson_system;

create or replace function keelson.gateway_routes()
returns table (
    id integer,
    method text,
    template text,
    kind text,
    pool text,
    body_limit integer,
    timeout_ms integer,
    is_raw boolean,
    content_types text[],
    is_public boolean,
    version text,
    deprecated_at timestamptz,
    sunset_at timestamptz,
    successor text
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select
    r.id, r.method, r.template, r.kind, r.pool, r.body_limit, r.timeout_ms, r.is_raw, r.content_types,
    r.is_public, r.version, r.deprecated_at, r.sunset_at, r.successor
from keelson.effective_routes as r
order by r.template, r.method, r.version
$$;
comment on function keelson.gateway_routes() is
    'The endpoints that are served, as the gateway needs to know them.';
grant execute on function keelson.gateway_routes() to keelson_gateway, keelson_admin;

create or replace function keelson.gateway_ready()
returns table (is_ready boolean, reason text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    missing text;
begin
    perform keelson._require_loaded();
    if pg_is_in_recovery() then
        return query select false, 'the database is a standby';
    elsif not keelson.is_migrated() then
        return query select false, 'code and tables differ: run "select keelson.migrate()"';
    else
        select string_agg(required.name, ', ' order by required.name) into missing
        from unnest(array['keelson_owner', 'keelson_system', 'keelson_app']) as required (name)
        where not exists (select from pg_roles as r where r.rolname = required.name);
        if missing is not null then
            return query select false, format('database roles are missing: %s', missing);
        else
            return query select ready.is_ready, ready.reason from keelson._keyring_ready() as ready;
        end if;
    end if;
end
$$;
comment on function keelson.gateway_ready() is
    'Whether requests can be served: tables as the code needs them, roles, keyring, and a server that takes writes; if not, why.';
alter function keelson.gateway_ready() owner to keelson_system;
grant execute on function keelson.gateway_ready() to keelson_gateway, keelson_admin;

create or replace function keelson.gateway_health()
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    workers jsonb;
    cron jsonb := jsonb_build_object('installed', false);
begin
    select coalesce(jsonb_agg(jsonb_build_object(
            'name', a.backend_type, 'state', a.state, 'startedAt', keelson._time_text(a.backend_start)
        ) order by a.backend_type), '[]')
    into workers
    from pg_stat_activity as a
    where a.backend_type like 'keelson %';
    if exists (select from pg_extension as e where e.extname = 'pg_cron') then
        cron := jsonb_build_object(
            'installed', true,
            'running', exists (select from pg_stat_activity as a where a.backend_type = 'pg_cron launcher')
        );
    end if;
    return jsonb_build_object(
        'database', jsonb_build_object(
            'name', current_database(),
            'uptimeSeconds', extract(epoch from clock_timestamp() - pg_postmaster_start_time())::bigint,
            'sizeBytes', pg_database_size(current_database()),
            'connections', (select count(*) from pg_stat_activity as a where a.backend_type = 'client backend'),
            'maxConnections', current_setting('max_connections')::integer
        ),
        'workers', workers,
        'cron', cron,
        'courier', keelson._courier_health(),
        'jobs', keelson._jobs_health(),
        'memory', jsonb_build_object(
            'sharedBuffersBytes', pg_size_bytes(current_setting('shared_buffers')),
            'keelsonBytes', (
                select coalesce(sum(m.allocated_size), 0)::bigint
                from pg_shmem_allocations as m where m.name like 'keelson %'
            )
        ),
        'versions', jsonb_build_object(
            'keelson', (select e.extversion from pg_extension as e where e.extname = 'keelson'),
            'postgresql', current_setting('server_version')
        )
    );
end
$$;
comment on function keelson.gateway_health() is
    'The state of the database for /health: connections, workers, cron, jobs, memory, versions.';
alter function keelson.gateway_health() owner to keelson_system;
grant execute on function keelson.gateway_health() to keelson_gateway, keelson_admin;

create or replace function keelson._time_text(moment timestamptz)
returns text
language sql
stable
strict
as $$ select pg_catalog.to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') $$;
comment on function keelson._time_text(timestamptz) is
    'The moment as RFC 3339 writes it, in UTC, to the second.';

create or replace function keelson._dispatch_counters()
returns table (route_id integer, answered bigint, refused bigint, failed bigint, seconds double precision)
language c
volatile
as 'MODULE_PATHNAME', 'ks_dispatch_counters';
comment on function keelson._dispatch_counters() is
    'Calls and time by endpoint since the server started; route 0 counts those that found no place of their own.';

create or replace function keelson._dispatch_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
with counted as (
    select
        coalesce(r.method || ' ' || r.template, 'other') as route,
        c.answered, c.refused, c.failed, c.seconds
    from keelson._dispatch_counters() as c
    left join keelson.routes as r on r.id = c.route_id
)
select
    'keelson_dispatch_calls_total',
    pg_catalog.jsonb_build_object('route', counted.route, 'outcome', outcome.name),
    pg_catalog.sum(outcome.calls)::double precision,
    'counter',
    'Calls of the dispatcher, by endpoint and outcome (answered, refused with a 4xx, failed).'
from counted
cross join lateral (
    values ('answered', counted.answered), ('refused', counted.refused), ('failed', counted.failed)
) as outcome (name, calls)
group by counted.route, outcome.name
union all
select
    'keelson_dispatch_seconds_total',
    pg_catalog.jsonb_build_object('route', counted.route),
    pg_catalog.sum(counted.seconds),
    'counter',
    'Time spent in the dispatcher, by endpoint.'
from counted
group by counted.route
$$;
comment on function keelson._dispatch_metrics() is
    'The dispatcher''s counters as samples.';

create or replace function keelson._database_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
select
    'keelson_database_connections', pg_catalog.jsonb_build_object('state', coalesce(a.state, 'unknown')),
    pg_catalog.count(*)::double precision, 'gauge', 'Client connections of the database server, by state.'
from pg_catalog.pg_stat_activity as a
where a.backend_type = 'client backend'
group by a.state
union all
select
    'keelson_database_size_bytes', null::jsonb,
    pg_catalog.pg_database_size(pg_catalog.current_database())::double precision, 'gauge', 'Size of the database on disk.'
union all
select
    'keelson_worker_up', pg_catalog.jsonb_build_object('worker', w.name),
    (
        -- The second courier is the courier 2.
        select pg_catalog.count(*)::double precision
        from pg_catalog.pg_stat_activity as a where a.backend_type ~ ('^keelson ' || w.name || '( [0-9]+)?$')
    ),
    'gauge', 'Background workers that are there, by what they do.'
from (values ('keeper'), ('courier'), ('incoming'), ('hasher')) as w (name)
$$;
comment on function keelson._database_metrics() is
    'Samples of the database itself: connections, size, background workers.';

create or replace function keelson.gateway_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
select * from keelson._dispatch_metrics()
union all
select * from keelson._limits_metrics()
union all
select * from keelson._database_metrics()
union all
select * from keelson._audit_metrics()
union all
select * from keelson._courier_metrics()
union all
select * from keelson._upstream_metrics()
union all
select * from keelson._issuer_metrics()
union all
select * from keelson._incoming_metrics()
union all
select * from keelson._jobs_metrics()
union all
select * from keelson._secrets_metrics()
union all
select * from keelson._usage_metrics()
union all
select * from keelson._quota_metrics()
union all
select * from keelson._alert_metrics()
$$;
comment on function keelson.gateway_metrics() is
    'The database''s samples for /metrics, in Prometheus'' terms.';
alter function keelson.gateway_metrics() owner to keelson_system;
grant execute on function keelson.gateway_metrics() to keelson_gateway, keelson_admin;
