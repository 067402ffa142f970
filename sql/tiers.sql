-- Tiers, subscriptions, referrals. Quotas: quotas.sql. Through HTTP: regress/t/066_tiers.pl.
\set VERBOSITY terse
\set SHOW_CONTEXT never

create temporary table people (name text, id uuid);
insert into people (name, id)
select name, keelson.user_create(name || '@tiers.example.com', 'correct horse battery staple')
from (values ('ada'), ('bob'), ('eve')) as v (name);

-- Runs a statement as somebody, and tells what came of it.
create function pg_temp.as_user(who text, statement text) returns text language plpgsql as $$
declare
    said text;
begin
    perform keelson.act_as(who || '@tiers.example.com');
    execute statement into said;
    return said;
exception when others then
    return sqlstate || ': ' || sqlerrm;
end
$$;

-- Everybody has a subscription of the default tier, whose period is a month from now on.
select s.tier_id, s.status, s.period_start = date_trunc('hour', now()) as begins_now, s.anchor = s.period_start at time zone 'UTC' as is_anchored,
    s.period_end = keelson._period_next(s.anchor, 1, 'UTC', s.period_start) as ends_in_a_month
from keelson.subscriptions as s join people as p on p.id = s.user_id;
select (keelson.tiers_list()).*;

begin; select pg_temp.as_user('ada', 'select (keelson.user_tier()).id'); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.has_tier('free') || ' ' || keelson.has_tier('pro') || ' ' || keelson.has_feature('export')$$); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.require_tier('pro')$$); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.require_feature('export')$$); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.tier_limit('projects') || ' ' || coalesce(keelson.tier_limit('sessions')::text, 'none')$$); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.tier_limit(null)$$); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.has_tier('gold')$$); rollback;
begin; select pg_temp.as_user('ada', 'select keelson.require_tier(null)'); rollback;
begin; select pg_temp.as_user('ada', 'select keelson.require_feature(null)'); rollback;
-- Nobody has nothing.
select keelson.has_tier('free'), keelson.has_feature('export'), keelson.tier_limit('projects');
select keelson.require_tier('free');
select keelson.user_tier();
select keelson.user_quota();

-- A change holds for the next statement of the same transaction, and is audited.
begin;
select keelson.user_tier_set('ada@tiers.example.com', 'pro');
select keelson._tier_of(id), (keelson._subscription_of(id)).minutes_limit from people where name = 'ada';
select keelson.user_tier_set('ada@tiers.example.com', 'pro');
select e.event_type, e.data - 'databaseRole' as data
from keelson.audit_events as e join people as p on p.id = e.user_id where e.event_type = 'subscription.change' and p.name = 'ada';
commit;
begin; select pg_temp.as_user('ada', $$select keelson.has_tier('pro') || ' ' || keelson.has_tier('studio') || ' ' || keelson.has_feature('export')$$); rollback;
-- In policies: asked once.
create schema regress_tiers;
create table regress_tiers.exports (id integer);
insert into regress_tiers.exports values (1), (2);
alter table regress_tiers.exports enable row level security;
create policy for_exporters on regress_tiers.exports using ((select keelson.has_feature('export')));
grant usage on schema regress_tiers to keelson_app;
grant select on regress_tiers.exports to keelson_app;
begin; select pg_temp.as_user('ada', 'select count(*) from regress_tiers.exports'); rollback;
begin; select pg_temp.as_user('bob', 'select count(*) from regress_tiers.exports'); rollback;

-- Downgrade with the period's end: nothing before, everything from then on, whether or not a job has been.
select keelson.user_tier_set('ada@tiers.example.com', 'free', at_period_end => true);
select keelson._tier_of(s.user_id), s.next_tier_id, s.next_tier_at = s.period_end as at_end
from keelson.subscriptions as s join people as p on p.id = s.user_id where p.name = 'ada';
begin;
update keelson.subscriptions as s set next_tier_at = now() - interval '1 second' from people as p where p.id = s.user_id and p.name = 'ada';
select keelson._tier_of(id), (keelson._subscription_of(id)).tier_id from people where name = 'ada';
select keelson._tier_changes_apply(10), keelson._tier_changes_apply(10);
select s.tier_id, s.status, s.next_tier_id, s.next_tier_at from keelson.subscriptions as s join people as p on p.id = s.user_id where p.name = 'ada';
rollback;

