-- Running jobs. A run is a row that is committed before the work begins; each
-- batch is a transaction, which counts what it took in that row. The process
-- that runs a job holds a lock of the session meanwhile: see README.md.

create or replace function keelson._job_lock_key(job text)
returns bigint
language sql
immutable
strict
as $$ select pg_catalog.hashtextextended('keelson.job.' || job, 0) $$;
comment on function keelson._job_lock_key(text) is
    'The number of the advisory lock that the process holds which runs the job.';

create or replace function keelson._job_is_held(job text)
returns boolean
language sql
stable
strict
as $$
select exists (
    select from pg_catalog.pg_locks as l
    where l.locktype = 'advisory'
        and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
        and l.objsubid = 1
        and l.granted
        and l.classid::bigint = (keelson._job_lock_key(job) >> 32) & 4294967295
        and l.objid::bigint = keelson._job_lock_key(job) & 4294967295
)
$$;
comment on function keelson._job_is_held(text) is
    'Whether a process is running the job.';

create or replace function keelson._job_begin(job text, cause text, run_id uuid default keelson.uuid7())
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted keelson.job_definitions;
    steps text[];
    crashed integer;
begin
    -- No migration meanwhile.
    perform pg_advisory_xact_lock_shared(x'4b656c736f6e4d31'::bigint);
    select * into wanted from keelson.job_definitions as j where j.name = _job_begin.job;
    if wanted.name is null then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no job "%s"', job), 'The jobs are the rows of keelson.jobs.', 'job');
    end if;
    -- The lock outlives this transaction and ends with the process, if not before.
    if not pg_try_advisory_lock(keelson._job_lock_key(job)) then
        return null;
    end if;
    steps := array(select s.name from keelson.job_steps as s where s.job = _job_begin.job order by s.name);
    -- Nobody else holds the lock, so whoever wrote this is gone.
    update keelson.job_runs as r set outcome = 'crashed' where r.job = _job_begin.job and r.outcome = 'running';
    get diagnostics crashed = row_count;
    if crashed > 0 then
        update keelson.job_definitions as j set crashes = j.crashes + crashed where j.name = _job_begin.job;
    end if;
    insert into keelson.job_runs (id, job, cause, counts, pending)
    values (
        run_id, job, cause,
        (select coalesce(jsonb_object_agg(c.name, 0), '{}') from unnest(wanted.counts || steps) as c (name)),
        steps
    );
    return run_id;
end
$$;
alter function keelson._job_begin(text, text, uuid) owner to keelson_system;
comment on function keelson._job_begin(text, text, uuid) is
    'Write down that a run of the job begins; null when one is going on. To be committed before keelson._job_advance() is called.';
grant execute on function keelson._job_begin(text, text, uuid) to keelson_jobs;
grant execute on function keelson.uuid7() to keelson_jobs;

create or replace function keelson._job_call(function text, role name, batch integer)
returns bigint
language c
volatile
as 'MODULE_PATHNAME', 'ks_job_call';
comment on function keelson._job_call(text, name, integer) is
    'Call a step''s function as the role (null: as whoever calls this); returns how many rows it took.';

