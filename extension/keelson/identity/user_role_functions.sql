-- Roles: who holds which, and what each may do. Nobody grants or takes what
-- they do not hold themselves, and an owner is left.

do $types$
begin
    if pg_catalog.to_regtype('keelson.permission_object') is null then
        create type keelson.permission_object as (
            name text,
            description text
        );
    end if;
    if pg_catalog.to_regtype('keelson.role_object') is null then
        create type keelson.role_object as (
            name text,
            description text,
            is_builtin boolean,
            permissions text[]
        );
    end if;
end
$types$;
comment on type keelson.permission_object is 'What a role may hold, and a scope.';
comment on column keelson.permission_object.name is 'Such as users.read.';
comment on column keelson.permission_object.description is 'What it allows.';
comment on type keelson.role_object is 'A named set of permissions.';
comment on column keelson.role_object.name is 'Such as support.';
comment on column keelson.role_object.description is 'Who holds it.';
comment on column keelson.role_object.is_builtin is 'Whether it is one of user, support, admin, owner, which stay.';
comment on column keelson.role_object.permissions is 'The permissions that it holds.';
create or replace function keelson._permissions_require_held(permissions text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text;
begin
    if keelson._is_database_admin() then
        return;
    end if;
    select p.permission into missing from unnest(permissions) as p (permission)
    where not keelson.has_permission(p.permission)
    order by p.permission
    limit 1;
    if missing is not null then
        perform keelson.raise(403, 'FORBIDDEN', format('you do not hold the permission %s yourself', missing));
    end if;
end
$$;
comment on function keelson._permissions_require_held(text[]) is
    'Raise 403 unless the acting user holds all of these permissions.';

create or replace function keelson.admin_user_roles(id uuid, roles text[])
returns keelson.admin_user
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    wanted text[];
    added text[];
    taken text[];
begin
    perform keelson._admin_require('roles.write');
    if roles is null or array_position(roles, null) is not null or cardinality(roles) > 100 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'roles is a list of up to 100 roles', field => 'roles');
    end if;
    perform keelson._roles_require_known(roles);
    -- Two changes of one user's roles take turns; each then sees the other's.
    if not keelson._user_lock_any(id) then
        perform keelson._user_raise_missing();
    end if;
    wanted := array(select distinct r.role from unnest(roles) as r (role) where r.role <> 'user' order by 1);
    select c.added, c.taken into added, taken from keelson._user_roles_compare(id, wanted) as c;
    perform keelson._permissions_require_held(keelson._roles_permissions(added || taken));
    if 'owner' = any (taken) then
        perform keelson._owner_require_other(id);
    end if;
    perform keelson._user_roles_change(id, added, taken);
    return keelson._admin_user_of(id);
end
$$;
comment on function keelson.admin_user_roles(uuid, text[]) is
    'Give a user exactly these roles (user is implied). Holds for the very next request. Needs the permission roles.write, and every permission of each role that is given or taken; the last owner stays one.';
grant execute on function keelson.admin_user_roles(uuid, text[]) to keelson_app, keelson_admin;

create or replace function keelson.admin_roles()
returns setof keelson.role_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._admin_require('users.read');
    return query select o.* from keelson.roles as r cross join lateral keelson._role_of(r.name) as o order by r.name collate "C";
end
$$;
comment on function keelson.admin_roles() is
    'All roles with their permissions. Needs the permission users.read.';
grant execute on function keelson.admin_roles() to keelson_app, keelson_admin;

create or replace function keelson.admin_permissions()
returns setof keelson.permission_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._admin_require('users.read');
    return query select p.name, p.description from keelson.permissions as p order by p.name collate "C";
end
$$;
comment on function keelson.admin_permissions() is
    'All permissions that a role may hold. Needs the permission users.read.';
grant execute on function keelson.admin_permissions() to keelson_app, keelson_admin;

create or replace function keelson.role_set(name keelson.role_name, description keelson.short_text, permissions text[])
returns keelson.role_object
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    before text[];
    unknown text;
