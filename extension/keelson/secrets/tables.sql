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
-- migration 2: rotation of the keyring, audited openings

alter table keelson.seal_purposes add is_opening_audited boolean not null default false;
comment on column keelson.seal_purposes.is_opening_audited is
    'Whether each opening by keelson.unseal() is an event of the audit trail: for what is a user''s secret, and not opened on every request.';

alter table keelson.keyring_keys add superseded_at timestamptz;
comment on column keelson.keyring_keys.superseded_at is
    'Since when another key seals: no token or value made later needs this one. Set by keelson.keyring_rotate().';

-- The users' keys that a rotation has still to wrap anew, in the order that it goes.
create index user_keys_wrap_key_id_idx on keelson.user_keys (wrap_key_id, user_id, key_no);
comment on index keelson.user_keys_wrap_key_id_idx is 'What each master key wraps, for rotating and retiring it.';

-- What rests on a master key, so that nobody takes one away that is needed.
create table keelson.keyring_uses (
    name text not null,
    kind text not null,
    relation text,
    key_column name,
    id_column name,
    purpose text,
    condition text,
    lifetime interval,
    loss text not null,
    constraint keyring_uses_pkey primary key (name),
    constraint keyring_uses_kind_check check (kind in ('wrapped', 'sealed', 'derived', 'token', 'events')),
    constraint keyring_uses_relation_check check (case when kind = 'token' then relation is null else relation is not null end),
    constraint keyring_uses_key_column_check check ((key_column is not null) = (kind in ('wrapped', 'sealed', 'derived'))),
    constraint keyring_uses_purpose_check check ((kind = 'sealed') = (purpose is not null)),
    constraint keyring_uses_id_column_check check (id_column is null or kind = 'sealed'),
    constraint keyring_uses_lifetime_check check ((kind = 'token') = (lifetime is not null))
);
comment on table keelson.keyring_uses is
    'What rests on the master keys: a rotation moves what it can, and keelson.keyring_needs() says what still rests on an old key. Whoever seals values of the server, or derives keys, adds a row.';
comment on column keelson.keyring_uses.kind is
    'wrapped: users'' keys, wrapped anew by a rotation. sealed: values of the server, sealed anew by it. derived: rows that name the key which theirs was derived from. token: in the hands of clients. events: rows with UUIDv7 ids that stay as they are until they expire.';
comment on column keelson.keyring_uses.relation is 'The table, with its schema.';
comment on column keelson.keyring_uses.key_column is 'Of the table: the key''s id, or the sealed value that begins with it.';
comment on column keelson.keyring_uses.id_column is 'Of the table: the row id that the sealed value is bound to; null where it is bound to none.';
comment on column keelson.keyring_uses.purpose is 'What the value is sealed for.';
comment on column keelson.keyring_uses.condition is 'Which rows of the table count, as SQL; null for all.';
comment on column keelson.keyring_uses.lifetime is 'How long a token is good for.';
comment on column keelson.keyring_uses.loss is 'What is lost with the key, in words.';

-- One row for each rotation, and how far it has come. A batch moves the cursor
-- in the transaction that moves the keys, so that it goes on where it was.
create table keelson.keyring_rotations (
    id bigint generated always as identity,
    to_key_id integer not null,
    started_at timestamptz not null default pg_catalog.clock_timestamp(),
    started_by text not null,
    from_key_id integer,
    after_user_id uuid not null default '00000000-0000-0000-0000-000000000000',
    after_key_no integer not null default 0,
    moved_in_pass bigint not null default 0,
    user_keys bigint not null default 0,
    server_values bigint not null default 0,
    finished_at timestamptz,
    outcome text,
    constraint keyring_rotations_pkey primary key (id),
    constraint keyring_rotations_outcome_check check (outcome in ('done', 'incomplete', 'superseded')),
    constraint keyring_rotations_finished_at_check check ((finished_at is null) = (outcome is null))
);
create unique index keyring_rotations_finished_at_idx on keelson.keyring_rotations ((finished_at is null)) where finished_at is null;
comment on index keelson.keyring_rotations_finished_at_idx is 'One rotation at a time.';
comment on table keelson.keyring_rotations is
    'The rotations of the keyring: what they have moved to the new key, and how far they have come.';
comment on column keelson.keyring_rotations.to_key_id is 'The master key that everything moves to.';
comment on column keelson.keyring_rotations.from_key_id is 'The master key whose users'' keys are being moved; null before the first and after the last.';
comment on column keelson.keyring_rotations.after_user_id is 'The cursor: the users'' keys of from_key_id up to this one were looked at.';
comment on column keelson.keyring_rotations.moved_in_pass is 'What this pass has moved: one that moves nothing is the last.';
comment on column keelson.keyring_rotations.user_keys is 'How many users'' keys it has wrapped anew.';
comment on column keelson.keyring_rotations.server_values is 'How many values of the server it has sealed anew.';
comment on column keelson.keyring_rotations.outcome is
    'done: nothing is left under another key. incomplete: something was locked all along, or does not open. superseded: another primary came before it was done.';
