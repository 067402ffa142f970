-- Changing one's own profile.

create or replace function keelson._preferences_merge(present jsonb, change jsonb)
returns jsonb
language sql
immutable
parallel safe
as $$
select pg_catalog.jsonb_strip_nulls(
    present || change || case
        when pg_catalog.jsonb_typeof(present -> 'notifications') = 'object'
            and pg_catalog.jsonb_typeof(change -> 'notifications') = 'object'
        then pg_catalog.jsonb_build_object('notifications', (present -> 'notifications') || (change -> 'notifications'))
        else '{}'
    end
)
$$;
comment on function keelson._preferences_merge(jsonb, jsonb) is
    'The preferences after a change as of RFC 7396: what is not named stays, null takes away.';

create or replace function keelson.user_profile_update(
    name keelson.display_name default null,
    preferences keelson.preferences default null,
    email keelson.email_address default null,
    current_password keelson.password default null,
    new_password keelson.password default null
)
returns keelson.reply
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    refusal keelson.reply;
    -- Outside a request null says nothing; inside it may have been sent.
    is_request boolean := (keelson.current_request()).method is not null;
    changes_name boolean := name is not null or is_request and keelson.given('name');
    changes_preferences boolean := preferences is not null or is_request and keelson.given('preferences');
begin
    perform keelson.acting_user_id();
    if is_request and email is null and keelson.given('email') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the e-mail address must not be null', field => 'email');
    elsif is_request and new_password is null and keelson.given('new_password') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the new password must not be null', field => 'new_password');
    elsif email is not null and current_password is null then
        perform keelson.raise(400, 'VALIDATION_FAILED',
            'the current password is needed to change the e-mail address', field => 'current_password');
    end if;
    -- Either proves that it is the user who sits there. Whose an address is
    -- nobody is told before that, nor more often than the limit allows.
    if new_password is not null then
        refusal := keelson._password_change(current_password, new_password, name);
    elsif email is not null then
        refusal := keelson._password_prove(current_password, 'email.change');
    end if;
    if refusal.status is not null then
        return refusal;
    end if;
    if email is not null then
        perform keelson._email_change_charge(email);
        perform keelson._email_change_tell(keelson._email_change(keelson.current_user_id(), email));
    end if;
    if changes_name or changes_preferences then
        perform keelson._user_update(
            keelson.current_user_id(), changes_name, name, changes_preferences, preferences
        );
    end if;
    return keelson.reply_with(keelson.user_profile());
end
$$;
comment on function keelson.user_profile_update(
    keelson.display_name, keelson.preferences, keelson.email_address, keelson.password, keelson.password
) is
    'Change the profile of the user who is signed in. What is not given stays; preferences are merged, null takes one away. A new address or a new password needs the current password. The address holds at once and is not verified; a new password ends the user''s other sessions.';
grant execute on function keelson.user_profile_update(
    keelson.display_name, keelson.preferences, keelson.email_address, keelson.password, keelson.password
) to keelson_app;

create or replace function keelson._password_prove(current_password text, event_type text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    credential keelson._credential := keelson._credential_of(keelson.current_user_id());
    refusal keelson.reply := keelson._password_confirm(credential, current_password, event_type);
begin
    if refusal.status is null and not keelson._user_lock(keelson.current_user_id(), credential.changed_at) then
        perform keelson.raise(409, 'CONFLICT', 'the password was changed meanwhile');
    end if;
    return refusal;
end
$$;
comment on function keelson._password_prove(text, text) is
    'Whether the password is the acting user''s: null, and the user is locked until the transaction ends; else the refusal to return, counted and recorded as a failure of that type.';

create or replace function keelson._user_update(
    id uuid,
    changes_name boolean,
    name text,
    changes_preferences boolean,
    preferences jsonb
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed jsonb;
begin
    update keelson.users as u
    set name = case when changes_name then normalize(_user_update.name, nfc) else u.name end,
        preferences = case
            when not changes_preferences then u.preferences
            when _user_update.preferences is null then '{}'
            else keelson._preferences_merge(u.preferences, _user_update.preferences)
        end,
        updated_at = now()
    where u.id = _user_update.id and u.status <> 'deleted';
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such user');
    end if;
    changed := jsonb_build_object('changed', array_remove(array[
        case when changes_name then 'name' end, case when changes_preferences then 'preferences' end
    ], null));
    perform keelson.audit('user.update', changed, user_id => _user_update.id);
    perform keelson.webhook_emit('user.updated', jsonb_build_object('userId', _user_update.id) || changed, _user_update.id);
end
$$;
alter function keelson._user_update(uuid, boolean, text, boolean, jsonb) owner to keelson_system;
comment on function keelson._user_update(uuid, boolean, text, boolean, jsonb) is
    'Change a user''s name and preferences, as far as said. Whoever calls it has asked whether that is allowed.';
