-- Errors of endpoint functions: what the client is told, what only the log, and what is left behind.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create schema regress_errors;
grant usage on schema regress_errors to public;
create table regress_errors.parents (id int primary key);
create table regress_errors.things (
    id int primary key,
    name text constraint things_name_key unique,
    code text constraint things_code_key unique,
    size int constraint things_size_check check (size > 0),
    weight int constraint things_weight_check check (weight > 0),
    parent_id int constraint things_parent_id_fkey references regress_errors.parents (id),
    late_id int constraint things_late_id_fkey references regress_errors.parents (id) deferrable initially deferred,
    during int4range,
    must int not null,
    constraint things_during_excl exclude using gist (during with &&)
);
comment on constraint things_name_key on regress_errors.things is 'the name is taken';
comment on constraint things_size_check on regress_errors.things is 'a size is more than nothing';
comment on constraint things_late_id_fkey on regress_errors.things is 'there is no such late parent';
create domain regress_errors.even as int check (value % 2 = 0);
comment on domain regress_errors.even is 'the number is not even';
create domain regress_errors.mute as int check (value % 2 = 0);
alter table regress_errors.things enable row level security;
create policy nobody on regress_errors.things using (true) with check (name is distinct from 'forbidden');
grant select, insert, update, delete on regress_errors.things, regress_errors.parents to keelson_app;
insert into regress_errors.things (id, name, code, during, must) values (1, 'first', 'first', '[1,5)', 1);

create function regress_errors.run(statement text)
returns text
language plpgsql
as $$
begin
    execute statement;
    return 'done';
end
$$;
comment on function regress_errors.run(text) is 'Run a statement.';
select keelson.route('POST regress-run', 'regress_errors.run', is_public => true) as id \gset run_

-- Everything of the error that leaves the dispatcher.
create function pg_temp.fail(route_id int, statement text)
returns table (part text, said text)
language plpgsql
as $$
declare
    state text; message text; inner_detail text; hint text; code text; field text; kind text; relation text;
    answer text;
begin
    select d.status || ' ' || convert_from(d.body, 'UTF8') into answer
    from keelson.dispatch(route_id, null, null, convert_to(json_build_object('statement', statement)::text, 'UTF8'), '{}') as d;
    return query values ('reply', answer);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, inner_detail = pg_exception_detail,
        hint = pg_exception_hint, code = constraint_name, field = column_name, kind = pg_datatype_name, relation = table_name;
    return query
        select * from (values ('state', state), ('message', message), ('detail', inner_detail), ('hint', hint),
            ('code', code), ('field', field), ('headers', kind), ('table', relation)) as parts (part, said)
        where parts.said <> '';
end
$$;

select * from pg_temp.fail(:run_id, 'select 1');
-- Our own errors pass as they are.
select * from pg_temp.fail(:run_id, $$select keelson.raise(404, 'NOT_FOUND', 'there is no such thing', 'Look elsewhere.', 'thing_id')$$);
select * from pg_temp.fail(:run_id, $$do 'begin raise exception ''hand-made'' using errcode = ''KS409'', constraint = ''HAND_MADE''; end'$$);
-- Constraints with a comment speak; without one a conflict is general and the rest is ours.
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, name, must) values (2, 'first', 1)$$);
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, code, must) values (2, 'first', 1)$$);
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, size, must) values (2, 0, 1)$$);
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, weight, must) values (2, 0, 1)$$);
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, parent_id, must) values (2, 9, 1)$$);
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, during, must) values (2, '[1,2)', 1)$$);
comment on constraint things_during_excl on regress_errors.things is 'the time is taken';
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, during, must) values (2, '[1,2)', 1)$$);
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id) values (2)$$);
-- A deferred constraint is the request's error too, not the commit's.
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, late_id, must) values (2, 9, 1)$$);
-- Inside functions that caught it, and threw it on.
select * from pg_temp.fail(:run_id, $$do 'begin insert into regress_errors.things (id, name, must) values (2, ''first'', 1); exception when others then raise; end'$$);
-- Domains inside the function.
select * from pg_temp.fail(:run_id, 'select 3::regress_errors.even');
select * from pg_temp.fail(:run_id, 'select 3::regress_errors.mute');
-- What is ours stays as it is: the gateway makes 500 of it.
select * from pg_temp.fail(:run_id, 'select 1 / 0');
select * from pg_temp.fail(:run_id, 'select * from regress_errors.nowhere');
select * from pg_temp.fail(:run_id, 'select * from keelson.idempotency_keys');
select * from pg_temp.fail(:run_id, $$insert into regress_errors.things (id, name, must) values (2, 'forbidden', 1)$$);
select * from pg_temp.fail(:run_id, $$select 'x'::int$$);
select * from pg_temp.fail(:run_id, $$do 'begin raise exception ''again'' using errcode = ''40001''; end'$$);
select count(*) from regress_errors.things;

