-- Rules that the catalogue must keep. Every query looks for what breaks one and expects no rows, unless it
-- says that it lists something.
\set VERBOSITY terse
\set SHOW_CONTEXT never

create temporary view functions as
select p.oid::regprocedure as signature, p.*
from pg_proc as p
where p.pronamespace = 'keelson'::regnamespace;

create temporary view tables as
select c.oid::regclass as name, c.*
from pg_class as c
where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition;

-- A table is a user's if it has a column user_id; keelson.users itself is, by its id.
create temporary view user_tables as
select t.oid, t.name, a.attname as user_column, a.attnum as user_place
from tables as t
join pg_attribute as a on a.attrelid = t.oid
where a.attname = 'user_id' or t.name = 'keelson.users'::regclass and a.attname = 'id';

-- Global look-ups (style: their own small tables): found by something else than the user.
create temporary view global_tables as
select 'keelson.user_emails'::regclass as oid
union all
select 'keelson.external_identities'::regclass
union all
select 'keelson.referral_codes'::regclass
union all
select 'keelson.stripe_links'::regclass;

-- Everything is explained.
select 'schema' as what, n.nspname::text as name
from pg_namespace as n
where n.nspname = 'keelson' and obj_description(n.oid, 'pg_namespace') is null
union all
select 'function', signature::text
from functions
where obj_description(oid, 'pg_proc') is null
union all
select case c.relkind when 'v' then 'view' when 'c' then 'type' else 'table' end, c.oid::regclass::text
from pg_class as c
where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
    and obj_description(c.oid, 'pg_class') is null
union all
select 'type', t.oid::regtype::text
from pg_type as t
left join pg_class as c on c.oid = t.typrelid
where t.typnamespace = 'keelson'::regnamespace and (t.typtype in ('d', 'e', 'r') or c.relkind = 'c')
    and obj_description(t.oid, 'pg_type') is null
order by 1, 2;

-- A comment is a sentence about a promise, not a word.
select signature, obj_description(oid, 'pg_proc')
from functions
where length(obj_description(oid, 'pg_proc')) < 15
order by 1;

-- Definer functions search nothing but the catalogue, and belong to one of two roles.
select signature, proconfig, proowner::regrole
from functions
where prosecdef
    and (proowner::regrole::text not in ('keelson_owner', 'keelson_system')
        or proconfig is null
        or not 'search_path=pg_catalog, pg_temp' = any (proconfig))
order by 1;

-- So does what is called with the search path of a session, in which a product's function may have left temporary tables: their
-- names are those of types too. Two that cannot are listed; their bodies name everything with its schema.
select f.signature
from functions as f
where f.prolang <> (select l.oid from pg_language as l where l.lanname = 'c')
    and (f.proconfig is null or not 'search_path=pg_catalog, pg_temp' = any (f.proconfig))
    and (f.proname not like '\_%' or exists (
        select from pg_depend as d
        where d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid and d.deptype in ('n', 'a')))
order by f.signature::text;

-- Nothing is for everybody, but the reading of the acting user's id.
select signature
from functions
where has_function_privilege('public', oid, 'execute') and signature <> 'keelson.current_user_id()'::regprocedure
order by 1;

select provolatile, proleakproof, proparallel
from functions
where signature = 'keelson.current_user_id()'::regprocedure
    and (provolatile, proleakproof, proparallel) is distinct from ('s', true, 'r');

-- Private functions are granted to nobody, but those that a domain's check calls: whoever hands in a value runs them.
select f.signature, role.rolname
from functions as f
cross join pg_roles as role
where f.proname like '\_%' and role.rolname in ('keelson_app', 'keelson_gateway', 'keelson_admin', 'keelson_key_user')
    and has_function_privilege(role.oid, f.oid, 'execute')
    and not exists (
        select
        from pg_depend as d
        join pg_constraint as c on d.classid = 'pg_constraint'::regclass and c.oid = d.objid
        where d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid and c.contypid <> 0)
order by 1, 2;