create or replace function keelson._job_advance(run_id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    run keelson.job_runs;
    step keelson.job_steps;
    batch integer;
    taken bigint;
    fault text;
    state text;
begin
    perform pg_advisory_xact_lock_shared(x'4b656c736f6e4d31'::bigint);
    select * into run from keelson.job_runs as r where r.id = run_id and r.outcome = 'running';
    if run.pending[1] is null then
        perform keelson._job_end(run_id);
        return false;
    end if;
    select * into step from keelson.job_steps as s where s.job = run.job and s.name = run.pending[1];
    select j.batch into batch from keelson.job_definitions as j where j.name = run.job;
    begin
        -- It may have been taken away since the run began: then there is nothing to be done.
        if step.name is not null then
            taken := coalesce(keelson._job_call(step.function, step.role, batch), 0);
        end if;
    exception when query_canceled or others then
        get stacked diagnostics state = returned_sqlstate, fault = message_text;
        raise warning 'job "%", step "%": %', run.job, run.pending[1], fault;
    end;
    update keelson.job_runs as r
    set counts = jsonb_set(r.counts, r.pending[1:1], to_jsonb((r.counts ->> r.pending[1])::bigint + coalesce(taken, 0))),
        batches = r.batches + 1,
        errors = case when fault is null then r.errors else r.errors || jsonb_build_object(r.pending[1], fault) end,
        -- The same step again while it takes whole batches, within reason: what is left waits for
        -- the next run. Who cancels means the whole job.
        pending = case
            when state = '57014' then '{}'
            when taken >= batch and r.batches < 10000 then r.pending
            else r.pending[2:]
        end
    where r.id = run_id;
    return true;
end
$$;
alter function keelson._job_advance(uuid) owner to keelson_system;
comment on function keelson._job_advance(uuid) is
    'Do the next batch of the run; false when there was none and the run has ended. A step that fails is noted, and the others are done. To be committed each time.';
grant execute on function keelson._job_advance(uuid) to keelson_jobs;

create or replace function keelson._job_end(run_id uuid)
returns void
language plpgsql
volatile
as $$
declare
    run keelson.job_runs;
    total bigint;
begin
    update keelson.job_runs as r
    set finished_at = pg_catalog.clock_timestamp(), outcome = case when r.errors = '{}' then 'success' else 'failed' end
    where r.id = run_id and r.outcome = 'running'
    returning * into run;
    if run.id is null then
        return;
    end if;
    select coalesce(pg_catalog.sum(c.value::bigint), 0) into total from pg_catalog.jsonb_each_text(run.counts) as c;
    update keelson.job_definitions as j
    set runs = j.runs + 1,
        failures = j.failures + (run.outcome = 'failed')::integer,
        removed = j.removed + total,
        large_runs = j.large_runs + (total > 10000)::integer
    where j.name = run.job;
    if run.job = 'cleanup-database' and total > 10000 then
        perform keelson.audit('jobs.large_cleanup', pg_catalog.jsonb_build_object('run', run.id, 'counts', run.counts));
    end if;
end
$$;
comment on function keelson._job_end(uuid) is
    'Write down what came of the run, once.';

create or replace function keelson._job_release(job text)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$ select from pg_advisory_unlock(keelson._job_lock_key(job)) $$;
comment on function keelson._job_release(text) is
    'Let others run the job, once the end of the run is committed.';
grant execute on function keelson._job_release(text) to keelson_jobs;

create or replace procedure keelson.job_run(job text, cause text default 'manual')
language plpgsql
as $$
declare
    -- A search path of its own would keep it from committing.
    run_id pg_catalog.uuid;
begin
    run_id := keelson._job_begin(job, cause);
    commit;
    if run_id is null then
        raise notice 'job "%" is running already', job;
        return;
    end if;
    while keelson._job_advance(run_id) loop
        commit;
    end loop;
    commit;
    perform keelson._job_release(job);
end
$$;
comment on procedure keelson.job_run(text, text) is
    'Run the job now, in transactions of its own: call it outside of any. pg_cron calls it by the schedule. Does nothing when the job is running already.';
grant execute on procedure keelson.job_run(text, text) to keelson_jobs;

-- Requests are one transaction, so there the job runs in a process of its own.

create or replace function keelson._job_execute(job text, run_id uuid)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_job_execute';
comment on function keelson._job_execute(text, uuid) is
    'Run the job in a background process and wait until it has ended; without a row of the run, one was going on already.';

create or replace function keelson._job_request(job text)
returns keelson.job_results
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    run_id uuid := keelson.uuid7();
    run keelson.job_runs;
begin
    perform keelson._job_execute(job, run_id);
    select * into run from keelson.job_runs as r where r.id = run_id;
    if run.id is null then
        perform keelson.raise(409, 'CONFLICT', 'the job is running already');
    elsif run.outcome <> 'success' then
        perform keelson.raise(500, 'INTERNAL', 'the job has failed', 'GET /api/admin/jobs tells which step, the server''s log why.');
    end if;
    return row(run.counts)::keelson.job_results;
end
$$;
alter function keelson._job_request(text) owner to keelson_system;
comment on function keelson._job_request(text) is
    'Run the job for a request: what it took, 409 when it is running already.';

create or replace function keelson._cron_require()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The system acts for a user where it deletes what is theirs: a product's function may run there too.
    if keelson.current_actor() is distinct from 'system' or keelson.current_user_id() is not null then
        perform keelson.raise(403, 'FORBIDDEN', 'jobs are run by a request that shows the cron secret');
    end if;
end
$$;
comment on function keelson._cron_require() is
    'Raise 403 unless the request showed the cron secret, whatever endpoint of a product''s calls this.';

create or replace function keelson.cron_expire_trials()
returns keelson.job_results
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._cron_require();
    return keelson._job_request('expire-trials');
end
$$;
comment on function keelson.cron_expire_trials() is
    'End the trials whose time is over, now.';
grant execute on function keelson.cron_expire_trials() to keelson_app;

create or replace function keelson.cron_cleanup_database()
returns keelson.job_results
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._cron_require();
    return keelson._job_request('cleanup-database');
end
$$;
comment on function keelson.cron_cleanup_database() is
    'Remove what is of no use any more, now: how many rows of each kind.';
grant execute on function keelson.cron_cleanup_database() to keelson_app;

create or replace function keelson.cron_retry_failed_webhooks()
returns keelson.job_results
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._cron_require();
    return keelson._job_request('retry-failed-webhooks');
end
$$;
comment on function keelson.cron_retry_failed_webhooks() is
    'Process incoming webhook events again that have failed and are due, now.';
grant execute on function keelson.cron_retry_failed_webhooks() to keelson_app;
