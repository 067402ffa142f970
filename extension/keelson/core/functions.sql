-- The frame: roles, errors, identity, migrations.

do $roles$
declare
    -- name, and its attributes; a role that exists is left as it is.
    role record;
begin
    for role in
        select *
        from (values
            ('keelson_owner', 'nologin'),
            ('keelson_system', 'nologin bypassrls'),
            ('keelson_app', 'nologin'),
            ('keelson_key_user', 'nologin'),
            ('keelson_admin', 'nologin'),
            ('keelson_gateway', 'login'),
            ('keelson_jobs', 'login')
        ) as roles (name, attributes)
        where not exists (select from pg_catalog.pg_roles as existing where existing.rolname = roles.name)
    loop
        execute pg_catalog.format('create role %I %s', role.name, role.attributes);
    end loop;
end
$roles$;

-- What the gateway binds to its statements are bodies and credentials: whatever
-- the server is told to log, it logs the statements of this role without them.
alter role keelson_gateway set log_parameter_max_length = 0;
alter role keelson_gateway set log_parameter_max_length_on_error = 0;

comment on schema keelson is
    'Keelson: everything a client or a product may call, and the tables behind it. What begins with _ is private.';
grant usage on schema keelson
    to keelson_owner, keelson_system, keelson_app, keelson_key_user, keelson_admin, keelson_gateway, keelson_jobs;
grant create on schema keelson to keelson_owner;

create or replace function keelson.raise(
    status integer,
    code text,
    message text,
    hint text default null,
    field text default null
)
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks_raise_sql';
comment on function keelson.raise(integer, text, text, text, text) is
    'Raise an error that clients can tell apart: SQLSTATE KSnnn of the HTTP status (400 to 599), a code in capitals, a message and a hint for a person, and the argument at fault. The transaction rolls back.';
grant execute on function keelson.raise(integer, text, text, text, text) to keelson_app;

create or replace function keelson.uuid7()
returns uuid
language c
volatile
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_uuid7_sql';
comment on function keelson.uuid7() is
    'A new UUID version 7 (RFC 9562): sorts by time, rises strictly within a session while the clock is not put back by more than a minute. It is an id, not a secret.';
grant execute on function keelson.uuid7() to keelson_app, keelson_admin;

create or replace function keelson._purge(place regclass, age name, until timestamptz, batch bigint)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint;
begin
    -- A row's place in the file tells it from others in a table without partitions alone.
    if (select c.relkind from pg_class as c where c.oid = place) <> 'r' then
        raise exception 'table "%" has partitions, which are dropped instead', place;
    end if;
    execute format(
        'delete from %1$s where ctid = any (array('
        'select old.ctid from %1$s as old where old.%2$I <= $1 order by old.%2$I limit $2 for update skip locked))',
        place, age
    ) using until, batch;
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function keelson._purge(regclass, name, timestamptz, bigint) is
    'Delete the oldest rows by a column of time, those until then, at most so many; returns how many. Rows that somebody holds are left for the next time.';

create or replace function keelson.current_user_id()
returns uuid
language c
stable
leakproof
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_user_id';
comment on function keelson.current_user_id() is
    'The id of the user who is acting, null when nobody is known. Row-level security compares with it.';
grant execute on function keelson.current_user_id() to public;

create or replace function keelson.acting_user_id()
returns uuid
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_acting_user_id';
comment on function keelson.acting_user_id() is
    'The id of the user who is acting; when nobody is known, refused with 401 UNAUTHENTICATED.';
grant execute on function keelson.acting_user_id() to keelson_app, keelson_admin;

create or replace function keelson.current_session_id()
returns uuid
language c
stable
leakproof
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_session_id';
comment on function keelson.current_session_id() is
    'The id of the session by which the acting user is known, null without one.';
grant execute on function keelson.current_session_id() to keelson_app, keelson_admin;

create or replace function keelson.current_aal()
returns integer
language c
stable
leakproof
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_aal';
comment on function keelson.current_aal() is
    'The assurance level of the acting user''s session: 2 when it has shown a second factor, 1 without, 0 where there is no session. For policies such as "using (keelson.current_aal() >= 2)".';
grant execute on function keelson.current_aal() to keelson_app, keelson_admin;

create or replace function keelson.current_actor()
returns text
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_actor';
comment on function keelson.current_actor() is
    'What kind of caller is acting: user, access_key, admin (by act_as) or system; null when nobody is known.';
grant execute on function keelson.current_actor() to keelson_app, keelson_admin;

create or replace function keelson.current_ip()
returns inet
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_ip';
comment on function keelson.current_ip() is
    'The client''s address as the gateway tells it, null outside a request.';
grant execute on function keelson.current_ip() to keelson_app, keelson_admin;

