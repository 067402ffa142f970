-- The users' own API keys for other services: storing, showing, removing,
-- using, and the services themselves.

do $types$
begin
    if pg_catalog.to_regtype('keelson.api_key_text') is null then
        create domain keelson.api_key_text as text;
    end if;
    if pg_catalog.to_regtype('keelson.api_key') is null then
        create type keelson.api_key as (
            service text,
            key_name text,
            masked_key text,
            created_at timestamptz,
            updated_at timestamptz,
            last_used_at timestamptz,
            verified boolean,
            verified_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.api_key_service') is null then
        create type keelson.api_key_service as (
            service text,
            title text,
            hint text,
            prefix text,
            min_length integer,
            max_length integer,
            can_verify boolean,
            is_stored boolean
        );
    end if;
end
$types$;

-- What every service's keys have in common; the rest are the service's rules.
alter domain keelson.api_key_text drop constraint if exists api_key_text_check;
alter domain keelson.api_key_text add constraint api_key_text_check check (
    pg_catalog.char_length(value) between 1 and 4096
    and value collate "C" operator(pg_catalog.~) '^[\u0021-\u007e]+$'
);
comment on domain keelson.api_key_text is
    'must have 1 to 4,096 characters, all of them letters, digits and signs of ASCII, without blanks';

comment on type keelson.api_key is
    'A user''s own API key for another service, as it is shown.';
comment on column keelson.api_key.service is 'The service that it is for.';
comment on column keelson.api_key.key_name is 'What the user calls it; null without a name.';
comment on column keelson.api_key.masked_key is 'What is shown of the key: the service''s public prefix and the last four characters.';
comment on column keelson.api_key.created_at is 'When a key for the service was first stored.';
comment on column keelson.api_key.updated_at is 'When this key was stored.';
comment on column keelson.api_key.last_used_at is 'When this key was last used; null if never.';
comment on column keelson.api_key.verified is 'Whether the service has accepted it when it was asked last; null if it never was.';
comment on column keelson.api_key.verified_at is 'When the service was asked; null if it never was.';

comment on type keelson.api_key_service is
    'A service that users may keep an API key for.';
comment on column keelson.api_key_service.service is 'The name by which requests mean it.';
comment on column keelson.api_key_service.title is 'The name for people.';
comment on column keelson.api_key_service.hint is 'What a key looks like: goes on "a key of <title> ".';
comment on column keelson.api_key_service.prefix is 'What its keys begin with, most of them.';
comment on column keelson.api_key_service.min_length is 'How many characters a key has at least.';
comment on column keelson.api_key_service.max_length is 'How many it has at most.';
comment on column keelson.api_key_service.can_verify is 'Whether the service can be asked if a key is good.';
comment on column keelson.api_key_service.is_stored is 'Whether the user keeps a key for it.';

create or replace function keelson._api_key_mask(api_key text, prefix text)
returns text
language sql
immutable
strict
parallel safe
as $$
select case when pg_catalog.starts_with(api_key, prefix) then prefix else '' end || '…' || pg_catalog.right(api_key, 4)
$$;
comment on function keelson._api_key_mask(text, text) is
    'What is shown of a key: the prefix, where it has it, and its last four characters.';

create or replace function keelson._api_key_require(service text, api_key text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    rules keelson.api_key_services;
begin
    select * into rules from keelson.api_key_services as s where s.service = _api_key_require.service and s.is_enabled;
    if not found then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('keys are kept for these services: %s', coalesce(
            (select string_agg(s.service, ', ' order by s.service) from keelson.api_key_services as s where s.is_enabled), 'none'
        )), field => 'service');
    end if;
    -- The length first: the pattern never sees more than it is meant for.
    if char_length(api_key) not between rules.min_length and rules.max_length
        or api_key collate "C" !~ ('^(?:' || rules.pattern || ')$')
    then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('a key of %s %s', rules.title, rules.hint), field => 'api_key');
    end if;
    return rules.prefix;
end
$$;
comment on function keelson._api_key_require(text, text) is
    'The public prefix of the service''s keys; 400 for a service that there is not, or a key that is none of its.';

-- A user's own.

