-- Sessions: the tokens and cookies by which they are known, their lives, and opening, going on with and ending them.

create or replace function keelson._token_key_id()
returns integer
language c
stable
as 'MODULE_PATHNAME', 'ks__token_key_id';
comment on function keelson._token_key_id() is
    'The keyring''s key that new tokens are made with.';

create or replace function keelson._refresh_token(user_id uuid, session_id uuid, generation integer, key_id integer)
returns text
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__refresh_token';
comment on function keelson._refresh_token(uuid, uuid, integer, integer) is
    'The refresh token of a session''s generation: the same every time.';

create or replace function keelson._refresh_token_open(
    token text,
    out user_id uuid,
    out session_id uuid,
    out generation integer,
    out key_id integer
)
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__refresh_token_open';
comment on function keelson._refresh_token_open(text) is
    'The parts of a refresh token; all null for what is none of ours. Says nothing of the session.';

create or replace function keelson._device_token(user_id uuid, device_id uuid, key_id integer)
returns text
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__device_token';
comment on function keelson._device_token(uuid, uuid, integer) is
    'The token by which a device shows that it has signed the user in before.';

create or replace function keelson._device_token_open(token text, user_id uuid)
returns uuid
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__device_token_open';
comment on function keelson._device_token_open(text, uuid) is
    'The device''s id; null for a token that is not ours, of another user, or over a year old.';

create or replace function keelson._access_token(user_id uuid, session_id uuid, aal smallint, lifetime integer)
returns text
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__access_token';
comment on function keelson._access_token(uuid, uuid, smallint, integer) is
    'A new access token of the session, good for so many seconds.';

-- Cookies. Max-Age is the session's: an expired access token then still says
-- so, instead of being nobody's.

create or replace function keelson._cookie(name text, value text, max_age integer, attributes text)
returns text
language sql
immutable
parallel safe
as $$
select '__Host-ks_' || name || '=' || value || '; Path=/; Max-Age=' || max_age || '; Secure; ' || attributes
$$;
comment on function keelson._cookie(text, text, integer, text) is
    'The value of a Set-Cookie header.';

create or replace function keelson._session_cookies(
    access_token text,
    refresh_token text,
    csrf_token text,
    max_age integer,
    device_token text default null
)
returns jsonb
language sql
immutable
parallel safe
as $$
select pg_catalog.jsonb_build_object('Set-Cookie', pg_catalog.array_remove(array[
    keelson._cookie('access', access_token, max_age, 'HttpOnly; SameSite=Lax'),
    keelson._cookie('refresh', refresh_token, max_age, 'HttpOnly; SameSite=Strict'),
    keelson._cookie('csrf', csrf_token, max_age, 'SameSite=Lax'),
    keelson._cookie('device', device_token, 31536000, 'HttpOnly; SameSite=Lax')
], null))
$$;
comment on function keelson._session_cookies(text, text, text, integer, text) is
    'Reply headers that set the cookies of a session; with Max-Age 0 they go.';

create or replace function keelson._logout_headers()
returns jsonb
language sql
immutable
parallel safe
as $$
select keelson._session_cookies('', '', '', 0) || '{"Clear-Site-Data": "\"cookies\", \"storage\""}'
$$;
comment on function keelson._logout_headers() is
    'Reply headers that make a browser forget the session; the device stays known.';

create or replace function keelson._session_reply(
    user_id uuid,
    opened keelson._open_session,
    by_cookie boolean,
    words jsonb default '{}',
    status integer default 200
)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    tokens keelson.session_tokens := opened.tokens;
    headers jsonb := jsonb_build_object(':user', user_id);
begin
    if opened.session_id is null then
        return keelson.reply_with(words, status, headers);
    end if;
    words := words || jsonb_build_object('expiresIn', tokens.expires_in);
    if by_cookie then
        headers := headers || keelson._session_cookies(
            tokens.access_token, tokens.refresh_token, keelson._csrf_token(opened.session_id), opened.lifetime, tokens.device_token
        );
        return keelson.reply_with(words, status, headers);
    end if;
    words := words || jsonb_build_object('accessToken', tokens.access_token, 'refreshToken', tokens.refresh_token);
    return keelson.reply_with(words, status, headers);
end
$$;
comment on function keelson._session_reply(uuid, keelson._open_session, boolean, jsonb, integer) is
    'The reply that hands the tokens of the user''s session out, beside other fields: in the body, or in cookies. Where there is no session, the other fields alone.';

create or replace function keelson._login_reply(user_id uuid, opened keelson._open_session, by_cookie boolean)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    tokens keelson.session_tokens := opened.tokens;
    words jsonb := jsonb_build_object('user', keelson.to_json(tokens."user"));
begin
    if not by_cookie then
        words := words || jsonb_build_object('deviceToken', tokens.device_token);
    end if;
    return keelson._session_reply(user_id, opened, by_cookie, words);
