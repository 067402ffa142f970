-- Schedules as cron writes them, in UTC: reading them, and when they are due.

create or replace function keelson._cron_field(field text, lowest integer, highest integer)
returns integer[]
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    part text;
    parts text[];
    first integer;
    last integer;
    step integer;
    wanted integer[] := '{}';
begin
    if field = '' then
        return null;
    end if;
    foreach part in array string_to_array(field, ',') loop
        parts := regexp_match(part, '^(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?$');
        if parts is null then
            return null;
        end if;
        first := coalesce(parts[1]::integer, lowest);
        -- A number alone is itself, with a step all from it on.
        last := coalesce(parts[2]::integer, case when parts[1] is null or parts[3] is not null then highest else first end);
        step := coalesce(parts[3]::integer, 1);
        if first < lowest or last > highest or first > last or step = 0 then
            return null;
        end if;
        wanted := wanted || array(select generate_series(first, last, step));
    end loop;
    return array(select distinct w from unnest(wanted) as w order by w);
end
$$;
comment on function keelson._cron_field(text, integer, integer) is
    'The numbers that a field of a schedule names, in order; null when it is not one.';

create or replace function keelson._cron_require(schedule text)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    fields text[] := regexp_split_to_array(schedule, ' ');
begin
    if schedule is null or cardinality(fields) <> 5
        or keelson._cron_field(fields[1], 0, 59) is null
        or keelson._cron_field(fields[2], 0, 23) is null
        or keelson._cron_field(fields[3], 1, 31) is null
        or keelson._cron_field(fields[4], 1, 12) is null
        or keelson._cron_field(fields[5], 0, 7) is null
        or keelson._cron_due(schedule, '2000-01-01 00:00Z', true) is null
    then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('"%s" is not a schedule', coalesce(schedule, 'null')),
            'Five fields of numbers as cron has them, such as "0 2 * * *" for two o''clock every night (UTC).', 'schedule');
    end if;
end
$$;
comment on function keelson._cron_require(text) is
    'Raise 400 unless it is a schedule of five fields that is due at some time.';

create or replace function keelson._cron_due(schedule text, moment timestamptz, is_next boolean)
returns timestamptz
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    fields text[] := regexp_split_to_array(schedule, ' ');
    minutes integer[] := keelson._cron_field(fields[1], 0, 59);
    hours integer[] := keelson._cron_field(fields[2], 0, 23);
    days integer[] := keelson._cron_field(fields[3], 1, 31);
    months integer[] := keelson._cron_field(fields[4], 1, 12);
    -- Sunday is 0 and 7.
    weekdays integer[] := array(select w % 7 from unnest(keelson._cron_field(fields[5], 0, 7)) as w);
    -- With both given either suffices, as cron has it.
    is_either boolean := fields[3] not like '*%' and fields[5] not like '*%';
    day timestamp := date_trunc('day', moment at time zone 'UTC');
    due timestamp;
begin
    -- The 29th of February comes once in eight years at worst.
    for offset_days in 0 .. 2922 loop
        if extract(month from day) = any (months)
            and (extract(day from day) = any (days) or is_either and extract(dow from day) = any (weekdays))
            and (is_either or extract(dow from day) = any (weekdays))
        then
            if is_next then
                select min(t.due_at) into due
                from unnest(hours) as h, unnest(minutes) as m, lateral (select day + make_interval(hours => h, mins => m) as due_at) as t
                where t.due_at > moment at time zone 'UTC';
            else
                select max(t.due_at) into due
                from unnest(hours) as h, unnest(minutes) as m, lateral (select day + make_interval(hours => h, mins => m) as due_at) as t
                where t.due_at <= moment at time zone 'UTC';
            end if;
            if due is not null then
                return due at time zone 'UTC';
            end if;
        end if;
        day := day + case when is_next then interval '1 day' else interval '-1 day' end;
    end loop;
    return null;
end
$$;
comment on function keelson._cron_due(text, timestamptz, boolean) is
    'When the schedule is due next after the moment, or was due last at or before it; null: not in eight years.';

create or replace function keelson._cron_is_readable()
returns boolean
language sql
stable
as $$
-- Names are looked up in the catalogue: asking by name alone is refused in a schema not ours to use.
select coalesce((
    select pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select')
    from pg_catalog.pg_namespace as n
    join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = 'job'
    where n.nspname = 'cron'
), false)
$$;
comment on function keelson._cron_is_readable() is
    'Whether pg_cron''s tables are there and whoever asks may read them: after keelson.jobs_install().';