begin
    perform keelson._admin_require('roles.write');
    perform keelson._require(name, 'name'), keelson._require(description, 'description');
    if permissions is null or array_position(permissions, null) is not null or cardinality(permissions) > 1000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'permissions is a list of permissions', field => 'permissions');
    end if;
    select p.permission into unknown from unnest(permissions) as p (permission)
    where not exists (select from keelson.permissions as k where k.name = p.permission)
    order by p.permission limit 1;
    if unknown is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('permission "%s" does not exist', unknown), field => 'permissions');
    elsif name = 'owner' then
        perform keelson.raise(409, 'CONFLICT', 'the role owner holds every permission, whatever is added', field => 'name');
    end if;
    before := keelson._role_lock(name);
    -- What is given and what is taken away: both only by who holds it.
    perform keelson._permissions_require_held(array(
        (select unnest(permissions) except select unnest(before))
        union (select unnest(before) except select unnest(permissions))
    ));
    perform keelson._role_store(name, description, permissions);
    return keelson._role_of(name);
end
$$;
comment on function keelson.role_set(keelson.role_name, keelson.short_text, text[]) is
    'Make a role of these permissions, or change one. Holds for the very next request of all who have it. Needs the permission roles.write, and every permission that is given or taken.';
grant execute on function keelson.role_set(keelson.role_name, keelson.short_text, text[]) to keelson_app, keelson_admin;

create or replace function keelson.role_remove(name keelson.role_name)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    before text[];
begin
    perform keelson._admin_require('roles.write');
    before := keelson._role_lock(name);
    if before is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such role');
    elsif keelson._role_is_builtin(name) then
        perform keelson.raise(409, 'CONFLICT', 'this role is the core''s and stays', field => 'name');
    end if;
    perform keelson._permissions_require_held(before);
    perform keelson._role_drop(name);
end
$$;
comment on function keelson.role_remove(keelson.role_name) is
    'Remove a role, and take it from all who have it. Needs the permission roles.write, and every permission of the role.';
grant execute on function keelson.role_remove(keelson.role_name) to keelson_app, keelson_admin;

create or replace function keelson.permission_set(name text, description keelson.short_text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    if name is null or name !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' or char_length(name) > 63 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of a permission has two words or more with dots between them, such as reports.read', field => 'name');
    end if;
    perform keelson._require(description, 'description');
    perform keelson._permission_store(name, description);
end
$$;
comment on function keelson.permission_set(text, keelson.short_text) is
    'Add a permission of the product''s own, or describe it anew; the role owner holds it at once. Routes may ask for it, roles and access keys hold it.';
grant execute on function keelson.permission_set(text, keelson.short_text) to keelson_admin;

create or replace function keelson._role_is_builtin(name text)
returns boolean
language sql
immutable
as $$ select name in ('user', 'support', 'admin', 'owner') $$;
comment on function keelson._role_is_builtin(text) is
    'Whether the role is one that every installation has.';

create or replace function keelson._role_of(name text)
returns keelson.role_object
language sql
stable
as $$
select row(
    r.name, r.description, keelson._role_is_builtin(r.name),
    array(select p.permission from keelson.role_permissions as p where p.role = r.name order by p.permission collate "C")
)::keelson.role_object
from keelson.roles as r where r.name = _role_of.name
$$;
comment on function keelson._role_of(text) is
    'A role as clients see it.';

create or replace function keelson._roles_require_known(roles text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unknown text;
begin
    select r.role into unknown from unnest(roles) as r (role)
    where not exists (select from keelson.roles as k where k.name = r.role)
    order by r.role limit 1;
    if unknown is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('role "%s" does not exist', unknown), field => 'roles');
    end if;
end
$$;
comment on function keelson._roles_require_known(text[]) is
    'Raise 400 naming the first that is no role.';

create or replace function keelson._roles_permissions(roles text[])
returns text[]
language sql
stable
as $$
select coalesce(array_agg(distinct p.permission), '{}') from keelson.role_permissions as p where p.role = any (roles)
$$;
comment on function keelson._roles_permissions(text[]) is
    'The permissions that these roles hold together.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._user_roles_compare(id uuid, wanted text[], out added text[], out taken text[])
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
select
    array(select w.role from unnest(wanted) as w (role) except select r.role from keelson.user_roles as r where r.user_id = id),
    array(select r.role from keelson.user_roles as r where r.user_id = id except select w.role from unnest(wanted) as w (role))
