-- Usage: recording, what is refused, rollups against events, what users see.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
set timezone = 'UTC';

-- Two users, and one who is gone.
insert into keelson.users (id, email) values
    ('00000000-0000-7000-8000-0000000005a1', 'usage-a@example.com'),
    ('00000000-0000-7000-8000-0000000005a2', 'usage-b@example.com');
insert into keelson.user_emails (user_id, email) values
    ('00000000-0000-7000-8000-0000000005a1', 'usage-a@example.com'),
    ('00000000-0000-7000-8000-0000000005a2', 'usage-b@example.com');
insert into keelson.users (id, status, deleted_at) values ('00000000-0000-7000-8000-0000000005a3', 'deleted', now());
\set a '\'00000000-0000-7000-8000-0000000005a1\''
\set b '\'00000000-0000-7000-8000-0000000005a2\''
\set gone '\'00000000-0000-7000-8000-0000000005a3\''

create function pg_temp.used(whose uuid)
returns table (feature text, minutes numeric, requests bigint)
language sql
as $$
    select e.feature, sum(e.minutes), sum(e.requests) from keelson.usage_events as e where e.user_id = whose group by 1 order by 1;
$$;

-- One event, and many; what is not given.
select * from keelson.usage_record(:a, 'speech', 1.5);
select * from keelson.usage_record(user_id => :a, feature => 'speech', minutes => 0.000000001, requests => 3, occurred_at => now() - interval '35 days' + interval '1 minute');
select * from keelson.usage_record(:a, 'speech', 2, occurred_at => now() + interval '4 minutes');
select * from keelson.usage_record(events => array(
    select row(:a, 'clone', n * 0.1, null, null, null)::keelson.usage_event from generate_series(1, 1000) as n));
select * from pg_temp.used(:a);

-- By key: counted once, be it sent alone, again, in a batch, or twice in one.
select * from keelson.usage_record(:a, 'keyed', 1, key => 'one');
select * from keelson.usage_record(:a, 'keyed', 1, key => 'one');
-- The same content, written otherwise; one request is what is taken for none.
select * from keelson.usage_record(:a, 'keyed', 1.000, 1, key => 'one');
select * from keelson.usage_record(events => array[
    row(:a, 'keyed', 1, null, null, 'one')::keelson.usage_event, row(:a, 'keyed', 2, null, null, 'two')::keelson.usage_event,
    row(:a, 'keyed', 2, null, null, 'two')::keelson.usage_event, row(:a, 'keyed', 3, null, null, null)::keelson.usage_event,
    row(:b, 'keyed', 4, null, null, 'one')::keelson.usage_event]);
select * from pg_temp.used(:a) where feature = 'keyed';
select * from pg_temp.used(:b);

-- The same key with other content; in a batch nothing of the rest is recorded.
select keelson.usage_record(:a, 'keyed', 1.5, key => 'one');
select keelson.usage_record(:a, 'other', 1, key => 'one');
select keelson.usage_record(:a, 'keyed', 1, 2, key => 'one');
select keelson.usage_record(:a, 'keyed', 1, occurred_at => now(), key => 'one');
select keelson.usage_record(events => array[
    row(:a, 'keyed', 5, null, null, 'five')::keelson.usage_event, row(:a, 'keyed', 9, null, null, 'one')::keelson.usage_event,
    row(:a, 'keyed', 6, null, null, 'five')::keelson.usage_event, row(:a, 'keyed', 9, null, null, 'two')::keelson.usage_event]);
select * from pg_temp.used(:a) where feature = 'keyed';
-- The refused batch has not left its keys behind either.
select * from keelson.usage_record(:a, 'keyed', 7, key => 'five');

-- Thousands of zeros at the end are not kept: every sum would have them.
begin;
select * from keelson.usage_record(:a, 'zeros', ('1.5' || repeat('0', 16000))::numeric);
select e.minutes, length(keelson._usage_minutes(:a, 'zeros', '2000-01-01', '9999-01-01')::text) < 20 as is_short
from keelson.usage_events as e where e.user_id = :a and e.feature = 'zeros';
rollback;

