-- Registration of endpoints: what is refused, upsert, owners, overrides, and that backends see changes.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create schema regress_routes;
grant usage on schema regress_routes to public;
create type regress_routes.thing as (thing_id int, thing_name text);

create function regress_routes.thing(thing_id int, name text default 'x')
returns regress_routes.thing
language plpgsql
as $$ begin return row(thing_id, name)::regress_routes.thing; end $$;
comment on function regress_routes.thing(int, text) is 'One thing.';

create function regress_routes.mute() returns int language plpgsql as 'begin return 1; end';
create function regress_routes.twice() returns int language plpgsql as 'begin return 1; end';
create function regress_routes.twice(a int) returns int language plpgsql as 'begin return 1; end';
create procedure regress_routes.proc() language plpgsql as 'begin null; end';
create function regress_routes.unnamed(int) returns int language plpgsql as 'begin return 1; end';
create function regress_routes.upper("userId" int) returns int language plpgsql as 'begin return 1; end';
create function regress_routes.clash(a_1 int, a1 int) returns int language plpgsql as 'begin return 1; end';
create function regress_routes.poly(a anyelement) returns int language plpgsql as 'begin return 1; end';
create function regress_routes.variadic(variadic a int[]) returns int language plpgsql as 'begin return 1; end';
create function regress_routes.inout(inout a int) language plpgsql as 'begin a := 1; end';
create function regress_routes.outs(a int, out b int, out c text) language plpgsql as $$ begin b := a; c := 'c'; end $$;
create function regress_routes.triggered() returns trigger language plpgsql as 'begin return null; end';
create function regress_routes.shapeless() returns record language plpgsql as 'begin return null; end';
create function regress_routes.replies() returns setof keelson.reply language plpgsql as 'begin return; end';
create function regress_routes.secret() returns int language plpgsql as 'begin return 1; end';
revoke execute on function regress_routes.secret() from public;
do $$
declare
    f regprocedure;
begin
    for f in select oid::regprocedure from pg_proc where pronamespace = 'regress_routes'::regnamespace and prokind = 'f' and proname not in ('mute', 'thing') loop
        execute format('comment on function %s is %L', f, 'A function.');
    end loop;
end
$$;

create role regress_routes_super superuser;
create role regress_routes_bypass bypassrls;
create role regress_routes_member;
grant regress_routes_bypass to regress_routes_member;
create role regress_routes_far in role regress_routes_member;
create role regress_routes_maker createrole;
create role regress_routes_admin in role keelson_admin;
create role regress_routes_app;
create role regress_routes_nobody;

-- What is registered, without ids and times.
create view pg_temp.mine as
select method, template, shape, version, owner, function, role, is_public, timeout_ms, description
from keelson.routes
where function like 'regress_routes.%'
order by template, method, version;

-- The function.
select keelson.route('GET things', 'thing');
select keelson.route('GET things', 'regress_routes.none');
select keelson.route('GET things', 'regress_routes.twice');
select keelson.route('GET things', 'regress_routes.proc');
select keelson.route('GET things', 'regress_routes.mute');
select keelson.route('GET things', 'regress_routes.unnamed');
select keelson.route('GET things', 'regress_routes.upper');
select keelson.route('GET things', 'regress_routes.clash');
select keelson.route('GET things', 'regress_routes.poly');
select keelson.route('GET things', 'regress_routes.variadic');
select keelson.route('GET things', 'regress_routes.inout');
select keelson.route('GET things', 'regress_routes.triggered');
select keelson.route('GET things', 'regress_routes.shapeless');
select keelson.route('GET things', 'regress_routes.replies');
select keelson.route('GET things', 'regress_routes.secret');
create schema regress_routes_closed;
create function regress_routes_closed.thing() returns int language plpgsql as 'begin return 1; end';
comment on function regress_routes_closed.thing() is 'A function.';
select keelson.route('GET things', 'regress_routes_closed.thing');
drop schema regress_routes_closed cascade;

