-- Who is calling: credentials, sessions, permissions, cookies; that nobody can be somebody else; act_as.
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;

create schema regress_identity;
grant usage on schema regress_identity to public;
\set ada '''10000000-0000-7000-8000-00000000000a'''
\set eve '''10000000-0000-7000-8000-00000000000e'''
\set ada_session '''10000000-0000-7000-8000-0000000000a1'''
\set eve_session '''10000000-0000-7000-8000-0000000000e1'''
insert into keelson.users (id, email, name)
values (:ada, 'regress-ada@example.com', 'Ada'), (:eve, 'regress-eve@example.com', 'Eve');
insert into keelson.user_emails (email, user_id)
values ('regress-ada@example.com', :ada), ('regress-eve@example.com', :eve);
insert into keelson.sessions (user_id, id, refresh_key_id, aal, expires_at)
values (:ada, :ada_session, 1, 2, now() + interval '1 day'), (:eve, :eve_session, 1, 1, now() + interval '1 day');
select keelson._access_token_sign(:ada, :ada_session, 1, 900) as token \gset ada_
select keelson._access_token_sign(:eve, :eve_session, 1, 900) as token \gset eve_
select keelson._access_token_sign(:ada, '10000000-0000-7000-8000-0000000000a9', 1, 900) as token \gset unknown_
select keelson._access_token_sign(:eve, :ada_session, 1, 900) as token \gset mixed_
select keelson.jwt_sign(jsonb_build_object(
    'iss', current_setting('keelson.public_url'), 'aud', current_setting('keelson.public_url'), 'sub', :ada, 'sid', :ada_session,
    'iat', extract(epoch from now())::bigint - 1000, 'exp', extract(epoch from now())::bigint - 100, 'jti', 'x', 'aal', 1), 'at+jwt') as token \gset expired_

create table regress_identity.notes (user_id uuid not null, text text);
alter table regress_identity.notes enable row level security;
alter table regress_identity.notes force row level security;
select keelson._user_policies('regress_identity.notes');
grant select, insert on regress_identity.notes to keelson_app;
insert into regress_identity.notes values (:ada, 'of ada'), (:eve, 'of eve');

create function regress_identity.whoami()
returns jsonb
language plpgsql
as $$
begin
    return jsonb_build_array(
        (select u.name from (values ('10000000-0000-7000-8000-00000000000a'::uuid, 'Ada'), ('10000000-0000-7000-8000-00000000000e', 'Eve')) as u (id, name)
         where u.id = keelson.current_user_id()),
        keelson.current_session_id() is not null, keelson.current_actor(), current_user, session_user,
        (select string_agg(n.text, ',' order by n.text) from regress_identity.notes as n));
exception when insufficient_privilege then
    return jsonb_build_array(sqlerrm);
end
$$;
comment on function regress_identity.whoami() is 'Tell who is calling.';
select keelson.route('GET regress-whoami', 'regress_identity.whoami') as id \gset private_
select keelson.route('GET regress-anybody', 'regress_identity.whoami', is_public => true) as id \gset public_
select keelson.route('POST regress-whoami', 'regress_identity.whoami') as id \gset post_
select keelson.route('POST regress-anybody', 'regress_identity.whoami', is_public => true) as id \gset public_post_
select keelson.route('GET regress-read', 'regress_identity.whoami', permission => 'users.read') as id \gset read_
select keelson.route('GET regress-scope', 'regress_identity.whoami', scope => 'usage.write') as id \gset scope_
select keelson.route('GET regress-both', 'regress_identity.whoami', scope => 'usage.write', permission => 'users.read') as id \gset both_

create function pg_temp.ask(route_id int, token text, caller jsonb default '{}', body text default null)
returns table (status int, headers jsonb, body text)
language sql
as $$
select d.status, d.headers - ':user', convert_from(d.body, 'UTF8')
from keelson.dispatch(route_id, token, null, convert_to(body, 'UTF8'), ((case when token is not null then '{"via": "bearer"}' else '{}' end)::jsonb || caller)::json) as d
$$;

