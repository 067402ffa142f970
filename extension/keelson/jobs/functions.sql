-- Jobs: registering them, running them, how they are.

do $types$
begin
    if pg_catalog.to_regtype('keelson.job_run_object') is null then
        create type keelson.job_run_object as (
            id uuid,
            cause text,
            outcome text,
            started_at timestamptz,
            finished_at timestamptz,
            counts jsonb,
            error text
        );
    end if;
    if pg_catalog.to_regtype('keelson.job_object') is null then
        create type keelson.job_object as (
            name text,
            description text,
            schedule text,
            enabled boolean,
            scheduled boolean,
            missed boolean,
            next_run_at timestamptz,
            last_run keelson.job_run_object
        );
    end if;
    if pg_catalog.to_regtype('keelson.job_results') is null then
        create type keelson.job_results as (
            results jsonb
        );
    end if;
end
$types$;
comment on type keelson.job_run_object is 'A run of a job, as clients see it.';
comment on column keelson.job_run_object.cause is 'schedule, request (a cron endpoint) or manual.';
comment on column keelson.job_run_object.outcome is 'running, success, failed, or crashed: its process was gone before it had ended.';
comment on column keelson.job_run_object.counts is 'How many rows were taken, by step.';
comment on column keelson.job_run_object.error is 'The steps that failed, of which the server''s log says why; null when none did.';
comment on type keelson.job_object is 'A job, as clients see it.';
comment on column keelson.job_object.schedule is 'As cron writes it, in UTC.';
comment on column keelson.job_object.scheduled is 'Whether pg_cron runs it.';
comment on column keelson.job_object.missed is 'Whether it was due more than ten minutes ago and has not run since.';
comment on column keelson.job_object.last_run is 'The latest run; null when it has never run.';
comment on type keelson.job_results is 'What a job has done: how many rows were taken, by step.';

-- Registration.

create or replace function keelson.job(
    name text,
    schedule text,
    description text,
    function text default null,
    role name default 'keelson_app',
    batch integer default 1000,
    counts text[] default '{}'
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    job_owner text;
    present_owner text;
begin
    if name is null or name !~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$' or char_length(name) > 48 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of a job is made of words with hyphens between them, such as send-reports', field => 'name');
    elsif coalesce(description, '') = '' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a job needs a description', field => 'description');
    elsif batch is null or batch not between 1 and 100000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a batch is 1 to 100,000 rows', field => 'batch');
    elsif function is null and not pg_has_role(session_user, 'keelson_owner', 'member') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a job needs a function', field => 'function');
    end if;
    perform keelson._cron_require(schedule);
    job_owner := coalesce(keelson._route_owner(keelson._job_function(function)), 'keelson');
    select j.owner into present_owner from keelson.job_definitions as j where j.name = job.name;
    if present_owner <> job_owner then
        perform keelson.raise(409, 'CONFLICT', format('"%s" is a job of %s', name, present_owner), 'Choose another name.', 'name');
    end if;
    insert into keelson.job_definitions as j (name, owner, schedule, description, batch, counts)
    values (job.name, job_owner, job.schedule, job.description, job.batch, coalesce(job.counts, '{}'))
    on conflict on constraint job_definitions_pkey do update
    set schedule = excluded.schedule, description = excluded.description, batch = excluded.batch,
        counts = excluded.counts, is_stale = false,
        due_from = case when j.schedule = excluded.schedule then j.due_from else now() end;
    if function is not null then
        perform keelson.job_step(name, 'done', function, role);
    end if;
end
$$;
comment on function keelson.job(text, text, text, text, name, integer, text[]) is
    'Register a job, or change it. Its function takes the size of a batch and returns how many rows it took; it is called again, each time in a transaction of its own, until it took fewer. Runs by itself after keelson.jobs_install().';
grant execute on function keelson.job(text, text, text, text, name, integer, text[]) to keelson_admin;

create or replace function keelson.job_step(job text, name text, function text, role name default 'keelson_app')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target oid := keelson._job_function(function);
    step_owner text := keelson._route_owner(target);
    present_owner text;
