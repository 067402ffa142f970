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
    opened keelson._open_session;
    tokens keelson.session_tokens;
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
    opened := keelson._session_open(id, coalesce(cookie, false));
    tokens := opened.tokens;
    return keelson._session_reply(id, opened, coalesce(cookie, false), jsonb_build_object('user', keelson.to_json(tokens."user")), 201);
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
    given record;
    rotation keelson._rotation;
    opened keelson._open_session;
    tokens keelson.session_tokens;
begin
    select * into given
    from keelson._refresh_token_open(coalesce(refresh_token, (keelson.current_request()).refresh_cookie)) as parts;
    if given.session_id is null then
        perform keelson.raise(401, 'UNAUTHENTICATED', 'the refresh token is not valid', 'Log in again.');
    end if;
    if by_cookie then
        perform keelson._csrf_require(given.session_id);
    end if;
    rotation := keelson._session_rotate(given.user_id, given.session_id, given.generation);
    if rotation.outcome = 'reused' then
        perform keelson.audit('auth.token_reused', jsonb_build_object('sessionId', given.session_id), 'denied', given.user_id);
        perform keelson._notice(given.user_id, 'session.reused');
        return keelson.refuse(401, 'TOKEN_REUSED', 'the refresh token had been used before, so its session has ended');
    elsif rotation.outcome = 'ended' then
        return keelson.refuse(401, 'TOKEN_EXPIRED', 'the session has ended');
    end if;
    if rotation.outcome = 'rotated' then
        perform keelson.audit('auth.refresh', jsonb_build_object('sessionId', given.session_id), user_id => given.user_id);
    end if;
    tokens.expires_in := keelson._access_lifetime(rotation.aal, make_interval(secs => rotation.lifetime));
    tokens.access_token := keelson._access_token(given.user_id, given.session_id, rotation.aal, tokens.expires_in);
    tokens.refresh_token := keelson._refresh_token(given.user_id, given.session_id, rotation.generation, rotation.key_id);
    opened := row(tokens, given.session_id, rotation.lifetime);
    return keelson._session_reply(given.user_id, opened, by_cookie);
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
    if everywhere then
        -- Taking turns with what opens sessions, and with what puts another in a session's place: none is missed.
        perform keelson._user_lock_any(target.user_id);
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
