-- migration 1: access keys, and the scopes that any user may give them

create table keelson.scopes (
    name text not null,
    description text not null,
    constraint scopes_pkey primary key (name),
    constraint scopes_name_check check (name ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$'),
    constraint scopes_description_check check (description <> '')
);
comment on table keelson.scopes is
    'Scopes that any user may give to their access keys, for endpoints on the user''s own behalf; a product adds its own. Besides these, each permission is a scope for those who hold it.';

create table keelson.access_keys (
    user_id uuid not null,
    id uuid not null,
    name text not null,
    prefix text not null,
    secret_hash bytea not null,
    environment text not null,
    scopes text[] not null,
    allowed_networks cidr[],
    expires_at timestamptz,
    replaced_by uuid,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz not null default pg_catalog.now(),
    constraint access_keys_pkey primary key (user_id, id),
    constraint access_keys_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint access_keys_name_check check (pg_catalog.char_length(name) between 1 and 100),
    constraint access_keys_prefix_check check (prefix ~ '^ks_(live|test)_[0-9A-Za-z]{11}$'),
    constraint access_keys_secret_hash_check check (pg_catalog.octet_length(secret_hash) = 32),
    constraint access_keys_environment_check check (environment in ('live', 'test')),
    -- The scope of the cron secret is no key's.
    constraint access_keys_scopes_check check (
        pg_catalog.cardinality(scopes) between 1 and 64
        and pg_catalog.array_position(scopes, null) is null
        and 'jobs.run' <> all (scopes)
    ),
    constraint access_keys_allowed_networks_check check (
        pg_catalog.cardinality(allowed_networks) between 1 and 32
        and pg_catalog.array_position(allowed_networks, null) is null
    ),
    -- What was replaced goes at some time.
    constraint access_keys_replaced_by_check check (replaced_by is null or expires_at is not null)
) with (fillfactor = 80);
create index access_keys_ended_idx on keelson.access_keys ((least(expires_at, revoked_at)))
    where expires_at is not null or revoked_at is not null;
comment on table keelson.access_keys is
    'Keys by which services call in a user''s name, within scopes. The dispatcher reads key and user at every request, so that an end holds at once.';
comment on column keelson.access_keys.user_id is 'Whose key it is; stands in the key''s text.';
comment on column keelson.access_keys.id is 'UUIDv7; stands in the key''s text.';
comment on column keelson.access_keys.name is 'What the user calls it.';
comment on column keelson.access_keys.prefix is 'How the key begins, to know it by.';
comment on column keelson.access_keys.secret_hash is 'SHA-256 of the key''s text, which is shown once and kept nowhere.';
comment on column keelson.access_keys.environment is 'live, or test when it was made in development; good in that alone.';
comment on column keelson.access_keys.scopes is 'What it may be used for, as far as its user may.';
comment on column keelson.access_keys.allowed_networks is 'Whence it may be used; null: from anywhere.';
comment on column keelson.access_keys.expires_at is 'When it ends; null: not by itself.';
comment on column keelson.access_keys.replaced_by is 'The key that a rotation made of it; this one is good until expires_at.';
comment on column keelson.access_keys.revoked_at is 'When it was revoked; it is not shown any more.';
comment on column keelson.access_keys.last_used_at is 'When it was last used, written within a minute; null: not yet.';
comment on column keelson.access_keys.created_at is 'When it was made.';
comment on index keelson.access_keys_ended_idx is 'Keys that have ended, or will, by when: for the cleanup.';