create or replace function keelson._cron_jobs()
returns table (name text, schedule text, is_active boolean, host text, port integer)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not keelson._cron_is_readable() then
        return;
    end if;
    return query execute $cron$
        select substr(j.jobname, 9), j.schedule, j.active, j.nodename, j.nodeport
        from cron.job as j
        where j.username = 'keelson_jobs' and j.database = current_database() and j.jobname like 'keelson %'
    $cron$;
end
$$;
alter function keelson._cron_jobs() owner to keelson_system;
comment on function keelson._cron_jobs() is
    'What pg_cron has of our jobs; nothing where it is not installed or jobs_install() has not been called.';
grant execute on function keelson._cron_jobs() to keelson_jobs;

create or replace function keelson._cron_history_purge(batch integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint := 0;
begin
    if not keelson._cron_is_readable() then
        return 0;
    end if;
    -- pg_cron itself never deletes them.
    execute $cron$
        delete from cron.job_run_details as d
        where d.runid in (
            select old.runid from cron.job_run_details as old
            where old.username = 'keelson_jobs' and old.database = current_database() and old.start_time < now() - interval '7 days'
            order by old.runid
            limit $1
        )
    $cron$ using batch;
    get diagnostics purged = row_count;
    return purged;
end
$$;
alter function keelson._cron_history_purge(integer) owner to keelson_system;
comment on function keelson._cron_history_purge(integer) is
    'Delete pg_cron''s own records of our jobs after seven days, at most so many; returns how many.';

create or replace function keelson.jobs_install()
returns table (job text, schedule text, state text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wanted record;
    present record;
    own_host text;
    own_port integer := pg_catalog.current_setting('port');
begin
    if not (select r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user) then
        raise exception 'only a superuser may have pg_cron run jobs as keelson_jobs' using errcode = 'insufficient_privilege';
    end if;
    if pg_catalog.to_regprocedure('cron.schedule(text, text, text)') is null then
        raise exception 'pg_cron is not in this database: jobs run when they are called, not by themselves'
            using errcode = 'object_not_in_prerequisite_state',
                  hint = pg_catalog.format(
                      'Install the package postgresql-%s-cron, set shared_preload_libraries = ''pg_cron,keelson'' and cron.database_name = ''%s'', restart, and run "create extension pg_cron". Or let another scheduler call the endpoints below /api/cron.',
                      pg_catalog.current_setting('server_version_num')::integer / 10000, pg_catalog.current_database()
                  );
    end if;
    grant usage on schema cron to keelson_jobs, keelson_system;
    grant select on cron.job to keelson_system;
    grant select, delete on cron.job_run_details to keelson_system;
    own_host := pg_catalog.current_setting('cron.host');
    set local role keelson_jobs;
    for present in
        select c.name, c.schedule, c.is_active from keelson._cron_jobs() as c
        where not exists (
            select from keelson.job_states() as j where j.name = c.name and j.is_enabled
        )
        order by c.name
    loop
        perform cron.unschedule('keelson ' || present.name);
        job := present.name;
        schedule := present.schedule;
        state := 'removed';
        return next;
    end loop;
    for wanted in
        select j.name, j.schedule, c.schedule as present_schedule, c.is_active, c.host <> own_host or c.port <> own_port as is_elsewhere
        from keelson.job_states() as j
        left join keelson._cron_jobs() as c on c.name = j.name
        where j.is_enabled
        order by j.name
    loop
        job := wanted.name;
        schedule := wanted.schedule;
        state := case
            when wanted.present_schedule is null then 'scheduled'
            when wanted.present_schedule <> wanted.schedule or not wanted.is_active or wanted.is_elsewhere then 'changed'
            else 'unchanged'
        end;
        -- Scheduling wakes nothing that somebody has put to sleep, and leaves host and port as they were: of another server, after a restore.
        if not wanted.is_active or wanted.is_elsewhere then
            perform cron.unschedule('keelson ' || wanted.name);
        end if;
        if state <> 'unchanged' then
            perform cron.schedule(
                'keelson ' || wanted.name, wanted.schedule, pg_catalog.format('call keelson.job_run(%L, ''schedule'')', wanted.name)
            );
        end if;
        return next;
    end loop;
    reset role;
end
$$;
comment on function keelson.jobs_install() is
    'Have pg_cron run all enabled jobs, as keelson_jobs; tells what it did with each. For superusers; again after a job was added or changed, a restore, or with another port or socket. An error says what is missing.';
grant execute on function keelson.jobs_install() to keelson_admin;