-- The endpoint.
select keelson.route('things', 'regress_routes.thing');
select keelson.route('HEAD things', 'regress_routes.thing');
select keelson.route('GET /', 'regress_routes.thing');
select keelson.route('GET v1/things', 'regress_routes.thing');
select keelson.route('GET things//x', 'regress_routes.thing');
select keelson.route('GET things/../x', 'regress_routes.thing');
select keelson.route('GET things/{id}', 'regress_routes.thing');
select keelson.route('GET things/:thingId/:thingId', 'regress_routes.thing');
select keelson.route('GET things/:id', 'regress_routes.thing');
select keelson.route('GET things/:thing_id', 'regress_routes.thing');

-- The role.
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_none');
select keelson.route('GET things', 'regress_routes.thing', role => 'keelson_owner');
select keelson.route('GET things', 'regress_routes.thing', role => 'keelson_system');
select keelson.route('GET things', 'regress_routes.thing', role => 'keelson_admin');
select keelson.route('GET things', 'regress_routes.thing', role => 'keelson_jobs');
select keelson.route('GET things', 'regress_routes.thing', role => 'keelson_gateway');
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_super');
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_bypass');
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_member');
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_far');
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_maker');
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_admin');
select keelson.route('GET things', 'regress_routes.thing', role => 'pg_execute_server_program');
set session authorization regress_routes_admin;
select keelson.route('GET things', 'regress_routes.thing', role => 'regress_routes_app');
reset session authorization;

-- The settings.
select keelson.route('GET things', 'regress_routes.thing', permission => 'no.such');
select keelson.route('GET things', 'regress_routes.thing', scope => 'No Scope');
select keelson.route('GET things', 'regress_routes.thing', permission => 'users.read', is_public => true);
select keelson.route('GET things', 'regress_routes.thing', rate_class => 'none');
select keelson.route('GET things', 'regress_routes.thing', timeout => '0 seconds');
select keelson.route('GET things', 'regress_routes.thing', timeout => '2 hours');
select keelson.route('GET things', 'regress_routes.thing', body_limit => 10485761);
select keelson.route('GET things', 'regress_routes.thing', pool => 'none');
select keelson.route('GET things', 'regress_routes.thing', kind => 'none');
select keelson.route('POST things', 'regress_routes.thing', kind => 'watch');
select keelson.route('GET things', 'regress_routes.thing', kind => 'rows');
select keelson.route('GET things', 'regress_routes.thing', content_types => '{text/csv}');
select keelson.route('GET things', 'regress_routes.thing', version => '2');
select keelson.route('GET things', 'regress_routes.thing', status => 404);
select keelson.route('GET things', 'regress_routes.thing', sunset_at => '2030-01-01');
select keelson.route('GET things', 'regress_routes.thing', deprecated_at => '2030-01-02', sunset_at => '2030-01-01');
select keelson.route('GET things', 'regress_routes.thing', timeout => null);

-- Another owner's endpoint stays theirs.
select keelson.route('GET regress-things', 'regress_routes.thing') > 0 as registered;
create schema regress_routes_other;
create function regress_routes_other.thing() returns int language plpgsql as 'begin return 1; end';
grant usage on schema regress_routes_other to keelson_app;
comment on function regress_routes_other.thing() is 'A thing.';
select keelson.route('GET regress-things', 'regress_routes_other.thing');

-- Nothing of all that was registered; now what is. Slashes and api/ around the path do not count.
select * from pg_temp.mine;
select keelson.route('  get  /api/regress-things/:thingId/ ', 'regress_routes.thing') as id \gset first_
select keelson.route('POST regress-things', 'regress_routes.outs', version => 'v2', description => 'Outs.') > 0 as registered;
select keelson.route('PUT regress-things/:thingId', 'regress_routes.thing', role => 'regress_routes_app', timeout => '1.5 seconds') > 0 as registered;
select * from pg_temp.mine;

-- The same shape is the same endpoint and keeps its id; registering it again changes nothing.
create temporary table before as select id, updated_at, xmin::text as version_of_row from keelson.routes where id = :first_id;
select keelson.route('GET regress-things/:thingId', 'regress_routes.thing') = :first_id as same;
select r.updated_at = b.updated_at as untouched, r.xmin::text = b.version_of_row as unwritten
from keelson.routes as r join before as b using (id);
alter function regress_routes.thing(int, text) rename to item;
select keelson.route('GET regress-things/:name', 'regress_routes.item', is_public => true) = :first_id as same;
select r.template, r.is_public, r.updated_at > b.updated_at as later
from keelson.routes as r join before as b using (id);
alter function regress_routes.item(int, text) rename to thing;

