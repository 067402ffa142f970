-- Quotas: taking, reserving, charging minutes. Races: regress/t/066_tiers.pl, regress/specs/quota.spec.
\set VERBOSITY terse
\set SHOW_CONTEXT never

select keelson.tier_set('regress_hard', 'Hard', 900, '{}');
select keelson.tier_limit_set('regress_hard', 'minutes', 10.5, is_hard => true);
select keelson.tier_limit_set('regress_hard', 'transcription', 3, kind => 'feature', is_hard => true);
select keelson.tier_limit_set('regress_hard', 'summary', 3, kind => 'feature');
select keelson.tier_limit_set('regress_hard', 'credits', 1, is_hard => true);
select keelson.tier_limit_set('regress_hard', 'pages', 5);
select keelson.tier_limit_set('regress_hard', 'places', 2, is_hard => true, resets => 'never');
create temporary table me as select keelson.user_create('ada@quotas.example.com', 'correct horse battery staple') as id;
select keelson.user_tier_set('ada@quotas.example.com', 'regress_hard');

create function pg_temp.as_ada(statement text) returns text language plpgsql as $$
declare
    said text;
begin
    execute statement into said;
    return coalesce(said, 'done');
exception when others then
    return sqlstate || ': ' || sqlerrm;
end
$$;
create function pg_temp.quota() returns table (name text, "limit" numeric, used numeric, reserved numeric, remaining numeric, hard boolean, resets boolean)
language sql as $$
    select coalesce(q.unit, q.feature || ' minutes'), q."limit", q.used, q.reserved, q.remaining, q.hard, q.reset_at is not null from keelson.user_quota() as q
$$;
grant execute on function pg_temp.quota() to public;

begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select * from pg_temp.quota();
-- Fractions are exact; what does not fit changes nothing.
select pg_temp.as_ada($$select keelson.quota_take('credits', 0.1)$$) from generate_series(1, 10);
select pg_temp.as_ada($$select keelson.quota_take('credits', 0.0000000001)$$);
select used, remaining from pg_temp.quota() where name = 'credits';
select pg_temp.as_ada($$select keelson.quota_give_back('credits', 0.25)$$), pg_temp.as_ada($$select keelson.quota_take('credits', 0.25)$$);
-- Soft: counted, not refused.
select pg_temp.as_ada($$select keelson.quota_take('pages', 7)$$);
-- What is there, until it is given back; never below nothing.
select pg_temp.as_ada($$select keelson.quota_take('places')$$) from generate_series(1, 3);
select pg_temp.as_ada($$select keelson.quota_give_back('places', 5)$$);
select * from pg_temp.quota() where name in ('credits', 'pages', 'places');
commit;

-- Reservations hold, are committed with more or less, released, expire.
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select keelson.quota_reserve(1.5, unit => 'places') as r1 \gset
select reserved, remaining from pg_temp.quota() where name = 'places';
select pg_temp.as_ada($$select keelson.quota_take('places', 1)$$);
select pg_temp.as_ada($$select keelson.quota_reserve(1, unit => 'places')$$);
select pg_temp.as_ada(format('select keelson.quota_commit(%L, 2.5)', :'r1'));
select pg_temp.as_ada(format('select keelson.quota_commit(%L, 2)', :'r1'));
select used, reserved from pg_temp.quota() where name = 'places';
select pg_temp.as_ada(format('select keelson.quota_commit(%L)', :'r1'));
select pg_temp.as_ada($$select keelson.quota_give_back('places', 2)$$);
select keelson.quota_reserve(2, unit => 'places') as r2 \gset
select pg_temp.as_ada(format('select keelson.quota_release(%L)', :'r2')), pg_temp.as_ada(format('select keelson.quota_release(%L)', :'r2'));
select keelson.quota_reserve(2, unit => 'places') as r3 \gset
commit;
update keelson.quota_reservations set expires_at = now() - interval '1 second' where id = :'r3';
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select reserved, remaining from pg_temp.quota() where name = 'places';
select pg_temp.as_ada(format('select keelson.quota_commit(%L)', :'r3'));
select pg_temp.as_ada($$select keelson.quota_take('places', 2)$$);
rollback;
select keelson._quota_reservations_expire(10), keelson._quota_reservations_expire(10);
select name, used, reserved from keelson.quota_counters as c join me on me.id = c.user_id where name = 'places';