-- What is refused, each fault by name and index.
select keelson.usage_record(:a, 'speech', 0);
select keelson.usage_record(:a, 'speech', -1);
select keelson.usage_record(:a, 'speech', 'NaN');
select keelson.usage_record(:a, 'speech', 'Infinity');
select keelson.usage_record(:a, 'speech', 1000000.000000001);
select keelson.usage_record(:a, 'speech', 0.0000000001);
select keelson.usage_record(:a, 'speech', null);
select keelson.usage_record(:a, 'speech', 1, 0);
select keelson.usage_record(:a, 'speech', 1, 1000001);
select keelson.usage_record(:a, null, 1);
select keelson.usage_record(:a, 'Speech', 1);
select keelson.usage_record(:a, repeat('x', 64), 1);
select keelson.usage_record(null, 'speech', 1);
select keelson.usage_record(:gone, 'speech', 1);
select keelson.usage_record('00000000-0000-0000-0000-000000000000', 'speech', 1);
select keelson.usage_record(:a, 'speech', 1, occurred_at => now() - interval '35 days 1 second');
select keelson.usage_record(:a, 'speech', 1, occurred_at => now() + interval '5 minutes 10 seconds');
select keelson.usage_record(:a, 'speech', 1, occurred_at => 'infinity');
select keelson.usage_record(:a, 'speech', 1, key => '');
select keelson.usage_record(:a, 'speech', 1, key => repeat('k', 256));
select keelson.usage_record(events => '{}');
select keelson.usage_record(events => array(select row(:a, 'speech', 1, null, null, null)::keelson.usage_event from generate_series(1, 1001)));
select keelson.usage_record(:a, events => array[row(:a, 'speech', 1, null, null, null)::keelson.usage_event]);
\set VERBOSITY default
select keelson.usage_record(events => array[
    row(:a, 'speech', 1, null, null, 'good')::keelson.usage_event, row(:a, 'speech', 0, 0, null, null)::keelson.usage_event,
    row(:gone, 'speech', 1, null, null, null)::keelson.usage_event, null, row(:a, '', 1, null, '1999-01-01', '')::keelson.usage_event]);
\set VERBOSITY terse
-- Nothing of it is there, the good event's key neither.
select count(*) from keelson.usage_events where user_id = :a and feature = 'speech';
select * from keelson.usage_record(:a, 'speech', 2, key => 'good');

-- Features: declared, closed, and all others closed.
select keelson.usage_feature('video', false, 'Not any more.');
select keelson.usage_record(:a, 'video', 1);
select keelson.usage_feature('video', true);
select * from keelson.usage_record(:a, 'video', 1);
select keelson.usage_feature('*', false);
select keelson.usage_record(:a, 'undeclared', 1);
select * from keelson.usage_record(:a, 'video', 1);
select keelson.usage_feature('*', true);
select * from keelson.usage_record(:a, 'undeclared', 1);
select name, is_open, description from keelson.usage_features order by name;
select keelson.usage_feature_remove('video'), keelson.usage_feature_remove('video'), keelson.usage_feature_remove('*');
select keelson.usage_feature('Not A Name');
select keelson.usage_feature('x', null);

-- Who may: whoever acts for a user their own, others' with the permission; nobody without a user but the operators.
set role keelson_app;
select keelson.usage_record(:a, 'speech', 1);
reset role;
begin;
select keelson.act_as('usage-a@example.com') = :a as is_a;
select * from keelson.usage_record(feature => 'own', minutes => 1);
select * from keelson.usage_record(:a, 'own', 1);
savepoint before;
select keelson.usage_record(:b, 'own', 1);
rollback to before;
select keelson.usage_record(events => array[row(:a, 'own', 1, null, null, null)::keelson.usage_event, row(:b, 'own', 1, null, null, null)::keelson.usage_event]);
rollback;
select keelson.role_grant('usage-a@example.com', 'admin');
begin;
select keelson.act_as('usage-a@example.com') = :a as is_a;
select * from keelson.usage_record(:b, 'for_b', 1);
select * from keelson.usage_record('00000000-0000-7000-8000-0000000005af', 'for_nobody', 1);
rollback;