begin
    if name is null or name !~ '^[a-z][A-Za-z0-9]{0,47}$' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of a step is that of a count, such as auditLogs', field => 'name');
    elsif target is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a step needs a function', field => 'function');
    elsif not exists (select from keelson.job_definitions as j where j.name = job_step.job) then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no job "%s"', job), field => 'job');
    end if;
    role := keelson._runs_as('job ' || job, role, target, step_owner);
    select s.owner into present_owner from keelson.job_steps as s where s.job = job_step.job and s.name = job_step.name;
    if present_owner <> step_owner then
        perform keelson.raise(409, 'CONFLICT', format('"%s" is a step of %s', name, present_owner), 'Choose another name.', 'name');
    end if;
    insert into keelson.job_steps (job, name, owner, function, role)
    select job_step.job, job_step.name, step_owner, format('%I.%I', n.nspname, p.proname), job_step.role
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where p.oid = target
    on conflict on constraint job_steps_pkey do update
    set function = excluded.function, role = excluded.role, is_stale = false;
end
$$;
comment on function keelson.job_step(text, text, text, name) is
    'Add a step to a job, such as one more thing that cleanup-database removes: a function that takes the size of a batch and returns how many rows it took. The name is the count''s.';
grant execute on function keelson.job_step(text, text, text, name) to keelson_admin;

create or replace function keelson._job_function(function text)
returns oid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    target oid;
begin
    if function is null then
        return null;
    end if;
    target := keelson._route_function(function);
    if not exists (
        select from pg_proc as p
        where p.oid = target and p.pronargs - p.pronargdefaults <= 1 and p.pronargs >= 1
            and p.proargtypes[0] = 'integer'::regtype and p.prorettype in ('bigint'::regtype, 'integer'::regtype) and not p.proretset
    ) then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('%s does not take an integer and return a bigint', target::regprocedure),
            'A job''s function takes the size of a batch and returns how many rows it took.', 'function');
    end if;
    return target;
end
$$;
comment on function keelson._job_function(text) is
    'The one function with this qualified name, which must be fit for a step.';

create or replace function keelson.job_remove(name text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from keelson.job_definitions as j where j.name = job_remove.name and j.owner = 'keelson') then
        perform keelson.raise(409, 'CONFLICT', 'this job is the core''s', 'Disable it with keelson.job_override().', 'name');
    end if;
    delete from keelson.job_definitions as j where j.name = job_remove.name;
    return found;
end
$$;
comment on function keelson.job_remove(text) is
    'Take a product''s job away; false when there is none. What it did stays in keelson.job_runs; pg_cron forgets it with keelson.jobs_install().';
grant execute on function keelson.job_remove(text) to keelson_admin;

create or replace function keelson.job_override(name text, schedule text default null, is_enabled boolean default true)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if schedule is not null then
        perform keelson._cron_require(schedule);
    end if;
    update keelson.job_definitions as j
    set own_schedule = job_override.schedule, is_enabled = coalesce(job_override.is_enabled, true), due_from = now()
    where j.name = job_override.name;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no job "%s"', name), field => 'name');
    end if;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'job', 'name', name, 'schedule', schedule, 'isEnabled', coalesce(is_enabled, true), 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.job_override(text, text, boolean) is
    'Have a job run by another schedule (null: its own), or not at all. Survives upgrades; call keelson.jobs_install() after it.';
grant execute on function keelson.job_override(text, text, boolean) to keelson_admin;

create or replace function keelson.jobs_begin(owner text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.job_definitions as j set is_stale = true where j.owner = jobs_begin.owner;
    update keelson.job_steps as s set is_stale = true where s.owner = jobs_begin.owner;
end
$$;
comment on function keelson.jobs_begin(text) is
    'Begin to name all jobs and steps of an owner (an extension, or a schema of functions) anew; jobs_end(owner) in the same transaction takes those away that were not named.';
grant execute on function keelson.jobs_begin(text) to keelson_admin;

create or replace function keelson.jobs_end(owner text)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    delete from keelson.job_steps as s where s.owner = jobs_end.owner and s.is_stale;
    delete from keelson.job_definitions as j where j.owner = jobs_end.owner and j.is_stale;
    get diagnostics removed = row_count;
    return removed;
end
$$;
comment on function keelson.jobs_end(text) is
    'End what jobs_begin(owner) began; returns how many jobs went.';
grant execute on function keelson.jobs_end(text) to keelson_admin;
