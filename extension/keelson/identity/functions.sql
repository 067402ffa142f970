-- Users: what their fields may be, and reading them.

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
    if pg_catalog.to_regtype('keelson.short_text') is null then
        create domain keelson.short_text as text;
    end if;
    if pg_catalog.to_regtype('keelson.role_name') is null then
        create domain keelson.role_name as text;
    end if;
    if pg_catalog.to_regtype('keelson.user_deletion') is null then
        create type keelson.user_deletion as (
            id uuid,
            deleted_at timestamptz,
            erasure_due_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.admin_user') is null then
        create type keelson.admin_user as (
            id uuid,
            email text,
            email_verified boolean,
            name text,
            avatar_url text,
            preferences jsonb,
            roles text[],
            status text,
            block_reason text,
            blocked_at timestamptz,
            deleted_at timestamptz,
            erasure_due_at timestamptz,
            created_at timestamptz,
            updated_at timestamptz,
            tier text
        );
    end if;
    if pg_catalog.to_regtype('keelson.ended_sessions') is null then
        create type keelson.ended_sessions as (
            ended_sessions integer
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

alter domain keelson.short_text drop constraint if exists short_text_check;
alter domain keelson.short_text add constraint short_text_check check (
    pg_catalog.char_length(value) between 1 and 500
    and value collate "C" operator(pg_catalog.!~) '[\u0001-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]'
);
comment on domain keelson.short_text is
    'must have 1 to 500 characters and no control characters';

alter domain keelson.role_name drop constraint if exists role_name_check;
alter domain keelson.role_name add constraint role_name_check check (
    value collate "C" operator(pg_catalog.~) '^[a-z][a-z0-9_]{0,62}$'
);
comment on domain keelson.role_name is
    'must begin with a small letter and have small letters, digits and underscores, 63 at most';

comment on type keelson.user_object is
    'A user as clients see it.';
comment on column keelson.user_object.email_verified is 'Whether the address was shown to be the user''s.';
comment on column keelson.user_object.avatar_url is 'Where the picture is; null without one.';
comment on column keelson.user_object.preferences is 'theme, language and notifications, as far as they were chosen.';
comment on column keelson.user_object.roles is 'The roles held; user is implied.';
comment on type keelson.admin_user is
    'A user as administrators see them.';
comment on column keelson.admin_user.email is 'The address; null for a user who is no person.';
comment on column keelson.admin_user.status is 'active, blocked or deleted.';
comment on column keelson.admin_user.tier is 'The tier that they have now.';
comment on column keelson.admin_user.block_reason is 'Why they were blocked; null when nobody said.';
comment on column keelson.admin_user.blocked_at is 'Since when they are blocked; null for who is not.';
comment on column keelson.admin_user.deleted_at is 'When they were deleted; null for who is not.';
comment on column keelson.admin_user.erasure_due_at is 'From when on everything of theirs is erased; null for who is not deleted.';
comment on type keelson.user_deletion is
    'A user who is deleted: nobody can log in as them any more, and an administrator can restore them until they are erased.';
comment on column keelson.user_deletion.id is 'Who was deleted.';
comment on column keelson.user_deletion.deleted_at is 'When.';
comment on column keelson.user_deletion.erasure_due_at is 'From when on everything of theirs is erased, for good.';
comment on type keelson.ended_sessions is
    'How many sessions were ended.';
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