create or replace function keelson.current_user_agent()
returns text
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_user_agent';
comment on function keelson.current_user_agent() is
    'The client''s User-Agent, null outside a request or when it sent none.';
grant execute on function keelson.current_user_agent() to keelson_app, keelson_admin;

create or replace function keelson.current_request_id()
returns uuid
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_current_request_id';
comment on function keelson.current_request_id() is
    'The id of the running request, the X-Request-ID of its reply; null outside a request.';
grant execute on function keelson.current_request_id() to keelson_app, keelson_admin;

create or replace function keelson.workers_stop()
returns integer
language c
volatile
as 'MODULE_PATHNAME', 'ks_workers_stop';
comment on function keelson.workers_stop() is
    'End the background workers'' connections to this database, so that it can be dropped or renamed; returns how many were told. They come back after workers_start(), a restart, or when the database has been made anew.';
grant execute on function keelson.workers_stop() to keelson_admin;

create or replace function keelson.workers_start()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks_workers_start';
comment on function keelson.workers_start() is
    'Let the background workers run again after workers_stop().';
grant execute on function keelson.workers_start() to keelson_admin;

create or replace function keelson._is_guest()
returns boolean
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks__is_guest';
comment on function keelson._is_guest() is
    'Whether it is for a function of a product''s, which the core has called: an endpoint, a step of a job, a handler of webhooks.';

create or replace function keelson._require_loaded()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks_require_loaded';
comment on function keelson._require_loaded() is
    'An error that says what to set, unless the server has loaded keelson and this is its database.';

create or replace function keelson._current_era()
returns integer
language c
volatile
as 'MODULE_PATHNAME', 'ks_current_era';
comment on function keelson._current_era() is
    'The number in keelson.eras of the cluster that this database lives in, opened if there is none: stored transaction ids stand beside it.';

create or replace function keelson._user_policies(target regclass, user_column name default 'user_id')
returns void
language plpgsql
as $$
declare
    rule text := pg_catalog.format('(%I = keelson.current_user_id())', user_column);
    verb text;
begin
    execute pg_catalog.format('alter table %s enable row level security', target);
    execute pg_catalog.format('alter table %s force row level security', target);
    foreach verb in array array['select', 'insert', 'update', 'delete'] loop
        execute pg_catalog.format('drop policy if exists %I on %s', 'own_' || verb, target);
        execute pg_catalog.format('create policy %I on %s for %s', 'own_' || verb, target, verb)
            || case when verb = 'insert' then '' else ' using ' || rule end
            || case when verb in ('insert', 'update') then ' with check ' || rule else '' end;
    end loop;
end
$$;
comment on function keelson._user_policies(regclass, name) is
    'Force row-level security on the table and let each verb see the acting user''s own rows alone.';

create or replace function keelson._lock_all()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
    place regclass;
begin
    -- A request locks this table before any other, and waits here with empty hands.
    if to_regclass('keelson.routes') is not null then
        lock table only keelson.routes in access exclusive mode;
    end if;
    -- Workers and jobs share this lock before they take those of tables.
    perform pg_advisory_xact_lock(x'4b656c736f6e4d31'::bigint);
    for place in
        select c.oid
        from pg_class as c
        where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
        order by c.relname
    loop
        execute format('lock table only %s in access exclusive mode', place);
    end loop;
end
$$;
comment on function keelson._lock_all() is
    'Lock every table and view of the schema, the one that requests lock first at first; an error when that takes long.';

create or replace function keelson._stand_alone()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    for attempt in 1 .. 100 loop
        begin
            perform keelson._lock_all();
            return;
        exception when lock_not_available or deadlock_detected then
            if attempt = 100 then
                raise exception 'could not lock the tables, since something runs too long'
                    using errcode = 'lock_not_available',
                          hint = 'Nothing has changed. See pg_stat_activity for what holds them, and try again.';
            end if;
        end;
        -- All is let go: whoever had to wait behind this goes on.
        perform pg_sleep(0.25 + random() / 2);
    end loop;
end
$$;
comment on function keelson._stand_alone() is
    'Wait until nobody else uses the tables, and keep them until the transaction ends. Never waits for long with locks in hand: it is in no deadlock, and holds up requests for half a second at a time.';

create or replace function keelson._is_in_line()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not keelson.is_migrated() then
        return false;
    end if;
    return not exists (
        select from keelson._migration_source() as source
        left join keelson.migrations as done using (capability, number)
        where source.kind = 'tables' and not coalesce(keelson._is_applied(done.checksum, source.statements), false)
    );
end
$$;
comment on function keelson._is_in_line() is
    'Whether this version of the code has been applied to the tables, with each of its migrations.';

create or replace function keelson._is_applied(checksum text, statements text)
returns boolean
language sql
immutable
as $$
-- The blank line before the next migration was once counted too.
select checksum in (keelson._checksum(statements), keelson._checksum(statements || E'\n'))
$$;
comment on function keelson._is_applied(text, text) is
    'Whether a migration''s text is the one that was recorded with this checksum.';

