-- Users: what their fields may be, and reading and changing one's own.

-- Domains are for arguments. A domain's comment is what its violator reads.

do $types$
begin
    if pg_catalog.to_regtype('keelson.email_address') is null then
        create domain keelson.email_address as text;
    end if;
    if pg_catalog.to_regtype('keelson.display_name') is null then
        create domain keelson.display_name as text;
    end if;
    if pg_catalog.to_regtype('keelson.password') is null then
        create domain keelson.password as text;
    end if;
    if pg_catalog.to_regtype('keelson.preferences') is null then
        create domain keelson.preferences as jsonb;
    end if;
    if pg_catalog.to_regtype('keelson.user_object') is null then
        create type keelson.user_object as (
            id uuid,
            email text,
            email_verified boolean,
            name text,
            avatar_url text,
            preferences jsonb,
            roles text[],
            created_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.profile') is null then
        create type keelson.profile as (
            "user" keelson.user_object,
            member_since timestamptz
        );
    end if;
end
$types$;

-- A dot-atom of ASCII before the @ and a host name of at least two labels after
-- it, the last one beginning with a letter; internationalised hosts as punycode.
-- ASCII alone, so that folding is the same everywhere and no two addresses look
-- alike. The length is what SMTP carries.
alter domain keelson.email_address drop constraint if exists email_address_check;
alter domain keelson.email_address add constraint email_address_check check (
    pg_catalog.char_length(value) between 6 and 254
    and pg_catalog.strpos(value, '@') <= 65
    and value collate "C" operator(pg_catalog.~)
        '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]$'
);
comment on domain keelson.email_address is
    'must be an e-mail address such as ada@example.com, of at most 254 characters';

-- No control characters, none that turn the direction of writing, no blanks at
-- the ends: what is shown is what was written.
alter domain keelson.display_name drop constraint if exists display_name_check;
alter domain keelson.display_name add constraint display_name_check check (
    pg_catalog.char_length(value) between 1 and 100
    and value collate "C" operator(pg_catalog.!~) '[\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]'
    and value collate "C" operator(pg_catalog.!~) '^[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]|[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]$'
);
comment on domain keelson.display_name is
    'must have 1 to 100 characters, no control characters and no blanks at its ends';

alter domain keelson.password drop constraint if exists password_check;
alter domain keelson.password add constraint password_check check (
    pg_catalog.char_length(value) between 1 and 1024
);
comment on domain keelson.password is
    'must have 1 to 1,024 characters';

-- Known names alone; null takes a preference away. The members of notifications
-- are the product's to choose, within bounds.
alter domain keelson.preferences drop constraint if exists preferences_check;
alter domain keelson.preferences add constraint preferences_check check (
    case
        when pg_catalog.jsonb_typeof(value) <> 'object' then false
        else value - '{theme,language,notifications}'::text[] = '{}'
            and coalesce(value -> 'theme', 'null') in ('null', '"light"', '"dark"', '"system"')
            and coalesce(pg_catalog.jsonb_typeof(value -> 'language'), 'null') in ('null', 'string')
            and coalesce(pg_catalog.char_length(value ->> 'language') <= 35, true)
            and coalesce((value ->> 'language') collate "C" ~ '^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$', true)
            and coalesce(pg_catalog.jsonb_typeof(value -> 'notifications'), 'null') in ('null', 'boolean', 'object')
            and pg_catalog.jsonb_array_length(
                pg_catalog.jsonb_path_query_array(value, '$.notifications.keyvalue()', '{}', true)
            ) <= 32
            and not pg_catalog.jsonb_path_exists(
                value,
                '$.notifications.keyvalue() ? (!(@.key like_regex "^[A-Za-z][A-Za-z0-9_.-]{0,63}$") || (@.value.type() != "boolean" && @.value.type() != "null"))',
                '{}',
                true
            )
    end
);
comment on domain keelson.preferences is
    'may have theme (light, dark or system), language (such as en or pt-BR) and notifications (true, false, or up to 32 names with true or false), nothing else';

comment on type keelson.user_object is
    'A user as clients see it.';
comment on column keelson.user_object.email_verified is 'Whether the address was shown to be the user''s.';
comment on column keelson.user_object.avatar_url is 'Where the picture is; null without one.';
comment on column keelson.user_object.preferences is 'theme, language and notifications, as far as they were chosen.';
comment on column keelson.user_object.roles is 'The roles held; user is implied.';
comment on type keelson.profile is
    'A user''s own profile.';
comment on column keelson.profile.member_since is 'When the user came.';

-- Reading. As whom it runs decides what it sees: keelson_app under row-level
-- security the acting user alone, keelson_system anyone.

create or replace function keelson.user_get(id uuid)
returns keelson.user_object
language c
stable
as 'MODULE_PATHNAME', 'ks_user_get';
comment on function keelson.user_get(uuid) is
    'The user with this id, as far as the caller may see it.';
grant execute on function keelson.user_get(uuid) to keelson_app, keelson_admin;

create or replace function keelson.auth_me()
returns keelson.user_object
language c
stable
as 'MODULE_PATHNAME', 'ks_auth_me';
comment on function keelson.auth_me() is
    'The user who is signed in.';
grant execute on function keelson.auth_me() to keelson_app;

create or replace function keelson.user_profile()
returns keelson.profile
language c
stable
as 'MODULE_PATHNAME', 'ks_user_profile';
comment on function keelson.user_profile() is
    'The profile of the user who is signed in.';
grant execute on function keelson.user_profile() to keelson_app;

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
    if keelson.current_user_id() is null then
        perform keelson.raise(401, 'UNAUTHENTICATED', 'nobody is signed in',
            'In psql, say who is acting: select keelson.act_as(...).');
    end if;
    if new_password is not null then
        refusal := keelson._password_change(current_password, new_password, name);
        if refusal.status is not null then
            return refusal;
        end if;
    elsif is_request and keelson.given('new_password') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the new password must not be null', field => 'new_password');
    end if;
    if changes_name or changes_preferences then
        update keelson.users as u
        set name = case when changes_name then normalize(user_profile_update.name, nfc) else u.name end,
            preferences = case
                when not changes_preferences then u.preferences
                when user_profile_update.preferences is null then '{}'
                else keelson._preferences_merge(u.preferences, user_profile_update.preferences)
            end,
            updated_at = now()
        where u.id = keelson.current_user_id();
        perform keelson.audit('user.update', jsonb_build_object('changed', array_remove(array[
            case when changes_name then 'name' end, case when changes_preferences then 'preferences' end
        ], null)));
    end if;
    return keelson.reply_with(keelson.user_profile());
end
$$;
comment on function keelson.user_profile_update(keelson.display_name, keelson.preferences, keelson.password, keelson.password) is
    'Change the profile of the user who is signed in. What is not given stays; preferences are merged, null takes one away. A new password needs the current one and ends the user''s other sessions.';
grant execute on function keelson.user_profile_update(keelson.display_name, keelson.preferences, keelson.password, keelson.password) to keelson_app;

create or replace function keelson._require(value text, field text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if value is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('%s is needed', replace(field, '_', ' ')), field => field);
    end if;
end
$$;
comment on function keelson._require(text, text) is
    'Raise 400 naming the field when the value is null.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._user_add(id uuid, email text, name text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Waits for another registration of the address, and sees how it ended.
    insert into keelson.user_emails (email, user_id)
    values (lower(_user_add.email collate "C"), _user_add.id)
    on conflict do nothing;
    if not found then
        perform keelson._email_raise_taken();
    end if;
    insert into keelson.users (id, email, name)
    values (_user_add.id, _user_add.email, normalize(_user_add.name, nfc));
end
$$;
alter function keelson._user_add(uuid, text, text) owner to keelson_system;
comment on function keelson._user_add(uuid, text, text) is
    'Add a person; 409 EMAIL_TAKEN when somebody holds the address.';

create or replace function keelson._email_require_free(email text)
returns void
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from keelson.user_emails as e where e.email = lower(_email_require_free.email collate "C")
    ) then
        perform keelson._email_raise_taken();
    end if;
end
$$;
alter function keelson._email_require_free(text) owner to keelson_system;
comment on function keelson._email_require_free(text) is
    '409 EMAIL_TAKEN when somebody holds the address: asked before the costly work, decided by keelson._user_add().';

create or replace function keelson._email_raise_taken()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.raise(409, 'EMAIL_TAKEN', 'this e-mail address is taken', field => 'email');
end
$$;
comment on function keelson._email_raise_taken() is
    'The one refusal of an address that somebody holds.';