-- Trials.
select keelson.user_tier_set('bob@tiers.example.com', 'studio', trial => '14 days');
select s.tier_id, s.status, s.next_tier_id, s.next_tier_at = s.trial_ends_at as ends_in_default, s.trial_ends_at > now() + interval '13 days' as lasts
from keelson.subscriptions as s join people as p on p.id = s.user_id where p.name = 'bob';
select keelson.user_tier_set('bob@tiers.example.com', 'pro', at_period_end => true);
update keelson.subscriptions as s set next_tier_at = now() - interval '1 hour', trial_ends_at = now() - interval '1 hour'
from people as p where p.id = s.user_id and p.name = 'bob';
select keelson._tier_of(id), (keelson._subscription_of(id)).status from people where name = 'bob';
call keelson.job_run('expire-trials');
select counts ->> 'trials' >= '1' as has_ended from keelson.job_runs where job = 'expire-trials' order by id desc limit 1;
select s.tier_id, s.status, s.next_tier_id from keelson.subscriptions as s join people as p on p.id = s.user_id where p.name = 'bob';
select e.data - 'since' as data from keelson.audit_events as e join people as p on p.id = e.user_id
where e.event_type = 'subscription.change' and p.name = 'bob' order by e.id desc limit 1;

-- Bad input changes nothing.
select keelson.user_tier_set('bob@tiers.example.com', 'gold');
select keelson.user_tier_set('bob@tiers.example.com', null);
select keelson.user_tier_set('nobody@tiers.example.com', 'pro');
select keelson.user_tier_set('bob@tiers.example.com', 'pro', trial => '1 second');
select keelson.user_tier_set('bob@tiers.example.com', 'pro', trial => '2 years');
select keelson.user_tier_set('bob@tiers.example.com', 'free', trial => '1 day');
select keelson.user_tier_set('bob@tiers.example.com', 'pro', trial => '1 day', at_period_end => true);
select keelson.tier_set('Gold', 'Gold', 30);
select keelson.tier_set('gold', '', 30);
select keelson.tier_set('gold', 'Gold', 20);
select keelson.tier_set('gold', 'Gold', -1);
select keelson.tier_set('gold', 'Gold', 30, '{ok, "not ok"}');
select keelson.tier_set('free', 'Free', 0, is_default => false);
select keelson.tier_remove('free');
select keelson.tier_remove('pro');
select keelson.tier_remove('gold');
select keelson.tier_limit_set('gold', 'minutes', 1);
select keelson.tier_limit_set('pro', 'minutes', -1);
select keelson.tier_limit_set('pro', 'minutes', 'NaN');
select keelson.tier_limit_set('pro', 'minutes', null);
select keelson.tier_limit_set('pro', 'minutes', 1, kind => 'cap');
select keelson.tier_limit_set('pro', 'minutes', 1, resets => 'never');
select keelson.tier_limit_set('pro', 'projects', 1, kind => 'cap');
select keelson.tier_limit_set('pro', 'a b', 1);
select keelson.tier_limit_remove('pro', 'nothing');
select id, rank, features, is_default from keelson.tiers order by rank;

-- A tier of the product's own, effective at once; its caps; sessions a user may have.
select keelson.tier_set('gold', 'Gold', 30, '{export, gild}', is_public => false);
select keelson.tier_limit_set('gold', 'sessions', 2, kind => 'cap');
select keelson.user_tier_set('eve@tiers.example.com', 'gold');
begin; select pg_temp.as_user('eve', $$select keelson.has_tier('studio') || ' ' || keelson.has_feature('gild') || ' ' || keelson.tier_limit('sessions')$$); rollback;
select keelson._session_max(id) from people where name = 'eve';
select array_agg((t).id) from (select keelson.tiers_list() as t) as listed;
select keelson.tier_set('gold', 'Gold', 30, '{export}');
begin; select pg_temp.as_user('eve', $$select keelson.has_feature('gild')$$); rollback;
select keelson.user_tier_set('eve@tiers.example.com', 'free');
select keelson.tier_remove('gold');

