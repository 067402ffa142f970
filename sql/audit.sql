-- The audit trail: recording, what is taken out, who may do what, the ring.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
select keelson.user_create('ada@audit.example.com') as ada, keelson.user_create('ben@audit.example.com') as ben \gset
select keelson.audit_event_type('regress.thing', 'Something happened in a test.');
reset client_min_messages;

-- One event, and what is known of it without being told.
select keelson.audit('regress.thing', '{"size": 3, "nested": {"list": [1, "two", null, true]}}') as id \gset
select user_id, event_type, outcome, actor, actor_id, request_id, data, personal, address_hash,
    keelson._uuid7_time(id) between now() - interval '1 minute' and clock_timestamp() as is_of_now, era = keelson._current_era() as is_of_this_era
from keelson.audit_events where id = :'id';
select keelson.audit('regress.thing', null, 'failure', :'ada') as id \gset
select data, outcome, user_id = :'ada' as is_adas from keelson.audit_events where id = :'id';

-- It is in the action's transaction, and goes with it.
begin;
select keelson.audit('regress.thing', '{"gone": true}') is not null as recorded;
rollback;
begin;
savepoint before;
select keelson.audit('regress.thing', '{"gone": true}') is not null as recorded;
rollback to before;
commit;
select count(*) from keelson.audit_events where event_type = 'regress.thing' and data @> '{"gone": true}';

-- What cannot be an event.
select keelson.audit(null);
select keelson.audit('regress.unheard_of');
select keelson.audit(repeat('x', 100));
select keelson.audit('regress.thing', '[1]');
select keelson.audit('regress.thing', '"text"');
select keelson.audit('regress.thing', jsonb_build_object('text', repeat('x', 9000)));
select keelson.audit('regress.thing', outcome => 'perhaps');
select keelson.audit_event_type('Thing', 'x');
select keelson.audit_event_type('regress.thing', '');
select keelson.audit_event_type('regress.thing', 'x', 'nonsense');
select keelson.audit_event_type('auth.login', 'Not yours.');

-- Secrets are taken out by name, however it is written, and by shape, wherever it stands.
create function pg_temp.kept(given jsonb)
returns jsonb
language plpgsql
as $$
declare
    made uuid := keelson.audit('regress.thing', given);
begin
    return (select data from keelson.audit_events where id = made);
end
$$;
select name, pg_temp.kept(jsonb_build_object(name, 'the value')) ->> name as kept
from unnest(array['password', 'newPassword', 'pass_word', 'API-Key', 'apiKey', 'access_token', 'refreshToken', 'client_secret', 'Authorization',
    'Set-Cookie', 'cvv', 'PIN', 'card_number', 'recoveryCodes', 'privateKey', 'key', 'jwt', 'tier', 'feature', 'keyName', 'monkey', 'spinner']) as name;
select pg_temp.kept('{"password": null, "hasPassword": true, "tokens": 1200, "token": "x", "secret": {"deep": [1]}, "list": [{"otp": 123456}]}');
select shape, pg_temp.kept(jsonb_build_object('text', shape)) ->> 'text' as kept
from unnest(array[
    'ks_0123456789abcdef', 'used ks_0123456789abcdef today', 'ksr_0123456789abcdef.', '(ksd_0123456789abcdef)', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    'sk-proj-abcdefgh12345678', 'sk_live_0123456789', 'key=AKIAIOSFODNN7EXAMPLE', 'eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl',
    'Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl!', 'postgres://ada:hunter2@db/x', 'https://example.com/a?b=c',
    '$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA', 'ghp_0123456789abcdef0123', '4111 1111 1111 1111', '4111-1111-1111-1111', 'card 4111111111111111.',
    '4111111111111112', '1737000000000', '378282246310005', 'order 5555555555554444 paid', '00004111111111111111', 'ks_short', 'task-force-of-twelve',
    'risk_assessment_of_2024', '-----BEGIN PRIVATE KEY----- abc', 'nothing here']) as shape;
select pg_temp.kept('{"number": 4111111111111111, "other": 4111111111111112, "time": 1737000000000, "amount": 12.50}');
-- A name is judged once, its value each time.
select pg_temp.kept('{"tokens": 12, "n": 1}') as a_count, pg_temp.kept('{"tokens": "x", "n": 1}') as a_token, pg_temp.kept('{"tokens": 12, "n": 2}') as a_count_again;
select count(*) as of_a_thousand_names
from generate_series(1, 1000) as n
where pg_temp.kept(jsonb_build_object('password' || n, 'x', 'plain' || n, 'x')) = jsonb_build_object('password' || n, '[redacted]', 'plain' || n, 'x')
    and pg_temp.kept(jsonb_build_object(repeat('long', 20) || 'secret' || n, 'x')) = jsonb_build_object(repeat('long', 20) || 'secret' || n, '[redacted]')
    and pg_temp.kept(jsonb_build_object('plain' || n, 4111111111111111)) = jsonb_build_object('plain' || n, '[redacted]');