-- What one who is blocked has used counts too.
begin;
update keelson.users set status = 'blocked' where id = :b;
select * from keelson.usage_record(:b, 'before', 1);
rollback;

-- What a user sees: exact at once, whatever of it is folded.
begin;
select keelson.act_as('usage-a@example.com') = :a as is_a;
select (keelson.user_analytics()).all_time;
select * from keelson.usage_record(feature => 'just_now', minutes => 0.5, requests => 2);
select (keelson.user_analytics()).all_time;
select f.* from unnest((keelson.user_analytics()).feature_breakdown) as f where f.feature in ('just_now', 'keyed');
select count(*), count(distinct t.date), max(t.date) = (now() at time zone 'UTC')::date as is_to_today,
    max(t.date) - min(t.date) as days, sum(t.minutes) > 0 as has_usage
from unnest((keelson.user_analytics()).timeline) as t;
select u.current_period = a.current_period and u.feature_breakdown = a.feature_breakdown and u.all_time = a.all_time as is_the_same
from keelson.user_usage() as u, keelson.user_analytics() as a;
select (a.all_time).total_minutes = (select sum(e.minutes) from keelson.usage_events as e) as is_exact from keelson.user_analytics() as a;
select * from keelson.usage_record(events => array(
    select row(null, 'many.' || n, n, null, null, null)::keelson.usage_event from generate_series(1, 300) as n, generate_series(1, 2)));
select count(*), bool_and(f.total_minutes = 2 * substr(f.feature, 6)::integer and f.request_count = 2) as are_added_up
from unnest((keelson.user_analytics()).feature_breakdown) as f where f.feature like 'many.%';
select count(*) - 1 = (select count(*) from keelson.usage_events) as has_all from keelson.user_usage_export();
select convert_from(line, 'UTF8') from keelson.user_usage_export('2001-01-01', '2001-01-02') as line;
select convert_from(line, 'UTF8') ~ '^[0-9a-f-]{36},[0-9TZ:.-]{27},[0-9TZ:.-]{27},just_now,0\.5,2\r\n$' as is_well_formed
from keelson.user_usage_export() as line offset 1 limit 1;
select keelson.user_usage_export('2001-01-02', '2001-01-01');
rollback;
begin;
select keelson.act_as('usage-b@example.com') = :b as is_b;
select (keelson.user_analytics()).all_time;
select feature, minutes from keelson.usage_events;
select count(*) from keelson.usage_keys;
rollback;
set role keelson_app;
select keelson.user_analytics();
select keelson.user_usage();
select keelson.user_usage_export();
select keelson.user_usage_forecast();
select count(*) from keelson.usage_events;
select keelson._usage_minutes(:a, null, now(), now());
reset role;

-- The forecast: for each day that is left the mean of those observed, days without usage included, and the interval as documented.
begin;
delete from keelson.usage_days where user_id = :b;
create temporary table observed on commit drop as
select (now() at time zone 'UTC')::date - ago as day, minutes from (values (8, 2.0), (7, 4), (6, 0), (5, 2), (4, 4), (3, 2), (2, 4), (1, 6)) as v (ago, minutes);
insert into keelson.usage_days select :b, day, feature, minutes / 2, 1 from observed, unnest('{one,two}'::text[]) as feature where minutes > 0;
-- Too long ago to be looked at.
insert into keelson.usage_days values (:b, (now() at time zone 'UTC')::date - 29, 'one', 1000, 1);
grant select on observed to public;
select keelson.act_as('usage-b@example.com') = :b as is_b;
with forecast as materialized (select f.*, extract(epoch from f.period_end - now()) / 86400 as days_left from keelson.user_usage_forecast() as f),
model as (
    select f.minutes_used + avg(o.minutes) * f.days_left as predicted, (f.minutes_limit - f.minutes_used) / avg(o.minutes) as days_to_limit,
        1.895 * stddev_samp(o.minutes) * sqrt(f.days_left + f.days_left ^ 2 / 8) as margin
    from forecast as f, observed as o
    group by f.minutes_used, f.minutes_limit, f.days_left
)
select days_observed, confidence, abs(predicted_minutes - predicted) < 0.01 as is_predicted, abs(upper_minutes - predicted - margin) < 0.02 as is_upper,
    abs(lower_minutes - greatest(predicted - margin, minutes_used)) < 0.02 as is_lower,
    case
        when minutes_used >= minutes_limit then limit_reached_at = now()
        when predicted < minutes_limit then limit_reached_at is null
        else limit_reached_at between now() + (days_to_limit - 0.001) * interval '1 day' and now() + days_to_limit * interval '1 day' + interval '1 second'
    end as is_limit