end
$$;
comment on function keelson._login_reply(uuid, keelson._open_session, boolean) is
    'The reply to a login: the user, the session''s tokens and the device''s.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._user_lock(user_id uuid, password_changed_at timestamptz)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Blocking, deleting, changing the password and logging in take turns, so
    -- that no session outlives what should have ended it.
    perform from keelson.users as u
    where u.id = _user_lock.user_id and u.status = 'active'
    for no key update;
    return found and exists (
        select from keelson.passwords as p
        where p.user_id = _user_lock.user_id and p.changed_at = password_changed_at
    );
end
$$;
alter function keelson._user_lock(uuid, timestamptz) owner to keelson_system;
comment on function keelson._user_lock(uuid, timestamptz) is
    'Lock the user until the transaction ends; false when they are no longer active or the password was changed since.';

create or replace function keelson._session_lifetime(aal smallint)
returns interval
language sql
stable
parallel safe
as $$
select pg_catalog.current_setting(
    case when aal = 1 then 'keelson.session_lifetime' else 'keelson.session_lifetime_aal2' end
)::interval
$$;
comment on function keelson._session_lifetime(smallint) is
    'How long a session of this assurance level lasts, however often it is refreshed.';

create or replace function keelson._session_idle(aal smallint)
returns interval
language sql
stable
parallel safe
as $$
select pg_catalog.current_setting(
    case when aal = 1 then 'keelson.session_idle' else 'keelson.session_idle_aal2' end
)::interval
$$;
comment on function keelson._session_idle(smallint) is
    'How long a session of this assurance level lasts without being refreshed.';

create or replace function keelson._session_max(user_id uuid)
returns integer
language sql
stable
as $$
-- A tier's cap "sessions", where it has one, within bounds.
select coalesce(
    (
        select greatest(least(pg_catalog.trunc(l.amount), 1000), 1)
        from keelson._tier_limit(user_id, 'sessions') as l (amount)
        where l.amount is not null
    ),
    pg_catalog.current_setting('keelson.session_max')::numeric
)::integer
$$;
comment on function keelson._session_max(uuid) is
    'How many sessions the user has at once: what the tier''s cap "sessions" says, else keelson.session_max.';

create or replace function keelson._access_expires_in(aal smallint, remaining interval)
returns integer
language sql
stable
parallel safe
as $$
select greatest(extract(epoch from least(
    pg_catalog.current_setting('keelson.access_token_lifetime')::interval, keelson._session_idle(aal), remaining
))::integer, 1)
$$;
comment on function keelson._access_expires_in(smallint, interval) is
    'Seconds that a new access token is good: never beyond its session''s end, nor past the time by which that must be refreshed.';

create or replace function keelson._access_lifetime(aal smallint, remaining interval)
returns integer
language sql
volatile
as $$
select pg_catalog.ceil(keelson._access_expires_in(aal, remaining) * (1 - pg_catalog.random() / 10))::integer
$$;
comment on function keelson._access_lifetime(smallint, interval) is
    'The same less a tenth at most, by chance, so that clients that came at once do not all come back at once.';

create or replace function keelson._session_add(
    user_id uuid,
    is_cookie boolean,
    aal smallint,
    expires_at timestamptz,
    created_at timestamptz default now()
)
returns keelson._open_session
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    session_id uuid := keelson.uuid7();
    key_id integer := keelson._token_key_id();
    lifetime interval := expires_at - now();
    opened keelson._open_session;
    tokens keelson.session_tokens;
begin
    insert into keelson.sessions (
        user_id, id, refresh_key_id, aal, is_cookie, ip_address, user_agent, created_at, expires_at, factor_at
    )
    values (
        user_id, session_id, key_id, aal, is_cookie, keelson.current_ip(), left(keelson.current_user_agent(), 512),
        created_at, expires_at, case when aal >= 2 then now() end
    );
    perform keelson.webhook_emit('session.created', jsonb_build_object(
        'userId', user_id, 'sessionId', session_id, 'ipAddress', host(keelson.current_ip()), 'userAgent', left(keelson.current_user_agent(), 512)
    ), user_id);
    tokens.expires_in := keelson._access_lifetime(aal, lifetime);
    tokens.access_token := keelson._access_token(user_id, session_id, aal, tokens.expires_in);
    tokens.refresh_token := keelson._refresh_token(user_id, session_id, 1, key_id);
    opened.tokens := tokens;
    opened.session_id := session_id;
    opened.lifetime := extract(epoch from lifetime);
    return opened;
end
$$;
comment on function keelson._session_add(uuid, boolean, smallint, timestamptz, timestamptz) is
    'Add a session at this assurance level (2: the second factor was shown now) that ends then at the latest, and make its tokens.';

create or replace function keelson._session_open(
    user_id uuid,
    is_cookie boolean,
    device_token text default null,
    aal smallint default 1
)
returns keelson._open_session
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    device_id uuid := keelson._device_token_open(device_token, user_id);
    opened keelson._open_session;
    tokens keelson.session_tokens;
