-- Permissions: what the running request may do; administration of roles.

create or replace function keelson.has_permission(permission text)
returns boolean
language c
stable
strict
parallel restricted
as 'MODULE_PATHNAME', 'ks_has_permission';
comment on function keelson.has_permission(text) is
    'Whether the acting user holds the permission through a role and, where an access key is used, the key has it as a scope.';
grant execute on function keelson.has_permission(text) to keelson_app, keelson_admin;

create or replace function keelson.permission_require(permission text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if keelson.current_actor() is null then
        perform keelson.raise(401, 'UNAUTHENTICATED', 'sign in first');
    elsif keelson.has_permission(permission) is not true then
        perform keelson.raise(403, 'FORBIDDEN', format('this needs the permission %s', permission));
    end if;
end
$$;
comment on function keelson.permission_require(text) is
    'Raise 401 when nobody is known, 403 unless keelson.has_permission(permission).';
grant execute on function keelson.permission_require(text) to keelson_app, keelson_admin;

create or replace function keelson._user_find(who text)
returns uuid
language plpgsql
stable
as $$
declare
    id_found uuid := keelson._user_find_any(who);
begin
    if exists (select from keelson.users as u where u.id = id_found and u.status = 'deleted') then
        perform keelson._user_raise_unknown(who);
    end if;
    return id_found;
end
$$;
comment on function keelson._user_find(text) is
    'The id of the user with this e-mail address or id; 404 when there is none, or a deleted one.';

create or replace function keelson._user_find_any(who text)
returns uuid
language plpgsql
stable
as $$
declare
    id uuid;
begin
    if who ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        select users.id into id from keelson.users as users where users.id = who::uuid;
    else
        select emails.user_id into id from keelson.user_emails as emails
        where emails.email = pg_catalog.lower(who collate "C") and emails.reserved_until is null;
    end if;
    if id is null then
        perform keelson._user_raise_unknown(who);
    end if;
    return id;
end
$$;
comment on function keelson._user_find_any(text) is
    'The id of the user with this e-mail address or id, deleted and not yet erased ones included; 404 when there is none.';

create or replace function keelson._user_raise_unknown(who text)
returns void
language plpgsql
stable
as $$
begin
    perform keelson.raise(404, 'NOT_FOUND', pg_catalog.format('user "%s" does not exist', who), field => 'who');
end
$$;
comment on function keelson._user_raise_unknown(text) is
    'The one refusal of a user who does not exist.';

create or replace function keelson.role_grant(who text, role text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target_id uuid := keelson._user_find(who);
begin
    if not exists (select from keelson.roles where roles.name = role_grant.role) then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('role "%s" does not exist', role),
            'The roles are the rows of keelson.roles.', 'role');
    end if;
    -- Everybody signed in holds the role user.
    if role = 'user' then
        return false;
    end if;
    insert into keelson.user_roles (user_id, role, granted_by)
    values (target_id, role_grant.role, keelson.current_user_id())
    on conflict on constraint user_roles_pkey do nothing;
    if not found then
        return false;
    end if;
    perform keelson.audit('admin.role_grant', jsonb_build_object('role', role, 'databaseRole', session_user), user_id => target_id);
    perform keelson.webhook_emit('user.role_granted', jsonb_build_object('userId', target_id, 'role', role), target_id);
    perform keelson._roles_notice(target_id);
    return true;
end
$$;
comment on function keelson.role_grant(text, text) is
    'Give the user (e-mail address or id) the role; false when it was there already. For database administrators: the first administrator is made so.';
alter function keelson.role_grant(text, text) owner to keelson_system;
grant execute on function keelson.role_grant(text, text) to keelson_admin;

create or replace function keelson.role_revoke(who text, role text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target_id uuid := keelson._user_find(who);
begin
    if role = 'owner' then
        perform keelson._owner_require_other(target_id);
    end if;
    delete from keelson.user_roles
    where user_roles.user_id = target_id and user_roles.role = role_revoke.role;
    if not found then
        return false;
    end if;
    perform keelson.audit('admin.role_revoke', jsonb_build_object('role', role, 'databaseRole', session_user), user_id => target_id);
    perform keelson.webhook_emit('user.role_revoked', jsonb_build_object('userId', target_id, 'role', role), target_id);
    return true;
end
$$;
comment on function keelson.role_revoke(text, text) is
    'Take the role from the user (e-mail address or id); false when it was not there, 409 for the last owner.';
alter function keelson.role_revoke(text, text) owner to keelson_system;
grant execute on function keelson.role_revoke(text, text) to keelson_admin;
