-- The extension's frame: errors, ids, identity, migrations, settings.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- An error carries its status, code, field, message and hint, and nothing of
-- the caller's goes through a format.
do $$
declare
    state text; code text; field text; message text; hint text;
begin
    perform keelson.raise(404, 'NOT_FOUND', 'there is no such %s', 'Look elsewhere.', 'user_id');
exception when sqlstate 'KS404' then
    get stacked diagnostics
        state = returned_sqlstate, code = constraint_name, field = column_name,
        message = message_text, hint = pg_exception_hint;
    raise notice '% % % "%" "%"', state, code, field, message, hint;
end
$$;

\set VERBOSITY sqlstate
select keelson.raise(429, 'RATE_LIMITED', 'too many requests');
select keelson.raise(599, 'X', 'the highest status');
select keelson.raise(399, 'X', 'not an error');
select keelson.raise(600, 'X', 'not an error');
select keelson.raise(null, 'X', 'no status');
select keelson.raise(400, null, 'no code');
select keelson.raise(400, 'X', null);
\set VERBOSITY default

-- Ids are UUIDs of version 7 and variant 10, of this moment, and they rise.
with ids as (
    select n, keelson.uuid7() as id
    from generate_series(1, 10000) as n
)
select count(distinct id) as distinct_ids,
       bool_and(substr(id::text, 15, 1) = '7') as version_7,
       bool_and(substr(id::text, 20, 1) in ('8', '9', 'a', 'b')) as variant_10,
       bool_and(abs(extract(epoch from clock_timestamp()) * 1000
                    - ('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint) < 60000) as of_now
from ids;
select count(*) as not_rising
from (
    select id, lag(id) over (order by n) as before
    from (select n, keelson.uuid7() as id from generate_series(1, 10000) as n) as made
) as pairs
where id <= before;

-- Nobody is acting until dispatch() or act_as() says who.
select keelson.current_user_id(), keelson.current_session_id(), keelson.current_actor(),
       keelson.current_ip(), keelson.current_user_agent(), keelson.current_request_id();

-- Migrating again applies nothing; what was applied is recorded with a checksum.
select count(*) from keelson.migrate();
select count(*) from keelson.migrate(anew => true);
select keelson.is_migrated();
select count(*) as wrong_checksums
from keelson._migration_source() as source
left join keelson.migrations as done using (capability, number)
where source.kind = 'tables'
    and keelson._checksum(source.statements) is distinct from done.checksum;

-- A migration that was edited after it was applied is refused, and nothing changes.
begin;
update keelson.migrations
set checksum = 'of another text'
where (capability, number) = (select capability, number from keelson._migration_source() where kind = 'tables' order by place limit 1);
\set VERBOSITY sqlstate
select count(*) from keelson.migrate();
rollback;

-- Who may not migrate is told so.
create role regress_core_stranger nologin;
set session authorization regress_core_stranger;
select count(*) from keelson.migrate();
reset session authorization;
set role regress_core_stranger;
select keelson.uuid7();
select keelson.workers_stop();
reset role;
drop role regress_core_stranger;

-- Nothing that guards anything can be set by a role or in a session.
do $$
declare
    setting record;
begin
    for setting in
        select name from pg_settings where name like 'keelson.%' and context not in ('sighup', 'postmaster')
    loop
        raise notice 'a session can set %', setting.name;
    end loop;
end
$$;
\set VERBOSITY terse
set keelson.public_url = 'https://evil.example';
set keelson.unheard_of = 'x';
alter role keelson_app set keelson.public_url = 'https://evil.example';
\set VERBOSITY default

-- A sender becomes a header of mails.
alter system set keelson.mail_from = 'nobody';
alter system set keelson.mail_from = 'Käpt''n <no-reply@example.com>';
alter system set keelson.mail_from = E'a@example.com\r\nBcc: all@example.com';

-- Each setting says what it means.
select name from pg_settings where name like 'keelson.%' and (short_desc = '' or extra_desc is null) order by name;

-- The manual: what may be called, with what it promises.
select function, description like 'Take so much%' as is_told from keelson.help('quota_take');
select count(*) > 200 as has_many, bool_and(description <> '') as are_told, bool_or(function like '\_%') as shows_private from keelson.help();
select count(*) from keelson.help('no such thing');

-- Outside keelson.database the functions refuse, and say which setting to look at.
create database regress_core_elsewhere template template0;
\set main_database :DBNAME
\connect regress_core_elsewhere
set client_min_messages = warning;
create extension keelson cascade;
\set VERBOSITY terse
select count(*) from keelson.migrate();
\connect :main_database
drop database regress_core_elsewhere;
