-- migration 1: limits, overrides, exemptions, blocks, violations
-- What a limit says: at most so many requests in any window of that length,
-- for each of those it counts by.
create table keelson.rate_limits (
    name text not null,
    rate_class text not null,
    counted_by text not null,
    max_requests integer not null,
    time_window interval not null,
    is_enabled boolean not null default true,
    is_shadow boolean not null default false,
    is_adaptive boolean not null default false,
    description text not null,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint rate_limits_pkey primary key (name),
    constraint rate_limits_name_check check (name ~ '^[a-z][a-z0-9_]{0,39}$'),
    constraint rate_limits_rate_class_check check (rate_class in ('general', 'api', 'auth', 'reset', 'custom')),
    constraint rate_limits_counted_by_check check (counted_by in ('caller', 'ip', 'email', 'key')),
    constraint rate_limits_custom_check check ((rate_class = 'custom') = (counted_by = 'key')),
    constraint rate_limits_max_requests_check check (max_requests between 1 and 1000000000),
    constraint rate_limits_time_window_check check (time_window >= '1 second' and time_window <= '31 days' and time_window = pg_catalog.date_trunc('second', time_window))
);
comment on table keelson.rate_limits is
    'The rate limits. Written by keelson.rate_limit_set(); every server process takes a change up with its next request.';
comment on column keelson.rate_limits.name is
    'Also the name of the policy in the headers RateLimit and RateLimit-Policy.';
comment on column keelson.rate_limits.rate_class is
    'The routes that it counts: general all of them, the others those of that class; custom those calls of keelson.rate_limit_take() that name it.';
comment on column keelson.rate_limits.counted_by is
    'caller: the user, or the IP address where nobody is signed in; ip; email: the e-mail address that the request names; key: what keelson.rate_limit_take() is given.';
comment on column keelson.rate_limits.is_shadow is
    'Counts and records violations, but refuses nothing.';
comment on column keelson.rate_limits.is_adaptive is
    'Shrinks under load, for the lowest tiers first.';
comment on constraint rate_limits_name_check on keelson.rate_limits is
    'the name of a rate limit is made of small letters, digits and underscores, begins with a letter and has at most 40';
comment on constraint rate_limits_rate_class_check on keelson.rate_limits is
    'the class of a rate limit is general, api, auth, reset or custom';
comment on constraint rate_limits_counted_by_check on keelson.rate_limits is
    'a rate limit counts by caller, ip, email or key';
comment on constraint rate_limits_custom_check on keelson.rate_limits is
    'limits of the class custom, and no others, count by key';
comment on constraint rate_limits_max_requests_check on keelson.rate_limits is
    'a rate limit allows 1 to 1000000000 requests';
comment on constraint rate_limits_time_window_check on keelson.rate_limits is
    'the window of a rate limit lasts from a second to 31 days, in whole seconds';

-- What holds for some instead: an access key's before its user's, a user's
-- before his tier's, that before the limit itself. Null requests: exempt.
create table keelson.tier_rate_limits (
    tier text not null,
    name text not null,
    max_requests integer,
    time_window interval,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint tier_rate_limits_pkey primary key (tier, name),
    constraint tier_rate_limits_name_fkey foreign key (name)
        references keelson.rate_limits (name) on update cascade on delete cascade,
    constraint tier_rate_limits_max_requests_check check (max_requests between 1 and 1000000000),
    constraint tier_rate_limits_time_window_check check (time_window >= '1 second' and time_window <= '31 days' and time_window = pg_catalog.date_trunc('second', time_window))
);
comment on table keelson.tier_rate_limits is
    'What a rate limit says for the users of a tier instead.';
comment on column keelson.tier_rate_limits.max_requests is
    'Null: the tier is exempt.';
comment on column keelson.tier_rate_limits.time_window is
    'Null: the limit''s own.';
comment on constraint tier_rate_limits_max_requests_check on keelson.tier_rate_limits is
    'a rate limit allows 1 to 1000000000 requests';
comment on constraint tier_rate_limits_time_window_check on keelson.tier_rate_limits is
    'the window of a rate limit lasts from a second to 31 days, in whole seconds';

create table keelson.user_rate_limits (
    user_id uuid not null,
    access_key_id uuid not null default '00000000-0000-0000-0000-000000000000',
    name text not null,
    max_requests integer,
    time_window interval,
    reason text not null,
    created_by uuid,
    created_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz,
    constraint user_rate_limits_pkey primary key (user_id, access_key_id, name),
    constraint user_rate_limits_max_requests_check check (max_requests between 1 and 1000000000),
    constraint user_rate_limits_time_window_check check (time_window >= '1 second' and time_window <= '31 days' and time_window = pg_catalog.date_trunc('second', time_window))
);
comment on table keelson.user_rate_limits is
    'What a rate limit says for one user, or one of the user''s access keys, instead.';
