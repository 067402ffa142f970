-- CAPTCHA: off unless keelson.captcha_url or keelson.captcha_function is set.
--
-- When it is asked for is decided here; whether a response is good by
-- _captcha_verify() alone.

create or replace function keelson._captcha_is_on()
returns boolean
language sql
stable
parallel safe
as $$
select pg_catalog.current_setting('keelson.captcha_url') <> '' or pg_catalog.current_setting('keelson.captcha_function') <> ''
$$;
comment on function keelson._captcha_is_on() is
    'Whether a CAPTCHA is configured.';

create or replace function keelson._captcha_require(response text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(response, '') = '' then
        perform keelson.raise(403, 'CAPTCHA_REQUIRED', 'this needs a solved CAPTCHA',
            'Send the response of the CAPTCHA as captcha.', field => 'captcha');
    elsif char_length(response) > 8192 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the response of a CAPTCHA has at most 8192 characters', field => 'captcha');
    elsif keelson._captcha_verify(response, keelson.current_ip()) is not true then
        perform keelson.raise(403, 'CAPTCHA_REQUIRED', 'the CAPTCHA was not solved',
            'Let the user solve another one.', field => 'captcha');
    end if;
end
$$;
comment on function keelson._captcha_require(text) is
    'Raise CAPTCHA_REQUIRED unless the response is that of a solved CAPTCHA. Called before anything is written or locked, since verifying may take seconds.';

create or replace function keelson._captcha_verify(response text, ip_address inet)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    verifier text := current_setting('keelson.captcha_function');
    is_solved boolean;
begin
    if verifier = '' then
        raise log 'a CAPTCHA cannot be verified: keelson.captcha_url is set, and keelson.captcha_function is not'
            using hint = 'Name a function (text, inet) returns boolean that asks the provider.';
        perform keelson.raise(503, 'UNAVAILABLE', 'the CAPTCHA cannot be verified at present');
    end if;
    if to_regprocedure(verifier || '(text, inet)') is null then
        raise log 'a CAPTCHA cannot be verified: function %(text, inet) of keelson.captcha_function does not exist', verifier;
        perform keelson.raise(503, 'UNAVAILABLE', 'the CAPTCHA cannot be verified at present');
    end if;
    execute format('select %s($1, $2)', to_regprocedure(verifier || '(text, inet)')::regproc)
    into is_solved
    using response, ip_address;
    return is_solved;
end
$$;
comment on function keelson._captcha_verify(text, inet) is
    'Whether the response is that of a CAPTCHA solved at this address, by the function that keelson.captcha_function names; where that is empty, 503: what cannot be verified is refused.';

create or replace function keelson._login_is_suspicious(account_id uuid)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._failures_count(account_id) >= 3
        or not keelson._rate_limit_fits('captcha_login', charge => false);
end
$$;
comment on function keelson._login_is_suspicious(uuid) is
    'Whether strangers have failed thrice within 15 minutes to log in to the account, or the request''s address has failed as often as the limit captcha_login allows.';
