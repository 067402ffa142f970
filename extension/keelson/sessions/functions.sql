-- Sessions: registration, login, logout, and the tokens they hand out.

do $types$
begin
    if pg_catalog.to_regtype('keelson.registration') is null then
        create type keelson.registration as (
            "user" keelson.user_object,
            access_token text,
            refresh_token text,
            expires_in integer
        );
    end if;
    if pg_catalog.to_regtype('keelson.session_tokens') is null then
        create type keelson.session_tokens as (
            "user" keelson.user_object,
            access_token text,
            refresh_token text,
            expires_in integer,
            device_token text
        );
    end if;
    if pg_catalog.to_regtype('keelson.cookie_session') is null then
        create type keelson.cookie_session as (
            "user" keelson.user_object,
            expires_in integer
        );
    end if;
    if pg_catalog.to_regtype('keelson.token_pair') is null then
        create type keelson.token_pair as (
            access_token text,
            refresh_token text,
            expires_in integer
        );
    end if;
    if pg_catalog.to_regtype('keelson._rotation') is null then
        create type keelson._rotation as (
            outcome text,
            generation integer,
            key_id integer,
            aal smallint,
            lifetime integer
        );
    end if;
    if pg_catalog.to_regtype('keelson.auth_state') is null then
        create type keelson.auth_state as (
            authenticated boolean,
            "user" keelson.user_object,
            expires_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.logout') is null then
        create type keelson.logout as (
            ended_sessions integer
        );
    end if;
    if pg_catalog.to_regtype('keelson._credential') is null then
        create type keelson._credential as (
            user_id uuid,
            status text,
            email text,
            name text,
            hash text,
            pepper_key_id integer,
            normalisation text,
            changed_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson._open_session') is null then
        create type keelson._open_session as (
            tokens keelson.session_tokens,
            session_id uuid,
            lifetime integer
        );
    end if;
end
$types$;
comment on type keelson.registration is
    'What a new user gets: themselves and the tokens of their first session.';
comment on column keelson.registration.access_token is 'JWT for Authorization: Bearer; left out where cookies hold it.';
comment on column keelson.registration.refresh_token is 'Good once, for the next pair of tokens; left out where cookies hold it.';
comment on column keelson.registration.expires_in is 'Seconds until the access token expires.';
comment on type keelson.session_tokens is
    'What a login gives: the user, the session''s tokens and the device''s.';
comment on column keelson.session_tokens.access_token is 'JWT for Authorization: Bearer; left out where cookies hold it.';
comment on column keelson.session_tokens.refresh_token is 'Good once, for the next pair of tokens; left out where cookies hold it.';
comment on column keelson.session_tokens.expires_in is 'Seconds until the access token expires.';
comment on column keelson.session_tokens.device_token is 'Tells at the next login that this device has signed in before; left out where a cookie holds it.';
comment on type keelson.cookie_session is
    'What a login with cookies gives: the tokens are in the cookies.';
comment on type keelson.token_pair is
    'What a refresh gives: the next access token and the next refresh token.';
comment on column keelson.token_pair.access_token is 'JWT for Authorization: Bearer; left out where cookies hold it.';
comment on column keelson.token_pair.refresh_token is 'Good once, for the next pair of tokens; left out where cookies hold it.';
comment on column keelson.token_pair.expires_in is 'Seconds until the access token expires.';
comment on type keelson._rotation is
    'What became of a refresh: outcome is rotated, repeated, reused or ended; the others describe the session''s present token, lifetime in seconds until the session ends.';
comment on type keelson.auth_state is
    'Whether somebody is signed in, who, and until when the access token is good.';
comment on type keelson.logout is
    'How many sessions a logout ended.';
comment on type keelson._credential is
    'What a person logs in with.';
comment on type keelson._open_session is
    'A session just opened, as the functions hand it on: tokens, id, and seconds until it ends.';

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

create or replace function keelson._session_reply(opened keelson._open_session, cookie boolean, status integer, with_device boolean)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    tokens keelson.session_tokens := opened.tokens;
    headers jsonb := jsonb_build_object(':user', (tokens."user").id);
begin
    if cookie then
        return keelson.reply_with(
            row(tokens."user", tokens.expires_in)::keelson.cookie_session,
            status,
            headers || keelson._session_cookies(
                tokens.access_token, tokens.refresh_token, keelson._csrf_token(opened.session_id),
                opened.lifetime, tokens.device_token
            )
        );
    elsif with_device then
        return keelson.reply_with(tokens, status, headers);
    end if;
    return keelson.reply_with(
        row(tokens."user", tokens.access_token, tokens.refresh_token, tokens.expires_in)::keelson.registration,
        status,
        headers
    );
end
$$;
comment on function keelson._session_reply(keelson._open_session, boolean, integer, boolean) is
    'The reply that hands a session''s tokens out, in the body or in cookies.';

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
    elsif s.generation = _session_rotate.generation + 1 and s.rotated_at > present - interval '10 seconds' then
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

-- Endpoints.

create or replace function keelson.user_register(
    email keelson.email_address,
    password keelson.password,
    name keelson.display_name default null,
    cookie boolean default false,
    captcha text default null,
    referral_code text default null
)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    id uuid := keelson.uuid7();
    digest record;
begin
    perform keelson._require(email, 'email'), keelson._require(password, 'password');
    if keelson._captcha_is_on() and not keelson._rate_limit_fits('captcha_register', charge => true) then
        perform keelson._captcha_require(captcha);
    end if;
    perform keelson._password_require(password, 'password', email, name);
    perform keelson._email_require_free(email);
    digest := keelson._password_store(password);
    perform keelson._user_add(id, email, name);
    if referral_code is not null then
        perform keelson._referral_redeem(id, referral_code);
    end if;
    perform keelson._password_set(id, digest.hash, digest.pepper_key_id);
    perform keelson._verification_send(id);
    perform keelson._present_session_end();
    perform keelson.audit('auth.register', user_id => id);
    return keelson._session_reply(
        keelson._session_open(id, coalesce(cookie, false)), coalesce(cookie, false), 201, with_device => false
    );
end
$$;
comment on function keelson.user_register(keelson.email_address, keelson.password, keelson.display_name, boolean, text, text) is
    'Register a new user and sign them in; with a referral code it counts for whose it is. With cookie the tokens are set as cookies and left out of the body. Where a CAPTCHA is configured, its response is asked for after three attempts from an address in an hour.';
grant execute on function keelson.user_register(keelson.email_address, keelson.password, keelson.display_name, boolean, text, text) to keelson_app;

create or replace function keelson.session_refresh(refresh_token text default null)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    by_cookie boolean := refresh_token is null;
    opened record;
    rotation keelson._rotation;
    pair keelson.token_pair;
begin
    select * into opened
    from keelson._refresh_token_open(coalesce(refresh_token, (keelson.current_request()).refresh_cookie)) as parts;
    if opened.session_id is null then
        perform keelson.raise(401, 'UNAUTHENTICATED', 'the refresh token is not valid', 'Log in again.');
    end if;
    if by_cookie then
        perform keelson._csrf_require(opened.session_id);
    end if;
    rotation := keelson._session_rotate(opened.user_id, opened.session_id, opened.generation);
    if rotation.outcome = 'reused' then
        perform keelson.audit('auth.token_reused', jsonb_build_object('sessionId', opened.session_id), 'denied', opened.user_id);
        perform keelson._notice(opened.user_id, 'session.reused');
        return keelson.refuse(401, 'TOKEN_REUSED', 'the refresh token had been used before, so its session has ended');
    elsif rotation.outcome = 'ended' then
        return keelson.refuse(401, 'TOKEN_EXPIRED', 'the session has ended');
    end if;
    if rotation.outcome = 'rotated' then
        perform keelson.audit('auth.refresh', jsonb_build_object('sessionId', opened.session_id), user_id => opened.user_id);
    end if;
    pair.expires_in := keelson._access_lifetime(rotation.aal, make_interval(secs => rotation.lifetime));
    pair.access_token := keelson._access_token(opened.user_id, opened.session_id, rotation.aal, pair.expires_in);
    pair.refresh_token := keelson._refresh_token(opened.user_id, opened.session_id, rotation.generation, rotation.key_id);
    if by_cookie then
        return keelson.reply_with(
            jsonb_build_object('expiresIn', pair.expires_in),
            200,
            jsonb_build_object(':user', opened.user_id) || keelson._session_cookies(
                pair.access_token, pair.refresh_token, keelson._csrf_token(opened.session_id), rotation.lifetime
            )
        );
    end if;
    return keelson.reply_with(pair, 200, jsonb_build_object(':user', opened.user_id));
end
$$;
comment on function keelson.session_refresh(text) is
    'The next pair of tokens for a refresh token, which is spent with it, or for the refresh cookie. A lost reply may be asked for again for ten seconds; a spent token that comes back later ends its session.';
grant execute on function keelson.session_refresh(text) to keelson_app;

create or replace function keelson.auth_status()
returns keelson.auth_state
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state keelson.auth_state;
begin
    state.authenticated := keelson.current_user_id() is not null;
    if state.authenticated then
        state."user" := keelson.user_get(keelson.current_user_id());
        state.expires_at := (keelson.current_request()).token_expires_at;
    end if;
    return state;
end
$$;
comment on function keelson.auth_status() is
    'Whether somebody is signed in, who, and until when the access token is good. An expired or unknown token is no error here.';
grant execute on function keelson.auth_status() to keelson_app;

create or replace function keelson.session_logout(everywhere boolean default false)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    request keelson.request := keelson.current_request();
    target record;
    ended integer := 0;
    headers jsonb;
begin
    everywhere := coalesce(everywhere, false);
    target := keelson._logout_target(request);
    if target.user_id is null or target.session_id is null and not everywhere then
        perform keelson.raise(401, 'UNAUTHENTICATED', 'there is no session to end',
            'Send the access token, expired or not, or the refresh cookie.');
    end if;
    if target.is_cookie then
        perform keelson._csrf_require(target.session_id);
        headers := keelson._logout_headers();
    end if;
    -- A session that has ended has no power over the others.
    if everywhere and (target.session_id is null or keelson._session_is_live(target.user_id, target.session_id)) then
        ended := keelson._sessions_end(target.user_id, null, null, 'logout_everywhere');
    elsif not everywhere then
        ended := keelson._sessions_end(target.user_id, target.session_id, null, 'logout');
    end if;
    if ended > 0 then
        perform keelson.audit('auth.logout', jsonb_build_object('endedSessions', ended), user_id => target.user_id);
    end if;
    return keelson.reply_with(row(ended)::keelson.logout, 200, headers);
end
$$;
comment on function keelson.session_logout(boolean) is
    'Log out: end the session of the access token, expired or not, or with everywhere all of the user''s. Doing it again changes nothing.';
grant execute on function keelson.session_logout(boolean) to keelson_app;

create or replace function keelson._logout_target(
    request keelson.request,
    out user_id uuid,
    out session_id uuid,
    out is_cookie boolean
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    is_cookie := request.via is not distinct from 'cookie';
    if keelson.current_actor() = 'admin' then
        user_id := keelson.current_user_id();
    elsif request.token_session_id is not null then
        user_id := request.token_user_id;
        session_id := request.token_session_id;
    elsif request.refresh_cookie is not null and coalesce(request.via, 'cookie') = 'cookie' then
        select opened.user_id, opened.session_id into user_id, session_id
        from keelson._refresh_token_open(request.refresh_cookie) as opened;
        is_cookie := true;
    end if;
end
$$;
comment on function keelson._logout_target(keelson.request) is
    'Whose session a logout means: that of the access token, expired or not, or of the refresh cookie; under act_as() the user without a session.';

create or replace function keelson._present_session_end()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    target record := keelson._logout_target(keelson.current_request());
begin
    if target.session_id is not null then
        perform keelson._sessions_end(target.user_id, target.session_id, null, 'replaced');
    end if;
end
$$;
comment on function keelson._present_session_end() is
    'Who authenticates gets a new session: the one whose tokens the request carries ends with that (ASVS 7.2.4).';

-- Administration.

create or replace function keelson._password_hash_require(hash text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    bcrypt constant text := '^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}$';
    argon2 constant text := '^\$argon2id\$v=19\$m=(\d{1,6}),t=(\d{1,2}),p=(\d{1,2})\$[A-Za-z0-9+/]{11,43}\$[A-Za-z0-9+/]{22,43}$';
    cost text[] := regexp_match(hash, argon2);
begin
    if hash ~ bcrypt or cost[1]::integer between 8 and 262144 and cost[2]::integer between 1 and 16 and cost[3]::integer between 1 and 16 then
        return;
    end if;
    perform keelson.raise(400, 'VALIDATION_FAILED', 'the hash is not one that can be imported',
        'It must be bcrypt ($2a$, $2b$ or $2y$, cost 4 to 14) or argon2id ($argon2id$v=19$, at most 256 MiB, 16 passes and 16 lanes).',
        'password_hash');
end
$$;
comment on function keelson._password_hash_require(text) is
    'Raise 400 unless the hash is one that a login can check.';

create or replace function keelson.user_create(
    email keelson.email_address,
    password keelson.password default null,
    name keelson.display_name default null,
    password_hash text default null
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    id uuid := keelson.uuid7();
    digest record;
begin
    perform keelson._require(email, 'email');
    if password is not null and password_hash is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'give a password or its hash, not both', field => 'password_hash');
    end if;
    if password is not null then
        perform keelson._password_require(password, 'password', email, name);
        digest := keelson._password_store(password);
    elsif password_hash is not null then
        perform keelson._password_hash_require(password_hash);
        select user_create.password_hash as hash, 0 as pepper_key_id into digest;
    end if;
    perform keelson._user_add(id, email, name);
    if password is not null or password_hash is not null then
        perform keelson._password_set(
            id, digest.hash, digest.pepper_key_id, case when password_hash is null then 'nfc' else 'none' end
        );
    end if;
    perform keelson.audit('user.create', jsonb_build_object('databaseRole', session_user), user_id => id);
    return id;
end
$$;
comment on function keelson.user_create(keelson.email_address, keelson.password, keelson.display_name, text) is
    'Add a user, for administrators: with a password, with an imported hash (bcrypt or argon2id), or with neither, to set one by a reset. Returns the id.';
grant execute on function keelson.user_create(keelson.email_address, keelson.password, keelson.display_name, text) to keelson_admin;
