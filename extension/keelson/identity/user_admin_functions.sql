-- Administration of users: as a user with the permission, by request or by
-- act_as(), or as a database administrator without being anybody.

create or replace function keelson._is_database_admin()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
select keelson.current_actor() is null
    and not keelson._is_guest()
    and pg_has_role(session_user, 'keelson_admin', 'member')
$$;
comment on function keelson._is_database_admin() is
    'Whether it is a member of keelson_admin at a prompt who calls, as nobody else; not an endpoint''s function, a job''s or a webhook''s handler, in whosever session it is called.';

create or replace function keelson._admin_require(permission text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not keelson._is_database_admin() then
        perform keelson.permission_require(permission);
    end if;
end
$$;
comment on function keelson._admin_require(text) is
    'Raise 401 or 403 unless the acting user holds the permission, or a database administrator calls.';

create or replace function keelson._admin_require_over(id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._admin_require('users.write');
    -- Locked, so that their roles stay what they are here until this has been done.
    if not keelson._user_lock_any(id) then
        perform keelson._user_raise_missing();
    elsif not keelson._is_database_admin() and id is distinct from keelson.current_user_id() and exists (
        select from unnest(keelson._user_permissions(id)) as held (permission)
        where not keelson.has_permission(held.permission)
    ) then
        -- Else one could become them, by their address or their absence.
        perform keelson.raise(403, 'FORBIDDEN', 'you may not do this to somebody who may do more than you');
    end if;
end
$$;
comment on function keelson._admin_require_over(uuid) is
    'Raise 403 unless the acting user may write users and holds every permission that this user holds; 404 for nobody. The user is locked until the transaction ends.';

create or replace function keelson._user_lock_any(id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from keelson.users as u where u.id = _user_lock_any.id for no key update;
    return found;
end
$$;
alter function keelson._user_lock_any(uuid) owner to keelson_system;
comment on function keelson._user_lock_any(uuid) is
    'Lock the user until the transaction ends; false when there is none.';

create or replace function keelson._user_permissions(id uuid)
returns text[]
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select coalesce(array_agg(distinct p.permission), '{}')
from keelson.role_permissions as p
where p.role = 'user' or p.role in (select r.role from keelson.user_roles as r where r.user_id = _user_permissions.id)
$$;
alter function keelson._user_permissions(uuid) owner to keelson_system;
comment on function keelson._user_permissions(uuid) is
    'The permissions that a user holds through roles.';

create or replace function keelson.admin_user(id uuid)
returns keelson.admin_user
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    seen keelson.admin_user;
begin
    perform keelson._admin_require('users.read');
    seen := keelson._admin_user_of(id);
    if seen.id is null then
        perform keelson._user_raise_missing();
    end if;
    return seen;
end
$$;
comment on function keelson.admin_user(uuid) is
    'A user as administrators see them, blocked and deleted ones too. Needs the permission users.read.';
grant execute on function keelson.admin_user(uuid) to keelson_app, keelson_admin;

create or replace function keelson.admin_user_update(
    id uuid,
    name keelson.display_name default null,
    preferences keelson.preferences default null,
    email keelson.email_address default null,
    email_verified boolean default null
)
returns keelson.admin_user
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_request boolean := (keelson.current_request()).method is not null;
    changes_name boolean := name is not null or is_request and keelson.given('name');
    changes_preferences boolean := preferences is not null or is_request and keelson.given('preferences');
begin
    perform keelson._admin_require_over(id);
    if (email is not null or email_verified is not null) and id = keelson.current_user_id() then
        perform keelson.raise(409, 'CONFLICT', 'you change your own address with your password', 'Use PUT user/profile.', 'email');
    end if;
    if email is not null then
        perform keelson._email_change_tell(keelson._email_change(id, email), is_to_verify => email_verified is not true);
    end if;
    if email_verified is not null then
        perform keelson._email_set_verified(id, email_verified);
    end if;
    if changes_name or changes_preferences then
        perform keelson._user_update(id, changes_name, name, changes_preferences, preferences);
    end if;
    return keelson._admin_user_of(id);
end
$$;
comment on function keelson.admin_user_update(
    uuid, keelson.display_name, keelson.preferences, keelson.email_address, boolean
) is
    'Change a user. What is not given stays; preferences are merged. A new address is not verified unless emailVerified says so; one''s own needs the password, by PUT user/profile. Needs the permission users.write, and all those that the user holds.';
grant execute on function keelson.admin_user_update(
    uuid, keelson.display_name, keelson.preferences, keelson.email_address, boolean
) to keelson_app, keelson_admin;

create or replace function keelson.admin_user_delete(id uuid)
returns keelson.user_deletion
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._admin_require_over(id);
    perform keelson._user_set_status(id, 'deleted');
    return keelson._user_deletion_of(id);
end
$$;
comment on function keelson.admin_user_delete(uuid) is
    'Delete a user: all sessions end, nobody can log in as them, their address stays taken. They can be restored until erasureDueAt. Again changes nothing. Needs the permission users.write, and all those that the user holds.';
grant execute on function keelson.admin_user_delete(uuid) to keelson_app, keelson_admin;

create or replace function keelson.admin_user_restore(id uuid)
returns keelson.admin_user
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._admin_require_over(id);
    perform keelson._user_restore(id);
    return keelson._admin_user_of(id);
end
$$;
comment on function keelson.admin_user_restore(uuid) is
    'Bring back a user who is deleted and not yet erased; who was blocked is blocked again. Needs the permission users.write, and all those that the user holds.';
grant execute on function keelson.admin_user_restore(uuid) to keelson_app, keelson_admin;

create or replace function keelson.admin_user_block(id uuid, reason keelson.short_text default null)
returns keelson.admin_user
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._admin_require_over(id);
    perform keelson._admin_require_other(id);
    perform keelson._user_set_status(id, 'blocked', reason);
    return keelson._admin_user_of(id);
end
$$;
comment on function keelson.admin_user_block(uuid, keelson.short_text) is
    'Block a user: all sessions end with this statement, and nobody can log in as them until they are unblocked. Again changes nothing but the reason. Needs the permission users.write, and all those that the user holds.';
grant execute on function keelson.admin_user_block(uuid, keelson.short_text) to keelson_app, keelson_admin;

create or replace function keelson.admin_user_unblock(id uuid)
returns keelson.admin_user
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._admin_require_over(id);
    perform keelson._admin_require_other(id);
    perform keelson._user_set_status(id, 'active');
    return keelson._admin_user_of(id);
end
$$;
comment on function keelson.admin_user_unblock(uuid) is
    'Let a blocked user in again. Needs the permission users.write, and all those that the user holds.';
grant execute on function keelson.admin_user_unblock(uuid) to keelson_app, keelson_admin;

create or replace function keelson.admin_user_end_sessions(id uuid)
returns keelson.ended_sessions
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    ended keelson.ended_sessions;
begin
    perform keelson._admin_require_over(id);
    ended.ended_sessions := keelson._sessions_end(id, null, null, 'ended');
    if ended.ended_sessions > 0 then
        perform keelson.audit('auth.sessions_ended', jsonb_build_object('endedSessions', ended.ended_sessions), user_id => id);
    end if;
    return ended;
end
$$;
comment on function keelson.admin_user_end_sessions(uuid) is
    'End all sessions of a user, who can log in again. Needs the permission users.write, and all those that the user holds.';
grant execute on function keelson.admin_user_end_sessions(uuid) to keelson_app, keelson_admin;

create or replace function keelson._admin_require_other(id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if id = keelson.current_user_id() then
        perform keelson.raise(409, 'CONFLICT', 'you cannot do this to yourself');
    end if;
end
$$;
comment on function keelson._admin_require_other(uuid) is
    'Raise 409 when it is the acting user''s own id.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._email_set_verified(id uuid, verified boolean)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.users as u
    set email_verified_at = case when verified then now() end, updated_at = now()
    where u.id = _email_set_verified.id and u.status <> 'deleted' and (u.email_verified_at is not null) <> verified;
    if found then
        perform keelson.audit('email.verify', jsonb_build_object('verified', verified), user_id => id);
    end if;
end
$$;
alter function keelson._email_set_verified(uuid, boolean) owner to keelson_system;
comment on function keelson._email_set_verified(uuid, boolean) is
    'Say that the user''s address is verified, or is not.';