-- The functions that look across users: a list to read with care. None of them is for keelson_app, and the gateway
-- has its own alone.
select signature
from functions
where proowner = 'keelson_system'::regrole
order by signature::text;

select f.signature, role.rolname
from functions as f
cross join pg_roles as role
where f.proowner = 'keelson_system'::regrole and role.rolname in ('keelson_app', 'keelson_gateway')
    and has_function_privilege(role.oid, f.oid, 'execute')
    and not (role.rolname = 'keelson_gateway' and f.proname like 'gateway\_%')
order by 1, 2;

-- What is written in C and may be called with nulls takes them, or refuses them in words: nothing takes the server down.
do $$
declare
    call text;
begin
    for call in
        select format('select %s(%s)', f.oid::regproc, string_agg(format('%snull::%s',
            case when f.provariadic <> 0 and a.place = f.pronargs then 'variadic ' end,
            case a.type when 'anyelement'::regtype then 'text'::regtype else a.type::regtype end), ', ' order by a.place))
        from functions as f
        join pg_language as l on l.oid = f.prolang and l.lanname = 'c'
        cross join unnest(f.proargtypes::oid[]) with ordinality as a (type, place)
        where not f.proisstrict
        group by f.oid, f.provariadic, f.pronargs
    loop
        begin
            execute call;
        exception when others then
            null;
        end;
    end loop;
end
$$;

-- Making tokens and opening secrets is for the owner roles alone.
select f.signature, role.rolname
from functions as f
cross join pg_roles as role
where f.proname in ('jwt_sign', 'seal', 'unseal') and role.rolname in ('keelson_app', 'keelson_gateway', 'keelson_jobs')
    and has_function_privilege(role.oid, f.oid, 'execute')
order by 1, 2;

-- What the gateway may call: a list.
select signature
from functions
where has_function_privilege('keelson_gateway', oid, 'execute')
order by signature::text;

-- The gateway, the jobs and the applications write no table; the gateway reads none.
select c.oid::regclass as relation, role.rolname, privilege.name
from pg_class as c
cross join pg_roles as role
cross join (values ('select'), ('insert'), ('update'), ('references')) as privilege (name)
where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
    and role.rolname in ('keelson_gateway', 'keelson_app', 'keelson_jobs', 'keelson_key_user')
    and (role.rolname = 'keelson_gateway' or privilege.name <> 'select')
    and has_any_column_privilege(role.oid, c.oid, privilege.name)
union all
select c.oid::regclass, role.rolname, privilege.name
from pg_class as c
cross join pg_roles as role
cross join (values ('delete'), ('truncate'), ('trigger')) as privilege (name)
where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
    and role.rolname in ('keelson_gateway', 'keelson_app', 'keelson_jobs', 'keelson_key_user')
    and has_table_privilege(role.oid, c.oid, privilege.name)
order by 1, 2, 3;

-- Neither do others, and nobody makes objects in the schema but its owner.
select c.oid::regclass as relation
from pg_class as c
cross join (values ('select'), ('insert'), ('update')) as privilege (name)
where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
    and has_any_column_privilege('public', c.oid, privilege.name)
order by 1;

select rolname
from pg_roles
where rolname like 'keelson\_%' and rolname <> 'keelson_owner' and has_schema_privilege(oid, 'keelson', 'create')
order by 1;

-- Roles: who can log in cannot pass by row-level security, nobody of ours is a superuser.
select rolname, rolsuper, rolcanlogin, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication
from pg_roles
where rolname like 'keelson\_%'
    and (rolsuper or rolcreaterole or rolcreatedb or rolreplication
        or rolcanlogin <> (rolname in ('keelson_gateway', 'keelson_jobs'))
        or rolbypassrls <> (rolname = 'keelson_system'))
order by 1;

-- Tables belong to keelson_owner and not to the extension, so that dumps carry their rows; keelson_system owns none.
select c.oid::regclass as relation, c.relowner::regrole as owner
from pg_class as c
where c.relnamespace = 'keelson'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S')
    and c.relowner <> 'keelson_owner'::regrole