-- Credentials.
select * from pg_temp.ask(:private_id, :'ada_token');
select * from pg_temp.ask(:private_id, :'eve_token');
select d.headers from keelson.dispatch(:private_id, :'ada_token', null, null, '{}') as d;
select * from pg_temp.ask(:private_id, null);
select * from pg_temp.ask(:private_id, '');
select * from pg_temp.ask(:private_id, 'nonsense');
select * from pg_temp.ask(:private_id, 'eyJ.eyJ.x');
select * from pg_temp.ask(:private_id, :'ada_token' || 'x');
select * from pg_temp.ask(:private_id, overlay(:'ada_token' placing split_part(:'eve_token', '.', 2) from position('.' in :'ada_token') + 1 for length(split_part(:'ada_token', '.', 2))));
select * from pg_temp.ask(:private_id, :'unknown_token');
select * from pg_temp.ask(:private_id, :'mixed_token');
select * from pg_temp.ask(:private_id, :'expired_token');
select * from pg_temp.ask(:private_id, repeat('eyJ', 100000) || '..');
-- An open endpoint knows who can be known, and serves the others too.
select * from pg_temp.ask(:public_id, :'ada_token');
select * from pg_temp.ask(:public_id, null);
select * from pg_temp.ask(:public_id, 'nonsense');
select * from pg_temp.ask(:public_id, :'unknown_token');
select * from pg_temp.ask(:public_id, :'expired_token');
-- A properly signed token, expired or not, says which session it was: for log-out.
create function regress_identity.session() returns boolean language plpgsql security definer
as $$ begin return (select r.token_session_id is not null from keelson.current_request() as r); end $$;
comment on function regress_identity.session() is 'Tell whether the token names a session.';
select keelson.route('GET regress-session', 'regress_identity.session', is_public => true) as id \gset session_
select body from pg_temp.ask(:session_id, :'expired_token');
select body from pg_temp.ask(:session_id, :'unknown_token');
select body from pg_temp.ask(:session_id, 'nonsense');

-- A session that ends, or runs out, is refused by the next statement.
update keelson.sessions set ended_at = now(), end_reason = 'logout' where id = :ada_session;
select * from pg_temp.ask(:private_id, :'ada_token');
update keelson.sessions set ended_at = null, end_reason = null where id = :ada_session;
select status from pg_temp.ask(:private_id, :'ada_token');
update keelson.sessions set created_at = now() - interval '2 days', expires_at = now() - interval '1 second' where id = :ada_session;
select status from pg_temp.ask(:private_id, :'ada_token');
update keelson.sessions set expires_at = now() + interval '1 day' where id = :ada_session;
begin;
delete from keelson.sessions where id = :ada_session;
select status from pg_temp.ask(:private_id, :'ada_token');
rollback;
-- The table may change its shape.
begin;
alter table keelson.sessions rename column generation to generation_before;
alter table keelson.sessions drop column user_agent;
alter table keelson.sessions add column extra int default 5;
select status from pg_temp.ask(:private_id, :'ada_token');
rollback;
select status from pg_temp.ask(:private_id, :'ada_token');
begin;
truncate keelson.sessions;
select status from pg_temp.ask(:private_id, :'ada_token');
rollback;
select status from pg_temp.ask(:private_id, :'ada_token');
-- The row may move, and another row take its place.
vacuum full keelson.sessions;
select status from pg_temp.ask(:private_id, :'ada_token');
update keelson.sessions set id = '10000000-0000-7000-8000-0000000000a2' where id = :ada_session;
select status from pg_temp.ask(:private_id, :'ada_token');
vacuum keelson.sessions;
update keelson.sessions set last_seen_at = now() where id = :eve_session;
update keelson.sessions set id = :ada_session where id = '10000000-0000-7000-8000-0000000000a2';
select status from pg_temp.ask(:private_id, :'eve_token');
select status from pg_temp.ask(:private_id, :'ada_token');
begin;
delete from keelson.sessions where id = :eve_session;
select status from pg_temp.ask(:private_id, :'eve_token');
savepoint before_end;
update keelson.sessions set ended_at = now(), end_reason = 'logout' where id = :ada_session;
select status from pg_temp.ask(:private_id, :'ada_token');
rollback to before_end;
select status from pg_temp.ask(:private_id, :'ada_token');
rollback;
select status from pg_temp.ask(:private_id, :'eve_token');