-- Periods. From the anchor each time: the 31st comes back; an hour that is skipped is the next, of one that comes twice the second.
create function pg_temp.periods(anchor timestamp, months integer, zone text, count integer) returns text language plpgsql as $$
declare
    start timestamptz := anchor at time zone zone;
    said text := keelson._time_text(start);
begin
    for i in 1 .. count loop
        start := keelson._period_next(anchor, months, zone, start);
        said := said || ' ' || keelson._time_text(start);
    end loop;
    return replace(said, ':00:00Z', 'h');
end
$$;
select pg_temp.periods('2026-01-31 09:00', 1, 'UTC', 5);
select pg_temp.periods('2028-01-30 00:00', 1, 'UTC', 3);
select pg_temp.periods('2026-01-29 02:00', 1, 'Europe/Berlin', 4);
select pg_temp.periods('2026-09-25 02:00', 1, 'Europe/Berlin', 2);
select pg_temp.periods('2026-09-25 02:00', 1, 'Asia/Kathmandu', 2);
select pg_temp.periods('2028-02-29 12:00', 12, 'UTC', 4);
select pg_temp.periods('2026-11-30 12:00', 3, 'UTC', 4);
-- A time zone that changes in mid-period leaves no sliver behind.
select keelson._time_text(keelson._period_next('2026-01-01 00:00', 1, 'Pacific/Auckland', '2026-02-01 00:00Z'));
-- Whatever the anchor, zone and moment: the period that holds the moment, between two neighbouring whole steps from the anchor.
do $$
declare
    anchor timestamp;
    months integer;
    zone text;
    moment timestamptz;
    start timestamptz;
    period record;
    model record;
