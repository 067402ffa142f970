-- How jobs are: the view's function, the administrator's endpoint, health, metrics.

create or replace function keelson.job_states()
returns table (
    name text,
    owner text,
    schedule text,
    description text,
    is_enabled boolean,
    is_scheduled boolean,
    last_run_id uuid,
    last_cause text,
    last_started_at timestamptz,
    last_finished_at timestamptz,
    last_outcome text,
    last_counts jsonb,
    last_errors jsonb,
    next_run_at timestamptz,
    is_missed boolean,
    steps text[]
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        j.name, j.owner, wanted.schedule, j.description, j.is_enabled,
        exists (select from keelson._cron_jobs() as c where c.name = j.name and c.is_active),
        r.id, r.cause, r.started_at, r.finished_at,
        case when r.outcome = 'running' and not keelson._job_is_held(j.name) then 'crashed' else r.outcome end,
        r.counts, r.errors,
        case when j.is_enabled then keelson._cron_due(wanted.schedule, now(), true) end,
        -- Due more than ten minutes ago, and not begun since (a minute for clocks that differ).
        j.is_enabled and due.at > j.due_from and coalesce(r.started_at < due.at - interval '1 minute', true),
        array(select s.name from keelson.job_steps as s where s.job = j.name order by s.name)
    from keelson.job_definitions as j
    cross join lateral (select coalesce(j.own_schedule, j.schedule)) as wanted (schedule)
    cross join lateral (select keelson._cron_due(wanted.schedule, now() - interval '10 minutes', false)) as due (at)
    left join lateral (
        select latest.* from keelson.job_runs as latest where latest.job = j.name order by latest.id desc limit 1
    ) as r on true;
end
$$;
alter function keelson.job_states() owner to keelson_system;
comment on function keelson.job_states() is
    'Every job and how it is: what the view keelson.jobs shows.';
grant execute on function keelson.job_states() to keelson_admin, keelson_jobs;

create or replace function keelson._job_run(
    id uuid,
    cause text,
    outcome text,
    started_at timestamptz,
    finished_at timestamptz,
    counts jsonb,
    errors jsonb
)
returns keelson.job_run_object
language sql
immutable
as $$
-- Which step failed; the server's own words are not for clients.
select id, cause, outcome, started_at, finished_at, counts, case outcome
    when 'failed' then 'failed: ' || (select pg_catalog.string_agg(e.step, ', ' order by e.step) from pg_catalog.jsonb_object_keys(errors) as e (step))
    when 'crashed' then 'the process was gone before it had ended'
end
$$;
comment on function keelson._job_run(uuid, text, text, timestamptz, timestamptz, jsonb, jsonb) is
    'A run as clients see it.';

create or replace function keelson.admin_jobs()
returns setof keelson.job_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('jobs.read');
    return query
    select
        j.name, j.description, j.schedule, j.is_enabled, j.is_scheduled, j.is_missed, j.next_run_at,
        case when j.last_run_id is not null then keelson._job_run(
            j.last_run_id, j.last_cause, j.last_outcome, j.last_started_at, j.last_finished_at, j.last_counts, j.last_errors
        ) end
    from keelson.job_states() as j
    order by j.name;
end
$$;
comment on function keelson.admin_jobs() is
    'All jobs: schedule, last run with outcome and counts, next run.';
grant execute on function keelson.admin_jobs() to keelson_app;

create or replace function keelson._job_runs(job text, before_id uuid, row_limit integer)
returns setof keelson.job_run_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from keelson.job_definitions as j where j.name = _job_runs.job) then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such job');
    end if;
    return query
    select run.* from keelson.job_runs as r
    cross join lateral keelson._job_run(
        r.id, r.cause, case when r.outcome = 'running' and not keelson._job_is_held(r.job) then 'crashed' else r.outcome end,
        r.started_at, r.finished_at, r.counts, r.errors
    ) as run
    where r.job = _job_runs.job and (before_id is null or r.id < before_id)
    order by r.id desc
    limit row_limit;
end
$$;
alter function keelson._job_runs(text, uuid, integer) owner to keelson_system;
comment on function keelson._job_runs(text, uuid, integer) is
    'The newest runs of a job before the given one.';

