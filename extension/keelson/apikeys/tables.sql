-- migration 1: services, and the users' API keys for them

-- What a key looks like is data: an administrator adds a service without code.
create table keelson.api_key_services (
    service text not null,
    title text not null,
    pattern text not null,
    prefix text not null default '',
    min_length integer not null,
    max_length integer not null,
    hint text not null,
    is_enabled boolean not null default true,
    changed_at timestamptz not null default pg_catalog.now(),
    constraint api_key_services_pkey primary key (service),
    constraint api_key_services_service_check check (service ~ '^[a-z][a-z0-9_-]{0,31}$'),
    constraint api_key_services_title_check check (pg_catalog.char_length(title) between 1 and 100),
    constraint api_key_services_pattern_check check (pg_catalog.char_length(pattern) between 1 and 1000),
    constraint api_key_services_prefix_check check (prefix ~ '^[\u0021-\u007e]{0,16}$'),
    -- The mask shows the prefix and four more: most of a key stays unseen.
    constraint api_key_services_min_length_check check (min_length >= pg_catalog.char_length(prefix) + 16),
    constraint api_key_services_max_length_check check (max_length between min_length and 4096),
    constraint api_key_services_hint_check check (pg_catalog.char_length(hint) between 1 and 200)
);
comment on table keelson.api_key_services is
    'The services that users may keep an API key for, and what their keys look like. Written by keelson.api_key_service_set().';
comment on column keelson.api_key_services.service is 'The name by which requests mean it.';
comment on column keelson.api_key_services.title is 'The name for people.';
comment on column keelson.api_key_services.pattern is 'A regular expression that a whole key matches.';
comment on column keelson.api_key_services.prefix is 'What keys of the service begin with; public, and shown with the mask.';
comment on column keelson.api_key_services.hint is 'What a key looks like, in words: goes on "a key of <title> ".';
comment on column keelson.api_key_services.is_enabled is 'Whether new keys are taken. Stored ones may be used and removed in any case.';

-- One key per service. A new key is a new row as far as sealing goes: it gets
-- an id of its own, so that an old value put back does not open.
create table keelson.user_api_keys (
    user_id uuid not null,
    service text not null,
    id uuid not null,
    key_name text,
    masked_key text not null,
    sealed_key bytea not null,
    created_at timestamptz not null default pg_catalog.now(),
    updated_at timestamptz not null default pg_catalog.now(),
    last_used_at timestamptz,
    constraint user_api_keys_pkey primary key (user_id, service),
    constraint user_api_keys_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint user_api_keys_service_fkey foreign key (service) references keelson.api_key_services (service),
    constraint user_api_keys_key_name_check check (pg_catalog.char_length(key_name) between 1 and 100),
    constraint user_api_keys_masked_key_check check (pg_catalog.char_length(masked_key) <= 21)
) with (fillfactor = 90);
-- Whether anybody holds a key of a service.
create index user_api_keys_service_idx on keelson.user_api_keys (service);
comment on table keelson.user_api_keys is
    'The users'' own API keys for other services, sealed under the user''s key.';
comment on column keelson.user_api_keys.user_id is 'Whose key it is.';
comment on column keelson.user_api_keys.service is 'What it is for, one of keelson.api_key_services.';
comment on column keelson.user_api_keys.id is 'The row that the sealed value is bound to; another for each key.';
comment on column keelson.user_api_keys.key_name is 'What the user calls it.';
comment on column keelson.user_api_keys.masked_key is 'The service''s prefix and the key''s last four characters: what is shown of it.';
comment on column keelson.user_api_keys.sealed_key is 'The key, of purpose api-key.';
comment on column keelson.user_api_keys.created_at is 'When the user first stored a key for the service.';
comment on column keelson.user_api_keys.updated_at is 'When the present key was stored.';
comment on column keelson.user_api_keys.last_used_at is 'When the present key was last opened; null before that.';
comment on index keelson.user_api_keys_service_idx is 'The keys of a service, for removing one.';