-- Minutes: charged where a limit is hard, of the whole and of the feature; what does not fit rolls back.
select keelson._quota_charge(id, 'transcription', 2.5) from me;
select keelson._quota_charge(id, 'transcription', 0.6) from me;
select keelson._quota_charge(id, 'anything', 8) from me;
select keelson._quota_charge(id, 'anything', 0.1) from me;
select kind, name, used from keelson.quota_counters as c join me on me.id = c.user_id where kind = 'feature' or name = 'minutes' order by kind, name;
-- Many at once: all or none; what lies outside the period counts for nothing.
select keelson.tier_limit_set('regress_hard', 'minutes', 20, is_hard => true);
update keelson.quota_counters as c set period_start = (keelson._subscription_of(id)).period_start, used = 10.5 from me where me.id = c.user_id and name = 'minutes';
update keelson.quota_counters as c set period_start = (keelson._subscription_of(id)).period_start, used = 2.5 from me where me.id = c.user_id and name = 'transcription';
select keelson._quota_charge(array[id, id, id], '{transcription, summary, old}', '{0.5, 4, 1000}', array[null, now(), now() - interval '40 days']) from me;
select keelson._quota_charge(array[id, id], '{summary, transcription}', '{1, 0.01}', array[null, now()]) from me;
select kind, name, used from keelson.quota_counters as c join me on me.id = c.user_id where kind = 'feature' or name = 'minutes' order by kind, name;
-- So is usage that comes together: what occurs now is added up, what has a time of its own is charged with it.
begin;
create function pg_temp.used(feature text, minutes numeric, occurred_at timestamptz default null) returns keelson.usage_event
language sql as $$ select row(id, used.feature, used.minutes, null, used.occurred_at, null)::keelson.usage_event from me $$;
select accepted from keelson.usage_record(events => array[pg_temp.used('summary', 1), pg_temp.used('anything', 0.25), pg_temp.used('summary', 0.5),
    pg_temp.used('summary', 1, now() - interval '1 minute'), pg_temp.used('summary', 1, now() - interval '1 minute')]);
select kind, name, used from keelson.quota_counters as c join me on me.id = c.user_id where kind = 'feature' or name = 'minutes' order by kind, name;
savepoint here;
select keelson.usage_record(events => array[pg_temp.used('summary', 1), pg_temp.used('anything', 0.25), pg_temp.used('summary', 0.5)]);
rollback to here;
select count(*) from keelson.usage_events as e join me on me.id = e.user_id;
rollback;
-- Reserved minutes are of the feature and of the whole.
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select keelson.quota_reserve(5, feature => 'summary') as r4 \gset
select pg_temp.as_ada($$select keelson.quota_reserve(0.5, feature => 'summary')$$);
select pg_temp.as_ada(format('select keelson.quota_release(%L)', :'r4'));
select pg_temp.as_ada($$select keelson.quota_reserve(5, feature => 'transcription')$$);
-- What is committed is recorded, whatever keys the user has used, and once.
select keelson.quota_reserve(2, feature => 'summary') as r5 \gset
select * from keelson.usage_record(feature => 'summary', minutes => 0.001, key => 'reservation:' || :'r5');
select pg_temp.as_ada(format('select keelson.quota_commit(%L, 1.5)', :'r5')), pg_temp.as_ada(format('select keelson.quota_commit(%L, 1.5)', :'r5'));
select e.feature, e.minutes from keelson.usage_events as e order by e.minutes;
rollback;