create or replace function keelson.admin_job_runs(name text, "limit" integer default 20, cursor text default null)
returns setof keelson.job_run_object
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    before_id uuid := keelson.cursor_decode(cursor) ->> 'id';
begin
    perform keelson.permission_require('jobs.read');
    return query select * from keelson._job_runs(name, before_id, keelson.page_by("limit", 'id'));
end
$$;
comment on function keelson.admin_job_runs(text, integer, text) is
    'The runs of a job, newest first.';
grant execute on function keelson.admin_job_runs(text, integer, text) to keelson_app;

create or replace function keelson._jobs_health()
returns jsonb
language sql
stable
as $$
select pg_catalog.jsonb_build_object(
    'enabled', pg_catalog.count(*),
    'scheduled', pg_catalog.count(*) filter (where j.is_scheduled),
    'missed', coalesce(pg_catalog.jsonb_agg(j.name order by j.name) filter (where j.is_missed), '[]'),
    'failed', coalesce(pg_catalog.jsonb_agg(j.name order by j.name) filter (where j.last_outcome in ('failed', 'crashed')), '[]')
)
from keelson.job_states() as j
where j.is_enabled
$$;
comment on function keelson._jobs_health() is
    'How the enabled jobs are: how many are scheduled, which were missed, and whose last run failed or crashed.';

create or replace function keelson._jobs_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
with known as materialized (
    select j.*, d.runs, d.failures, d.crashes, d.removed, d.large_runs
    from keelson.job_states() as j
    join keelson.job_definitions as d on d.name = j.name
)
select sample.name, pg_catalog.jsonb_build_object('job', known.name) || sample.labels, sample.value, sample.type, sample.help
from known
cross join lateral (
    values
        ('keelson_job_runs_total', '{"outcome": "success"}'::jsonb, (known.runs - known.failures)::double precision, 'counter',
            'Runs of jobs that have ended, by outcome.'),
        ('keelson_job_runs_total', '{"outcome": "failed"}', known.failures, 'counter', 'Runs of jobs that have ended, by outcome.'),
        ('keelson_job_runs_total', '{"outcome": "crashed"}', known.crashes, 'counter', 'Runs of jobs that have ended, by outcome.'),
        ('keelson_job_rows_total', '{}', known.removed, 'counter', 'Rows that jobs have taken.'),
        ('keelson_job_large_runs_total', '{}', known.large_runs, 'counter', 'Runs of jobs that took more than 10,000 rows.'),
        ('keelson_job_running', '{}', (known.last_outcome = 'running')::integer, 'gauge', 'Whether the job is running.'),
        ('keelson_job_failing', '{}', (known.last_outcome in ('failed', 'crashed'))::integer, 'gauge',
            'Whether the job''s last run failed or crashed.'),
        ('keelson_job_missed', '{}', known.is_missed::integer, 'gauge', 'Whether the job was due and has not run since.'),
        ('keelson_job_last_start_timestamp_seconds', '{}', extract(epoch from known.last_started_at)::double precision, 'gauge',
            'When the job''s last run began, in Unix seconds.')
) as sample (name, labels, value, type, help)
where sample.value is not null
$$;
comment on function keelson._jobs_metrics() is
    'Samples of jobs: runs by outcome, rows taken, and whether a run was missed or failed.';

-- Steps of our own.

create or replace function keelson._job_runs_purge(batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    purged bigint;
begin
    delete from keelson.job_runs as r
    where r.id in (
        select old.id from keelson.job_runs as old
        where old.id < keelson._uuid7_floor(pg_catalog.now() - pg_catalog.current_setting('keelson.job_history')::interval)
            and old.outcome <> 'running'
        order by old.id
        limit batch
    );
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function keelson._job_runs_purge(integer) is
    'Delete runs older than keelson.job_history, at most so many; returns how many.';

create or replace function keelson._statistics_refresh(batch integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place record;
    refreshed bigint := 0;
begin
    for place in
        select c.oid::regclass as name
        from pg_class as c
        where c.relnamespace = 'keelson'::regnamespace and c.relkind = 'p'
        order by 1
    loop
        execute format('analyze %s', place.name);
        refreshed := refreshed + 1;
    end loop;
    return least(refreshed, batch - 1);
end
$$;
comment on function keelson._statistics_refresh(integer) is
    'Analyze the partitioned tables as wholes; returns how many there are. Autovacuum does it for their partitions alone.';
