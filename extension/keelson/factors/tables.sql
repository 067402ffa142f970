-- migration 1: second factors

create table keelson.totp_factors (
    user_id uuid not null,
    id uuid not null,
    secret bytea not null,
    created_at timestamptz not null default pg_catalog.now(),
    confirmed_at timestamptz,
    last_step bigint not null default 0,
    constraint totp_factors_pkey primary key (user_id),
    constraint totp_factors_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade
);
comment on table keelson.totp_factors is
    'The authenticator app of each user who has one (RFC 6238: SHA-1, 6 digits, 30 seconds).';
comment on column keelson.totp_factors.id is 'Binds the sealed secret to this row.';
comment on column keelson.totp_factors.secret is '160 bits, sealed with the user''s key (purpose totp).';
comment on column keelson.totp_factors.confirmed_at is 'When the first code of it came; null: enrolled, and not in force yet.';
comment on column keelson.totp_factors.last_step is
    'The time step of the last code that was taken. A code is taken only for a later one, so each works once.';

create table keelson.recovery_codes (
    user_id uuid not null,
    code_hash bytea not null,
    created_at timestamptz not null default pg_catalog.now(),
    used_at timestamptz,
    constraint recovery_codes_pkey primary key (user_id, code_hash),
    constraint recovery_codes_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint recovery_codes_code_hash_check check (pg_catalog.octet_length(code_hash) = 32)
);
comment on table keelson.recovery_codes is
    'What stands in for a lost authenticator: of each code (120 bits) the SHA-256 alone.';
comment on column keelson.recovery_codes.used_at is 'When it was used: each works once.';

create table keelson.login_challenges (
    user_id uuid not null,
    token_hash bytea not null,
    password_changed_at timestamptz not null,
    created_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    constraint login_challenges_pkey primary key (user_id, token_hash),
    constraint login_challenges_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint login_challenges_token_hash_check check (pg_catalog.octet_length(token_hash) = 32),
    constraint login_challenges_expires_at_check check (expires_at > created_at)
);
create index login_challenges_expires_at_idx on keelson.login_challenges (expires_at);
comment on table keelson.login_challenges is
    'Log-ins whose password was right and whose second factor is awaited: of each challenge the SHA-256 alone.';
comment on column keelson.login_challenges.password_changed_at is
    'Of the password that was given: a challenge is void once that has changed.';
comment on index keelson.login_challenges_expires_at_idx is 'What the clean-up takes.';

alter table keelson.sessions add column factor_at timestamptz;
comment on column keelson.sessions.factor_at is
    'When the session last showed a second factor; null: never.';

-- migration 2: tiers that demand a second factor

alter table keelson.tiers add column factor_since timestamptz;
alter table keelson.tiers add column factor_grace interval;
alter table keelson.tiers add constraint tiers_factor_grace_check
    check (factor_grace between interval '0' and interval '90 days' and (factor_since is null) = (factor_grace is null));
comment on column keelson.tiers.factor_since is
    'Since when the tier demands a second factor: endpoints that demand a tier then serve its users at assurance level 2 alone. Null: it does not.';
comment on column keelson.tiers.factor_grace is
    'How long its users have to enrol one, from the later of factor_since and their coming.';

-- migration 3: authenticators of other digests than SHA-1

alter table keelson.totp_factors add column algorithm text not null default 'SHA1';
alter table keelson.totp_factors add constraint totp_factors_algorithm_check check (algorithm in ('SHA1', 'SHA256', 'SHA512'));
comment on table keelson.totp_factors is
    'The authenticator app of each user who has one (RFC 6238: 6 digits, 30 seconds).';
comment on column keelson.totp_factors.algorithm is 'The digest of its codes: keelson.totp_algorithm as it was at enrolment.';
comment on column keelson.totp_factors.secret is
    'As many random bytes as the digest has (160 bits for SHA-1), sealed with the user''s key (purpose totp).';