-- Permissions.
select status, body from pg_temp.ask(:read_id, :'ada_token');
select status from pg_temp.ask(:read_id, null);
select keelson.role_grant('regress-ADA@example.com', 'support'), keelson.role_grant(:ada, 'support');
select status from pg_temp.ask(:read_id, :'ada_token');
select status from pg_temp.ask(:read_id, :'eve_token');
-- An endpoint for a scope alone is not for sessions; with a permission besides it is.
select status, body from pg_temp.ask(:scope_id, :'ada_token');
select status from pg_temp.ask(:both_id, :'ada_token');
select status from pg_temp.ask(:both_id, :'eve_token');
select keelson.role_revoke(:ada, 'support'), keelson.role_revoke(:ada, 'support');
select status from pg_temp.ask(:read_id, :'ada_token');
-- Everybody holds what the role user holds.
begin;
insert into keelson.role_permissions values ('user', 'users.read');
select status from pg_temp.ask(:read_id, :'eve_token');
rollback;
select keelson.role_grant(:ada, 'user');
select keelson.role_grant(:ada, 'none');
select keelson.role_grant('nobody@example.com', 'admin');
select keelson.role_grant('20000000-0000-7000-8000-00000000000a', 'admin');
select keelson.role_revoke('nobody@example.com', 'admin');
select count(*) from keelson.user_roles where user_id in (:ada, :eve);
create function regress_identity.may(permission text) returns boolean language plpgsql
as $$ begin perform keelson.permission_require(permission); return keelson.has_permission(permission); end $$;
comment on function regress_identity.may(text) is 'Ask for a permission.';
select keelson.route('POST regress-may', 'regress_identity.may', is_public => true) as id \gset may_
select keelson.role_grant(:eve, 'admin');
select * from pg_temp.ask(:may_id, :'eve_token', '{}', '{"permission": "users.write"}');
select * from pg_temp.ask(:may_id, :'eve_token', '{}', '{"permission": "roles.write"}');
select * from pg_temp.ask(:may_id, :'ada_token', '{}', '{"permission": "users.write"}');
select * from pg_temp.ask(:may_id, null, '{}', '{"permission": "users.write"}');
select keelson.has_permission('users.read'), keelson.has_permission(null);
select keelson.role_revoke(:eve, 'admin');
-- What the roles hold.
select r.name, string_agg(p.permission, ' ' order by p.permission)
from keelson.roles as r left join keelson.role_permissions as p on p.role = r.name
where r.name in ('user', 'support', 'admin')
group by r.name order by r.name;
select count(*) = (select count(*) from keelson.permissions) as all_of_them from keelson.role_permissions where role = 'owner';

-- The cron secret opens endpoints of that scope alone.
begin;
select keelson.secret_set('cron_secret', 'regress cron secret');
select keelson.route('POST regress-job', 'regress_identity.whoami', scope => 'jobs.run') as id \gset job_
select * from pg_temp.ask(:job_id, 'regress cron secret');
select status from pg_temp.ask(:job_id, 'regress cron secreT');
select status from pg_temp.ask(:job_id, null);
select status from pg_temp.ask(:job_id, :'ada_token');
select status from pg_temp.ask(:private_id, 'regress cron secret');
select status from pg_temp.ask(:scope_id, 'regress cron secret');
rollback;

