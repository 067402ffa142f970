-- A user by id: seeing, changing, deleting. One's own, or with a permission
-- somebody else's; what one may not see does not exist.

create or replace function keelson._user_require_readable(id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    if id is distinct from keelson.current_user_id() and not keelson.has_permission('users.read') then
        perform keelson._user_raise_missing();
    end if;
end
$$;
comment on function keelson._user_require_readable(uuid) is
    'Raise 404 unless it is the acting user''s id, or they may see all users.';

create or replace function keelson._user_raise_missing()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.raise(404, 'NOT_FOUND', 'there is no such user');
end
$$;
comment on function keelson._user_raise_missing() is
    'The one refusal of a user who is not there, or whom one may not see.';

create or replace function keelson.user_read(id uuid)
returns keelson.user_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._user_require_readable(id);
    return keelson._user_get_any(id);
end
$$;
comment on function keelson.user_read(uuid) is
    'A user: oneself, or with the permission users.read anybody.';
grant execute on function keelson.user_read(uuid) to keelson_app;

create or replace function keelson._user_get_any(id uuid)
returns keelson.user_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson.user_get(id);
end
$$;
alter function keelson._user_get_any(uuid) owner to keelson_system;
comment on function keelson._user_get_any(uuid) is
    'Any user who is not deleted. Whoever calls it has asked whether that may be seen.';

create or replace function keelson.user_update(
    id uuid,
    name keelson.display_name default null,
    preferences keelson.preferences default null,
    email keelson.email_address default null,
    current_password keelson.password default null,
    new_password keelson.password default null
)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed keelson.reply;
begin
    perform keelson._user_require_readable(id);
    if id = keelson.current_user_id() then
        -- The same function, so that the same rules hold.
        changed := keelson.user_profile_update(name, preferences, email, current_password, new_password);
        if changed.status <> 200 then
            return changed;
        end if;
        return keelson.reply_with(keelson.user_get(id));
    elsif current_password is not null or new_password is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'nobody sets somebody else''s password', 'Have the user reset it.',
            case when new_password is not null then 'new_password' else 'current_password' end);
    end if;
    perform keelson.admin_user_update(id, name, preferences, email);
    return keelson.reply_with(keelson._user_get_any(id));
end
$$;
comment on function keelson.user_update(
    uuid, keelson.display_name, keelson.preferences, keelson.email_address, keelson.password, keelson.password
) is
    'Change a user: oneself as by PUT user/profile, or with the permission users.write anybody who may do no more than oneself.';
grant execute on function keelson.user_update(
    uuid, keelson.display_name, keelson.preferences, keelson.email_address, keelson.password, keelson.password
) to keelson_app;

create or replace function keelson.user_delete(id uuid)
returns keelson.user_deletion
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._user_require_readable(id);
    if id <> keelson.current_user_id() then
        return keelson.admin_user_delete(id);
    end if;
    perform keelson._user_set_status(id, 'deleted');
    return keelson._user_deletion_of(id);
end
$$;
comment on function keelson.user_delete(uuid) is
    'Delete a user: oneself, or with the permission users.write anybody who may do no more than oneself. All their sessions end and nobody can log in as them; their address stays taken. An administrator can restore them until erasureDueAt, when everything of theirs is erased.';
grant execute on function keelson.user_delete(uuid) to keelson_app;

create or replace function keelson._user_deletion_of(id uuid)
returns keelson.user_deletion
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select row(u.id, u.deleted_at, u.deleted_at + current_setting('keelson.erasure_after')::interval)::keelson.user_deletion
from keelson.users as u
where u.id = _user_deletion_of.id and u.status = 'deleted'
$$;
alter function keelson._user_deletion_of(uuid) owner to keelson_system;
comment on function keelson._user_deletion_of(uuid) is
    'When the user was deleted and is to be erased; null for one who is not deleted.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._user_set_status(id uuid, wanted text, reason text default null)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present keelson.users;
    ended integer := 0;