create or replace function keelson.migrate(anew boolean default false)
returns table (capability text, number integer, name text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    section record;
    recorded text;
    -- What the code no longer names goes: of jobs and of routes.
    named text;
    begun text[] := '{}';
begin
    perform keelson._require_loaded();
    if not pg_catalog.pg_has_role(session_user, 'keelson_owner', 'member') then
        perform keelson.raise(403, 'FORBIDDEN', 'only a superuser or a member of keelson_owner may migrate');
    end if;
    set local role keelson_owner;
    if not coalesce(anew, false) and keelson._is_in_line() then
        reset role;
        return;
    end if;
    perform keelson._stand_alone();
    set local client_min_messages = warning;
    perform keelson._migrations_table();
    for section in select * from keelson._migration_source() order by place loop
        if section.kind = 'tables' then
            select checksum into recorded
            from keelson.migrations as done
            where done.capability = section.capability and done.number = section.number;
            if found then
                if not keelson._is_applied(recorded, section.statements) then
                    raise exception 'migration % of % has changed since it was applied', section.number, section.capability
                        using errcode = 'object_not_in_prerequisite_state',
                              hint = 'A released migration is never edited: restore its text and add a new one.';
                end if;
                continue;
            end if;
        end if;
        if section.kind in ('jobs', 'routes') and section.kind <> all (begun) then
            execute pg_catalog.format('select keelson.%I(''keelson'')', section.kind || '_begin');
            begun := begun || section.kind;
        end if;
        execute section.statements;
        if section.kind = 'tables' then
            insert into keelson.migrations (capability, number, name, checksum)
            values (section.capability, section.number, section.name, keelson._checksum(section.statements));
            capability := section.capability;
            number := section.number;
            name := section.name;
            return next;
        end if;
    end loop;
    foreach named in array begun loop
        execute pg_catalog.format('select keelson.%I(''keelson'')', named || '_end');
    end loop;
    grant select, insert, update, delete on all tables in schema keelson to keelson_system;
    grant usage on all sequences in schema keelson to keelson_system;
    insert into keelson.installation (code_checksum)
    values (keelson._code_checksum())
    on conflict (is_only) do update set code_checksum = excluded.code_checksum, applied_at = now()
    where installation.code_checksum <> excluded.code_checksum;
    reset role;
end
$$;
comment on function keelson.migrate(boolean) is
    'Bring tables, policies, jobs and routes to the state that this version of the code needs; returns the migrations it applied. Where that was done it does nothing, and waits for nobody; anew, policies, grants, jobs and routes are made again, should somebody have changed them.';

create or replace function keelson._checksum(statements text)
returns text
language sql
immutable
strict
as $$ select pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(statements, 'UTF8')), 'hex') $$;
comment on function keelson._checksum(text) is
    'SHA-256 of a migration''s text, in hexadecimal.';

create or replace function keelson._migrations_table()
returns void
language plpgsql
as $$
begin
    create table if not exists keelson.migrations (
        capability text not null,
        number integer not null,
        name text not null,
        checksum text not null,
        applied_at timestamptz not null default pg_catalog.now(),
        constraint migrations_pkey primary key (capability, number)
    );
    comment on table keelson.migrations is
        'The migrations of tables that have been applied to this database.';
    create table if not exists keelson.installation (
        is_only boolean not null default true,
        code_checksum text not null,
        applied_at timestamptz not null default pg_catalog.now(),
        constraint installation_pkey primary key (is_only),
        constraint installation_is_only_check check (is_only)
    );
    -- Goes with the code, as policies do, and tells so: see is_migrated().
    alter table keelson.installation alter column code_checksum set default keelson._code_checksum();
    comment on table keelson.installation is
        'One row: the code that the tables were last brought in line with.';
end
$$;
comment on function keelson._migrations_table() is
    'Make the two tables that record what has been applied.';

create or replace function keelson.is_migrated()
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select
        from keelson.installation as i
        join pg_catalog.pg_attribute as a on a.attrelid = i.tableoid and a.attname = 'code_checksum'
        where i.code_checksum = keelson._code_checksum() and a.atthasdef
    );
exception when undefined_table then
    return false;
end
$$;
comment on function keelson.is_migrated() is
    'Whether keelson.migrate() has been run since the code was last installed, updated or dropped and created again.';
grant execute on function keelson.is_migrated() to keelson_admin;

-- What an endpoint function of any capability may answer with.
create type keelson.reply as (
    status integer,
    headers jsonb,
    body bytea
);
comment on type keelson.reply is
    'A reply to a request: HTTP status, headers, and the body''s own bytes. For an endpoint function that must set status or cookies.';
