-- migration 1: tiers, subscriptions, quotas, referrals

-- What a user may do and how much. The samples at the end are a product's to change.
create table keelson.tiers (
    id text not null,
    name text not null,
    rank integer not null,
    features text[] not null default '{}',
    is_default boolean not null default false,
    is_public boolean not null default true,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint tiers_pkey primary key (id),
    constraint tiers_rank_key unique (rank),
    constraint tiers_id_check check (id ~ '^[a-z][a-z0-9_]{0,39}$'),
    constraint tiers_name_check check (pg_catalog.char_length(name) between 1 and 100),
    constraint tiers_rank_check check (rank between 0 and 1000)
);
create unique index tiers_is_default_idx on keelson.tiers (is_default) where is_default;
comment on table keelson.tiers is
    'The tiers that users can have. Written by keelson.tier_set().';
comment on column keelson.tiers.rank is 'What needs a tier is open to all tiers of its rank or above.';
comment on column keelson.tiers.features is 'What keelson.has_feature() answers for its users.';
comment on column keelson.tiers.is_default is 'The tier of who has no other: the one that new users get, and that trials end in.';
comment on column keelson.tiers.is_public is 'Whether GET /api/tiers shows it.';

create table keelson.tier_limits (
    tier_id text not null,
    kind text not null,
    name text not null,
    amount numeric not null,
    is_hard boolean not null,
    resets text not null,
    constraint tier_limits_pkey primary key (tier_id, kind, name),
    constraint tier_limits_tier_id_fkey foreign key (tier_id) references keelson.tiers (id) on update cascade on delete cascade,
    constraint tier_limits_kind_check check (kind in ('unit', 'feature', 'cap')),
    constraint tier_limits_name_check check (name ~ '^[A-Za-z][A-Za-z0-9_.-]{0,63}$'),
    constraint tier_limits_amount_check check (amount >= 0 and amount <= 1e15),
    constraint tier_limits_resets_check check (resets in ('period', 'never') and (resets = 'period' or kind <> 'feature')),
    constraint tier_limits_minutes_check check (name <> 'minutes' or kind = 'feature' or kind = 'unit' and resets = 'period')
);
create unique index tier_limits_tier_id_name_idx on keelson.tier_limits (tier_id, name) where kind <> 'feature';
comment on table keelson.tier_limits is
    'How much a tier has of what. What is not here is not limited.';
comment on column keelson.tier_limits.kind is
    'unit: counted by quota functions (minutes: by usage); feature: the minutes of one feature; cap: not counted, for keelson.tier_limit() to answer.';
comment on column keelson.tier_limits.is_hard is 'Whether more is refused (429 QUOTA_EXCEEDED) or merely counted.';
comment on column keelson.tier_limits.resets is 'Whether counting begins anew with each period of the subscription, or never: things that are there, such as projects.';

-- One row for each user. The clockwork: what is to change, and when, stands in
-- next_tier_id and next_tier_at and holds from that moment on, whether or not
-- the job has written it down.
create table keelson.subscriptions (
    user_id uuid not null,
    tier_id text not null,
    status text not null default 'active',
    next_tier_id text,
    next_tier_at timestamptz,
    trial_ends_at timestamptz,
    anchor timestamp not null,
    period_months integer not null default 1,
    time_zone text not null default 'UTC',
    period_start timestamptz not null,
    period_end timestamptz not null,
    created_at timestamptz not null default pg_catalog.now(),
    updated_at timestamptz not null default pg_catalog.now(),
    constraint subscriptions_pkey primary key (user_id),
    constraint subscriptions_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint subscriptions_tier_id_fkey foreign key (tier_id) references keelson.tiers (id) on update cascade,
    constraint subscriptions_next_tier_id_fkey foreign key (next_tier_id) references keelson.tiers (id) on update cascade,
    constraint subscriptions_status_check check (status in ('active', 'trialing', 'past_due', 'canceled')),
    constraint subscriptions_next_tier_check check ((next_tier_id is null) = (next_tier_at is null)),
    constraint subscriptions_trial_ends_at_check check (status <> 'trialing' or trial_ends_at is not null and next_tier_at = trial_ends_at),
    constraint subscriptions_anchor_check check (anchor = pg_catalog.date_trunc('hour', anchor)),
    constraint subscriptions_period_months_check check (period_months in (1, 3, 6, 12)),
    constraint subscriptions_period_end_check check (period_end > period_start)
) with (fillfactor = 80);
create index subscriptions_next_tier_at_idx on keelson.subscriptions (next_tier_at) where next_tier_at is not null;
create index subscriptions_period_end_idx on keelson.subscriptions (period_end);
create index subscriptions_tier_id_idx on keelson.subscriptions (tier_id);
create index subscriptions_next_tier_id_idx on keelson.subscriptions (next_tier_id) where next_tier_id is not null;
comment on table keelson.subscriptions is
    'The tier of each user, its trial and its periods. Who has no row has the default tier.';
comment on column keelson.subscriptions.status is 'active; trialing: until trial_ends_at; past_due: a payment is late; canceled: until next_tier_at.';
comment on column keelson.subscriptions.next_tier_id is 'What the tier is from next_tier_at on.';
comment on column keelson.subscriptions.trial_ends_at is 'When the latest trial ends, or ended.';
comment on column keelson.subscriptions.anchor is
    'Periods begin so many months after it, by the wall clock of the time zone; on the month''s last day where it has no such day.';
