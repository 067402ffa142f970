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

-- migration 2: avatars, changes of address, blocks, bulk operations, what erasure and export need to know

alter table keelson.users
    add column avatar_hash bytea,
    add column blocked_at timestamptz,
    add column block_reason text,
    add column erasure_started_at timestamptz,
    add constraint users_avatar_hash_check check (pg_catalog.octet_length(avatar_hash) = 32),
    add constraint users_block_reason_check check (
        block_reason is null or blocked_at is not null and pg_catalog.char_length(block_reason) between 1 and 500
    ),
    add constraint users_erasure_started_at_check check (erasure_started_at is null or status = 'deleted');
comment on column keelson.users.avatar_hash is 'SHA-256 of the picture in keelson.avatars; null without one.';
comment on column keelson.users.blocked_at is 'When the user was blocked. A deleted user keeps it: who is restored is blocked again.';
comment on column keelson.users.block_reason is 'Why, for administrators.';
comment on column keelson.users.erasure_started_at is
    'Since when the user''s keys are erased and rows go in batches: from here there is no way back.';
-- What administrators look for. Folded in code-point order, so that the same
-- index serves equality, prefixes and sorting; the id makes each place unique.
create index users_email_idx on keelson.users ((coalesce(pg_catalog.lower(email collate "C"), '') collate "C"), id);
create index users_name_idx on keelson.users ((coalesce(pg_catalog.lower(name), '') collate "C"), id);
create index users_last_name_idx on keelson.users
    ((pg_catalog.lower(pg_catalog.substring(name, '[^ ]+$')) collate "C"), id) where pg_catalog.strpos(name, ' ') > 0;
create index users_status_idx on keelson.users (status, id) where status <> 'active';
create index users_deleted_at_idx on keelson.users (deleted_at, id) where status = 'deleted';
comment on index keelson.users_last_name_idx is 'The last word of names that have more than one.';
comment on index keelson.users_deleted_at_idx is 'Who is to be erased, in order.';

create table keelson.avatars (
    user_id uuid not null,
    content_type text not null,
    image bytea not null,
    width integer not null,
    height integer not null,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint avatars_pkey primary key (user_id),
    constraint avatars_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint avatars_content_type_check check (content_type in ('image/png', 'image/jpeg', 'image/webp')),
    constraint avatars_image_check check (pg_catalog.octet_length(image) between 1 and 1048576),
    constraint avatars_width_check check (width between 1 and 8192),
    constraint avatars_height_check check (height between 1 and 8192)
);
-- Pictures are compressed already.
alter table keelson.avatars alter column image set storage external;
comment on table keelson.avatars is 'The users'' pictures, as they were sent.';
comment on column keelson.avatars.content_type is 'What the bytes are, by what they say themselves.';

alter table keelson.user_emails
    add column reserved_until timestamptz;
comment on column keelson.user_emails.reserved_until is
    'Null: the user''s present address. Else one that the user has left; until then nobody else gets it, so that the change can be undone.';
create index user_emails_reserved_until_idx on keelson.user_emails (reserved_until) where reserved_until is not null;

create table keelson.email_changes (
    user_id uuid not null,
    id uuid not null,
    old_email text not null,
    old_verified_at timestamptz,
    new_email text not null,
    changed_at timestamptz not null default pg_catalog.now(),
    undo_until timestamptz not null,
    undone_at timestamptz,
    constraint email_changes_pkey primary key (user_id, id),
    constraint email_changes_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade
);
create index email_changes_undo_until_idx on keelson.email_changes (undo_until);
comment on table keelson.email_changes is
    'Changes of address that can be undone, for seven days; keelson.identity_purge() takes them after that.';
comment on column keelson.email_changes.old_verified_at is 'users.email_verified_at as it was before.';

-- An administrator's bulk operation, and what became of each user in it.
create table keelson.bulk_operations (
    user_id uuid not null,
    id uuid not null,
    operation text not null,
    reason text,
    role text,
    total integer not null,
    succeeded integer not null default 0,
    failed integer not null default 0,
    created_at timestamptz not null default pg_catalog.now(),
    finished_at timestamptz,
    constraint bulk_operations_pkey primary key (user_id, id),
    constraint bulk_operations_total_check check (total between 1 and 1000)
);
create index bulk_operations_created_at_idx on keelson.bulk_operations (created_at);
comment on table keelson.bulk_operations is
    'Operations on many users at once, by who ordered them; keelson.identity_purge() takes them after 30 days.';

create table keelson.bulk_items (
    user_id uuid not null,
    bulk_id uuid not null,
    place integer not null,
    target_id uuid not null,
    outcome text not null,
    code text,
    message text,
    constraint bulk_items_pkey primary key (user_id, bulk_id, place),
    constraint bulk_items_user_id_fkey foreign key (user_id, bulk_id)
        references keelson.bulk_operations (user_id, id) on delete cascade,
    constraint bulk_items_outcome_check check (outcome in ('done', 'unchanged', 'failed'))
);
comment on table keelson.bulk_items is 'What became of each user in a bulk operation.';
comment on column keelson.bulk_items.place is 'The place in the list that was sent, from 1.';

-- The one place that says which of users' tables are not treated as all others
-- are: deleted when their user is erased, shown to the user in the export.
create table keelson.user_data_rules (
    relation text not null,
    column_name text not null default '*',
    is_kept boolean not null default false,
    is_hidden boolean not null default false,
    open_expression text,
    reason text not null,
    constraint user_data_rules_pkey primary key (relation, column_name),
    constraint user_data_rules_is_kept_check check (not is_kept or column_name = '*'),
    constraint user_data_rules_open_expression_check check (open_expression is null or column_name <> '*' and not is_hidden)
);
comment on table keelson.user_data_rules is
    'Exceptions to how users'' data is exported and erased, by table and column. What has no rule: rows are exported and erased; columns are exported unless they are bytea or named like a secret.';
comment on column keelson.user_data_rules.relation is 'The table, with its schema.';
comment on column keelson.user_data_rules.column_name is 'The column; * for the table as a whole.';
comment on column keelson.user_data_rules.is_kept is 'The rows outlive their user.';
comment on column keelson.user_data_rules.is_hidden is 'Not exported. Of a column, false: exported whatever its name.';
comment on column keelson.user_data_rules.open_expression is
    'What is exported in place of the column, over the row t: how a sealed column is opened for its user.';

-- migration 3: links that undo a change of address

alter table keelson.email_changes add column undo_hash bytea;
alter table keelson.email_changes add constraint email_changes_undo_hash_check check (pg_catalog.octet_length(undo_hash) = 32);
comment on column keelson.email_changes.undo_hash is
    'SHA-256 of the token that was mailed to the old address; null where none was.';

-- migration 4: an address drawn by chance

create index user_emails_email_hash_idx on keelson.user_emails (pg_catalog.hashtextextended(email, 0));
comment on index keelson.user_emails_email_hash_idx is
    'Addresses in no order that anybody could choose: see keelson._password_decoy().';