$$;
alter function keelson._user_roles_compare(uuid, text[]) owner to keelson_system;
comment on function keelson._user_roles_compare(uuid, text[]) is
    'Which roles the user lacks, and which they have besides.';

create or replace function keelson._user_roles_change(id uuid, added text[], taken text[])
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed text;
begin
    delete from keelson.user_roles as r where r.user_id = id and r.role = any (taken);
    insert into keelson.user_roles (user_id, role, granted_by)
    select id, a.role, keelson.current_user_id() from unnest(added) as a (role);
    foreach changed in array taken loop
        perform keelson.audit('admin.role_revoke', jsonb_build_object('role', changed, 'databaseRole', session_user), user_id => id);
        perform keelson.webhook_emit('user.role_revoked', jsonb_build_object('userId', id, 'role', changed), id);
    end loop;
    foreach changed in array added loop
        perform keelson.audit('admin.role_grant', jsonb_build_object('role', changed, 'databaseRole', session_user), user_id => id);
        perform keelson.webhook_emit('user.role_granted', jsonb_build_object('userId', id, 'role', changed), id);
    end loop;
    if cardinality(added) + cardinality(taken) > 0 then
        perform keelson._roles_notice(id);
    end if;
end
$$;
alter function keelson._user_roles_change(uuid, text[], text[]) owner to keelson_system;
comment on function keelson._user_roles_change(uuid, text[], text[]) is
    'Give the user these roles and take those. Whoever calls it has asked whether that is allowed, and holds the lock on the user.';

create or replace function keelson._roles_notice(user_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._notice(user_id, 'role.changed', jsonb_build_object('roles', coalesce((
        select string_agg(r.role, ', ' order by r.role collate "C") from keelson.user_roles as r where r.user_id = _roles_notice.user_id
    ), 'user')));
end
$$;
alter function keelson._roles_notice(uuid) owner to keelson_system;
comment on function keelson._roles_notice(uuid) is
    'Tell the user by mail which roles are theirs now.';

create or replace function keelson._role_lock(name text)
returns text[]
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('keelson.role ' || name, 0));
    return (
        select array(select p.permission from keelson.role_permissions as p where p.role = r.name)
        from keelson.roles as r where r.name = _role_lock.name
    );
end
$$;
alter function keelson._role_lock(text) owner to keelson_system;
comment on function keelson._role_lock(text) is
    'Lock the role until the transaction ends; returns its permissions, null when there is none.';

create or replace function keelson._role_store(name text, description text, permissions text[])
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into keelson.roles as r (name, description) values (_role_store.name, _role_store.description)
    on conflict on constraint roles_pkey do update set description = excluded.description;
    delete from keelson.role_permissions as p where p.role = _role_store.name and p.permission <> all (permissions);
    insert into keelson.role_permissions (role, permission)
    select distinct _role_store.name, g.permission from unnest(permissions) as g (permission)
    on conflict do nothing;
    perform keelson.audit('admin.role_change', jsonb_build_object('role', _role_store.name, 'permissions', to_jsonb(permissions), 'databaseRole', session_user));
end
$$;
alter function keelson._role_store(text, text, text[]) owner to keelson_system;
comment on function keelson._role_store(text, text, text[]) is
    'Make or change a role. Whoever calls it has asked whether that is allowed.';

create or replace function keelson._role_drop(name text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.roles as r where r.name = _role_drop.name;
    perform keelson.audit('admin.role_change', jsonb_build_object('role', _role_drop.name, 'removed', true, 'databaseRole', session_user));
end
$$;
alter function keelson._role_drop(text) owner to keelson_system;
comment on function keelson._role_drop(text) is
    'Remove a role. Whoever calls it has asked whether that is allowed.';

create or replace function keelson._permission_store(name text, description text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into keelson.permissions as p (name, description) values (_permission_store.name, _permission_store.description)
    on conflict on constraint permissions_pkey do update set description = excluded.description;
    insert into keelson.role_permissions (role, permission) values ('owner', _permission_store.name)
    on conflict do nothing;
    perform keelson.audit('admin.role_change', jsonb_build_object('permission', _permission_store.name, 'databaseRole', session_user));
end
$$;
alter function keelson._permission_store(text, text) owner to keelson_system;
comment on function keelson._permission_store(text, text) is
    'Add a permission, and give it to the owners.';
