-- The second step of a login.

create or replace function keelson._challenge_make(user_id uuid, password_changed_at timestamptz)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    token text := 'ksc_' || replace(user_id::text, '-', '') || keelson.token_new();
begin
    insert into keelson.login_challenges (user_id, token_hash, password_changed_at, expires_at)
    values (user_id, keelson.token_hash(token), password_changed_at, now() + interval '5 minutes');
    return token;
end
$$;
alter function keelson._challenge_make(uuid, timestamptz) owner to keelson_system;
comment on function keelson._challenge_make(uuid, timestamptz) is
    'A challenge for the second factor: good for five minutes, for one login, and while the password that was given is the user''s. ksc_, the user''s id in hexadecimal, 256 bits random.';

create or replace function keelson._challenge_find(
    challenge text,
    out user_id uuid,
    out password_changed_at timestamptz
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if challenge ~ '^ksc_[0-9a-f]{32}[A-Za-z0-9_-]{43}$' then
        select c.user_id, c.password_changed_at into user_id, password_changed_at
        from keelson.login_challenges as c
        where c.user_id = substring(challenge from 5 for 32)::uuid
            and c.token_hash = keelson.token_hash(challenge)
            and c.used_at is null
            and c.expires_at > now();
    end if;
end
$$;
alter function keelson._challenge_find(text) owner to keelson_system;
comment on function keelson._challenge_find(text) is
    'Whose challenge it is; null for one that is unknown, used or expired.';

create or replace function keelson._challenge_use(challenge text, user_id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.login_challenges as c
    set used_at = clock_timestamp()
    where c.user_id = _challenge_use.user_id
        and c.token_hash = keelson.token_hash(challenge)
        and c.used_at is null
        and c.expires_at > clock_timestamp();
    return found;
end
$$;
alter function keelson._challenge_use(text, uuid) owner to keelson_system;
comment on function keelson._challenge_use(text, uuid) is
    'Spend a challenge: true once.';

create or replace function keelson._challenges_purge(row_limit integer)
returns bigint
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$ select keelson._purge('keelson.login_challenges', 'expires_at', now(), row_limit) $$;
alter function keelson._challenges_purge(integer) owner to keelson_system;
comment on function keelson._challenges_purge(integer) is
    'Delete challenges that have expired, at most so many; returns how many.';

create or replace function keelson._login_second(
    challenge text,
    totp text,
    recovery_code text,
    cookie boolean,
    device_token text
)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    first record := keelson._challenge_find(challenge);
    device_id uuid;
    locked_until timestamptz;
begin
    if totp is null and recovery_code is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a code of the second factor is needed', field => 'totp');
    end if;
    if first.user_id is null then
        return keelson._challenge_refusal();
    end if;
    device_id := coalesce(keelson._device_token_open(device_token, first.user_id), '00000000-0000-0000-0000-000000000000');
    locked_until := keelson._failures_lock(first.user_id, device_id);
    if locked_until is not null then
        return keelson._locked_reply(locked_until);
    end if;
    -- The lock may have been waited for: whether the challenge is good counts now.
    if not keelson._user_lock(first.user_id, first.password_changed_at) or (keelson._challenge_find(challenge)).user_id is null then
        return keelson._challenge_refusal();
    end if;
    return keelson._login_with_factor(first.user_id, totp, recovery_code, challenge, cookie, device_token, device_id);
end
$$;
comment on function keelson._login_second(text, text, text, boolean, text) is
    'Finish a login whose password was right, by a code of the second factor.';

create or replace function keelson._challenge_refusal()
returns keelson.reply
language sql
stable
as $$
select keelson.refuse(400, 'INVALID_TOKEN', 'the challenge is not valid: it was used or has expired. Log in anew', 'challenge')
$$;
comment on function keelson._challenge_refusal() is
    'The one refusal of a challenge that is no good, whatever is wrong with it.';

create or replace function keelson._login_with_factor(
    user_id uuid,
    totp text,
    recovery_code text,
    challenge text,
    cookie boolean,
    device_token text,
    device_id uuid
)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    factor text := keelson._factor_take(user_id, totp, recovery_code);
    opened keelson._open_session;
begin
    if factor is null then
        perform keelson._failure_record(user_id, device_id);
        perform keelson.audit('auth.login', '{"reason": "second factor"}', 'failure', user_id);
        return keelson.refuse(401, 'INVALID_CREDENTIALS', 'the code is wrong, was used before, or is too old',
            case when totp is null then 'recovery_code' else 'totp' end);
    end if;
    if challenge is not null then
        perform keelson._challenge_use(challenge, user_id);
    end if;
    perform keelson._failures_forgive(user_id, device_id);
    perform keelson._rate_limit_refund('auth');
    perform keelson._present_session_end();
    opened := keelson._session_open(user_id, coalesce(cookie, false), device_token, 2::smallint);
    perform keelson.audit('auth.login', jsonb_build_object('sessionId', opened.session_id, 'factor', factor), user_id => user_id);
    return keelson._login_reply(user_id, opened, coalesce(cookie, false));
end
$$;
comment on function keelson._login_with_factor(uuid, text, text, text, boolean, text, uuid) is
    'Open a session at assurance level 2 by a code of the second factor. The caller holds keelson._failures_lock() and keelson._user_lock(), and the password was right.';