begin
    perform setseed(0.6);
    for i in 1 .. 1500 loop
        anchor := timestamp '2020-01-01' + make_interval(hours => (random() * 24 * 366 * 2)::integer);
        months := (array[1, 1, 1, 3, 6, 12])[1 + (random() * 5)::integer];
        zone := (array['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'America/Sao_Paulo', 'Pacific/Apia'])[1 + (random() * 6)::integer];
        start := anchor at time zone zone;
        moment := start + random() * interval '9 years';
        period := keelson._period_at(anchor, months, zone, moment, start, keelson._period_next(anchor, months, zone, start));
        select max(b) filter (where b <= moment) as period_start, min(b) filter (where b > moment) as period_end into model
        from (select (anchor + make_interval(months => k * months)) at time zone zone from generate_series(0, 120) as k) as boundaries (b);
        if (period.period_start, period.period_end) is distinct from (model.period_start, model.period_end) then
            raise exception 'from % every % months in %, at %: % to %, not % to %', anchor, months, zone, moment,
                period.period_start, period.period_end, model.period_start, model.period_end;
        end if;
    end loop;
end
$$;
-- Rolled over: as it was already seen. Years later too.
update keelson.subscriptions as s
set anchor = '2025-10-31 09:00', period_start = '2025-10-31 09:00Z', period_end = '2025-11-30 09:00Z'
from people as p where p.id = s.user_id and p.name = 'ada';
create temporary table seen as select (keelson._subscription_of(id)).* from people where name = 'ada';
select period_start <= now() and period_end > now() as is_now from seen;
select keelson._periods_roll(10) >= 1 as has_rolled, keelson._periods_roll(10);
select s.period_start = seen.period_start and s.period_end = seen.period_end as is_same
from seen, keelson.subscriptions as s join people as p on p.id = s.user_id where p.name = 'ada';
-- Without a row: the default tier, and the calendar month.
delete from keelson.subscriptions as s using people as p where p.id = s.user_id and p.name = 'eve';
select s.tier_id, s.status, s.period_start = date_trunc('month', now(), 'UTC') as is_month, s.time_zone
from people, keelson._subscription_of(id) as s where name = 'eve';
begin; select pg_temp.as_user('eve', $$select keelson.user_time_zone_set('Europe/Berlin')$$); commit;
begin; select pg_temp.as_user('eve', $$select keelson.user_time_zone_set('Europe/Atlantis')$$); rollback;
select (keelson._subscription_of(id)).time_zone from people where name = 'eve';

-- Referrals: one for each new user, not one's own; read as people write it.
select count(distinct r.code) = 3 as all_differ, bool_and(c.user_id = r.user_id) as is_found
from keelson.referrals as r join people as p on p.id = r.user_id join keelson.referral_codes as c using (code);
create function pg_temp.code_of(who text) returns text language sql as $$
    select r.code from keelson.referrals as r join people as p on p.id = r.user_id where p.name = who
$$;
select format('%L', pg_temp.code_of('ada')) as ada, format('%L', pg_temp.code_of('bob')) as bob, format('%L', lower(pg_temp.code_of('eve')) || ' ') as eve \gset
begin; select pg_temp.as_user('ada', format('select keelson.referral_redeem(%s)', :'ada')); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.referral_redeem('0000000000')$$); rollback;
begin; select pg_temp.as_user('ada', 'select (keelson.referral_redeem(null)).redemptions'); rollback;
begin; select pg_temp.as_user('ada', format('select (keelson.referral_redeem(%s)).redemptions', :'eve')); commit;
begin; select pg_temp.as_user('ada', format('select keelson.referral_redeem(%s)', :'bob')); rollback;
update keelson.users as u set created_at = now() - interval '31 days' from people as p where p.id = u.id and p.name = 'bob';
begin; select pg_temp.as_user('bob', format('select keelson.referral_redeem(%s)', :'eve')); rollback;
select p.name, r.redemptions from keelson.referrals as r join people as p on p.id = r.user_id order by p.name;
select e.data ->> 'referrerId' = (select id::text from people where name = 'eve') as by_eve
from keelson.audit_events as e join people as p on p.id = e.user_id where e.event_type = 'referral.redeem' and p.name = 'ada';
-- A code given when registering counts with the registration, or the registration is refused.
select status from keelson.user_register('dan@tiers.example.com', 'correct horse battery staple', referral_code => 'nonsense');
select count(*) from keelson.user_emails where email = 'dan@tiers.example.com';
select status from keelson.user_register('dan@tiers.example.com', 'correct horse battery staple', referral_code => :eve);
select p.name, r.redemptions from keelson.referrals as r join people as p on p.id = r.user_id where p.name = 'eve';
-- Nobody reads codes or others' subscriptions.
begin; select pg_temp.as_user('ada', 'select count(*) from keelson.referral_codes'); rollback;
begin; select pg_temp.as_user('ada', 'select count(*) from keelson.subscriptions'); rollback;
begin; select pg_temp.as_user('ada', $$update keelson.subscriptions set tier_id = 'studio'$$); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.user_tier_set('ada@tiers.example.com', 'studio')$$); rollback;
begin; select pg_temp.as_user('ada', $$select keelson.admin_user_tier_set(keelson.current_user_id(), 'studio')$$); rollback;

-- A route for a tier names one that there is.
create function regress_tiers.hello() returns text language plpgsql as $$ begin return 'hello'; end $$;
comment on function regress_tiers.hello() is 'Say hello to those who pay.';
grant execute on function regress_tiers.hello() to keelson_app;
select keelson.route('GET regress-tiers', 'regress_tiers.hello', tier => 'gold');
select keelson.route('GET regress-tiers', 'regress_tiers.hello', tier => 'pro', is_public => true);
select keelson.route('GET regress-tiers', 'regress_tiers.hello', tier => 'pro') > 0 as is_route;
select keelson.route_remove('GET regress-tiers');

drop schema regress_tiers cascade;
delete from keelson.users where id in (select user_id from keelson.user_emails where email like '%@tiers.example.com');
delete from keelson.referral_codes where user_id in (select user_id from keelson.user_emails where email like '%@tiers.example.com');
delete from keelson.user_emails where email like '%@tiers.example.com';
select count(*) from keelson.subscriptions as s join people as p on p.id = s.user_id;