-- Cookies: what changes something has to come from a page of ours.
select keelson._csrf_token(:ada_session) as csrf, keelson._csrf_token(:eve_session) as other, keelson._csrf_token(:ada_session) as second \gset
select :'csrf' <> :'second' as fresh, length(:'csrf');
create function pg_temp.cookie(route_id int, token text, caller jsonb)
returns text
language sql
as $$
select a.status || coalesce(' ' || (a.body::jsonb ->> 'code') || ': ' || (a.body::jsonb ->> 'error'), '')
from (select d.status, case when d.status >= 400 then convert_from(d.body, 'UTF8') end as body
      from keelson.dispatch(route_id, token, null, null, ('{"via": "cookie"}'::jsonb || jsonb_strip_nulls(caller))::json) as d) as a
$$;
create function pg_temp.csrf(token text, rest jsonb default '{"fetchSite": "same-origin"}') returns jsonb language sql
as $$ select jsonb_build_object('csrf', token, 'csrfCookie', token) || rest $$;
select pg_temp.cookie(:private_id, :'ada_token', '{}');
select pg_temp.cookie(:post_id, :'ada_token', '{}');
select pg_temp.cookie(:post_id, :'ada_token', '{"fetchSite": "same-origin"}');
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', '{"fetchSite": "cross-site"}'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', '{"fetchSite": "same-site", "origin": "https://evil.example.com"}'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', '{"fetchSite": "none", "origin": "null"}'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', '{}'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', jsonb_build_object('origin', current_setting('keelson.public_url'))));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', jsonb_build_object('origin', current_setting('keelson.public_url') || '.evil.example.com')));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', jsonb_build_object('referer', current_setting('keelson.public_url') || '/page?x')));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', '{"referer": "https://evil.example.com/"}'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf', '{"referer": "no url"}'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'other'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(overlay(:'csrf' placing 'AA' from 20)));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(repeat('A', 70)));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf('x'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf') || jsonb_build_object('csrfCookie', :'second'));
select pg_temp.cookie(:post_id, :'ada_token', pg_temp.csrf(:'csrf') || '{"csrfCookie": null}');
select pg_temp.cookie(:public_post_id, :'ada_token', '{}');
select pg_temp.cookie(:public_post_id, 'nonsense', '{}');
select status, headers from pg_temp.ask(:post_id, :'ada_token', jsonb_build_object('via', 'cookie') || pg_temp.csrf(:'csrf'));
-- For the core's own endpoints that take another cookie.
create function regress_identity.refresh(session uuid) returns boolean language plpgsql security definer
as $$ begin perform keelson._csrf_require(session); return true; end $$;
comment on function regress_identity.refresh(uuid) is 'Require it.';
select keelson.route('POST regress-refresh', 'regress_identity.refresh', is_public => true) as id \gset refresh_
select status, body from pg_temp.ask(:refresh_id, null, pg_temp.csrf(:'csrf'), json_build_object('session', :ada_session)::text);
select status, body from pg_temp.ask(:refresh_id, null, pg_temp.csrf(:'csrf'), json_build_object('session', :eve_session)::text);

-- Nobody can be somebody else. Each attempt, then who one is.
create function regress_identity.attempt(statement text, target uuid)
returns jsonb
language plpgsql
as $$
begin
    begin
        execute statement using target;
    exception when others then
        return jsonb_build_array(sqlstate, sqlerrm) || regress_identity.whoami();
    end;
    return jsonb_build_array('done') || regress_identity.whoami();
