-- Who may see jobs and their runs.

create or replace view keelson.jobs
with (security_barrier = true) as
select * from keelson.job_states();
comment on view keelson.jobs is
    'Every job: its schedule, whether pg_cron has it, its last run and what came of it, when it is due next, and whether a run was missed.';

grant select on keelson.jobs, keelson.job_runs, keelson.job_steps to keelson_admin;
