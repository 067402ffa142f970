-- Jobs: schedules, registration, runs, what cleanup removes. Crashes and pg_cron: regress/t/065_jobs.pl.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Schedules. Cron's own reading: with both days given either suffices, a step counts from its first number.
select field, low, high, keelson._cron_field(field, low, high) as numbers
from (values
    (1, '*', 0, 6), (2, '3', 0, 59), (3, '1-4', 1, 31), (4, '*/15', 0, 59), (5, '10-20/5', 0, 59), (6, '50/4', 0, 59), (7, '7,1,1', 0, 7),
    (8, '', 0, 59), (9, '60', 0, 59), (10, '5-3', 0, 59), (11, '*/0', 0, 59), (12, 'mon', 0, 7), (13, '1,,2', 0, 59), (14, '-1', 0, 59), (15, '*-3', 0, 59)
) as given (place, field, low, high)
order by place;
select schedule, keelson._time_text(moment) as moment, keelson._time_text(keelson._cron_due(schedule, moment, true)) as next,
    keelson._time_text(keelson._cron_due(schedule, moment, false)) as previous
from (values
    (1, '0 0 * * *', timestamptz '2026-03-29 00:00Z'),
    (2, '*/15 * * * *', '2026-12-31 23:50:10Z'),
    (3, '0 2 31 * *', '2026-04-01 00:00Z'),
    (4, '30 4 1,15 * 5', '2026-11-25 00:00Z'),
    (5, '0 12 29 2 *', '2096-03-01 00:00Z'),
    (6, '59 23 * 12 0', '2026-06-01 00:00Z'),
    (7, '0 12 * * 7', '2026-11-25 12:00Z')
) as given (place, schedule, moment)
order by place;
select keelson._cron_require('0 0 30 2 *');
select keelson._cron_require('@daily');
select keelson._cron_require('* * * *');
select keelson._cron_require(null);

-- The core's jobs.
select name, owner, schedule, is_enabled, is_missed from keelson.jobs
where name in ('expire-trials', 'cleanup-database', 'retry-failed-webhooks', 'partitions', 'rotation', 'erasure', 'statistics', 'housekeeping')
order by name;

-- A product's jobs. Their functions run as a role of the product's, see no user, and are called until they took less than a batch.
create schema regress_jobs;
grant usage on schema regress_jobs to keelson_app;
create table regress_jobs.work (id integer, done_as text);
insert into regress_jobs.work select generate_series(1, 25);
grant select, update on regress_jobs.work to keelson_app;
create function regress_jobs.work_do(batch integer) returns bigint language plpgsql as $$
declare
    taken bigint;
begin
    update regress_jobs.work set done_as = current_user || coalesce(' for ' || keelson.current_user_id(), '')
    where id in (select w.id from regress_jobs.work as w where w.done_as is null order by w.id limit batch);
    get diagnostics taken = row_count;
    return taken;
end
$$;
create function regress_jobs.fail(batch integer) returns bigint language plpgsql as $$
begin
    update regress_jobs.work set done_as = 'fail';
    raise exception 'the secret of the day is 42';
end
$$;
create function regress_jobs.cancel(batch integer) returns bigint language plpgsql as $$
begin
    raise exception using errcode = 'query_canceled', message = 'canceled';
end
$$;
create function regress_jobs.nothing(batch integer) returns bigint language sql as 'select null::bigint';
create function regress_jobs.wrong(batch text) returns text language sql as 'select batch';
create function regress_jobs.hidden(batch integer) returns bigint language sql as 'select 1::bigint';
revoke execute on function regress_jobs.hidden(integer) from public;

select keelson.job('regress-work', '5 5 * * *', 'Do the work.', function => 'regress_jobs.work_do', batch => 10);
call keelson.job_run('regress-work');
select outcome, cause, counts, batches, errors, finished_at >= started_at as is_timed from keelson.job_runs where job = 'regress-work';
select done_as, count(*) from regress_jobs.work group by done_as;
call keelson.job_run('regress-work');
select counts, batches from keelson.job_runs where job = 'regress-work' order by id desc limit 1;