end
$$;
comment on function regress_identity.attempt(text, uuid) is 'Try to be somebody else.';
create function regress_identity.as_definer() returns jsonb language plpgsql security definer
as $$ begin return regress_identity.whoami(); end $$;
comment on function regress_identity.as_definer() is 'Tell who is calling, as a superuser.';
select keelson.route('POST regress-attempt', 'regress_identity.attempt') as id \gset attempt_
select keelson.route('GET regress-definer', 'regress_identity.as_definer') as id \gset definer_
create function pg_temp.attempt(route_id int, token text, statement text) returns text language sql
as $$
select a.status || ' ' || a.body
from pg_temp.ask(route_id, token, '{}', json_build_object('statement', statement, 'target', '10000000-0000-7000-8000-00000000000e')::text) as a
$$;
select pg_temp.attempt(:attempt_id, :'ada_token', statement)
from (values
    (1, $$select set_config('keelson.user_id', $1::text, false)$$),
    (2, $$select set_config('role', 'keelson_system', true)$$),
    (3, 'set role postgres'),
    (4, 'set local role keelson_owner'),
    (5, 'reset role'),
    (6, 'set session authorization postgres'),
    (7, 'reset session authorization'),
    (8, 'reset all'),
    (9, 'discard all'),
    (10, $$select keelson.act_as($1::text)$$),
    (11, $$select keelson.dispatch(1, null, null, null, null)$$),
    (12, 'prepare forged as select keelson.current_user_id()'),
    (13, $$do 'begin perform set_config(''keelson.session_id'', ''x'', true); end'$$),
    (14, 'set local row_security = off'),
    (15, $$insert into regress_identity.notes values ($1, 'forged')$$),
    (16, $$insert into keelson.user_roles (user_id, role) values ($1, 'admin')$$),
    (17, $$select keelson.role_grant($1::text, 'admin')$$),
    (18, $$select keelson._access_token_sign($1, $1, 1, 900)$$),
    (19, 'create table keelson.mine (a int)'),
    (20, 'alter table regress_identity.notes disable row level security'),
    (21, $$select * from keelson.sessions where user_id = $1$$),
    (22, $$select keelson.current_request()$$),
    (23, $$select keelson._csrf_token($1)$$),
    (24, $$create function pg_temp.current_user_id() returns uuid language sql as 'select ''10000000-0000-7000-8000-00000000000e''::uuid'$$)
) as attempts (n, statement)
order by n;
select status, body from pg_temp.ask(:definer_id, :'ada_token');
select count(*) from regress_identity.notes where text = 'forged';

-- Identity ends with the call: after success, refusal, error; in savepoints and in one statement with another's.
create function pg_temp.here() returns text language sql
as $$ select concat_ws(' ', keelson.current_user_id(), keelson.current_session_id(), keelson.current_actor(), keelson.current_ip(), current_user) $$;
begin;
select status from pg_temp.ask(:private_id, :'ada_token', '{"ip": "192.0.2.1"}');
select pg_temp.here();
savepoint one;
select pg_temp.ask(:attempt_id, :'ada_token', '{"ip": "192.0.2.1"}', '{"statement": 1}');
select pg_temp.here();
rollback to savepoint one;
select pg_temp.here();
commit;
create function regress_identity.fail() returns text language plpgsql as $$ begin raise exception 'failed as %', current_user; end $$;
comment on function regress_identity.fail() is 'Fail.';
select keelson.route('GET regress-fail', 'regress_identity.fail') as id \gset fail_
select status from pg_temp.ask(:fail_id, :'ada_token', '{"ip": "192.0.2.1"}');
select pg_temp.here();
begin;
savepoint one;
select status from pg_temp.ask(:fail_id, :'ada_token', '{"ip": "192.0.2.1"}');
rollback to savepoint one;
select pg_temp.here();
do $$
begin
    perform keelson.dispatch((select id from keelson.routes where template = 'regress-fail'),
        (select keelson._access_token_sign('10000000-0000-7000-8000-00000000000a', '10000000-0000-7000-8000-0000000000a1', 1, 900)), null, null, '{}');
exception when others then
    raise warning 'caught: %, now %', sqlerrm, current_user;