begin
    if wanted <> 'active' then
        perform keelson._owner_require_other(id);
    end if;
    -- Logging in waits for this, or this for the login: no session outlives it.
    select * into present from keelson.users as u where u.id = _user_set_status.id for no key update;
    if present.id is null or present.erasure_started_at is not null then
        perform keelson._user_raise_missing();
    elsif present.status = wanted and (wanted <> 'blocked' or reason is null or present.block_reason is not distinct from reason) then
        return false;
    elsif present.status = 'deleted' then
        perform keelson.raise(409, 'CONFLICT', 'the user is deleted', 'Restore them first.');
    end if;
    update keelson.users as u
    set status = wanted,
        blocked_at = case wanted when 'blocked' then coalesce(present.blocked_at, now()) when 'deleted' then present.blocked_at end,
        block_reason = case wanted when 'blocked' then coalesce(reason, present.block_reason) when 'deleted' then present.block_reason end,
        deleted_at = case wanted when 'deleted' then now() end,
        updated_at = now()
    where u.id = present.id;
    if wanted <> 'active' then
        ended := keelson._sessions_end(present.id, null, null, wanted);
    end if;
    perform keelson.audit(
        case wanted when 'blocked' then 'admin.block' when 'deleted' then 'user.delete' else 'admin.unblock' end,
        jsonb_build_object('from', present.status, 'endedSessions', ended),
        user_id => present.id
    );
    perform keelson.webhook_emit(
        case wanted when 'active' then 'user.unblocked' else 'user.' || wanted end, jsonb_build_object('userId', present.id), present.id
    );
    return true;
end
$$;
alter function keelson._user_set_status(uuid, text, text) owner to keelson_system;
comment on function keelson._user_set_status(uuid, text, text) is
    'Make a user active, blocked or deleted; leaving active ends all their sessions in the same transaction. False when they are so already; 404 for nobody and for who is being erased; 409 for the last owner.';

create or replace function keelson._user_restore(id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present keelson.users;
begin
    select * into present from keelson.users as u where u.id = _user_restore.id for no key update;
    if present.id is null or present.erasure_started_at is not null then
        perform keelson._user_raise_missing();
    elsif present.status <> 'deleted' then
        return false;
    end if;
    update keelson.users as u
    set status = case when u.blocked_at is null then 'active' else 'blocked' end, deleted_at = null, updated_at = now()
    where u.id = present.id;
    perform keelson.audit('user.restore', user_id => present.id);
    perform keelson.webhook_emit('user.restored', jsonb_build_object('userId', present.id), present.id);
    return true;
end
$$;
alter function keelson._user_restore(uuid) owner to keelson_system;
comment on function keelson._user_restore(uuid) is
    'Bring a deleted user back, blocked if they were; false for one who is not deleted, 404 for nobody and for who is being erased.';

create or replace function keelson._owner_require_other(id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from keelson.user_roles as r where r.user_id = id and r.role = 'owner') then
        return;
    end if;
    -- Owners who leave take turns, so that two cannot go at once.
    perform pg_advisory_xact_lock(hashtextextended('keelson.owners', 0));
    if not exists (
        select from keelson.user_roles as r
        join keelson.users as u on u.id = r.user_id and u.status = 'active'
        where r.role = 'owner' and r.user_id <> _owner_require_other.id
    ) and exists (
        select from keelson.user_roles as r
        join keelson.users as u on u.id = r.user_id and u.status = 'active'
        where r.role = 'owner' and r.user_id = _owner_require_other.id
    ) then
        perform keelson.raise(409, 'CONFLICT', 'the last owner cannot go', 'Make somebody else an owner first.');
    end if;
end
$$;
alter function keelson._owner_require_other(uuid) owner to keelson_system;
comment on function keelson._owner_require_other(uuid) is
    'Raise 409 when the user is an owner and no other active one is left.';
