-- migration 1: jobs, their steps and their runs

create table keelson.job_definitions (
    name text not null,
    owner text not null,
    schedule text not null,
    description text not null,
    batch integer not null,
    counts text[] not null,
    own_schedule text,
    is_enabled boolean not null default true,
    is_stale boolean not null default false,
    due_from timestamptz not null default pg_catalog.now(),
    runs bigint not null default 0,
    failures bigint not null default 0,
    crashes bigint not null default 0,
    removed bigint not null default 0,
    large_runs bigint not null default 0,
    constraint job_definitions_pkey primary key (name),
    constraint job_definitions_name_check check (name ~ '^[a-z][a-z0-9]*(-[a-z0-9]+)*$' and pg_catalog.char_length(name) <= 48),
    constraint job_definitions_batch_check check (batch between 1 and 100000)
);
comment on table keelson.job_definitions is
    'The jobs that capabilities and products have registered with keelson.job(). Read them by the view keelson.jobs.';
comment on column keelson.job_definitions.owner is
    'The extension, or the schema, that the job belongs to.';
comment on column keelson.job_definitions.schedule is
    'Five fields as cron has them: minute, hour, day of the month, month, day of the week; in UTC.';
comment on column keelson.job_definitions.batch is
    'How many rows a step takes in one transaction.';
comment on column keelson.job_definitions.counts is
    'Counts that every run answers with, 0 where no step brings them.';
comment on column keelson.job_definitions.own_schedule is
    'What the operator wants instead of the schedule; survives upgrades, as is_enabled does.';
comment on column keelson.job_definitions.is_stale is
    'Set while an owner''s jobs are applied anew: those that are not named again go.';
comment on column keelson.job_definitions.due_from is
    'Runs that were due before then are not missed: when the job was registered, enabled or given another schedule.';
comment on column keelson.job_definitions.removed is
    'What all runs together have counted.';
comment on column keelson.job_definitions.large_runs is
    'Runs that counted more than 10,000.';

create table keelson.job_steps (
    job text not null,
    name text not null,
    owner text not null,
    function text not null,
    role name,
    is_stale boolean not null default false,
    constraint job_steps_pkey primary key (job, name),
    constraint job_steps_job_fkey foreign key (job) references keelson.job_definitions (name) on delete cascade,
    constraint job_steps_name_check check (name ~ '^[a-z][A-Za-z0-9]{0,47}$')
);
comment on table keelson.job_steps is
    'What a job does: functions that take the size of a batch and return how many rows they took. The name is the count''s.';
comment on column keelson.job_steps.owner is
    'The extension, or the schema, that the function belongs to; often not the job''s.';
comment on column keelson.job_steps.role is
    'As whom the function runs; null: as keelson_system, which only functions of the extension do.';

-- One row for each run, written before the work begins and committed.
create table keelson.job_runs (
    id uuid not null,
    job text not null,
    cause text not null,
    outcome text not null default 'running',
    started_at timestamptz not null default pg_catalog.clock_timestamp(),
    finished_at timestamptz,
    counts jsonb not null,
    pending text[] not null,
    batches integer not null default 0,
    errors jsonb not null default '{}',
    constraint job_runs_pkey primary key (id),
    constraint job_runs_cause_check check (cause in ('schedule', 'request', 'manual')),
    constraint job_runs_outcome_check check (outcome in ('running', 'success', 'failed', 'crashed'))
);
create index job_runs_job_id_idx on keelson.job_runs (job, id desc);
create index job_runs_outcome_idx on keelson.job_runs (job) where outcome = 'running';
comment on table keelson.job_runs is
    'The runs of all jobs, for keelson.job_history. A run whose process is gone though it says running has crashed.';
comment on column keelson.job_runs.id is 'UUIDv7: sorts by the start.';
comment on column keelson.job_runs.cause is 'schedule (pg_cron), request (a cron endpoint) or manual.';
comment on column keelson.job_runs.counts is 'By step: how many rows were taken. Written with the rows, so right after a crash too.';
comment on column keelson.job_runs.pending is 'The steps that are not done.';
comment on column keelson.job_runs.errors is 'By step: what went wrong. The other steps were done nevertheless.';