-- The period's end begins anew; what never resets stays.
update keelson.quota_counters as c set period_start = period_start - interval '40 days' from me where me.id = c.user_id and isfinite(period_start);
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select pg_temp.as_ada($$select keelson.quota_take('credits', 1)$$), pg_temp.as_ada($$select keelson.quota_take('places', 2)$$), pg_temp.as_ada($$select keelson.quota_take('places', 1)$$);
select * from pg_temp.quota() where name in ('credits', 'places');
rollback;
-- Another tier: what was taken stays taken, and may be more than it allows.
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select pg_temp.as_ada($$select keelson.quota_take('pages', 4)$$);
commit;
select keelson.tier_set('regress_less', 'Less', 899, '{}');
select keelson.tier_limit_set('regress_less', 'pages', 2, is_hard => true);
select keelson.user_tier_set('ada@quotas.example.com', 'regress_less');
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select * from pg_temp.quota();
select pg_temp.as_ada($$select keelson.quota_take('pages', 1)$$), pg_temp.as_ada($$select keelson.quota_take('credits', 100)$$);
rollback;

-- Users are told that a quota is reached, once in a period, and that they have another tier.
begin;
insert into keelson.webhook_endpoints (user_id, id, url, events, secret)
select id, keelson.uuid7(), 'https://example.com/quotas', '{usage.*, subscription.*}', 'none' from me;
create function pg_temp.told() returns table (type text, data text) language sql as $$
    select e.event_type, string_agg(d.key || '=' || (d.value #>> '{}'), ' ' order by d.key)
    from keelson.webhook_events as e
    cross join lateral jsonb_each(e.body::jsonb -> 'data') as d
    where e.user_id = (select id from me) and d.key not in ('userId', 'resetAt')
    group by e.id, e.event_type
    order by e.id
$$;
select keelson.tier_set('regress_told', 'Told', 898, '{}');
select keelson.tier_limit_set('regress_told', 'credits', 3, is_hard => true);
select keelson.tier_limit_set('regress_told', 'pages', 2);
select keelson.tier_limit_set('regress_told', 'places', 1, is_hard => true, resets => 'never');
select keelson.tier_limit_set('regress_told', 'minutes', 10);
select keelson.tier_limit_set('regress_told', 'summary', 4, kind => 'feature');
select keelson.user_tier_set('ada@quotas.example.com', 'regress_told'), keelson.user_tier_set('ada@quotas.example.com', 'regress_told');
select * from pg_temp.told();
select m.template, m.state from keelson.mail_messages as m join me on me.id = m.user_id;
delete from keelson.webhook_events as e using me where e.user_id = me.id;
-- Whoever takes the last of it tells, hard or soft, and nobody again before the next period.
delete from keelson.quota_counters as c using me where c.user_id = me.id;
select keelson._quota_apply(id, 'unit', 'credits', 2) from me;
select * from pg_temp.told();
select keelson._quota_apply(id, 'unit', 'credits', 1), keelson._quota_apply(id, 'unit', 'credits', -1), keelson._quota_apply(id, 'unit', 'credits', 1) from me;
select keelson._quota_apply(id, 'unit', 'pages', 3), keelson._quota_apply(id, 'unit', 'pages', 3) from me;
select * from pg_temp.told();
update keelson.quota_counters as c set told_period = told_period - interval '1 month' from me where c.user_id = me.id;
select keelson._quota_apply(id, 'unit', 'places', 1), keelson._quota_apply(id, 'unit', 'pages', 1) from me;
delete from keelson.webhook_events as e using me where e.user_id = me.id and e.body::jsonb #>> '{data,unit}' <> 'pages';
select * from pg_temp.told();
-- What was refused is told by the keeper: of what is in use, in this period, once.
delete from keelson.webhook_events as e using me where e.user_id = me.id;
delete from keelson.quota_counters as c using me where c.user_id = me.id;
select keelson._quota_refused_tell(id, 'unit', 'credits') from me;
select keelson._quota_apply(id, 'unit', 'credits', 2.5), keelson._quota_refused_tell(id, 'unit', 'credits'), keelson._quota_refused_tell(id, 'unit', 'credits') from me;
select keelson._quota_apply(id, 'unit', 'credits', 0.5), keelson._quota_refused_tell(id, 'unit', 'nothing') from me;
select * from pg_temp.told();
-- Soft minutes are looked at as they are folded: not before they may be reached, once when they are, anew with another limit or period.
delete from keelson.webhook_events as e using me where e.user_id = me.id;
create function pg_temp.look(minutes numeric, feature text default 'speech') returns integer language plpgsql as $$
begin
    perform keelson.usage_record(id, feature, minutes) from me;
    insert into keelson.usage_totals as t (user_id, feature, minutes, requests) select id, look.feature, look.minutes, 1 from me
    on conflict on constraint usage_totals_pkey do update set minutes = t.minutes + excluded.minutes;
    return (select keelson._quotas_watch(array[id]) from me);
end
$$;
select pg_temp.look(4) as neither, pg_temp.look(3.5) as neither;
select count(*) from keelson.quota_watches as w join me on me.id = w.user_id;
select * from pg_temp.told();
select pg_temp.look(2, 'summary') as neither, pg_temp.look(3, 'summary') as both, pg_temp.look(1, 'summary') as neither_again;
select * from pg_temp.told();
select keelson.tier_limit_set('regress_told', 'minutes', 20);
select pg_temp.look(1) as feature;
select kind, name, minutes_due from keelson.quota_watches as w join me on me.id = w.user_id order by 1, 2;
select count(*) from pg_temp.told();
-- What is missing to the new limit has to be used before anybody looks again.
select pg_temp.look(6) as whole, pg_temp.look(0.5) as neither;
update keelson.quota_watches as w set look_again_at = now(), told_period = told_period - interval '1 month' from me where w.user_id = me.id;
select pg_temp.look(1) as both;
delete from keelson.webhook_events as e using me where e.user_id = me.id and e.body::jsonb #>> '{data,used}' <> '6';
select * from pg_temp.told();
-- One who is told of nothing.
select keelson._quotas_watch('{00000000-0000-7000-8000-0000000000ff}'), keelson._quotas_watch('{}'), keelson._quotas_watch(null);
rollback;

-- Bad input.
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select pg_temp.as_ada(statement)
from (values
    (1, $$select keelson.quota_take('nothing')$$), (2, $$select keelson.quota_take(null)$$), (3, $$select keelson.quota_take('pages', 0)$$),
    (4, $$select keelson.quota_take('pages', -1)$$), (5, $$select keelson.quota_take('pages', 'NaN')$$), (6, $$select keelson.quota_take('pages', 'Infinity')$$),
    (7, $$select keelson.quota_take('pages', null)$$), (8, $$select keelson.quota_take('minutes', 1)$$), (9, $$select keelson.quota_give_back('pages', -1)$$),
    (10, $$select keelson.quota_reserve(1)$$), (11, $$select keelson.quota_reserve(1, 'pages', 'summary')$$), (12, $$select keelson.quota_reserve(1, 'pages', expires_in => '-1 s')$$),
    (13, $$select keelson.quota_reserve(1, 'pages', expires_in => '8 days')$$), (14, $$select keelson.quota_reserve('NaN', 'pages')$$),
    (15, $$select keelson.quota_reserve(1, feature => 'a b')$$), (16, $$select keelson.quota_commit(null)$$),
    (17, $$select keelson.quota_commit('00000000-0000-0000-0000-000000000001')$$), (18, $$select keelson.quota_commit('00000000-0000-0000-0000-000000000001', -1)$$)
) as v (place, statement)
order by place;
rollback;
select keelson.quota_take('pages');
select keelson.quota_release('00000000-0000-0000-0000-000000000001');

delete from keelson.users where id in (select id from me);
delete from keelson.referral_codes where user_id in (select id from me);
delete from keelson.user_emails where user_id in (select id from me);
select count(*) from keelson.quota_counters as c join me on me.id = c.user_id;
select keelson.tier_remove('regress_hard'), keelson.tier_remove('regress_less');
