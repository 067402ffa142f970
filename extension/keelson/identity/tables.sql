-- migration 1: users and their addresses

create table keelson.users (
    id uuid not null,
    kind text not null default 'person',
    status text not null default 'active',
    name text,
    email text,
    email_verified_at timestamptz,
    preferences jsonb not null default '{}',
    created_at timestamptz not null default pg_catalog.now(),
    updated_at timestamptz not null default pg_catalog.now(),
    deleted_at timestamptz,
    constraint users_pkey primary key (id),
    -- What the arguments' domains promise, once more for every other way in.
    constraint users_kind_check check (kind in ('person', 'organisation', 'service')),
    constraint users_status_check check (status in ('active', 'blocked', 'deleted')),
    constraint users_name_check check (pg_catalog.char_length(name) between 1 and 100),
    constraint users_email_check check (pg_catalog.char_length(email) between 3 and 254),
    constraint users_preferences_check
        check (pg_catalog.jsonb_typeof(preferences) = 'object' and pg_catalog.octet_length(preferences::text) <= 8192),
    -- A person can be reached until erased; what is verified is an address.
    constraint users_kind_email_check check (kind <> 'person' or email is not null or status = 'deleted'),
    constraint users_email_verified_at_check check (email_verified_at is null or email is not null),
    constraint users_deleted_at_check check ((status = 'deleted') = (deleted_at is not null))
);
comment on table keelson.users is
    'Everyone who can own something: persons, and later organisations and services. Not every user can log in.';
comment on column keelson.users.id is 'UUIDv7; the user_id of every other table.';
comment on column keelson.users.kind is 'What the user is; only a person has a password.';
comment on column keelson.users.status is
    'active; blocked by an administrator; deleted, waiting for erasure. Leaving active ends all sessions in the same transaction.';
comment on column keelson.users.name is 'The name to show, as the user wrote it; null when none was given.';
comment on column keelson.users.email is
    'The address as the user wrote it. It is compared folded to lower case, in keelson.user_emails.';
comment on column keelson.users.email_verified_at is 'When the present address was shown to be the user''s; null until then.';
comment on column keelson.users.preferences is 'theme, language and notifications, as far as the user has chosen; see keelson.preferences.';
comment on column keelson.users.created_at is 'When the user came.';
comment on column keelson.users.updated_at is 'When this row last changed.';
comment on column keelson.users.deleted_at is 'When the user was deleted; erased once keelson.erasure_after has passed.';

create table keelson.user_emails (
    email text not null,
    user_id uuid not null,
    constraint user_emails_pkey primary key (email),
    constraint user_emails_email_check check (email = pg_catalog.lower(email collate "C") and pg_catalog.char_length(email) between 3 and 254)
);
-- No foreign key: users are found by their id on any node, addresses are one
-- global table. The functions that write one write the other.
create index user_emails_user_id_idx on keelson.user_emails (user_id);
comment on table keelson.user_emails is
    'Which user holds an address: the one look-up by e-mail, and what makes addresses unique. Read by keelson_system alone.';
comment on column keelson.user_emails.email is 'The address, folded to lower case.';
comment on column keelson.user_emails.user_id is 'The user who holds it.';
comment on constraint user_emails_pkey on keelson.user_emails is 'the e-mail address is taken';
comment on index keelson.user_emails_user_id_idx is 'The addresses of a user, for change and erasure.';
