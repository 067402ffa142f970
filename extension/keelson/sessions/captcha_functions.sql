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
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the response of a CAPTCHA has at most 8,192 characters', field => 'captcha');
    elsif keelson._captcha_verify(response, keelson.current_ip()) is not true then
        perform keelson.raise(403, 'CAPTCHA_REQUIRED', 'the CAPTCHA was not solved',
            'Let the user solve another one.', field => 'captcha');
    end if;
end
$$;
comment on function keelson._captcha_require(text) is
    'Raise CAPTCHA_REQUIRED unless the response is that of a solved CAPTCHA. Called before anything is written or locked, since verifying may take seconds.';

create or replace function keelson._captcha_call(function text, role name, response text, ip_address inet)
returns boolean
language c
volatile
as 'MODULE_PATHNAME', 'ks__captcha_call';
comment on function keelson._captcha_call(text, name, text, inet) is
    'What the function says of the response, called as the role.';

create or replace function keelson._captcha_verify(response text, ip_address inet)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    verifier text := current_setting('keelson.captcha_function');
    judge record;
begin
    if verifier = '' then
        return keelson._captcha_ask(response, ip_address);
    end if;
    -- It is called by what runs as our owner, which a product's code must not.
    select format('%I.%I', n.nspname, p.proname) as function, case when r.rolsuper then 'keelson_owner' else r.rolname end as role
    into judge
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    join pg_roles as r on r.oid = p.proowner
    where p.oid = to_regprocedure(verifier || '(text, inet)');
    if judge.role is null then
        raise log 'a CAPTCHA cannot be verified: function %(text, inet) of keelson.captcha_function does not exist', verifier;
        perform keelson.raise(503, 'UNAVAILABLE', 'the CAPTCHA cannot be verified at present');
    end if;
    return keelson._captcha_call(judge.function, judge.role, response, ip_address);
end
$$;
comment on function keelson._captcha_verify(text, inet) is
    'Whether the response is that of a CAPTCHA solved at this address, by the function that keelson.captcha_function names, as its owner (a superuser''s: as keelson_owner), else by the provider at keelson.captcha_url; 503 where it cannot be told.';

create or replace function keelson._captcha_ask(response text, ip_address inet)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    url text := current_setting('keelson.captcha_url');
    problem text := case
        when url !~ '^https://' and current_setting('keelson.environment') <> 'development' then 'keelson.captcha_url does not begin with https://'
        when not exists (select from keelson.secrets as s where s.name = 'captcha_secret' and s.value is not null) then 'the secret captcha_secret is not set'
    end;
    said jsonb;
begin
    if problem is null then
        begin
            said := keelson._captcha_answer(url, response, ip_address);
        exception when sqlstate 'KS502' or sqlstate 'KS503' then
            problem := sqlerrm;
        end;
    end if;
    -- What is our own fault, or the provider's, is not the user's.
    problem := coalesce(problem, case
        when said is null or jsonb_typeof(said -> 'success') is distinct from 'boolean' then 'its provider has not answered as providers do'
        when said -> 'error-codes' ?| array['missing-input-secret', 'invalid-input-secret', 'sitekey-secret-mismatch', 'bad-request', 'internal-error']
            then format('its provider says %s', left(said ->> 'error-codes', 200))
    end);
    if problem is not null then
        raise log 'a CAPTCHA cannot be verified: %', problem;
        perform keelson.raise(503, 'UNAVAILABLE', 'the CAPTCHA cannot be verified at present', 'Try again in a minute.');
    end if;
    return (said ->> 'success')::boolean;
end
$$;
comment on function keelson._captcha_ask(text, inet) is
    'Ask the CAPTCHA''s provider whether the response is good, 5 seconds at most; 503, and a line in the log, where it does not say: what cannot be verified is refused.';

create or replace function keelson._captcha_answer(url text, response text, ip_address inet)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    called record;
begin
    called := keelson._upstream_call(
        'captcha', url, 'POST', '{"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}',
        convert_to(concat_ws('&',
            'secret=' || keelson._url_escape(keelson._secret_get('captcha_secret')),
            'response=' || keelson._url_escape(response),
            'remoteip=' || keelson._url_escape(host(ip_address))
        ), 'UTF8'),
        5000, true
    );
    if called.status <> 200 then
        return null;
    end if;
    return convert_from(called.answer, 'UTF8')::jsonb;
exception when data_exception or program_limit_exceeded then
    return null;
end
$$;
comment on function keelson._captcha_answer(text, text, inet) is
    'What the provider has answered, as hCaptcha and Turnstile do: success and error-codes; null where it is no JSON.';

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