select pg_temp.kept('{"ks_0123456789abcdef": 1, "deep": {"list": ["ok", ["sk-abcdefghijklmnop"]]}}');

-- What tells of a person is sealed, by name and by shape, and is not in what is open.
select keelson.audit('regress.thing', '{"email": "ada@example.com", "tier": "pro", "who": {"phone": "1"}, "note": "ask bob@example.com", "at": "a@b"}', user_id => :'ada') as id \gset
select data, personal is not null as is_sealed, position('example.com' in encode(personal, 'escape')) as in_clear from keelson.audit_events where id = :'id';

-- Of others, and of the core's types, the core alone may record.
begin;
select keelson.act_as('ada@audit.example.com') = :'ada' as acts;
select keelson.audit('regress.thing', '{"mine": 1}') is not null as recorded;
select keelson.audit('regress.thing', '{"mine": 2}', user_id => :'ada') is not null as recorded;
commit;
begin;
select keelson.act_as('ada@audit.example.com') = :'ada' as acts;
select keelson.audit('regress.thing', user_id => :'ben');
rollback;
begin;
select keelson.act_as('ada@audit.example.com') = :'ada' as acts;
select keelson.audit('auth.login');
rollback;
select event_type, actor, actor_id = :'ada' as by_ada, data from keelson.audit_events where user_id = :'ada' and (actor_id is not null or event_type = 'admin.act_as')
order by id;

-- Nobody changes or removes an event: not the application, the gateway, the administrators, the jobs; not by way of a
-- partition either, which has rights of its own.
create temporary table tries (who name, statement text, outcome text);
grant insert on tries to public;
create function pg_temp.try(statement text)
returns void
language plpgsql
as $$
begin
    execute replace(statement, 'audit_events_today', 'audit_events_' || to_char(now() at time zone 'UTC', 'YYYYMMDD'));
    insert into tries values (current_user, statement, 'done');
exception when others then
    insert into tries values (current_user, statement, sqlstate);
end
$$;
\o /dev/null
select format('set role %I; select pg_temp.try(%L); reset role;', role, statement)
from unnest(array['keelson_app', 'keelson_gateway', 'keelson_admin', 'keelson_jobs', 'keelson_key_user']) as role,
    unnest(array[
        'update keelson.audit_events set outcome = ''success''', 'delete from keelson.audit_events', 'truncate keelson.audit_events',
        'insert into keelson.audit_events (user_id, id) values (gen_random_uuid(), keelson.uuid7())',
        'delete from keelson.audit_tiles', 'delete from keelson.audit_checkpoints', 'update keelson.audit_tombstones set reason = ''''',
        'update keelson.audit_events_today set outcome = ''success''', 'delete from keelson.audit_events_today',
        'insert into keelson.audit_events_today (user_id, id) values (gen_random_uuid(), keelson.uuid7())', 'select from keelson.audit_events_today']) as statement
\gexec
\o
select who, outcome, count(*) from tries group by who, outcome order by who, outcome;
drop table tries;

-- When the insert fails the action goes on, and the event comes by the ring once the action has committed, and only then.
create table regress_audit_actions (n integer);
create function regress_audit_fail() returns trigger language plpgsql as $$ begin raise exception 'the disk is on fire'; end $$;
create trigger regress_audit_fail before insert on keelson.audit_events for each row when (new.data @> '{"fails": true}') execute function regress_audit_fail();
create function pg_temp.arrived(what jsonb, wanted integer)
returns integer
language plpgsql
as $$
declare
    found integer;
begin
    for i in 1..200 loop
        select count(*) into found from keelson.audit_events where event_type = 'regress.thing' and data @> what;
        exit when found >= wanted;
        perform pg_sleep(0.05);
    end loop;
    return found;