order by 1;

select t.name
from tables as t
join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = t.oid and d.deptype = 'e'
order by 1;

-- Tables have base types, so that dropping the extension takes no column with it.
select t.name, a.attname, a.atttypid::regtype
from tables as t
join pg_attribute as a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
join pg_type as y on y.oid = a.atttypid
where y.typnamespace = 'keelson'::regnamespace
order by 1, 2;

-- Every table of users has row-level security, forced, and one policy for each verb, all of the same plain form.
select u.name, c.relrowsecurity, c.relforcerowsecurity
from user_tables as u
join pg_class as c on c.oid = u.oid
where not (c.relrowsecurity and c.relforcerowsecurity)
order by 1;

select u.name, verb.name as verb, p.polname, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
from user_tables as u
cross join (values ('r'), ('a'), ('w'), ('d')) as verb (name)
left join pg_policy as p on p.polrelid = u.oid and p.polcmd = verb.name::"char"
where u.oid not in (select oid from global_tables)
    and (p.oid is null
        or not p.polpermissive
        or p.polroles <> '{0}'
        or coalesce(pg_get_expr(p.polqual, p.polrelid), 'none')
            <> case when verb.name = 'a' then 'none' else format('(%I = keelson.current_user_id())', u.user_column) end
        or coalesce(pg_get_expr(p.polwithcheck, p.polrelid), pg_get_expr(p.polqual, p.polrelid))
            <> format('(%I = keelson.current_user_id())', u.user_column))
order by 1, 2, 3;

-- No other policy opens what these close.
select p.polrelid::regclass as relation, p.polname
from pg_policy as p
join user_tables as u on u.oid = p.polrelid
where p.polcmd = '*' or u.oid in (select oid from global_tables)
order by 1, 2;

-- Users' tables can be spread by user: the user comes first in keys, uniqueness and references.
select u.name, c.conname, pg_get_constraintdef(c.oid)
from user_tables as u
join pg_constraint as c on c.conrelid = u.oid
where c.contype in ('p', 'u') and c.conkey[1] <> u.user_place and u.oid not in (select oid from global_tables)
union all
select u.name, c.conname, pg_get_constraintdef(c.oid)
from user_tables as u
join pg_constraint as c on c.conrelid = u.oid
join user_tables as other on other.oid = c.confrelid
where c.contype = 'f' and (c.conkey[1] <> u.user_place or c.confkey[1] <> other.user_place)
union all
select u.name, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
from user_tables as u
join pg_index as i on i.indrelid = u.oid
where i.indisunique and i.indkey[0] <> u.user_place and u.oid not in (select oid from global_tables)
order by 1, 2;

select u.name, a.attname
from user_tables as u
join pg_attribute as a on a.attrelid = u.oid and a.attnum = u.user_place
where not a.attnotnull
order by 1;

-- No triggers on them: side effects stand in the function that makes the change.
select u.name, t.tgname
from user_tables as u
join pg_trigger as t on t.tgrelid = u.oid and not t.tgisinternal
order by 1, 2;

-- Partitioned tables have no default partition.
select t.name
from tables as t
join pg_partitioned_table as p on p.partrelid = t.oid
where p.partdefid <> 0
order by 1;

-- Names say what they are: constraints and indexes begin with their table's name.
select t.name, c.conname
from tables as t
join pg_constraint as c on c.conrelid = t.oid
where c.conname !~ ('^' || t.relname || '_.*(pkey|key|fkey|check|excl)$')
union all
select t.name, i.indexrelid::regclass::text
from tables as t
join pg_index as i on i.indrelid = t.oid
join pg_class as c on c.oid = i.indexrelid
where c.relname !~ ('^' || t.relname || '_.*(pkey|key|idx|excl)$')
order by 1, 2;

