-- What the peers have instead of Keelson: plain tables as a product would have them, without row-level security,
-- triggers or checks that cost, and the functions of those peers that make one call for each request.

create role peer login;
create schema peer authorization peer;
create schema peer_graphql authorization peer;
create schema peer_auth authorization peer;
set role peer;

create table peer.users (
    id uuid primary key,
    email text not null unique,
    email_verified boolean not null default false,
    name text,
    avatar_url text,
    preferences jsonb not null default '{}',
    roles text[] not null default '{user}',
    created_at timestamptz not null default now()
);

create table peer.sessions (
    id uuid primary key,
    user_id uuid not null references peer.users (id),
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    revoked_at timestamptz
);

create table peer.events (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null,
    feature text not null,
    minutes numeric not null,
    created_at timestamptz not null default now()
);

create table peer.totals (
    user_id uuid not null,
    month date not null,
    minutes numeric not null,
    requests bigint not null,
    primary key (user_id, month)
);

-- The profile of whoever's session this is, as the reply's text; null without such a session.
create function peer.me(session_id uuid, user_id uuid)
returns text
language plpgsql
stable
as $$
begin
    return (
        select json_build_object('success', true, 'data', json_build_object(
            'id', u.id, 'email', u.email, 'emailVerified', u.email_verified, 'name', u.name, 'avatarUrl', u.avatar_url,
            'preferences', u.preferences, 'roles', u.roles, 'createdAt', u.created_at))::text
        from peer.sessions as s
        join peer.users as u on u.id = s.user_id
        where s.id = me.session_id
            and s.user_id = me.user_id
            and s.revoked_at is null
            and s.expires_at > now());
end;
$$;

create type peer.month_total as (month date, minutes numeric, requests bigint);

create function peer.event_add_for(user_id uuid, feature text, minutes numeric)
returns peer.month_total
language plpgsql
as $$
declare
    total peer.month_total;
begin
    insert into peer.events (user_id, feature, minutes)
    values (event_add_for.user_id, event_add_for.feature, event_add_for.minutes);
    insert into peer.totals as t (user_id, month, minutes, requests)
    values (event_add_for.user_id, date_trunc('month', now() at time zone 'UTC')::date, event_add_for.minutes, 1)
    on conflict on constraint totals_pkey do update
        set minutes = t.minutes + excluded.minutes,
            requests = t.requests + 1
    returning t.month, t.minutes, t.requests into total;
    return total;
end;
$$;

create function peer.has_session(session_id uuid, user_id uuid)
returns boolean
language plpgsql
stable
as $$
begin
    return exists (
        select from peer.sessions as s
        where s.id = has_session.session_id
            and s.user_id = has_session.user_id
            and s.revoked_at is null
            and s.expires_at > now());
end;
$$;

-- Records a use for whoever's session this is; the month's total as the reply's text, null without such a session.
create function peer.event_add(session_id uuid, user_id uuid, feature text, minutes numeric)
returns text
language plpgsql
as $$
declare
    total peer.month_total;
begin
    if not peer.has_session(session_id, user_id) then
        return null;
    end if;
    total := peer.event_add_for(user_id, feature, minutes);
    return json_build_object('success', true, 'data', json_build_object(
        'month', total.month, 'minutes', total.minutes, 'requests', total.requests))::text;
end;
$$;

-- What PostGraphile makes its schema of: the token's claims come as settings.
create type peer_graphql.profile as (
    id uuid,
    email text,
    email_verified boolean,
    name text,
    avatar_url text,
    preferences jsonb,
    roles text[],
    created_at timestamptz
);

create type peer_graphql.month_total as (month date, minutes float8, requests integer);

create function peer_graphql.me()
returns peer_graphql.profile
language sql
stable
as $$
    select u.id, u.email, u.email_verified, u.name, u.avatar_url, u.preferences, u.roles, u.created_at
    from peer.sessions as s
    join peer.users as u on u.id = s.user_id
    where s.id = current_setting('jwt.claims.session_id')::uuid
        and s.user_id = current_setting('jwt.claims.user_id')::uuid
        and s.revoked_at is null
        and s.expires_at > now();
$$;

create function peer_graphql.event_add(feature text, minutes float8)
returns peer_graphql.month_total
language plpgsql
as $$
declare
    total peer.month_total;
begin
    if not peer.has_session(current_setting('jwt.claims.session_id')::uuid, current_setting('jwt.claims.user_id')::uuid) then
        raise exception 'there is no such session';
    end if;
    total := peer.event_add_for(current_setting('jwt.claims.user_id')::uuid, feature, minutes::numeric);
    return row(total.month, total.minutes, total.requests)::peer_graphql.month_total;
end;
$$;

-- better-auth's own tables, as its command makes them for PostgreSQL.
create table peer_auth."user" (
    id text primary key,
    name text not null,
    email text not null unique,
    "emailVerified" boolean not null,
    image text,
    "createdAt" timestamptz not null default current_timestamp,
    "updatedAt" timestamptz not null default current_timestamp
);

create table peer_auth.session (
    id text primary key,
    "expiresAt" timestamptz not null,
    token text not null unique,
    "createdAt" timestamptz not null default current_timestamp,
    "updatedAt" timestamptz not null,
    "ipAddress" text,
    "userAgent" text,
    "userId" text not null references peer_auth."user" (id) on delete cascade
);
create index "session_userId_idx" on peer_auth.session ("userId");

create table peer_auth.account (
    id text primary key,
    "accountId" text not null,
    "providerId" text not null,
    "userId" text not null references peer_auth."user" (id) on delete cascade,
    "accessToken" text,
    "refreshToken" text,
    "idToken" text,
    "accessTokenExpiresAt" timestamptz,
    "refreshTokenExpiresAt" timestamptz,
    scope text,
    password text,
    "createdAt" timestamptz not null default current_timestamp,
    "updatedAt" timestamptz not null
);
create index "account_userId_idx" on peer_auth.account ("userId");

create table peer_auth.verification (
    id text primary key,
    identifier text not null,
    value text not null,
    "expiresAt" timestamptz not null,
    "createdAt" timestamptz not null default current_timestamp,
    "updatedAt" timestamptz not null default current_timestamp
);
create index verification_identifier_idx on peer_auth.verification (identifier);

-- What rate-limiter-flexible counts in, as it makes it.
create table peer.limits (
    key varchar(255) primary key,
    points integer not null default 0,
    expire bigint
);

reset role;