end
$$;
begin;
insert into regress_audit_actions values (1);
select keelson.audit('regress.thing', '{"fails": true, "n": 1}') is not null as went_on;
savepoint within;
select keelson.audit('regress.thing', '{"fails": true, "n": 2}') is not null as went_on;
rollback to within;
savepoint within;
select keelson.audit('regress.thing', '{"fails": true, "n": 3}', user_id => :'ada') is not null as went_on;
release within;
select count(*) as not_yet from keelson.audit_events where data @> '{"fails": true}';
alter table keelson.audit_events disable trigger regress_audit_fail;
commit;
begin;
alter table keelson.audit_events enable trigger regress_audit_fail;
insert into regress_audit_actions values (2);
select keelson.audit('regress.thing', '{"fails": true, "n": 4}') is not null as went_on;
rollback;
select pg_temp.arrived('{"fails": true}', 2) as arrived;
select data, user_id = :'ada' as is_adas from keelson.audit_events where data @> '{"fails": true}' order by data -> 'n';
select * from regress_audit_actions;
-- The parent first: dropping the trigger locks the partitions in an order of its own, and the keeper may be reading them.
begin;
lock table keelson.audit_events in access exclusive mode;
drop trigger regress_audit_fail on keelson.audit_events;
commit;
drop function regress_audit_fail();
drop table regress_audit_actions;

-- In a read-only transaction too.
begin read only;
select keelson.audit('regress.thing', '{"readOnly": true}') is not null as went_on;
commit;
select pg_temp.arrived('{"readOnly": true}', 1) as arrived;

-- A refusal that is made to look like another by its hash (these two names of a user agent have one) is one of its own.
do $$
declare
    agent text;
begin
    foreach agent in array array['cur0iegqTxF)Th26wrjzknQ2)lY', 'cur5HCTVT A3zcT6R.(a28E1u 1'] loop
        begin
            perform keelson.dispatch((select r.id from keelson.routes as r where r.method = 'GET' and r.template = 'user/activity'), null, null, null,
                json_build_object('ip', '192.0.2.1', 'userAgent', agent));
        exception when sqlstate 'KS401' then
            null;
        end;
    end loop;
end $$;
create function pg_temp.refused_agents() returns setof text language plpgsql as $$
declare
    agents text[];
begin
    for i in 1..200 loop
        agents := array(
            select keelson._audit_open(e.user_id, e.id, e.personal) ->> 'userAgent' from keelson.audit_events as e
            where e.event_type = 'security.unauthenticated' and e.data @> '{"endpoint": "GET user/activity v1", "status": 401, "code": "UNAUTHENTICATED"}'
                and keelson._audit_open(e.user_id, e.id, e.personal) ->> 'userAgent' like 'cur%'
        );
        exit when cardinality(agents) > 1;
        perform pg_sleep(0.05);
    end loop;
    return query select unnest(agents) order by 1;
end $$;
select * from pg_temp.refused_agents();

-- The record of a request goes straight into the day's partition, as the action's own transaction and not one within it;
-- where there is more to do than that knows of, it goes as all others.
create function regress_audit_act() returns void language plpgsql as $$
begin
    perform keelson.audit('regress.thing', jsonb_build_object('how', current_setting('regress.how')));
end $$;
comment on function regress_audit_act() is 'Does something.';
select keelson.route('POST regress/audit-acts', 'public.regress_audit_act', is_public => true) as route \gset
select format('keelson.audit_events_%s', to_char(now() at time zone 'UTC', 'YYYYMMDD')) as today \gset
create function pg_temp.acts(route integer, how text) returns table (events bigint, is_direct boolean, data jsonb) language plpgsql as $$
begin
    perform set_config('regress.how', how, true);
    perform keelson.dispatch(route, null, null, null, '{"ip": "192.0.2.1", "requestId": "0194e0a0-0000-7000-8000-00000000000f"}');
    return query select count(*), bool_and(e.xmin::text::numeric = e.xid::text::numeric % 4294967296), min(e.data::text)::jsonb
    from keelson.audit_events as e where e.event_type = 'regress.thing' and e.data ->> 'how' = how;