-- Every foreign key of a user's table has an index to look it up by.
select u.name, c.conname
from user_tables as u
join pg_constraint as c on c.conrelid = u.oid and c.contype = 'f'
where not exists (
    select
    from pg_index as i
    where i.indrelid = u.oid
        and (i.indkey::int2[])[0 : cardinality(c.conkey) - 1] @> c.conkey)
order by 1, 2;

-- Views of users' tables show what their reader may see.
select distinct v.oid::regclass as view
from pg_class as v
join pg_rewrite as w on w.ev_class = v.oid
join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
join user_tables as u on u.oid = d.refobjid
where v.relnamespace = 'keelson'::regnamespace and v.relkind = 'v'
    and not coalesce(v.reloptions @> '{security_invoker=true}', false)
order by 1;

-- Settings can be set at server start or by reload, never by a role or a session.
select name, context
from pg_settings
where name like 'keelson.%' and context not in ('postmaster', 'sighup')
order by 1;

select name
from pg_settings
where name like 'keelson.%' and (short_desc is null or short_desc = '')
order by 1;

-- Endpoints: the function is there, in a language that keeps its plan, and is not the owner's own in disguise.
select r.method, r.template, r.function
from keelson.routes as r
left join pg_proc as p on p.oid = to_regproc(r.function)
left join pg_language as l on l.oid = p.prolang
where p.oid is null or l.lanname = 'sql' and not r.is_raw
order by 1, 2;

select r.method, r.template, r.role
from keelson.routes as r
join pg_roles as role on role.rolname = r.role
where role.rolsuper or role.rolbypassrls or role.rolcanlogin
order by 1, 2;

-- Whatever is sealed for the server is moved to a new master key, or known to be lost with the old one. A user's is wrapped with the user's key.
select p.name as forgotten
from keelson.seal_purposes as p
where p.scope = 'server' and p.name <> 'audit-nobody'
    and not exists (select from keelson.keyring_uses as u where u.purpose = p.name)
order by 1;
select u.name as without_its_column
from keelson.keyring_uses as u
where u.relation is not null and (
    to_regclass(u.relation) is null
    or exists (
        select from unnest(array[u.key_column, u.id_column]) as c (name)
        where c.name is not null and not exists (
            select from pg_attribute as a where a.attrelid = to_regclass(u.relation) and a.attname = c.name and not a.attisdropped
        )
    )
)
order by 1;

-- What our roles are members of: a list.
select role.rolname, granted.rolname as member_of
from pg_auth_members as m
join pg_roles as role on role.oid = m.member
join pg_roles as granted on granted.oid = m.roleid
where role.rolname like 'keelson\_%'
order by 1, 2;

-- The matrix: every table of users × select, insert, update, delete × who asks. Two users with a row in each.
set client_min_messages = warning;
create function pg_temp.request(endpoint text, body text, credential text default null, caller jsonb default '{}')
returns jsonb
language plpgsql
as $$
declare
    reply keelson.reply;
begin
    select d.* into reply
    from keelson.dispatch(
        (select r.id from keelson.routes as r where r.method || ' ' || r.template = endpoint), credential, null,
        convert_to(body, 'UTF8'),
        (case when credential is null then '{}' else '{"via": "bearer"}' end::jsonb
            || '{"ip": "192.0.2.1", "contentType": "application/json"}' || caller)::json) as d;
    return convert_from(reply.body, 'UTF8')::jsonb;
end;
$$;