-- A step that fails leaves nothing, and does not keep the others from their work; what it said is for the server's administrator.
insert into regress_jobs.work values (26);
select keelson.job_step('regress-work', 'afterwards', 'regress_jobs.nothing');
select keelson.job_step('regress-work', 'cannot', 'regress_jobs.fail');
call keelson.job_run('regress-work');
select outcome, counts, errors, pending from keelson.job_runs where job = 'regress-work' order by id desc limit 1;
select done_as, count(*) from regress_jobs.work group by done_as;
select last_outcome, last_cause, last_errors from keelson.jobs where name = 'regress-work';
select runs, failures, crashes, removed from keelson.job_definitions where name = 'regress-work';
select name, labels - 'job' as labels, value from keelson._jobs_metrics()
where labels ->> 'job' = 'regress-work' and name not like '%timestamp%'
order by name, labels;
-- What a step puts off to the commit runs as the step, or is refused, and in an administrator's session it is no administrator.
create table regress_jobs.seen (what text, done_as text);
grant insert on regress_jobs.seen to keelson_app;
create function regress_jobs.try(statement text) returns text language plpgsql as $$
begin
    execute statement;
    return 'went through';
exception when others then
    return sqlerrm;
end
$$;
create function regress_jobs.late() returns trigger language plpgsql as $$
begin
    insert into regress_jobs.seen values ('late: ' || regress_jobs.try('set constraints all deferred'), current_user);
    return null;