from forecast, model;
rollback;

-- A long tail is read a page at a time, each event once.
begin;
select sum((r).accepted) as recorded, keelson._usage_minutes(:a, 'long', '2000-01-01', '9999-01-01') as before
from (
    select keelson.usage_record(events => array(select row(:a, 'long', n * 0.001, null, now() - n * interval '1 hour' / 2, null)::keelson.usage_event from generate_series(1, 1000) as n)) as r
    from generate_series(1, 11)
) as batches;
select keelson._usage_minutes(:a, 'long', '2000-01-01', '9999-01-01');
rollback;

-- Folding, whoever does it; then rollups are what events are.
create function pg_temp.settle()
returns boolean
language plpgsql
as $$
begin
    -- Others' transactions, the server's own included, may keep the newest events back for a moment.
    for i in 1 .. 6000 loop
        perform keelson.usage_fold();
        if not exists (select from keelson.usage_events as e, keelson.usage_watermark as w where (e.era, e.xid, e.id) > (w.era, w.xid, w.event_id)) then
            return true;
        end if;
        perform pg_sleep(0.01);
    end loop;
    return false;
end;
$$;
select pg_temp.settle();
select * from keelson.usage_reconcile() where user_id in (:a, :b);
select keelson.usage_fold(0);

-- A day made again is what it was; one that was spoilt is what it should be.
select keelson.usage_reaggregate((now() at time zone 'UTC')::date) >= 0 as is_done;
select keelson.usage_reaggregate((now() at time zone 'UTC')::date);
update keelson.usage_days set minutes = minutes + 1 where user_id = :a and feature = 'keyed';
delete from keelson.usage_quarters where user_id = :a and feature = 'keyed';
insert into keelson.usage_days (user_id, day, feature, minutes, requests) values (:b, (now() at time zone 'UTC')::date, 'invented', 1, 1);
update keelson.usage_totals set minutes = 0 where user_id = :b;
select rollup, user_id, feature, minutes, minutes_expected, requests, requests_expected
from keelson.usage_reconcile((now() at time zone 'UTC')::date - 1) where user_id in (:a, :b)
order by 1, 2, 3;
select keelson.usage_reaggregate(d::date) >= 0 as is_done from generate_series(now() - interval '1 day', now(), interval '1 day') as d;
select * from keelson.usage_reconcile() where user_id in (:a, :b);
select keelson.usage_reaggregate(null);

-- Minutes between quarters of an hour.
insert into keelson.usage_totals values (:b, 'past', 11, 4);
insert into keelson.usage_days values (:b, '2020-02-28', 'past', 1, 1), (:b, '2020-02-29', 'past', 2, 1), (:b, '2020-03-01', 'past', 8, 2);
insert into keelson.usage_quarters values (:b, '2020-02-28 23:45Z', 'past', 1, 1), (:b, '2020-02-29 12:00Z', 'past', 2, 1),
    (:b, '2020-03-01 00:00Z', 'past', 3, 1), (:b, '2020-03-01 00:15Z', 'past', 5, 1);
select since, until, keelson._usage_minutes(:b, null, since, until), keelson._usage_minutes(:b, 'past', since, until), keelson._usage_minutes(:b, 'none', since, until)
from (values
    ('2020-02-28 00:00Z'::timestamptz, '2020-03-02 00:00Z'::timestamptz), ('2020-02-28 23:50Z', '2020-03-01 00:15Z'),
    ('2020-02-29 00:00Z', '2020-03-01 00:00Z'), ('2020-02-29 12:15Z', '2020-03-01 00:30Z'), ('2020-02-29 12:00Z', '2020-02-29 12:15Z'),
    ('2020-03-01 00:00Z', '2020-02-28 00:00Z'), ('2020-03-01 00:15Z', '9999-01-01 00:00Z')) as t (since, until)