comment on column keelson.user_rate_limits.access_key_id is
    'The access key, which then has a counter of its own; all zeros: the user.';
comment on column keelson.user_rate_limits.max_requests is
    'Null: exempt.';
comment on constraint user_rate_limits_max_requests_check on keelson.user_rate_limits is
    'a rate limit allows 1 to 1000000000 requests';
comment on constraint user_rate_limits_time_window_check on keelson.user_rate_limits is
    'the window of a rate limit lasts from a second to 31 days, in whole seconds';

create table keelson.exempt_networks (
    network cidr not null,
    reason text not null,
    created_by uuid,
    created_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz,
    constraint exempt_networks_pkey primary key (network),
    constraint exempt_networks_network_excl exclude using gist (network inet_ops with &&)
);
comment on table keelson.exempt_networks is
    'Networks whose requests no rate limit counts and no automatic block catches: monitoring, an office.';

-- Who is kept out. No two blocks overlap, so that an address has one at most.
create table keelson.blocks (
    network cidr not null,
    reason text not null,
    is_automatic boolean not null default false,
    created_by uuid,
    created_at timestamptz not null default pg_catalog.now(),
    expires_at timestamptz,
    constraint blocks_pkey primary key (network),
    constraint blocks_network_excl exclude using gist (network inet_ops with &&),
    constraint blocks_expires_at_check check (expires_at > created_at)
);
comment on table keelson.blocks is
    'The addresses and networks whose requests are refused with IP_BLOCKED. Written by keelson.block_add() and the keeper.';
comment on column keelson.blocks.expires_at is
    'Null: until it is removed.';
create index blocks_created_at_idx on keelson.blocks (created_at, network);

-- When an address is blocked without anybody doing it.
create table keelson.block_rules (
    signal text not null,
    max_count integer not null,
    time_window interval not null,
    block_for interval not null,
    is_enabled boolean not null default true,
    description text not null,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint block_rules_pkey primary key (signal),
    constraint block_rules_signal_check check (signal in ('refusals', 'accounts')),
    constraint block_rules_max_count_check check (max_count between 1 and 1000000),
    constraint block_rules_time_window_check check (time_window >= '1 second' and time_window <= '31 days' and time_window = pg_catalog.date_trunc('second', time_window)),
    constraint block_rules_block_for_check check (block_for between '1 second' and '31 days')
);
comment on table keelson.block_rules is
    'What gets an address (IPv6: its /64) blocked for a while: refusals by rate limits, or distinct accounts that it tries.';

-- Who was refused, in aggregate: an hour, a user, an address, an endpoint and
-- a limit have one row, however often it happened.
create table keelson.rate_limit_violations (
    user_id uuid not null,
    hour_at timestamptz not null,
    ip_address inet not null,
    endpoint text not null,
    name text not null,
    is_shadow boolean not null,
    refusals bigint not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    constraint rate_limit_violations_pkey primary key (user_id, hour_at, ip_address, endpoint, name)
);
comment on table keelson.rate_limit_violations is
    'Refusals by rate limits and blocks, counted by hour. Kept for 30 days; an hour has at most 10,000 rows, the last of which counts all others together.';
comment on column keelson.rate_limit_violations.user_id is
    'All zeros: nobody was signed in.';
comment on column keelson.rate_limit_violations.ip_address is
    'The address, or the /64 network of an IPv6 address; ::/0: unknown, or others together.';
comment on column keelson.rate_limit_violations.name is
    'The limit; block for refusals of blocked addresses.';
create index rate_limit_violations_hour_at_idx
on keelson.rate_limit_violations (hour_at, user_id, ip_address, endpoint, name);
create index rate_limit_violations_ip_address_idx on keelson.rate_limit_violations (ip_address, hour_at);

-- Limits that are adaptive shrink when one of these rises above calm_at, and
-- are at their least at full_at.
create table keelson.load_signals (
    signal text not null,
    calm_at double precision not null,
    full_at double precision not null,
    is_enabled boolean not null default true,
    description text not null,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint load_signals_pkey primary key (signal),
    constraint load_signals_signal_check check (signal in ('connections', 'latency', 'queue')),
    constraint load_signals_full_at_check check (calm_at >= 0 and full_at > calm_at)
);
comment on table keelson.load_signals is
    'What makes adaptive rate limits shrink: the keeper measures each signal every second; the highest counts.';

create table keelson.tier_ranks (
    tier text not null,
    rank integer not null,
    constraint tier_ranks_pkey primary key (tier),
    constraint tier_ranks_rank_check check (rank between 0 and 15)
);
comment on table keelson.tier_ranks is
    'The order in which tiers lose under load: rank 0 first. Who has no tier, or one that is not here, has rank 0.';
