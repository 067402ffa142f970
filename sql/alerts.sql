-- Alerts: what each rule looks for, whom it is told, that one cause is told once; figures of a day.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
set timezone = 'UTC';

select keelson.user_create('ann@alerts.example.com', 'correct horse battery staple', 'Ann') is not null as made;
select keelson.user_create('ben@alerts.example.com', 'correct horse battery staple', 'Ben') is not null as made;
select keelson.role_grant('ann@alerts.example.com', 'admin');
begin;
select keelson.act_as('ann@alerts.example.com') is not null as acting;
select w.enabled from keelson.webhook_create('https://example.com/alerts', '{alert.*}') as w;
commit;

select name, threshold, quiet_for, is_enabled from keelson.alert_rules order by name;

create function pg_temp.told() returns table (mails bigint, others bigint, webhooks bigint, alerts bigint, active bigint) language sql as $$
    select (select count(*) from keelson.mail_messages as m where m.template = 'alert' and m.recipient = 'ann@alerts.example.com'),
        (select count(*) from keelson.mail_messages as m where m.template = 'alert' and m.recipient = 'ben@alerts.example.com'),
        (select count(*) from keelson.webhook_events as e join keelson.users as u on u.id = e.user_id
            where e.event_type = 'alert.raised' and u.email = 'ann@alerts.example.com'),
        (select count(*) from keelson.alerts), (select count(*) from keelson.alerts where resolved_at is null)
$$;

begin;
-- Nothing but what is done here.
update keelson.alert_rules set is_enabled = false;
delete from keelson.alerts;
delete from keelson.recovery_days;
select keelson._alerts_evaluate(1) as told;

-- Resets: over half of ten at least.
select keelson._recovery_count('reset_failed', 9);
select keelson._alert_reset_failures(50, now()) is null as too_few;
select keelson._recovery_count('reset_done', 9);
select keelson._alert_reset_failures(50, now()) is null as just_half;
select keelson._recovery_count('reset_failed', 1);
select keelson._alert_reset_failures(50, now());

-- Told once, to administrators alone, for as long as it goes on.
select keelson.alert_rule_set('reset-failures', is_enabled => true, quiet_for => '2 hours');
select keelson._alerts_evaluate(1) as told;
select keelson._alerts_evaluate(1) as told;
select * from pg_temp.told();
-- It is over, and comes back while the rule is quiet.
select keelson._recovery_count('reset_done', 9);
select keelson._alerts_evaluate(1) as told;
select * from pg_temp.told();
select keelson._recovery_count('reset_failed', 90);
select keelson._alerts_evaluate(1) as told;
select * from pg_temp.told();
select message, told_at is null as untold, resolved_at is null as goes_on from keelson.alerts order by id;
-- It still goes on when the quiet time is over.
update keelson.alert_rules set alerted_at = now() - interval '2 hours' where name = 'reset-failures';
select keelson._alerts_evaluate(1) as told;
select keelson._alerts_evaluate(1) as told;
select * from pg_temp.told();
-- What the mail says.
select replace(convert_from(keelson.unseal(m.content, row('mail', null, m.id)::keelson.seal_context), 'UTF8')::jsonb ->> 'subject', ' ', ' ') as subject,
    substring(convert_from(keelson.unseal(m.content, row('mail', null, m.id)::keelson.seal_context), 'UTF8')::jsonb ->> 'text'
        from '[^\n]*resets of a password have failed today') as says,
    convert_from(keelson.unseal(m.content, row('mail', null, m.id)::keelson.seal_context), 'UTF8')::jsonb ->> 'text' like '%quiet for 2 hours%' as and_for_how_long
from keelson.mail_messages as m where m.template = 'alert' and m.recipient = 'ann@alerts.example.com' order by m.id limit 1;
-- Turned off, it is over.
select keelson.alert_rule_set('reset-failures', is_enabled => false);
select keelson._alerts_evaluate(1) as told;
select active from pg_temp.told();

