-- Login with a password.

create or replace function keelson.session_create(
    email keelson.email_address default null,
    password keelson.password default null,
    cookie boolean default false,
    device_token text default null,
    captcha text default null,
    challenge text default null,
    totp text default null,
    recovery_code text default null
)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    credential keelson._credential;
    nobody uuid;
    decoy record;
    account_id uuid;
    device_id uuid;
    known_device uuid;
    locked_until timestamptz;
    checked record;
    digest record;
    opened keelson._open_session;
begin
    device_token := coalesce(device_token, (keelson.current_request()).device_cookie);
    if challenge is not null then
        return keelson._login_second(challenge, totp, recovery_code, cookie, device_token);
    end if;
    if email is null or password is null then
        return keelson._login_incomplete(email, password);
    end if;
    -- What follows costs the same for an address that nobody holds.
    credential := keelson._credential_find(email);
    nobody := keelson._nobody_id(lower(email collate "C"));
    decoy := keelson._password_decoy(nobody);
    account_id := coalesce(credential.user_id, nobody);
    known_device := keelson._device_token_open(device_token, account_id);
    device_id := coalesce(known_device, '00000000-0000-0000-0000-000000000000');
    -- Before the lock is taken, since the CAPTCHA's provider may be slow.
    if keelson._captcha_is_on() and known_device is null and keelson._login_is_suspicious(account_id) then
        perform keelson._captcha_require(captcha);
    end if;
    locked_until := keelson._failures_lock(account_id, device_id);
    if locked_until is not null then
        return keelson._locked_reply(locked_until);
    end if;
    checked := keelson._password_check(
        password, coalesce(credential.hash, decoy.hash), coalesce(credential.pepper_key_id, decoy.pepper_key_id)
    );
    if credential.hash is null or not checked.is_match then
        return keelson._login_refusal(credential.user_id, email, account_id, device_id);
    end if;
    if credential.status = 'blocked' then
        perform keelson.audit('auth.login', '{"reason": "blocked"}', 'denied', credential.user_id);
        return keelson.refuse(403, 'FORBIDDEN', 'this account is blocked');
    end if;
    if checked.needs_rehash then
        digest := keelson._password_store(password);
        perform keelson._password_rehash(credential.user_id, credential.hash, digest.hash, digest.pepper_key_id);
    end if;
    if not keelson._user_lock(credential.user_id, credential.changed_at) then
        return keelson._login_refusal(credential.user_id, email, account_id, device_id);
    end if;
    if keelson._factor_is_on(credential.user_id) then
        if totp is null and recovery_code is null then
            return keelson.refuse(401, 'SECOND_FACTOR_REQUIRED', 'a code of the second factor is needed', extra => jsonb_build_object(
                'challenge', keelson._challenge_make(credential.user_id, credential.changed_at)
            ));
        end if;
        return keelson._login_with_factor(credential.user_id, totp, recovery_code, null, cookie, device_token, device_id);
    end if;
    -- Who knows the password has not been guessing.
    perform keelson._failures_forgive(account_id, device_id);
    perform keelson._rate_limit_refund('auth');
    perform keelson._present_session_end();
    opened := keelson._session_open(credential.user_id, coalesce(cookie, false), device_token);
    perform keelson.audit('auth.login', jsonb_build_object('sessionId', opened.session_id), user_id => credential.user_id);
    return keelson._login_reply(credential.user_id, opened, coalesce(cookie, false));
end
$$;
comment on function keelson.session_create(keelson.email_address, keelson.password, boolean, text, text, text, text, text) is
    'Log in with e-mail address and password. An unknown address and a wrong password are one and the same refusal; after five within 15 minutes the account is locked for 15 minutes, but a device that has signed in before (it sends its device token or its cookie) is counted apart. With cookie the tokens are set as cookies and left out of the body. Where a CAPTCHA is configured, its response is asked for when attempts have failed. With a second factor the answer is SECOND_FACTOR_REQUIRED and a challenge, good for five minutes and one login: log in again with the challenge and a code of the authenticator (totp) or a recovery code; or give all at once.';
grant execute on function keelson.session_create(keelson.email_address, keelson.password, boolean, text, text, text, text, text) to keelson_app;

create or replace function keelson._login_incomplete(email text, password text)
returns keelson.reply
language sql
stable
as $$
select keelson.refuse(400, 'VALIDATION_FAILED', 'the request is not valid: see details', extra => (
    select pg_catalog.jsonb_build_object('details', pg_catalog.jsonb_agg(
        pg_catalog.jsonb_build_object('field', field, 'code', 'REQUIRED', 'message', 'is required') order by field))
    from (values ('email', email), ('password', password)) as given (field, value)
    where value is null
))
$$;
comment on function keelson._login_incomplete(text, text) is
    'The refusal of a login without address or password, where there is no challenge either: all that is missing at once.';

create or replace function keelson._login_refusal(user_id uuid, email text, account_id uuid, device_id uuid)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    locked_until timestamptz := keelson._failure_record(account_id, device_id);
begin
    perform keelson._captcha_is_on() and keelson._rate_limit_fits('captcha_login', charge => true);
    perform keelson.audit(
        'auth.login',
        jsonb_strip_nulls(jsonb_build_object('email', email, 'lockedUntil', locked_until)),
        'failure',
        user_id
    );
    return keelson.refuse(401, 'INVALID_CREDENTIALS', 'the e-mail address or the password is wrong');
end
$$;
comment on function keelson._login_refusal(uuid, text, uuid, uuid) is
    'The one refusal of a login, whatever was wrong: counted against the account, and recorded with the address that was tried.';