-- A backend that has called a route sees its changes at once.
create function pg_temp.ask(route_id int, query json default null)
returns table (status int, body text)
language sql
as $$ select d.status, convert_from(d.body, 'UTF8') from keelson.dispatch(route_id, null, query, null, '{}') as d $$;
select keelson.route('GET regress-things/:thingId', 'regress_routes.thing', is_public => true) = :first_id as same;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
create or replace function regress_routes.thing(thing_id int, name text default 'y')
returns regress_routes.thing
language plpgsql
as $$ begin return row(-thing_id, name)::regress_routes.thing; end $$;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
alter type regress_routes.thing add attribute is_new boolean;
create or replace function regress_routes.thing(thing_id int, name text default 'y')
returns regress_routes.thing
language plpgsql
as $$ begin return row(thing_id, name, true)::regress_routes.thing; end $$;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
select keelson.route('GET regress-things/:thingId', 'regress_routes.thing') = :first_id as same;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
begin;
select keelson.route('GET regress-things/:thingId', 'regress_routes.thing', is_public => true) = :first_id as same;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
rollback;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');

-- What is wrong with a route after it was registered is an error inside, and nothing of the client's.
select keelson.route('GET regress-things/:thingId', 'regress_routes.thing', role => 'regress_routes_app', is_public => true) = :first_id as same;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
grant regress_routes_bypass to regress_routes_app;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
revoke regress_routes_bypass from regress_routes_app;
alter role regress_routes_app bypassrls;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
alter role regress_routes_app nobypassrls;
revoke execute on function regress_routes.thing(int, text) from public;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
grant execute on function regress_routes.thing(int, text) to regress_routes_app;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
grant execute on function regress_routes.thing(int, text) to keelson_app;

-- Overrides are the operator's; registering the route again leaves them.
select keelson.route_override('GET regress-things/:any', timeout => '3 seconds', pool => 'slow', is_enabled => true);
select keelson.route('GET regress-things/:thingId', 'regress_routes.thing', timeout => '1 second', is_public => true) = :first_id as same;
select timeout_ms, pool, body_limit from keelson.gateway_routes() where id = :first_id;
select keelson.route_override('GET regress-things/:any', is_enabled => false);
select count(*) from keelson.gateway_routes() where id = :first_id;
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
select keelson.route_override('GET regress-things/:any', timeout => '3 hours');
select keelson.route_override('GET regress-none', is_enabled => false);
select keelson.route_override_remove('GET regress-things/:thingId'), keelson.route_override_remove('GET regress-things/:thingId');
select timeout_ms, pool from keelson.gateway_routes() where id = :first_id;

-- Naming all of an owner's endpoints anew takes away those that are not named.
begin;
select keelson.routes_begin('regress_routes');
select keelson.route('GET regress-things/:thingId', 'regress_routes.thing', is_public => true) = :first_id as same;
select keelson.routes_end('regress_routes');
commit;
select method, template, is_stale from keelson.routes where owner = 'regress_routes';
select keelson.route_remove('GET regress-things/:thingId'), keelson.route_remove('GET regress-things/:thingId');
select * from pg_temp.ask(:first_id, '{"path": {"thingId": "7"}}');
select * from pg_temp.ask(null);

-- Who may.
set role regress_routes_admin;
select keelson.route('GET regress-things', 'regress_routes.thing') > 0 as registered;
select count(*) from keelson.effective_routes where template = 'regress-things';
select keelson.route_remove('GET regress-things');
reset role;
set role regress_routes_nobody;
select keelson.route('GET regress-things', 'regress_routes.thing');
select keelson.route_remove('GET regress-things');
select keelson.route_override('GET regress-things');
select keelson.routes_begin('keelson');
select * from keelson.routes;
select * from keelson.gateway_routes();
reset role;
set role keelson_app;
select keelson.route('GET regress-things', 'regress_routes.thing');
reset role;

-- A trigger's function is nothing to call.
select keelson._routes_changed();

drop view pg_temp.mine;
drop schema regress_routes cascade;
drop schema regress_routes_other cascade;
drop role regress_routes_super, regress_routes_bypass, regress_routes_member, regress_routes_far, regress_routes_maker,
    regress_routes_admin, regress_routes_app, regress_routes_nobody;
