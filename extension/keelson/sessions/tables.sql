-- migration 1: passwords and sessions

create table keelson.passwords (
    user_id uuid not null,
    hash text not null,
    pepper_key_id integer not null default 0,
    normalisation text not null default 'nfc',
    changed_at timestamptz not null default pg_catalog.now(),
    constraint passwords_pkey primary key (user_id),
    constraint passwords_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    -- A PHC string of argon2id, or an imported bcrypt hash, never anything else.
    constraint passwords_hash_check check (hash ~ '^\$(argon2id\$|2[aby]\$)' and pg_catalog.char_length(hash) <= 256),
    constraint passwords_pepper_key_id_check check (pepper_key_id >= 0),
    constraint passwords_normalisation_check check (normalisation in ('none', 'nfc'))
);
comment on table keelson.passwords is
    'The password of each person who has one, hashed. Read by keelson_system alone.';
comment on column keelson.passwords.user_id is 'Whose password it is.';
comment on column keelson.passwords.hash is
    'argon2id (PHC string) over the pepper''s HMAC, or an imported hash until its user''s next login.';
comment on column keelson.passwords.pepper_key_id is 'The keyring''s key that the pepper was derived from; 0 without a pepper.';
comment on column keelson.passwords.normalisation is 'The Unicode form the password was brought to before hashing.';
comment on column keelson.passwords.changed_at is 'When the password, not merely its hash, was last changed.';

create table keelson.sessions (
    user_id uuid not null,
    id uuid not null,
    generation integer not null default 1,
    rotated_at timestamptz not null default pg_catalog.now(),
    refresh_key_id integer not null,
    aal smallint not null default 1,
    is_cookie boolean not null default false,
    ip_address inet,
    user_agent text,
    created_at timestamptz not null default pg_catalog.now(),
    last_seen_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz not null,
    ended_at timestamptz,
    end_reason text,
    constraint sessions_pkey primary key (user_id, id),
    constraint sessions_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint sessions_generation_check check (generation >= 1),
    constraint sessions_refresh_key_id_check check (refresh_key_id > 0),
    constraint sessions_aal_check check (aal between 1 and 3),
    constraint sessions_user_agent_check check (pg_catalog.char_length(user_agent) <= 512),
    constraint sessions_expires_at_check check (expires_at > created_at),
    constraint sessions_end_reason_check check (
        end_reason in ('logout', 'logout_everywhere', 'ended', 'password_changed', 'replaced', 'reused', 'blocked', 'deleted')
    ),
    constraint sessions_ended_at_check check ((ended_at is null) = (end_reason is null))
) with (fillfactor = 80);
-- A login counts and ends a user's live sessions without reading the old ones.
create index sessions_user_id_id_idx on keelson.sessions (user_id, id) where ended_at is null;
comment on table keelson.sessions is
    'One row per log-in, however often it is refreshed. The dispatcher reads the row at every request, so that an end holds at once.';
comment on column keelson.sessions.user_id is 'Who is logged in.';
comment on column keelson.sessions.id is 'UUIDv7, the claim sid of the access tokens; sorts by time of log-in.';
comment on column keelson.sessions.generation is
    'How many refresh tokens the session has had; only the last is good. A token is derived from session and generation, never stored.';
comment on column keelson.sessions.rotated_at is 'When the present refresh token came to be; idle expiry counts from here.';
comment on column keelson.sessions.refresh_key_id is 'The keyring''s key that the present refresh token is made with.';
comment on column keelson.sessions.aal is 'Authenticator assurance level: 1 a password, 2 with a second factor.';
comment on column keelson.sessions.is_cookie is 'Whether the tokens travel in cookies, so that CSRF is checked.';
comment on column keelson.sessions.ip_address is 'Where the session was last logged in or refreshed from.';
comment on column keelson.sessions.user_agent is 'The client as it named itself then, cut to 512 characters.';
comment on column keelson.sessions.created_at is 'When the user logged in.';
comment on column keelson.sessions.last_seen_at is 'When the session was last logged in or refreshed.';
comment on column keelson.sessions.expires_at is 'When it ends whatever happens.';
comment on column keelson.sessions.ended_at is 'When it was ended; null while it lives.';
comment on column keelson.sessions.end_reason is
    'Why it was ended: logout, logout_everywhere, ended (from the list), password_changed, replaced (by newer ones), reused (a spent refresh token came back), blocked, deleted.';
comment on index keelson.sessions_user_id_id_idx is 'A user''s sessions that have not been ended.';

-- migration 2: failures of authentication, and what the clean-up looks for

-- One row a failure. An account has a hundred in an hour at most, each cost its
-- maker the hashing of a password, and the keeper removes what is older.
create table keelson.authentication_failures (
    user_id uuid not null,
    failed_at timestamptz not null,
    device_id uuid not null default '00000000-0000-0000-0000-000000000000',
    is_forgiven boolean not null default false,
    constraint authentication_failures_pkey primary key (user_id, failed_at)
);
-- For the clean-up.
create index authentication_failures_failed_at_idx on keelson.authentication_failures (failed_at);
comment on table keelson.authentication_failures is
    'The last hour''s wrong passwords and second factors: what locks an account. An address that nobody holds has an account here too.';
comment on column keelson.authentication_failures.user_id is
    'The account: a user''s id, or for an address that nobody holds an id derived from it (version 8). No foreign key, so that both are alike.';
comment on column keelson.authentication_failures.failed_at is
    'When; of one account no two at the same moment.';
comment on column keelson.authentication_failures.device_id is
    'Whose budget it counts against: a device that has signed in before, or a session that was asked for its password; all zeros: strangers.';
comment on column keelson.authentication_failures.is_forgiven is
    'A success came after it: it counts for the account''s limit of an hour alone.';
comment on index keelson.authentication_failures_failed_at_idx is 'The oldest failures, for the clean-up.';

create index sessions_expires_at_idx on keelson.sessions (expires_at);
comment on index keelson.sessions_expires_at_idx is 'Sessions long over, for the clean-up.';