-- The others.
select keelson._alert_unseal_failures(1, clock_timestamp()) is null as none;
insert into keelson.deliveries_log (user_id, id, lane, kind, ref, state, attempts, finished_at)
select u.id, keelson.uuid7(), u.id, d.kind, u.id, d.state, 9, now()
from keelson.users as u, (values ('webhook', 'exhausted'), ('webhook', 'exhausted'), ('webhook', 'delivered'), ('mail', 'exhausted')) as d (kind, state)
where u.email = 'ann@alerts.example.com';
select keelson._alert_webhooks_exhausted(2, now());
select keelson._alert_webhooks_exhausted(3, now()) is null as fewer, keelson._alert_webhooks_exhausted(1, now() + interval '1 second') is null as earlier;
insert into keelson.mail_messages (user_id, id, template, language, recipient, message_id, is_security, state, expires_at, settled_at)
select u.id, i.id, 'app.note', 'en', 'a@example.com', '<' || i.id || '@example.com>', false, (array['failed', 'expired', 'sent'])[n], now(), now()
from keelson.users as u, generate_series(1, 3) as n cross join lateral (select keelson.uuid7() as id where n > 0) as i
where u.email = 'ann@alerts.example.com';
select keelson._alert_mails_failed(2, now());
insert into keelson.job_runs (id, job, cause, outcome, finished_at, counts, pending)
values (keelson.uuid7(), 'housekeeping', 'manual', 'success', now(), '{"a": 60000, "b": 40000}', '{}');
select keelson._alert_large_cleanups(100000, now());
select keelson._alert_large_cleanups(100001, now()) is null as smaller;
insert into keelson.job_runs (id, job, cause, outcome, finished_at, counts, pending)
values (keelson.uuid7(), 'housekeeping', 'manual', 'failed', now(), '{}', '{}');
select keelson._alert_jobs_failed(1, now()) like '%housekeeping (failed)%' as failed;
insert into keelson.job_runs (id, job, cause, outcome, finished_at, counts, pending)
values (keelson.uuid7(), 'housekeeping', 'manual', 'success', now(), '{}', '{}');
select coalesce(keelson._alert_jobs_failed(1, now()) not like '%housekeeping%', true) as mended;
delete from keelson.job_runs where job = 'statistics';
update keelson.job_definitions set due_from = now() - interval '2 days' where name = 'statistics';
select keelson._alert_jobs_missed(1, now()) like '%statistics%' as missed, keelson._alert_jobs_missed(100, now()) is null as not_so_many;
insert into keelson.job_runs (id, job, cause, outcome, finished_at, counts, pending)
values (keelson.uuid7(), 'statistics', 'manual', 'success', now(), '{}', '{}');
select coalesce(keelson._alert_jobs_missed(1, now()) not like '%statistics%', true) as caught_up;
select keelson._alert_usage_behind(1000000, now()) is null as is_up_to_date;
select keelson.usage_record(u.id, 'regress', 1) from keelson.users as u where u.email = 'ann@alerts.example.com';
select keelson._alert_usage_behind(0, now()) ~ '^usage has not been folded for \d+ seconds$' as is_behind;

-- A rule that cannot be evaluated keeps no other from it.
update keelson.alert_rules set is_enabled = true, function = 'keelson._none' where name = 'jobs-failed';
select keelson.alert_rule_set('reset-failures', is_enabled => true, quiet_for => '0');
select keelson._alerts_evaluate(1) as told;

-- A template that was spoiled keeps nobody from being told by webhook.
update keelson.alert_rules set is_enabled = false, alerted_at = null;
delete from keelson.alerts;
select keelson._alerts_evaluate(1) as told;
update keelson.mail_templates set body_text = '{{nothing}}' where name = 'alert';
select mails, webhooks from pg_temp.told() \gset before_
update keelson.alert_rules set is_enabled = true where name = 'reset-failures';
select keelson._alerts_evaluate(1) as told;
select mails - :before_mails as mails, webhooks - :before_webhooks as webhooks from pg_temp.told();
update keelson.alert_rules set is_enabled = true where name = 'jobs-failed';

-- Figures of a day.
insert into keelson.webhook_events (user_id, id, event_type, endpoint_ids, body)
select u.id, keelson._uuid7_floor(date_trunc('day', now()) - interval '1 hour'), 'webhook.test', '{}', '{}'
from keelson.users as u where u.email = 'ann@alerts.example.com';
insert into keelson.deliveries_log (user_id, id, lane, kind, ref, state, attempts, finished_at)
select e.user_id, keelson._uuid7_floor(date_trunc('day', now()) - interval '1 hour' + n * interval '1 second'), e.user_id, 'webhook', e.id,
    (array['exhausted', 'delivered', 'delivered'])[n], (array[10, 3, 1])[n], now()
from keelson.webhook_events as e join keelson.users as u on u.id = e.user_id, generate_series(1, 3) as n
where u.email = 'ann@alerts.example.com' and e.event_type = 'webhook.test';
delete from keelson.daily_counts;
select keelson._daily_counts_take(1), keelson._daily_counts_take(1);
select what, label, count from keelson.daily_counts where what <> 'api_keys' order by what;
select count(*) = (select count(*) from keelson.api_key_services) as of_each_service from keelson.daily_counts where what = 'api_keys';
select name, labels, value, type from keelson._alert_metrics()
where name <> 'keelson_api_keys' and name <> 'keelson_mails' order by name, labels::text;
rollback;

-- Refusals.
select keelson.alert_rule_set('none');
select keelson.alert_rule_set('jobs-failed', threshold => -1);
select keelson.alert_rule_set('jobs-failed', quiet_for => '31 days');
select keelson.alert_rule_set(null);
set role keelson_app;
select * from keelson.alerts;
select keelson.alert_rule_set('jobs-failed', is_enabled => false);
select keelson._alerts_evaluate(1);
reset role;

delete from keelson.users where email like '%@alerts.example.com';
delete from keelson.user_emails where email like '%@alerts.example.com';