end $$;
select * from pg_temp.acts(:route, 'as it is');
begin;
lock table keelson.audit_events in access exclusive mode;
create function regress_audit_mark() returns trigger language plpgsql as $$ begin new.data := new.data || '{"isMarked": true}'; return new; end $$;
create trigger regress_audit_mark before insert on keelson.audit_events for each row execute function regress_audit_mark();
select * from pg_temp.acts(:route, 'with a trigger');
rollback;
begin;
lock table keelson.audit_events in access exclusive mode;
alter table keelson.audit_events add column extra text default 'there';
select * from pg_temp.acts(:route, 'with another column');
select extra from keelson.audit_events where data ->> 'how' = 'with another column';
rollback;
begin;
lock table keelson.audit_events in access exclusive mode;
alter table keelson.audit_events alter column event_type type varchar(64), alter column data type json;
select * from pg_temp.acts(:route, 'with other types');
rollback;
begin;
lock table keelson.audit_events in access exclusive mode;
delete from keelson.audit_events;
alter table :today alter column personal set not null, alter column address_hash set not null;
select * from pg_temp.acts(:route, 'with an address always');
rollback;
begin;
lock table keelson.audit_events in access exclusive mode;
alter table :today add constraint regress_audit_check check (event_type <> 'regress.thing') not valid;
select * from pg_temp.acts(:route, 'with a check that fails');
rollback;
begin;
lock table keelson.audit_events in access exclusive mode;
create index on :today ((data ->> 'how')) where event_type = 'regress.thing';
create index on :today using hash (event_type);
select * from pg_temp.acts(:route, 'with other indexes');
set local enable_seqscan = off;
select count(*) from keelson.audit_events where event_type = 'regress.thing' and data ->> 'how' = 'with other indexes';
rollback;
begin;
lock table keelson.audit_events in access exclusive mode;
create index on :today (event_type) where outcome = 'success';
create index on :today (event_type) where outcome = 'denied';
select * from pg_temp.acts(:route, 'with more B-trees');
create extension amcheck;
select count(bt_index_check(i.indexrelid, true)) as indexes
from pg_index as i join pg_class as c on c.oid = i.indexrelid join pg_am as a on a.oid = c.relam
where i.indrelid = :'today'::regclass and a.amname = 'btree';
rollback;
-- An index of ranges is told of what it knows a range of already, and need not be of another; by the record of a request too.
begin;
lock table keelson.audit_events in access exclusive mode;
delete from keelson.audit_events;
create function pg_temp.ranges(day regclass) returns oid language sql as $$
    select i.indexrelid from pg_index as i join pg_class as c on c.oid = i.indexrelid join pg_am as a on a.oid = c.relam where i.indrelid = day and a.amname = 'brin'
$$;
select * from pg_temp.acts(:route, 'in a range that is not known');
select count(brin_summarize_new_values(pg_temp.ranges(:'today'))) as summarised;
select * from pg_temp.acts(:route, 'in a range that is known');
select * from pg_temp.acts(:route, 'and once more');
set local enable_seqscan = off;
set local enable_indexscan = off;
set local random_page_cost = 10000;
select data ->> 'how' as how from keelson.audit_events where id >= (select id from keelson.audit_events where data ->> 'how' = 'in a range that is not known')
and event_type = 'regress.thing' order by id;
rollback;
begin;
lock table keelson.audit_events in access exclusive mode;
drop table :today;
select * from pg_temp.acts(:route, 'without a partition');
rollback;
select * from pg_temp.acts(:route, 'as it was');

-- What was settled of a day stands until somebody writes to it, its file grows or is another partition's, or for who sees a
-- younger tree. Of no day there is nothing to be sealed.
create function pg_temp.settles(bytes bigint, size bigint, partition regclass) returns boolean language plpgsql as $$
declare
    day constant integer := extract(epoch from now())::bigint / 86400;
begin
    perform keelson._audit_day_settle('pg_class', day, keelson._audit_day_note('pg_class', day, 7), 5);
    return keelson._audit_day_is_settled(partition, day, bytes, size);
end $$;
create function pg_temp.eventually(bytes bigint, size bigint, partition regclass default 'pg_class') returns boolean language plpgsql as $$
begin
    -- Others write events too.
    for i in 1..100 loop
        if pg_temp.settles(bytes, size, partition) then
            return true;
        end if;
    end loop;
    return false;
end $$;
create function pg_temp.is_settled() returns boolean language sql as $$
    select keelson._audit_day_is_settled('pg_class', (extract(epoch from now())::bigint / 86400)::integer, 7, 5)
$$;
select pg_temp.eventually(7, 5), pg_temp.eventually(7, 6), pg_temp.eventually(7, 4) as younger, pg_temp.eventually(8, 5) as grown,
    pg_temp.eventually(7, 5, 'pg_proc') as another, keelson._audit_has_unsealed('{}', 0, '0', keelson.uuid7()) as unsealed;
select keelson.audit('regress.thing') is not null as recorded;
select pg_temp.is_settled();
select pg_temp.eventually(7, 5);
select events, is_direct from pg_temp.acts(:route, 'of a day that was settled');
select pg_temp.is_settled();
begin;
select pg_temp.eventually(7, 5);
select keelson.audit('regress.thing') is not null as recorded;
rollback;
select pg_temp.is_settled();

select keelson.route_remove('POST regress/audit-acts');
drop function regress_audit_act();
