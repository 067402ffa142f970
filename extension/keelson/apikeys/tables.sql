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

-- migration 2: calling the services, verifying keys with them

-- A key is sent to its service's host alone: the URL begins with base_url.
alter table keelson.api_key_services
    add column base_url text,
    add column key_header text not null default 'Authorization',
    add column key_prefix text not null default 'Bearer ',
    add column verify_path text,
    add column accepted_statuses integer[] not null default '{200}',
    add column refused_statuses integer[] not null default '{401,403}',
    add constraint api_key_services_base_url_check check (base_url ~ '^https?://[^/?#\s]+(/[^?#\s]*)?$' and base_url !~ '/$' and pg_catalog.char_length(base_url) <= 512),
    add constraint api_key_services_key_header_check check (key_header ~ '^[A-Za-z][A-Za-z0-9-]{0,63}$'),
    add constraint api_key_services_key_prefix_check check (key_prefix ~ '^([\u0021-\u007e][\u0020-\u007e]{0,31})?$'),
    add constraint api_key_services_verify_path_check check (
        verify_path ~ '^/[\u0021-\u007e]*$' and pg_catalog.char_length(verify_path) <= 512 and (verify_path is null or base_url is not null)
    ),
    add constraint api_key_services_accepted_statuses_check check (pg_catalog.cardinality(accepted_statuses) between 1 and 16),
    add constraint api_key_services_refused_statuses_check check (pg_catalog.cardinality(refused_statuses) between 1 and 16);
comment on column keelson.api_key_services.base_url is
    'Scheme, host and perhaps the beginning of the path of what keelson.call_with_key() may call; null: nothing.';
comment on column keelson.api_key_services.key_header is 'The header field that a key is sent in.';
comment on column keelson.api_key_services.key_prefix is 'What stands before the key there.';
comment on column keelson.api_key_services.verify_path is 'What is asked for, below base_url, to see whether a key is good; null: keys cannot be verified.';
comment on column keelson.api_key_services.accepted_statuses is 'The statuses that say that it is, …';
comment on column keelson.api_key_services.refused_statuses is '… and those that say that it is not; others say nothing.';

-- The services known from the start, unless an administrator has changed them.
update keelson.api_key_services as s
set base_url = known.base_url, key_header = known.key_header, key_prefix = known.key_prefix, verify_path = known.verify_path,
    refused_statuses = known.refused_statuses
from (
    values
        ('openai', 'https://api.openai.com', 'Authorization', 'Bearer ', '/v1/models', '{401,403}'::integer[]),
        ('elevenlabs', 'https://api.elevenlabs.io', 'xi-api-key', '', '/v1/user', '{401,403}'),
        ('gemini', 'https://generativelanguage.googleapis.com', 'x-goog-api-key', '', '/v1beta/models', '{400,401,403}'),
        ('groq', 'https://api.groq.com', 'Authorization', 'Bearer ', '/openai/v1/models', '{401,403}')
) as known (service, base_url, key_header, key_prefix, verify_path, refused_statuses)
where s.service = known.service;

alter table keelson.user_api_keys
    add column is_verified boolean,
    add column verified_at timestamptz,
    add constraint user_api_keys_verified_at_check check ((is_verified is null) = (verified_at is null));
comment on column keelson.user_api_keys.is_verified is 'What the service has said of the present key when it was asked last; null: it never was.';
comment on column keelson.user_api_keys.verified_at is 'When that was.';