create temporary table people (name text, id uuid, token text);
insert into people (name, id, token)
select name, (made -> 'user' ->> 'id')::uuid, made ->> 'accessToken'
from (values ('a'), ('b')) as given (name)
cross join lateral pg_temp.request('POST auth/register', format('{"email": "matrix-%s@example.com", "password": "a long enough secret 1815"}', name)) as made;
select count(*) from people where token is not null;
select name, pg_temp.request('PUT user/profile', '{"name": "Somebody"}', token, '{"idempotencyKey": "matrix"}') #>> '{user,name}' as user_name
from people
order by name;
select keelson.role_grant(id::text, 'support') from people;
select keelson.rate_limit_override('api', 1000, who => id::text) from people;
insert into keelson.rate_limit_violations (user_id, hour_at, ip_address, endpoint, name, is_shadow, refusals, first_at, last_at)
select id, now(), '192.0.2.1', 'GET matrix', 'api', false, 1, now(), now() from people;
select keelson._failure_record(id, id) is null as counted from people;
insert into keelson.avatars (user_id, content_type, image, width, height) select id, 'image/png', 'x', 1, 1 from people;
insert into keelson.email_changes (user_id, id, old_email, new_email, undo_until) select id, keelson.uuid7(), 'a', 'b', now() from people;
insert into keelson.bulk_operations (user_id, id, operation, total) select id, id, 'block', 1 from people;
insert into keelson.bulk_items (user_id, bulk_id, place, target_id, outcome) select id, id, 1, id, 'done' from people;
select keelson.usage_record(id, 'matrix', 1, key => 'matrix') from people;
insert into keelson.usage_quarters (user_id, quarter_at, feature, minutes, requests) select id, '2020-01-01', 'matrix', 1, 1 from people;
insert into keelson.usage_days (user_id, day, feature, minutes, requests) select id, '2020-01-01', 'matrix', 1, 1 from people;
insert into keelson.usage_totals (user_id, feature, minutes, requests) select id, 'matrix_past', 1, 1 from people;
insert into keelson.legal_holds (user_id, reason, placed_by) select id, 'matrix', 'regress' from people;
insert into keelson.quota_counters (user_id, kind, name, period_start) select id, 'unit', 'matrix', '-infinity' from people;
insert into keelson.quota_reservations (user_id, id, kind, name, amount, expires_at) select id, id, 'unit', 'matrix', 1, now() + interval '1 hour' from people;
insert into keelson.quota_watches (user_id, kind, name, minutes_due, look_again_at) select id, 'unit', 'minutes', 1, now() from people;
insert into keelson.referral_redemptions (user_id, referrer_id, code) select a.id, b.id, 'MATRIX' from people as a join people as b on b.id <> a.id;
select count(keelson.access_key_create(id::text, 'Matrix', '{usage.write}')) from people;
select count(keelson._verification_send(id)) as verifications from people;
select count(keelson._totp_enrol(id, 'secret')) as factors, count(keelson._recovery_codes_make(id)) as codes, count(keelson._challenge_make(id, now())) as challenges from people;
insert into keelson.external_identities (issuer, subject, user_id, id) select 'https://matrix.example', name, id, keelson.uuid7() from people;
insert into keelson.user_api_keys (user_id, service, id, masked_key, sealed_key) select id, 'openai', id, 'x', 'x' from people;
insert into keelson.deliveries (user_id, id, lane, kind, due_at) select id, keelson.uuid7(), id, 'matrix', 'infinity' from people;
insert into keelson.deliveries_log (user_id, id, lane, kind, ref, state, attempts, finished_at) select id, keelson.uuid7(), id, 'matrix', id, 'delivered', 1, now() from people;
insert into keelson.delivery_attempts (user_id, delivery_id, number, started_at) select id, keelson.uuid7(), 1, now() from people;
insert into keelson.courier_lanes (user_id, lane) select id, id from people;
insert into keelson.webhook_endpoints (user_id, id, url, events, secret) select id, id, 'https://example.com/', '{*}', '' from people;
insert into keelson.webhook_events (user_id, id, event_type, endpoint_ids, body) select id, keelson.uuid7(), 'webhook.test', '{}', '{}' from people;
insert into keelson.http_requests (user_id, id, purpose, url, timeout_ms, is_trusted, handler) select id, id, 'matrix', 'https://example.com/', 1000, false, 'none' from people;
insert into keelson.stripe_links (object_id, user_id) select 'sub_matrix_' || name, id from people;

create temporary table matrix (actor text, relation regclass, verb text, outcome text);
grant select on people, user_tables to public;
grant insert on matrix to public;