end
$$;
select pg_temp.here();
commit;
select a.body, e.body, n.body, pg_temp.here()
from pg_temp.ask(:public_id, :'ada_token') as a, pg_temp.ask(:public_id, :'eve_token') as e, pg_temp.ask(:public_id, null) as n;
prepare ask(text) as select convert_from(d.body, 'UTF8') from keelson.dispatch((select id from keelson.routes where template = 'regress-anybody' and method = 'GET'), $1, null, null, '{}') as d;
execute ask(:'ada_token');
execute ask(:'eve_token');
execute ask(null);
deallocate ask;

-- Acting as a user from psql.
create role regress_identity_admin in role keelson_admin;
create role regress_identity_nobody;
grant usage on schema keelson to regress_identity_nobody;
grant execute on function keelson.act_as(text) to regress_identity_nobody;
select keelson.act_as('regress-ada@example.com');
begin;
select keelson.act_as('regress-ada@example.com');
select regress_identity.whoami();
reset role;
rollback;
begin;
select keelson.act_as('Regress-Ada@Example.com') is not null as acting;
savepoint one;
set role postgres;
rollback to savepoint one;
set local session authorization postgres;
rollback to savepoint one;
select keelson.act_as('regress-eve@example.com');
rollback to savepoint one;
insert into regress_identity.notes values (:eve, 'forged');
rollback to savepoint one;
insert into regress_identity.notes values (:ada, 'of ada, by an administrator');
savepoint one;
select email from keelson.users;
rollback to savepoint one;
update keelson.users set name = 'x';
rollback to savepoint one;
select regress_identity.whoami();
commit;
select pg_temp.here();
select text from regress_identity.notes order by text;
-- What a function has set while somebody acted is not there for the administrator.
create function regress_identity.lure() returns text language sql as $$ select set_config('search_path', 'regress_identity, pg_catalog', false) $$;
select current_setting('search_path') as search_path \gset
begin;
select keelson.act_as(:ada) is not null as acting;
savepoint one;
select regress_identity.lure();
release savepoint one;
commit;
select current_setting('search_path') = :'search_path' as is_ours;
begin;
savepoint one;
select keelson.act_as(:ada) is not null as acting;
release savepoint one;
select regress_identity.lure();
commit;
select current_setting('search_path') = :'search_path' as is_ours;
-- It ends with a savepoint before it, with an error, with the session's end of transaction.
begin;
savepoint one;
select keelson.act_as(:ada) is not null as acting;
rollback to savepoint one;
select pg_temp.here();
set local role keelson_app;
commit;
select pg_temp.here();
begin;
select keelson.act_as(:ada) is not null as acting;
select 1 / 0;
rollback;
select pg_temp.here();
begin;
select keelson.act_as('nobody@example.com');
rollback;
begin;
select keelson.act_as(null);
rollback;
begin;
select keelson.act_as(:ada) is not null as acting;
prepare transaction 'regress_identity';
select pg_temp.here();
rollback prepared 'regress_identity';
-- It cannot begin in a function that runs as its owner.
begin;
create function regress_identity.acts() returns uuid language sql security definer as $$ select keelson.act_as('regress-ada@example.com') $$;
select regress_identity.acts();
rollback;
set session authorization regress_identity_admin;
begin;
select keelson.act_as('regress-ada@example.com') is not null as acting;
select current_user, keelson.current_actor();
commit;
select current_user, keelson.current_actor();
reset session authorization;
set session authorization regress_identity_nobody;
begin;
select keelson.act_as('regress-ada@example.com');
rollback;
reset session authorization;

revoke all on function keelson.act_as(text) from regress_identity_nobody;
revoke all on schema keelson from regress_identity_nobody;
drop schema regress_identity cascade;
delete from keelson.routes where owner = 'regress_identity';
delete from keelson.user_roles where user_id in (:ada, :eve);
delete from keelson.sessions where user_id in (:ada, :eve);
delete from keelson.user_emails where user_id in (:ada, :eve);
delete from keelson.users where id in (:ada, :eve);
drop role regress_identity_admin, regress_identity_nobody;
