-- migration 1: key-check values, users' keys, signing keys, the server's secrets

-- The master keys that this database was sealed with. A check value is derived
-- from the key and tells nothing about it.
create table keelson.keyring_keys (
    key_id integer not null,
    check_value bytea not null,
    created_at timestamptz not null default pg_catalog.now(),
    retired_at timestamptz,
    constraint keyring_keys_pkey primary key (key_id),
    constraint keyring_keys_key_id_check check (key_id > 0),
    constraint keyring_keys_check_value_check check (pg_catalog.octet_length(check_value) = 32)
);
comment on table keelson.keyring_keys is
    'The master keys that this database needs, each with a value by which the right key is known.';
comment on column keelson.keyring_keys.retired_at is
    'Since when nothing is sealed under the key any more, so that the keyring may do without it.';

-- A row is written once and its key never changes; rotation of the keyring
-- writes wrapped anew. Numbers of a user's keys rise, the highest seals.
create table keelson.user_keys (
    user_id uuid not null,
    key_no integer not null,
    wrap_key_id integer not null,
    wrapped bytea not null,
    uses bigint not null default 0,
    created_at timestamptz not null default pg_catalog.now(),
    constraint user_keys_pkey primary key (user_id, key_no),
    constraint user_keys_key_no_check check (key_no > 0),
    constraint user_keys_uses_check check (uses >= 0),
    constraint user_keys_wrapped_check check (pg_catalog.octet_length(wrapped) = 65)
);
comment on table keelson.user_keys is
    'The key of each user, random and wrapped by a master key. What is sealed with it goes when the row goes.';
comment on column keelson.user_keys.wrap_key_id is
    'The master key that wraps it, as the head of wrapped says too.';
comment on column keelson.user_keys.uses is
    'An estimate of how many values it has sealed, from a sample; at 2^30 the user''s next key is made.';

-- What values may be sealed for.
create table keelson.seal_purposes (
    name text not null,
    scope text not null,
    description text not null,
    constraint seal_purposes_pkey primary key (name),
    constraint seal_purposes_name_check check (name ~ '^[a-z][a-z0-9_.-]{0,62}$'),
    constraint seal_purposes_scope_check check (scope in ('user', 'server'))
);
comment on table keelson.seal_purposes is
    'What values may be sealed for. The name is bound into each value: it is never changed and never removed.';
comment on column keelson.seal_purposes.scope is
    'Whether values are a user''s, sealed with that user''s key, or the server''s.';

-- The server's own secrets: a hash where comparing is enough, else sealed.
create table keelson.secrets (
    name text not null,
    id uuid not null default pg_catalog.gen_random_uuid(),
    is_hashed boolean not null,
    description text not null,
    value bytea,
    changed_at timestamptz,
    constraint secrets_pkey primary key (name),
    constraint secrets_value_check check ((value is null) = (changed_at is null))
);
comment on table keelson.secrets is
    'The server''s own secrets by name. They are set by keelson.secret_set(), and null until then.';
comment on column keelson.secrets.is_hashed is
    'Whether the value is a salted SHA-256, good for comparing alone; else it is sealed.';

-- Which key signs follows from active_from alone: the newest that has begun.
-- A key is published from its making until its successor has signed for longer
-- than a token lives.
create table keelson.signing_keys (
    id uuid not null,
    kid text not null,
    algorithm text not null,
    public_key jsonb not null,
    private_key bytea not null,
    created_at timestamptz not null default pg_catalog.now(),
    active_from timestamptz not null,
    revoked_at timestamptz,
    constraint signing_keys_pkey primary key (id),
    constraint signing_keys_kid_key unique (kid),
    constraint signing_keys_algorithm_check check (algorithm = 'ES256')
);
comment on table keelson.signing_keys is
    'The keys that sign access tokens: public half as a JWK, private half sealed.';
comment on column keelson.signing_keys.kid is
    'The key''s RFC 7638 thumbprint, the kid of its tokens.';
comment on column keelson.signing_keys.active_from is
    'From when on it signs, until a younger one does.';
comment on column keelson.signing_keys.revoked_at is
    'Since when neither it nor any of its tokens counts.';
