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
-- Reserved minutes are of the feature and of the whole.
begin;
select keelson.act_as('ada@quotas.example.com') is not null as acts;
select keelson.quota_reserve(5, feature => 'summary') as r4 \gset
select pg_temp.as_ada($$select keelson.quota_reserve(0.5, feature => 'summary')$$);
select pg_temp.as_ada(format('select keelson.quota_release(%L)', :'r4'));
select pg_temp.as_ada($$select keelson.quota_reserve(5, feature => 'transcription')$$);
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