create or replace function keelson.user_api_keys()
returns setof keelson.api_key
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select k.service, k.key_name, k.masked_key, k.created_at, k.updated_at, k.last_used_at, k.is_verified, k.verified_at
        from keelson.user_api_keys as k
        where k.user_id = keelson.current_user_id()
        order by k.service;
end
$$;
comment on function keelson.user_api_keys() is
    'The user''s own API keys for other services, one at most for each, masked.';
grant execute on function keelson.user_api_keys() to keelson_app;

create or replace function keelson.user_api_key_services()
returns setof keelson.api_key_service
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select s.service, s.title, s.hint, s.prefix, s.min_length, s.max_length, s.verify_path is not null,
            exists (
                select from keelson.user_api_keys as k
                where k.user_id = keelson.current_user_id() and k.service = s.service
            )
        from keelson.api_key_services as s
        where s.is_enabled
        order by s.service;
end
$$;
comment on function keelson.user_api_key_services() is
    'The services that the user may keep an API key for, and what their keys look like.';
grant execute on function keelson.user_api_key_services() to keelson_app;

create or replace function keelson.user_api_key_store(
    service text,
    api_key keelson.api_key_text,
    key_name keelson.display_name default null,
    verify boolean default false
)
returns keelson.api_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    acting uuid := keelson.acting_user_id();
    row_id uuid := keelson.uuid7();
    prefix text;
    stored keelson.api_key;
    is_new boolean;
begin
    perform keelson._require(user_api_key_store.service, 'service'), keelson._require(user_api_key_store.api_key, 'api_key');
    prefix := keelson._api_key_require(user_api_key_store.service, user_api_key_store.api_key);
    -- Before anything is written, since the service may be slow.
    if verify and not keelson._api_key_is_good(user_api_key_store.service, user_api_key_store.api_key) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the service does not accept this key', field => 'api_key');
    end if;
    insert into keelson.user_api_keys as k (user_id, service, id, key_name, masked_key, sealed_key, is_verified, verified_at)
    values (
        acting, user_api_key_store.service, row_id, normalize(user_api_key_store.key_name, nfc),
        keelson._api_key_mask(user_api_key_store.api_key, prefix),
        keelson.seal(convert_to(user_api_key_store.api_key, 'UTF8'), row('api-key', acting, row_id)::keelson.seal_context),
        case when verify then true end, case when verify then now() end
    )
    on conflict (user_id, service) do update
    set id = excluded.id, key_name = excluded.key_name, masked_key = excluded.masked_key, sealed_key = excluded.sealed_key,
        updated_at = excluded.updated_at, last_used_at = null, is_verified = excluded.is_verified, verified_at = excluded.verified_at
    returning k.service, k.key_name, k.masked_key, k.created_at, k.updated_at, k.last_used_at, k.is_verified, k.verified_at, k.xmax = 0
    into stored.service, stored.key_name, stored.masked_key, stored.created_at, stored.updated_at, stored.last_used_at,
        stored.verified, stored.verified_at, is_new;
    perform keelson.audit(
        case when is_new then 'key.create' else 'key.rotate' end,
        jsonb_build_object('what', 'API key', 'service', stored.service) || case when verify then '{"isVerified": true}' else '{}' end::jsonb
    );
    perform keelson.webhook_emit(case when is_new then 'api_key.stored' else 'api_key.replaced' end, jsonb_build_object(
        'userId', acting, 'service', stored.service, 'maskedKey', stored.masked_key
    ), acting);
    return stored;
end
$$;
comment on function keelson.user_api_key_store(text, keelson.api_key_text, keelson.display_name, boolean) is
    'Store the user''s own API key for another service, sealed, in place of the one before. It is never shown again, but for the service''s prefix and its last four characters. With verify the service is asked first, and a key that it does not accept is not stored.';
grant execute on function keelson.user_api_key_store(text, keelson.api_key_text, keelson.display_name, boolean) to keelson_app;

create or replace function keelson._api_key_remove(user_id uuid, service text, detail jsonb default '{}')
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.user_api_keys as k
    where k.user_id = _api_key_remove.user_id and k.service = _api_key_remove.service;
    if not found then
        return false;
    end if;
    perform keelson.audit('key.revoke', jsonb_build_object('what', 'API key', 'service', service) || detail, user_id => user_id);
    perform keelson.webhook_emit('api_key.removed', jsonb_build_object('userId', user_id, 'service', service), user_id);
    return true;