begin
    if device_id is null then
        perform keelson._device_notice(user_id);
        device_id := gen_random_uuid();
    end if;
    opened := keelson._session_add(user_id, is_cookie, aal, now() + keelson._session_lifetime(aal));
    -- A user has so many sessions and no more: the oldest make room.
    update keelson.sessions as s
    set ended_at = now(), end_reason = 'replaced'
    where s.user_id = _session_open.user_id
        and s.ended_at is null
        and s.id in (
            select live.id from keelson.sessions as live
            where live.user_id = _session_open.user_id and live.ended_at is null
            order by live.id desc
            offset keelson._session_max(user_id)
        );
    tokens := opened.tokens;
    tokens."user" := keelson.user_get(user_id);
    tokens.device_token := keelson._device_token(user_id, device_id, keelson._token_key_id());
    opened.tokens := tokens;
    return opened;
end
$$;
alter function keelson._session_open(uuid, boolean, text, smallint) owner to keelson_system;
comment on function keelson._session_open(uuid, boolean, text, smallint) is
    'Open a session of the user at this assurance level (2 with a second factor) and make its tokens. Whoever calls it has proven who they are, and holds the lock on the user.';

create or replace function keelson._session_rotate(user_id uuid, session_id uuid, generation integer)
returns keelson._rotation
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson.sessions;
    rotation keelson._rotation;
    -- Of now, not of the transaction's start: the lock may have been waited for.
    present timestamptz;
begin
    -- Whoever comes at the same moment waits here and sees the successor.
    select * into s
    from keelson.sessions as locked
    where locked.user_id = _session_rotate.user_id and locked.id = _session_rotate.session_id
    for no key update;
    present := clock_timestamp();
    if s.id is null or s.ended_at is not null or s.expires_at <= present
        or s.rotated_at + keelson._session_idle(s.aal) <= present
        or _session_rotate.generation > s.generation
    then
        rotation.outcome := 'ended';
        return rotation;
    end if;
    if s.generation = _session_rotate.generation then
        rotation.outcome := 'rotated';
        s.generation := s.generation + 1;
        s.refresh_key_id := keelson._token_key_id();
        update keelson.sessions as rotated
        set generation = s.generation,
            refresh_key_id = s.refresh_key_id,
            rotated_at = present,
            last_seen_at = present,
            ip_address = coalesce(keelson.current_ip(), rotated.ip_address),
            user_agent = coalesce(left(keelson.current_user_agent(), 512), rotated.user_agent)
        where rotated.user_id = s.user_id and rotated.id = s.id;
    -- A clock that was put back makes the ten seconds no longer.
    elsif s.generation = _session_rotate.generation + 1
        and s.rotated_at > present - interval '10 seconds' and s.rotated_at < present + interval '10 seconds'
    then
        rotation.outcome := 'repeated';
    else
        rotation.outcome := 'reused';
        perform keelson._sessions_end(s.user_id, s.id, null, 'reused');
        return rotation;
    end if;
    rotation.generation := s.generation;
    rotation.key_id := s.refresh_key_id;
    rotation.aal := s.aal;
    rotation.lifetime := greatest(extract(epoch from s.expires_at - present)::integer, 1);
    return rotation;
end
$$;
alter function keelson._session_rotate(uuid, uuid, integer) owner to keelson_system;
comment on function keelson._session_rotate(uuid, uuid, integer) is
    'Spend the session''s refresh token of this generation. The same again within ten seconds, its successor unused, finds that successor; any other spent one ends the session.';

create or replace function keelson._sessions_end(user_id uuid, session_id uuid, except_session_id uuid, reason text)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    ended integer;
begin
    update keelson.sessions as s
    set ended_at = now(), end_reason = reason
    where s.user_id = _sessions_end.user_id
        and s.ended_at is null
        and s.expires_at > now()
        and (_sessions_end.session_id is null or s.id = _sessions_end.session_id)
        and s.id is distinct from except_session_id;
    get diagnostics ended = row_count;
    if ended > 0 then
        perform keelson.webhook_emit('session.ended', jsonb_build_object(
            'userId', user_id, 'sessionId', session_id, 'sessions', ended, 'reason', reason
        ), user_id);
    end if;
    return ended;
end
$$;
alter function keelson._sessions_end(uuid, uuid, uuid, text) owner to keelson_system;
comment on function keelson._sessions_end(uuid, uuid, uuid, text) is
    'End the user''s session, or with null all of them but one; returns how many were live.';

create or replace function keelson._session_is_live(user_id uuid, session_id uuid)
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select exists (
    select from keelson.sessions as s
    where s.user_id = _session_is_live.user_id
        and s.id = _session_is_live.session_id
        and s.ended_at is null
        and s.expires_at > now()
        and s.rotated_at + keelson._session_idle(s.aal) > now()
)
$$;
alter function keelson._session_is_live(uuid, uuid) owner to keelson_system;
comment on function keelson._session_is_live(uuid, uuid) is
    'Whether the session is neither ended nor expired nor idle for too long.';