comment on column keelson.subscriptions.time_zone is 'The user''s: IANA name.';

create table keelson.quota_counters (
    user_id uuid not null,
    kind text not null,
    name text not null,
    period_start timestamptz not null,
    used numeric not null default 0,
    reserved numeric not null default 0,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint quota_counters_pkey primary key (user_id, kind, name),
    constraint quota_counters_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint quota_counters_kind_check check (kind in ('unit', 'feature')),
    constraint quota_counters_used_check check (used >= 0),
    constraint quota_counters_reserved_check check (reserved >= 0)
) with (fillfactor = 70);
comment on table keelson.quota_counters is
    'What users have taken of each quota. Minutes are here only for those whose limit is hard; the row is the lock that makes it exact.';
comment on column keelson.quota_counters.period_start is 'The period that used is of; -infinity for what never resets.';
comment on column keelson.quota_counters.reserved is 'The sum of keelson.quota_reservations.';

create table keelson.quota_reservations (
    user_id uuid not null,
    id uuid not null,
    kind text not null,
    name text not null,
    feature text,
    amount numeric not null,
    expires_at timestamptz not null,
    created_at timestamptz not null default pg_catalog.now(),
    constraint quota_reservations_pkey primary key (user_id, id, kind, name),
    constraint quota_reservations_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint quota_reservations_amount_check check (amount > 0)
);
create index quota_reservations_expires_at_idx on keelson.quota_reservations (expires_at);
comment on table keelson.quota_reservations is
    'What is held of a quota for work that goes on, until it is committed, released or expires. A row for each counter.';
comment on column keelson.quota_reservations.feature is 'Whose minutes are held; null for other units.';

create table keelson.referrals (
    user_id uuid not null,
    code text not null,
    redemptions integer not null default 0,
    constraint referrals_pkey primary key (user_id),
    constraint referrals_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint referrals_code_check check (code ~ '^[0-9A-HJKMNP-TV-Z]{10}$')
);
comment on table keelson.referrals is
    'Each user''s referral code, and how many new users came by it.';

-- No foreign key: codes are one global table, users are found by their id on any node.
create table keelson.referral_codes (
    code text not null,
    user_id uuid not null,
    constraint referral_codes_pkey primary key (code)
);
create index referral_codes_user_id_idx on keelson.referral_codes (user_id);
comment on table keelson.referral_codes is
    'Whose a referral code is: the one look-up by code. Read by keelson_system alone.';

create table keelson.referral_redemptions (
    user_id uuid not null,
    referrer_id uuid not null,
    code text not null,
    redeemed_at timestamptz not null default pg_catalog.now(),
    constraint referral_redemptions_pkey primary key (user_id),
    constraint referral_redemptions_user_id_fkey foreign key (user_id) references keelson.users (id) on delete cascade,
    constraint referral_redemptions_referrer_id_check check (referrer_id <> user_id)
);
comment on table keelson.referral_redemptions is
    'By whose code a user came: one at most.';

-- Samples.
insert into keelson.tiers (id, name, rank, features, is_default)
values
    ('free', 'Free', 0, '{}', true),
    ('pro', 'Pro', 10, '{export, webhooks}', false),
    ('studio', 'Studio', 20, '{export, priority, webhooks}', false);
insert into keelson.tier_limits (tier_id, kind, name, amount, is_hard, resets)
values
    ('free', 'unit', 'minutes', 60, false, 'period'),
    ('free', 'unit', 'projects', 3, true, 'never'),
    ('pro', 'unit', 'minutes', 1000, false, 'period'),
    ('pro', 'unit', 'projects', 50, true, 'never'),
    ('studio', 'unit', 'minutes', 10000, false, 'period'),
    ('studio', 'unit', 'projects', 1000, true, 'never');
insert into keelson.tier_ranks (tier, rank)
values ('free', 0), ('pro', 1), ('studio', 2)
on conflict do nothing;

-- Who was there before; only keelson_system sees them.
grant select on keelson.users, keelson.tiers to keelson_system;
grant select, insert on keelson.subscriptions, keelson.referrals, keelson.referral_codes to keelson_system;
select keelson._subscriptions_fill();

-- migration 2: users are told when a quota is reached, once in each period

alter table keelson.quota_counters add column told_period timestamptz;
comment on column keelson.quota_counters.told_period is
    'The beginning of the subscription''s period in which the user was told last that the quota is reached.';

-- Soft limits of minutes are not counted. The keeper alone writes here, and
-- looks again when the usage of all time has come to what was missing then.
create table keelson.quota_watches (
    user_id uuid not null,
    kind text not null,
    name text not null,
    minutes_due numeric not null,
    look_again_at timestamptz not null,
    told_period timestamptz,
    constraint quota_watches_pkey primary key (user_id, kind, name),
    constraint quota_watches_kind_check check (kind in ('unit', 'feature'))
) with (fillfactor = 80);
comment on table keelson.quota_watches is
    'Until when each user''s soft quotas of minutes cannot be reached. Written by the keeper as it folds usage.';
comment on column keelson.quota_watches.minutes_due is
    'The minutes of all time at which the limit may be reached; infinite once the user was told.';
comment on column keelson.quota_watches.look_again_at is
    'When tier or period are others.';
comment on column keelson.quota_watches.told_period is
    'The beginning of the period in which the user was told last.';

-- migration 3: persons who came by an external issuer have a subscription and a referral code too

select keelson._subscriptions_fill();