end
$$;
alter function keelson._api_key_remove(uuid, text, jsonb) owner to keelson_system;
comment on function keelson._api_key_remove(uuid, text, jsonb) is
    'Remove the user''s own API key for the service; false when there is none.';

create or replace function keelson.user_api_key_delete(service text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._require(service, 'service');
    if not keelson._api_key_remove(keelson.acting_user_id(), service) then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no key stored for this service', field => 'service');
    end if;
end
$$;
comment on function keelson.user_api_key_delete(text) is
    'Remove the user''s own API key for a service.';
grant execute on function keelson.user_api_key_delete(text) to keelson_app;

-- For trusted SQL alone.

create or replace function keelson.user_api_key_use(user_id uuid, service text)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held record;
    opened bytea;
begin
    if user_id <> keelson.current_user_id() then
        perform keelson.raise(403, 'FORBIDDEN', 'while a user is acting, only that user''s keys may be used', field => 'user_id');
    end if;
    select k.id, k.sealed_key, u.status into held
    from keelson.user_api_keys as k
    join keelson.users as u on u.id = k.user_id
    where k.user_id = user_api_key_use.user_id and k.service = user_api_key_use.service;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no key stored for this service', field => 'service');
    elsif held.status <> 'active' then
        perform keelson.raise(403, 'FORBIDDEN', 'the user is not active', field => 'user_id');
    end if;
    opened := keelson._unseal_for(
        held.sealed_key,
        row('api-key', user_id, held.id)::keelson.seal_context,
        jsonb_build_object('what', 'API key', 'service', service, 'databaseRole', session_user)
    );
    -- Nobody waits for others who use the key: theirs is as good a time.
    update keelson.user_api_keys as k
    set last_used_at = greatest(k.last_used_at, now())
    where k.user_id = user_api_key_use.user_id and k.service = user_api_key_use.service
        and k.last_used_at is distinct from now()
        and k.id in (
            select free.id from keelson.user_api_keys as free
            where free.user_id = user_api_key_use.user_id and free.service = user_api_key_use.service
            for no key update skip locked
        );
    return convert_from(opened, 'UTF8');
end
$$;
alter function keelson.user_api_key_use(uuid, text) owner to keelson_system;
comment on function keelson.user_api_key_use(uuid, text) is
    'A user''s API key for a service, in the clear, for calling that service with. For keelson_key_user alone; each use is in the audit trail, and noted as the key''s last.';
grant execute on function keelson.user_api_key_use(uuid, text) to keelson_key_user;

-- Services.

create or replace function keelson.api_key_service_set(
    service text,
    title text,
    pattern text,
    hint text,
    prefix text default '',
    min_length integer default 20,
    max_length integer default 256,
    is_enabled boolean default true,
    base_url text default null,
    key_header text default null,
    key_prefix text default null,
    verify_path text default null,
    accepted_statuses integer[] default null,
    refused_statuses integer[] default null
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson.api_key_services;
    field text := case
        when coalesce(service, '') !~ '^[a-z][a-z0-9_-]{0,31}$' then 'service'
        when coalesce(char_length(title), 0) not between 1 and 100 then 'title'
        when coalesce(char_length(pattern), 0) not between 1 and 1000 then 'pattern'
        when coalesce(char_length(hint), 0) not between 1 and 200 then 'hint'
        when coalesce(prefix, ' ') !~ '^[\u0021-\u007e]{0,16}$' then 'prefix'
        when coalesce(min_length, 0) < char_length(prefix) + 16 then 'min_length'
        when coalesce(max_length, 0) not between min_length and 4096 then 'max_length'
        when is_enabled is null then 'is_enabled'
        when base_url <> '' and (base_url ~ '[?#]|/$' or char_length(base_url) > 512 or keelson._url_fault(base_url) is not null) then 'base_url'
        when key_header !~ '^[A-Za-z][A-Za-z0-9-]{0,63}$' then 'key_header'
        when key_prefix !~ '^([\u0021-\u007e][\u0020-\u007e]{0,31})?$' then 'key_prefix'
        when verify_path <> '' and keelson._call_path_fault(verify_path) is not null then 'verify_path'
        when cardinality(accepted_statuses) not between 1 and 16 then 'accepted_statuses'
        when cardinality(refused_statuses) not between 1 and 16 then 'refused_statuses'
    end;
begin
    select * into s from keelson.api_key_services as known where known.service = api_key_service_set.service for update;
    base_url := coalesce(regexp_replace(keelson._url_normal(base_url), '/$', ''), base_url, s.base_url);
    verify_path := nullif(coalesce(verify_path, s.verify_path), '');
    if field is null and verify_path is not null and coalesce(base_url, '') = '' then
        field := 'verify_path';
    end if;
    if field is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('%s is not as it must be', field),
            'A service has a name of lower-case letters, digits, _ and -; a title; a pattern for the whole key; a hint in words; a prefix of at most 16 characters; lengths of 16 more than the prefix to 4,096; where it can be called, a URL without a / at its end, the header field that a key is sent in, what stands before it there, a path that tells whether a key is good, and 1 to 16 statuses each way.',
            field);
    end if;
    begin
        perform '' ~ ('^(?:' || pattern || ')$');
    exception when invalid_regular_expression then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'pattern is not a regular expression', field => 'pattern');
    end;
    insert into keelson.api_key_services as s (
        service, title, pattern, prefix, min_length, max_length, hint, is_enabled,
        base_url, key_header, key_prefix, verify_path, accepted_statuses, refused_statuses
    )
    values (
        service, title, pattern, prefix, min_length, max_length, hint, is_enabled,
        nullif(base_url, ''), coalesce(key_header, s.key_header, 'Authorization'), coalesce(key_prefix, s.key_prefix, 'Bearer '), verify_path,
        coalesce(accepted_statuses, s.accepted_statuses, '{200}'), coalesce(refused_statuses, s.refused_statuses, '{401,403}')
    )
    on conflict on constraint api_key_services_pkey do update
    set title = excluded.title, pattern = excluded.pattern, prefix = excluded.prefix, min_length = excluded.min_length,
        max_length = excluded.max_length, hint = excluded.hint, is_enabled = excluded.is_enabled,
        base_url = excluded.base_url, key_header = excluded.key_header, key_prefix = excluded.key_prefix, verify_path = excluded.verify_path,
        accepted_statuses = excluded.accepted_statuses, refused_statuses = excluded.refused_statuses, changed_at = now();
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'service of API keys', 'which', service, 'isEnabled', is_enabled, 'baseUrl', base_url, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.api_key_service_set(text, text, text, text, text, integer, integer, boolean, text, text, text, text, integer[], integer[]) is
    'Add a service that users may keep an API key for, or change one: pattern is a regular expression for the whole key, hint says in words what a key looks like, prefix is the public beginning of its keys. What is below base_url can be called with a key, sent in key_header after key_prefix; a GET of verify_path tells by its status whether a key is good; of these what is null stays as it is, an empty text takes away. Keys stored before stay.';
grant execute on function keelson.api_key_service_set(text, text, text, text, text, integer, integer, boolean, text, text, text, text, integer[], integer[]) to keelson_admin;

create or replace function keelson.api_key_service_remove(service text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if keelson._api_key_service_is_used(service) then
        perform keelson.raise(409, 'CONFLICT', 'users have keys stored for this service',
            'keelson.api_key_service_set(..., is_enabled => false) takes no new ones.', 'service');
    end if;
    delete from keelson.api_key_services as s where s.service = api_key_service_remove.service;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such service', field => 'service');
    end if;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'service of API keys', 'which', service, 'isRemoved', true, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.api_key_service_remove(text) is
    'Remove a service that no user has a key stored for.';
grant execute on function keelson.api_key_service_remove(text) to keelson_admin;

create or replace function keelson._api_key_service_is_used(service text)
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select exists (select from keelson.user_api_keys as k where k.service = _api_key_service_is_used.service)
$$;
alter function keelson._api_key_service_is_used(text) owner to keelson_system;
comment on function keelson._api_key_service_is_used(text) is
    'Whether any user has a key stored for the service.';