-- The time limit.
create function regress_errors.sleep(seconds float8) returns text language plpgsql
as $$ begin perform pg_sleep(seconds); return 'slept'; end $$;
comment on function regress_errors.sleep(float8) is 'Sleep.';
create function regress_errors.sleep_on(seconds float8) returns text language plpgsql
as $$ begin perform pg_sleep(seconds); return 'slept'; exception when query_canceled then return 'went on'; end $$;
comment on function regress_errors.sleep_on(float8) is 'Sleep, and go on when woken.';
create function regress_errors.sleep_unset(seconds float8) returns text language plpgsql
as $$ begin set local statement_timeout = 0; perform pg_sleep(seconds); return 'slept'; end $$;
comment on function regress_errors.sleep_unset(float8) is 'Sleep, and try to have all the time.';
select keelson.route('POST regress-sleep', 'regress_errors.sleep', is_public => true, timeout => '100 milliseconds') as id \gset sleep_
select keelson.route('POST regress-sleep-on', 'regress_errors.sleep_on', is_public => true, timeout => '100 milliseconds') as id \gset on_
select keelson.route('POST regress-sleep-unset', 'regress_errors.sleep_unset', is_public => true, timeout => '100 milliseconds') as id \gset unset_
create function pg_temp.sleep(route_id int, seconds float8)
returns text
language sql
as $$
select d.status || ' ' || convert_from(d.body, 'UTF8')
from keelson.dispatch(route_id, null, null, convert_to(json_build_object('seconds', seconds)::text, 'UTF8'), '{}') as d
$$;
select pg_temp.sleep(:sleep_id, 0);
select pg_temp.sleep(:sleep_id, 30);
select pg_temp.sleep(:on_id, 30);
select pg_temp.sleep(:unset_id, 30);
-- The limit ends with the call.
select pg_temp.sleep(:sleep_id, 0), pg_sleep(0.3);
-- Nor does it reach beyond it when it has passed where nothing looks for it: in one expression of long numbers.
create function regress_errors.multiply(digits int) returns int language sql
as $$ select sign(n * n - n * n + n * n - n * n + n * n - n * n + n * n - n * n)::int from repeat('9', digits) as d, cast(d as numeric) as n $$;
comment on function regress_errors.multiply(int) is 'Multiply.';
select keelson.route('POST regress-multiply', 'regress_errors.multiply', is_public => true, timeout => '100 milliseconds') > 0 as is_made;
do $$
begin
    perform keelson.dispatch((select r.id from keelson.routes as r where r.template = 'regress-multiply'), null, null, '{"digits": 60000}', '{}');
exception
    when query_canceled then
        raise warning '%', sqlerrm;
end
$$;
-- The server's own limit stays in force beside it.
select keelson.route('POST regress-sleep', 'regress_errors.sleep', is_public => true, timeout => '1 hour') = :sleep_id as same;
set statement_timeout = 50;
select pg_temp.sleep(:sleep_id, 30);
reset statement_timeout;

-- Nothing is left behind in the session: settings, roles, and in the gateway's sessions temporary tables.
create function regress_errors.leave(fails boolean default false)
returns text
language plpgsql
as $$
begin
    perform set_config('search_path', 'regress_errors', false);
    perform set_config('regress.mine', 'kept', false);
    set session work_mem = '1MB';
    set local timezone = 'Asia/Tokyo';
    create temporary table left_behind (a int);
    insert into left_behind values (1);
    if fails then
        raise exception 'failed';
    end if;
    return current_setting('search_path') || ' ' || (select count(*) from left_behind);
end
$$;
comment on function regress_errors.leave(boolean) is 'Leave things behind.';
select keelson.route('POST regress-leave', 'regress_errors.leave', is_public => true) as id \gset leave_
create function regress_errors.state() returns text language sql
as $$ select concat_ws(' | ', current_user, current_setting('search_path'), nullif(current_setting('regress.mine', true), ''), current_setting('work_mem'), current_setting('timezone'), to_regclass('pg_temp.left_behind')) $$;
set work_mem = '4MB';
set timezone = 'UTC';
set search_path = public;
set session authorization keelson_gateway;
select regress_errors.state();
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:leave_id, null, null, '{}', '{}') as d;
select regress_errors.state();
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:leave_id, null, null, '{"fails": true}', '{}') as d;
select regress_errors.state();
begin;
savepoint one;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:leave_id, null, null, '{"fails": true}', '{}') as d;
rollback to savepoint one;
select regress_errors.state();
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:leave_id, null, null, '{}', '{}') as d;
select regress_errors.state();
commit;
reset session authorization;
begin;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:leave_id, null, null, '{}', '{}') as d;
select regress_errors.state();
rollback;

-- A function of SQL's language that failed in its middle begins anew, where the transaction goes on.
create function regress_errors.divide(by int) returns int language sql as $$ select 1; select 10 / (by - n) from generate_series(1, 3) as n $$;
comment on function regress_errors.divide(int) is 'Divide.';
select keelson.route('POST regress-divide', 'regress_errors.divide', is_public => true) as id \gset divide_
begin;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:divide_id, null, null, '{"by": 11}', '{}') as d;
savepoint one;
select * from keelson.dispatch(:divide_id, null, null, '{"by": 1}', '{}');
rollback to savepoint one;
select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(:divide_id, null, null, '{"by": 6}', '{}') as d;
rollback;

-- A call inside a call, and a call that is no set's.
create function regress_errors.nested() returns text language plpgsql security definer
as $$ begin return (select keelson.dispatch(1, null, null, null, null))::text; end $$;
comment on function regress_errors.nested() is 'Call the dispatcher.';
select keelson.route('POST regress-nested', 'regress_errors.nested', is_public => true) as id \gset nested_
select * from keelson.dispatch(:nested_id, null, null, null, '{}');
select * from keelson.dispatch(:run_id, null, null, '{"statement": "select 1"}', null);
select coalesce(keelson.dispatch(:run_id, null, null, '{}', '{}')::text, 'x');

-- All that was counted, by outcome.
select labels ->> 'outcome' as outcome, value > 0 as some
from keelson.gateway_metrics()
where name = 'keelson_dispatch_calls_total' and labels ->> 'route' = 'POST regress-run'
order by 1;

drop schema regress_errors cascade;
delete from keelson.routes where owner = 'regress_errors';