-- Does it, undoes it, and tells how many rows it touched or who refused: the rights or a policy.
create function pg_temp.attempt(statement text)
returns text
language plpgsql
as $$
declare
    touched bigint;
begin
    execute statement;
    get diagnostics touched = row_count;
    raise exception using errcode = 'P0098', message = touched::text;
exception
    when sqlstate 'P0098' then
        return sqlerrm;
    when insufficient_privilege then
        return case when sqlerrm like '%row-level security%' then 'policy' else 'denied' end;
    when others then
        return sqlstate;
end;
$$;

-- All four verbs on all tables, on rows that are not one's own.
create function pg_temp.try_all(actor text, me uuid)
returns void
language sql
as $$
    insert into matrix (actor, relation, verb, outcome)
    select try_all.actor, u.name, verb.name, pg_temp.attempt(format(verb.statement, u.name, u.user_column, other.id, try_all.me))
    from user_tables as u
    cross join (values
        ('select', 'select %2$I from %1$s where %2$I is distinct from %4$L'),
        ('insert', 'insert into %1$s (%2$I) values (%3$L)'),
        ('update', 'update %1$s set %2$I = %2$I where %2$I is distinct from %4$L'),
        ('delete', 'delete from %1$s where %2$I is distinct from %4$L')
    ) as verb (name, statement)
    cross join lateral (select p.id from people as p where p.id is distinct from try_all.me order by p.name limit 1) as other
    union all
    select try_all.actor, u.name, 'select own', pg_temp.attempt(format('select %2$I from %1$s where %2$I = %3$L', u.name, u.user_column, try_all.me))
    from user_tables as u
    where try_all.me is not null;
$$;

-- Every table has rows of both: what is added later needs its rows above.
select u.name as table_without_rows
from user_tables as u
cross join people as p
where query_to_xml(format('select 1 from %s where %I = %L limit 1', u.name, u.user_column, p.id), true, false, '')::text !~ '<row'
order by 1;

begin;
select keelson.act_as(id::text) = id as is_a from people where name = 'a';
select pg_temp.try_all('a', keelson.current_user_id());
commit;
begin;
select keelson.act_as('matrix-b@example.com') = id as is_b from people where name = 'b';
select pg_temp.try_all('b', keelson.current_user_id());
commit;
set role keelson_app;
select pg_temp.try_all('keelson_app', null);
set role keelson_gateway;
select pg_temp.try_all('keelson_gateway', null);
set role keelson_jobs;
select pg_temp.try_all('keelson_jobs', null);
set role keelson_key_user;
select pg_temp.try_all('keelson_key_user', null);
set role keelson_admin;
select pg_temp.try_all('keelson_admin', null);
set role keelson_owner;
select pg_temp.try_all('keelson_owner', null);
reset role;

-- Nobody touches another's row, nobody without a user touches any.
select actor, relation, verb, outcome
from matrix
where verb <> 'select own'
    and case
        when verb = 'select' then outcome not in ('denied', '0')
        -- A partitioned table finds no place for a row without the rest of its key before it asks the policy.
        when verb = 'insert' and actor = 'keelson_owner' and exists (select from pg_partitioned_table where partrelid = relation)
            then outcome not in ('policy', '23514')
        when actor in ('keelson_owner', 'keelson_admin') then outcome not in ('denied', 'policy', '0')
        else outcome <> 'denied'
    end
order by 1, 2, 3;

-- The same counted, so that the matrix is known to be one; and each sees something of their own.
select actor, verb, count(*) = (select count(*) from user_tables) as is_whole
from matrix
where verb <> 'select own'
group by actor, verb
order by actor, verb;
select actor, bool_or(outcome ~ '^[1-9]') as sees_own
from matrix
where verb = 'select own'
group by actor
order by actor;

-- Away with them.
do $$
declare
    place record;
begin
    for place in select u.name, u.user_column from user_tables as u order by u.name = 'keelson.users'::regclass, u.name loop
        execute format('delete from %s where %I in (select id from people)', place.name, place.user_column);
    end loop;
end
$$;