order by 1, 2;

-- The timeline in time zones: days of 23, 25 and 24.5 hours, midnights that come twice or not at all, zones off by a
-- quarter of an hour or by half a day, months' ends.
delete from keelson.usage_quarters where user_id = :b;
delete from keelson.usage_days where user_id = :b;
insert into keelson.usage_quarters
select :b, q, 'dense', 1, 1 from generate_series('2023-12-01 00:00Z'::timestamptz, '2024-12-31 00:00Z', interval '15 minutes') as q;
insert into keelson.usage_days
select :b, (quarter_at at time zone 'UTC')::date, feature, sum(minutes), sum(requests) from keelson.usage_quarters where user_id = :b group by 2, 3;
with cases (zone, moment) as materialized (values
    ('UTC', '2024-03-15 12:00Z'::timestamptz), ('Europe/Berlin', '2024-04-10 12:00Z'), ('Europe/Berlin', '2024-11-10 23:30Z'),
    ('America/New_York', '2024-03-15 03:59Z'), ('America/New_York', '2024-03-15 04:00Z'), ('America/New_York', '2024-11-20 12:00Z'),
    ('Australia/Lord_Howe', '2024-04-20 00:00Z'), ('Australia/Lord_Howe', '2024-10-20 00:00Z'), ('Asia/Kathmandu', '2024-03-01 00:00Z'),
    ('Pacific/Chatham', '2024-10-01 10:00Z'), ('America/St_Johns', '2024-12-01 03:29Z'), ('Pacific/Kiritimati', '2024-02-29 09:59Z'),
    ('Pacific/Kiritimati', '2024-02-29 10:00Z'), ('America/Santiago', '2024-09-20 12:00Z'), ('Africa/Cairo', '2024-05-10 12:00Z'),
    ('America/Havana', '2024-03-20 12:00Z'), ('America/Havana', '2024-11-20 12:00Z'), ('Atlantic/Azores', '2024-04-20 12:00Z'),
    ('Atlantic/Azores', '2024-11-05 12:00Z'), ('Pacific/Norfolk', '2024-04-20 13:00Z'),
    ('Pacific/Norfolk', '2024-10-20 12:30Z'), ('Asia/Tehran', '2024-02-29 20:29Z'), ('Antarctica/Troll', '2024-11-10 00:00Z'),
    ('Nowhere/Land', '2024-03-15 12:00Z')
),
model as materialized (
    select z.zone, (q.quarter_at at time zone case z.zone when 'Nowhere/Land' then 'UTC' else z.zone end)::date as date, sum(q.minutes) as minutes
    from (select distinct zone from cases) as z, keelson.usage_quarters as q
    where q.user_id = :b
    group by 1, 2
)
select zone, moment, count(*) filter (where t.minutes is distinct from m.minutes or t.requests is distinct from m.minutes) as wrong, count(*),
    min(t.date), max(t.date), array_agg(distinct t.minutes order by t.minutes) as quarters_a_day
from cases as c
cross join lateral unnest(keelson._usage_timeline(:b, zone, moment)) as t
left join model as m using (zone, date)
group by 1, 2
order by 1, 2;

-- The CSV of quantities is exact, and the numbers are.
select minutes from keelson.usage_events where user_id = :a and minutes < 0.1;

-- Away with them.
delete from keelson.user_roles where user_id in (:a, :b);
delete from keelson.usage_events where user_id in (:a, :b);
delete from keelson.usage_keys where user_id in (:a, :b);
delete from keelson.usage_quarters where user_id in (:a, :b);
delete from keelson.usage_days where user_id in (:a, :b);
delete from keelson.usage_totals where user_id in (:a, :b);
delete from keelson.user_emails where user_id in (:a, :b);
delete from keelson.users where id in (:a, :b, :gone);