end
$$;
create function regress_jobs.leave(batch integer) returns bigint language plpgsql as $$
begin
    create temp table regress_late (id integer);
    create constraint trigger late after insert on regress_late deferrable initially deferred for each row execute function regress_jobs.late();
    insert into regress_late values (1);
    insert into regress_jobs.seen values ('held: ' || regress_jobs.try('declare held cursor with hold for select 1'), current_user);
    insert into regress_jobs.seen
    values ('admin: ' || regress_jobs.try('select keelson.role_set(''regress_jobs'', ''A step''''s'', ''{users.read}'')'), current_user);
    return 0;
end
$$;
select keelson.job('regress-leaving', '0 4 * * *', 'Leave what would run as somebody else.', 'regress_jobs.leave');
call keelson.job_run('regress-leaving');
select * from regress_jobs.seen order by what;
drop table regress_late;
delete from regress_jobs.seen;
-- So too in a process of its own.
select keelson._job_request('regress-leaving');
select * from regress_jobs.seen order by what;
select keelson.job_remove('regress-leaving');

-- Who cancels means the whole job, which has ended then.
select keelson.job_step('regress-work', 'cannot', 'regress_jobs.cancel');
call keelson.job_run('regress-work');
select outcome, counts, errors, pending from keelson.job_runs where job = 'regress-work' order by id desc limit 1;

-- What is taken away while it runs ends there.
select keelson.job('regress-going', '0 4 * * *', 'Go away.', 'regress_jobs.nothing');
select keelson.job_step('regress-going', 'other', 'regress_jobs.nothing');
create temporary table going as select keelson._job_begin('regress-going', 'manual') as run;
select keelson._job_advance(run) from going;
select keelson.job_remove('regress-going');
select keelson._job_advance(run) from going;
select keelson._job_advance(run) from going;
select outcome, counts, errors, pending from keelson.job_runs where job = 'regress-going';
select keelson._job_release('regress-going');
delete from keelson.job_runs where job = 'regress-going';

-- Bad input changes nothing.
select keelson.job('Bad name', '5 5 * * *', 'No.', function => 'regress_jobs.work_do');
select keelson.job('regress-bad', '5 5 * *', 'No.', function => 'regress_jobs.work_do');
select keelson.job('regress-bad', '5 5 * * *', '', function => 'regress_jobs.work_do');
select keelson.job('regress-bad', '5 5 * * *', 'No.', function => 'regress_jobs.work_do', batch => 0);
select keelson.job('regress-bad', '5 5 * * *', 'No.', function => 'regress_jobs.wrong');
select keelson.job('regress-bad', '5 5 * * *', 'No.', function => 'regress_jobs.missing');
select keelson.job('regress-bad', '5 5 * * *', 'No.', function => 'regress_jobs.work_do', role => 'keelson_system');
select keelson.job('regress-bad', '5 5 * * *', 'No.', function => 'regress_jobs.hidden');
select keelson.job('cleanup-database', '5 5 * * *', 'No.', function => 'regress_jobs.work_do');
select keelson.job_step('regress-none', 'done', 'regress_jobs.work_do');
select keelson.job_step('cleanup-database', 'auditLogs', 'regress_jobs.work_do');
select keelson.job_step('cleanup-database', 'Bad Name', 'regress_jobs.work_do');
call keelson.job_run('regress-none');
begin;
call keelson.job_run('regress-work');
rollback;
select keelson.job_remove('cleanup-database');
select count(*) from keelson.job_definitions where name = 'regress-bad';
-- An administrator that is no superuser cannot have the core's functions run.
create role regress_jobs_admin in role keelson_admin;
set session authorization regress_jobs_admin;
select keelson.job('regress-bad', '5 5 * * *', 'No.', function => 'keelson.audit_expire');
select keelson.job('regress-bad', '5 5 * * *', 'No.');
select keelson.jobs_install();
select name, schedule from keelson.jobs where name = 'regress-work';
reset session authorization;
drop role regress_jobs_admin;

-- The operator's word: another schedule, or none; a run that was due before it is not missed.
select keelson.job_override('regress-work', '*/5 * * * *');
select schedule, is_enabled, is_missed from keelson.jobs where name = 'regress-work';
select keelson.job('regress-work', '6 6 * * *', 'Do the work.', function => 'regress_jobs.work_do', batch => 10);
select schedule from keelson.jobs where name = 'regress-work';
select keelson.job_override('regress-work', is_enabled => false);
select schedule, is_enabled, next_run_at from keelson.jobs where name = 'regress-work';
select keelson.job_override('regress-work', 'sometimes');
select keelson.job_override('regress-none');
select keelson.job_override('regress-work');

-- Missed: due since, and not run.
select keelson.job_override('regress-work', '* * * * *');
update keelson.job_definitions set due_from = now() - interval '1 day' where name = 'regress-work';
select is_missed from keelson.jobs where name = 'regress-work';
update keelson.job_runs set id = keelson._uuid7_floor(now() - interval '20 minutes'), started_at = now() - interval '20 minutes'
where id = (select last_run_id from keelson.jobs where name = 'regress-work');
delete from keelson.job_runs where job = 'regress-work' and started_at > now() - interval '19 minutes';
select is_missed from keelson.jobs where name = 'regress-work';
select keelson._jobs_health() -> 'missed' ? 'regress-work' as is_missed, keelson._jobs_health() -> 'failed' ? 'regress-work' as has_failed;

-- pg_cron: what is scheduled, as whom; again changes nothing; what is gone goes.
select job, schedule, state from keelson.jobs_install() where job in ('regress-work', 'expire-trials', 'cleanup-database', 'retry-failed-webhooks') order by job;
select jobname, schedule, username, command, active from cron.job where jobname ~ 'regress|trials|cleanup|webhooks' order by jobname;
select count(*) from keelson.jobs_install() where state <> 'unchanged';
select is_scheduled from keelson.jobs where name = 'regress-work';
update cron.job set active = false where jobname = 'keelson regress-work';
select is_scheduled from keelson.jobs where name = 'regress-work';
select job, state from keelson.jobs_install() where state <> 'unchanged';
select keelson.job_remove('regress-work');
select keelson.job_remove('regress-work');
select job, state from keelson.jobs_install() where state <> 'unchanged';
select keelson._jobs_health() ->> 'scheduled' = keelson._jobs_health() ->> 'enabled' as all_scheduled;

-- Cleanup counts all that the contract names, also what no capability removes yet; it takes what is due, nothing else.
insert into keelson.blocks (network, reason, created_at, expires_at)
values
    ('203.0.113.1', 'regress_jobs', now() - interval '3 hours', now() - interval '61 minutes'),
    ('203.0.113.2', 'regress_jobs', now() - interval '3 hours', now() + interval '1 hour'),
    ('203.0.113.3', 'regress_jobs', now() - interval '3 hours', null);
call keelson.job_run('cleanup-database');
select outcome, counts ?& '{passwordResetTokens, rateLimits, processedWebhooks, auditLogs, resolvedFailedWebhooks}' as are_told, counts ->> 'rateLimits' as rate_limits
from keelson.job_runs where job = 'cleanup-database' order by id desc limit 1;
select network from keelson.blocks where reason = 'regress_jobs' order by network;
delete from keelson.blocks where reason = 'regress_jobs';
-- Reset tokens that are used or expired, and no others.
create temporary table person as select keelson.user_create('ada@jobs.example.com', 'correct horse battery staple') as id;
insert into keelson.recovery_tokens (user_id, purpose, token_hash, email, created_at, expires_at, used_at)
select id, purpose, sha256(convert_to(kind || purpose, 'UTF8')), 'ada@jobs.example.com', now() - interval '2 hours',
    now() + case kind when 'expired' then interval '-1 hour' else interval '1 hour' end, case kind when 'used' then now() end
from person, (values ('reset_password'), ('verify_email')) as p (purpose), (values ('good'), ('used'), ('expired')) as k (kind);
call keelson.job_run('cleanup-database');
select (counts ->> 'passwordResetTokens')::integer >= 2 as are_gone from keelson.job_runs where job = 'cleanup-database' order by id desc limit 1;
select purpose, count(*) from keelson.recovery_tokens join person on id = user_id group by purpose order by purpose;
call keelson.job_run('housekeeping');
select purpose, count(*) from keelson.recovery_tokens join person on id = user_id group by purpose order by purpose;
delete from keelson.users where id in (select id from person);
delete from keelson.referral_codes where user_id in (select id from person);
delete from keelson.user_emails where user_id in (select id from person);
-- More than 10,000 are an event.
create function regress_jobs.many(batch integer) returns bigint language sql as 'select 4000::bigint';
select keelson.job_step('cleanup-database', 'regressMany', 'regress_jobs.many');
begin;
select keelson._job_begin('cleanup-database', 'manual') is not null as has_begun;
select keelson._job_advance(id) from keelson.job_runs where job = 'cleanup-database' and outcome = 'running';
update keelson.job_runs set counts = counts || '{"regressMany": 10001}', pending = '{}' where job = 'cleanup-database' and outcome = 'running';
select keelson._job_advance(id) from keelson.job_runs where job = 'cleanup-database' and outcome = 'running';
select data -> 'counts' ->> 'regressMany' as many from keelson.audit_events where event_type = 'jobs.large_cleanup';
select large_runs > 0 as is_counted from keelson.job_definitions where name = 'cleanup-database';
rollback;
select pg_advisory_unlock_all();
delete from keelson.job_steps where name = 'regressMany';

-- History has an end.
insert into keelson.job_runs (id, job, cause, outcome, counts, pending) values
    (keelson._uuid7_floor(now() - interval '91 days'), 'regress-work', 'manual', 'success', '{}', '{}'),
    (keelson._uuid7_floor(now() - interval '89 days'), 'regress-work', 'manual', 'success', '{}', '{}');
call keelson.job_run('housekeeping');
select counts ->> 'jobRuns' as job_runs, counts ? 'cronRuns' as of_cron_too from keelson.job_runs where job = 'housekeeping' order by id desc limit 1;
select count(*) from keelson.job_runs where job = 'regress-work' and id < keelson._uuid7_floor(now() - interval '1 day');
call keelson.job_run('statistics');
call keelson.job_run('partitions');
select job, outcome from keelson.job_runs where job in ('statistics', 'partitions') order by job;

-- Who may: pg_cron's role runs jobs and reads nothing else.
set role keelson_jobs;
call keelson.job_run('retry-failed-webhooks');
select count(*) from keelson.job_runs;
select keelson.job_override('cleanup-database');
reset role;
select outcome, counts ->> 'retried' as retried from keelson.job_runs where job = 'retry-failed-webhooks' order by id desc limit 1;

delete from keelson.job_runs where job = 'regress-work';
drop schema regress_jobs cascade;
