-- Verification of e-mail addresses, resets of passwords.

do $types$
begin
    if pg_catalog.to_regtype('keelson.verification') is null then
        create type keelson.verification as (
            email text,
            email_verified boolean
        );
    end if;
    if pg_catalog.to_regtype('keelson.recovery_answer') is null then
        create type keelson.recovery_answer as (
            message text,
            dev_token text
        );
    end if;
    if pg_catalog.to_regtype('keelson.password_reset') is null then
        create type keelson.password_reset as (
            ended_sessions integer
        );
    end if;
end
$types$;
comment on type keelson.verification is
    'An address that was shown to be its user''s.';
comment on type keelson.recovery_answer is
    'The same for every address, whether anybody holds it or not.';
comment on column keelson.recovery_answer.dev_token is
    'In development, the token that was mailed; null for an address that nobody holds. Nowhere else.';
comment on type keelson.password_reset is
    'What a reset did besides.';
comment on column keelson.password_reset.ended_sessions is 'How many sessions have ended: all of the user''s.';

-- Verification.

create or replace function keelson._verification_send(user_id uuid)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    address text;
    token text;
begin
    select u.email into address
    from keelson.users as u
    where u.id = _verification_send.user_id
        and u.kind = 'person' and u.status = 'active' and u.email_verified_at is null and u.email is not null;
    if address is null then
        return null;
    end if;
    token := keelson._recovery_token_make(user_id, 'verify_email', address, '24 hours');
    perform keelson._mail_queue(user_id, 'email.verify', address,
        jsonb_build_object('link', keelson._link('verify-email', 'auth/verify', token)), '24 hours');
    return token;
end
$$;
alter function keelson._verification_send(uuid) owner to keelson_system;
comment on function keelson._verification_send(uuid) is
    'Mail a new link that verifies the user''s address, good for 24 hours; returns its token, null where there is nothing to verify.';

create or replace function keelson._recovery_lock(user_id uuid, email text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Blocking, deleting, logins and changes of password or address take the same lock.
    perform from keelson.users as u
    where u.id = _recovery_lock.user_id
        and u.status = 'active'
        and lower(u.email collate "C") = lower(_recovery_lock.email collate "C")
    for no key update;
    return found;
end
$$;
alter function keelson._recovery_lock(uuid, text) owner to keelson_system;
comment on function keelson._recovery_lock(uuid, text) is
    'Lock the user until the transaction ends; false when they are not active, or have another address now.';

create or replace function keelson._email_verify(token text)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    used keelson._recovery_token_use := keelson._recovery_token_find(token, 'verify_email', false);
    address text;
begin
    -- The user before the token, as who changes the address takes them.
    if used.user_id is null
        or not keelson._recovery_lock(used.user_id, used.email)
        or (keelson._recovery_token_find(token, 'verify_email', true)).user_id is null
    then
        return null;
    end if;
    update keelson.users as u
    set email_verified_at = coalesce(u.email_verified_at, now()), updated_at = now()
    where u.id = used.user_id
    returning u.email into address;
    perform keelson.audit('email.verify', user_id => used.user_id);
    return address;
end
$$;
alter function keelson._email_verify(text) owner to keelson_system;
comment on function keelson._email_verify(text) is
    'Spend a token of verification: the address that is verified by it, null when the token is no good or the user has another address now.';

create or replace function keelson.email_verify(token text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    address text;
begin
    perform keelson._require(token, 'token');
    address := keelson._email_verify(token);
    if address is null then
        return keelson._token_refusal('email.verify');
    end if;
    return keelson.reply_with(row(address, true)::keelson.verification);
end
$$;
comment on function keelson.email_verify(text) is
    'Show by the token of a mail that its address is yours. A token works once, for 24 hours.';
grant execute on function keelson.email_verify(text) to keelson_app;

create or replace function keelson.email_verify_page(token text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if keelson._wants_page() then
        return keelson._action_page('Confirm your e-mail address',
            'One click, and it is confirmed. Confirm no account that somebody else has made: they know its password.',
            '/api/auth/verify', token, '', 'Confirm', 'Your e-mail address is confirmed.');
    end if;
    return keelson.email_verify(token);
end
$$;
comment on function keelson.email_verify_page(text) is
    'Show by the link of a mail that its address is yours: asked for HTML, a page with a button, which consumes nothing by itself.';
grant execute on function keelson.email_verify_page(text) to keelson_app;

create or replace function keelson._wants_page()
returns boolean
language sql
stable
as $$
select coalesce((keelson.current_request()).accept ~* '(^|,)\s*(text/html|application/xhtml\+xml)', false)
$$;
comment on function keelson._wants_page() is
    'Whether the running request asks for HTML.';

create or replace function keelson._token_refusal(event_type text)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.audit(event_type, '{"reason": "token"}', 'failure');
    return keelson.refuse(400, 'INVALID_TOKEN',
        'the link is not valid: it was used, has expired, or was replaced by a newer one. Ask for a new one', 'token');
end
$$;
comment on function keelson._token_refusal(text) is
    'The one refusal of a token that is no good, whatever is wrong with it.';

-- Asking for a mail. The request is recorded and answered; the keeper looks,
-- in a moment, whether anybody holds the address. So the answer takes as long
-- for all.

create or replace function keelson._recovery_wake()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks__recovery_wake';
comment on function keelson._recovery_wake() is
    'Have the keeper answer what was asked for, once this transaction has committed.';

create or replace function keelson._recovery_ask(purpose text, email text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    answer keelson.recovery_answer;
begin
    perform keelson._require(email, 'email');
    answer.message := 'If there is such an account, a mail is on its way.';
    if current_setting('keelson.environment') = 'development' then
        answer.dev_token := keelson._recovery_answer(purpose, email, keelson.current_ip());
    else
        insert into keelson.recovery_requests (id, purpose, email, ip_address)
        values (keelson.uuid7(), purpose, email, keelson.current_ip());
        perform keelson._recovery_wake();
    end if;
    if purpose = 'reset_password' then
        perform keelson.audit('password.reset_request', jsonb_build_object('email', email));
    end if;
    return keelson.reply_with(answer);
end
$$;
alter function keelson._recovery_ask(text, text) owner to keelson_system;
comment on function keelson._recovery_ask(text, text) is
    'Take in that somebody asks for a mail of recovery; in development it is answered at once.';

create or replace function keelson._recovery_answer(purpose text, email text, ip_address inet)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    who record;
    token text;
begin
    select u.id, u.email, p.user_id is not null as has_password into who
    from keelson.user_emails as e
    join keelson.users as u on u.id = e.user_id
    left join keelson.passwords as p on p.user_id = u.id
    where e.email = lower(_recovery_answer.email collate "C")
        and lower(u.email collate "C") = e.email
        and u.kind = 'person' and u.status = 'active';
    if purpose = 'verify_email' then
        return keelson._verification_send(who.id);
    end if;
    perform keelson._recovery_count('reset_requested');
    if who.id is null or not keelson._reset_is_allowed(who.id, who.has_password) then
        return null;
    end if;
    token := keelson._recovery_token_make(who.id, 'reset_password', who.email, '1 hour');
    perform keelson._mail_queue(who.id, 'password.reset', who.email, jsonb_build_object(
        'link', keelson._link('reset-password', 'auth/reset-password', token),
        'ip', coalesce(host(ip_address), 'an unknown address')
    ), '1 hour');
    return token;
end
$$;
alter function keelson._recovery_answer(text, text, inet) owner to keelson_system;
comment on function keelson._recovery_answer(text, text, inet) is
    'Mail what was asked for to the holder of the address, if there is one; returns the token.';

create or replace function keelson._reset_is_allowed(user_id uuid, has_password boolean)
returns boolean
language sql
stable
as $$
select has_password or pg_catalog.current_setting('keelson.reset_sets_first_password')::boolean
$$;
comment on function keelson._reset_is_allowed(uuid, boolean) is
    'Whether a reset may give this user a password: who has none, such as who came by an external issuer, as keelson.reset_sets_first_password says.';

create or replace function keelson._recovery_request_failed(request_id uuid, state text, message text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant integer := 8;
    tried integer;
begin
    -- Somebody's locks, a lack of room or of memory, a disk, a key that is not there yet.
    if state ~ '^(40|53|55|58)' or state = 'KS503' then
        update keelson.recovery_requests as r
        set failures = r.failures + 1, due_at = clock_timestamp() + interval '5 seconds' * 2 ^ r.failures
        where r.id = request_id and r.failures < most
        returning r.failures into tried;
    end if;
    if tried is null then
        delete from keelson.recovery_requests as r where r.id = request_id;
        raise warning 'a mail of recovery could not be written, and is not tried again: %', message;
    elsif tried = 1 then
        raise warning 'a mail of recovery could not be written, and is tried again: %', message;
    end if;
end
$$;
comment on function keelson._recovery_request_failed(uuid, text, text) is
    'A request could not be answered: for what may be over soon it is tried again, after 5, 10, 20 … seconds, eight times; else it is dropped.';

create or replace function keelson._recovery_requests_answer(row_limit integer default 100)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    request keelson.recovery_requests;
    state text;
    message text;
    seen integer := 0;
begin
    for request in
        select r.* from keelson.recovery_requests as r
        where r.due_at <= clock_timestamp()
        order by r.due_at
        limit row_limit
        for update skip locked
    loop
        seen := seen + 1;
        begin
            -- What is too old would be a surprise.
            if request.created_at >= now() - interval '1 hour' then
                perform keelson._recovery_answer(request.purpose, request.email, request.ip_address);
            end if;
            delete from keelson.recovery_requests as r where r.id = request.id;
        exception when others then
            get stacked diagnostics state = returned_sqlstate, message = message_text;
            perform keelson._recovery_request_failed(request.id, state, message);
        end;
    end loop;
    return seen;
end
$$;
alter function keelson._recovery_requests_answer(integer) owner to keelson_system;
comment on function keelson._recovery_requests_answer(integer) is
    'Answer resets and verifications that were asked for and are due, at most so many; returns how many. The keeper calls it.';

create or replace function keelson.verification_resend(email keelson.email_address)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._recovery_ask('verify_email', email);
end
$$;
comment on function keelson.verification_resend(keelson.email_address) is
    'Have a new link of verification mailed. The answer is the same for every address.';
grant execute on function keelson.verification_resend(keelson.email_address) to keelson_app;

create or replace function keelson.password_reset_request(email keelson.email_address)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._recovery_ask('reset_password', email);
end
$$;
comment on function keelson.password_reset_request(keelson.email_address) is
    'Have a link mailed by which a new password can be set, once, within an hour. The answer is the same for every address, in content and time.';
grant execute on function keelson.password_reset_request(keelson.email_address) to keelson_app;

-- Resetting.

create or replace function keelson._email_prove(user_id uuid)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
update keelson.users as u
set email_verified_at = now(), updated_at = now()
where u.id = _email_prove.user_id and u.email_verified_at is null
$$;
alter function keelson._email_prove(uuid) owner to keelson_system;
comment on function keelson._email_prove(uuid) is
    'A link that was mailed to the user''s address has been followed: it is verified.';

create or replace function keelson._user_words(user_id uuid, out email text, out name text, out email_verified boolean)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select u.email, u.name, u.email_verified_at is not null from keelson.users as u where u.id = _user_words.user_id
$$;
alter function keelson._user_words(uuid) owner to keelson_system;
comment on function keelson._user_words(uuid) is
    'Address and name of the user, which a password must not be made of, and whether the address is verified.';

create or replace function keelson.password_reset(token text, password keelson.password)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    stranger constant uuid := '00000000-0000-0000-0000-000000000000';
    found_use keelson._recovery_token_use;
    words record;
    digest record;
    is_proven boolean;
    ended integer;
begin
    perform keelson._require(token, 'token'), keelson._require(password, 'password');
    found_use := keelson._recovery_token_find(token, 'reset_password', false);
    if found_use.user_id is null then
        perform keelson._recovery_count('reset_failed');
        return keelson._token_refusal('password.reset');
    end if;
    select * into words from keelson._user_words(found_use.user_id);
    perform keelson._password_require(password, 'password', words.email, words.name);
    digest := keelson._password_store(password);
    -- Who can read the user's mail has not been guessing.
    perform keelson._failures_lock(found_use.user_id, stranger);
    -- Hashing took its time: whether the token is good counts now.
    if not keelson._recovery_lock(found_use.user_id, found_use.email)
        or (keelson._recovery_token_find(token, 'reset_password', true)).user_id is null
    then
        perform keelson._recovery_count('reset_failed');
        return keelson._token_refusal('password.reset');
    end if;
    perform keelson._failures_forgive(found_use.user_id, stranger);
    perform keelson._password_set(found_use.user_id, digest.hash, digest.pepper_key_id);
    is_proven := (keelson._user_words(found_use.user_id)).email_verified;
    perform keelson._email_prove(found_use.user_id);
    ended := keelson._sessions_end(found_use.user_id, null, null, 'password_changed');
    if not is_proven then
        perform keelson._account_reclaim(found_use.user_id);
    end if;
    perform keelson._recovery_count('reset_done');
    perform keelson.audit('password.reset', jsonb_build_object('endedSessions', ended), user_id => found_use.user_id);
    perform keelson._notice(found_use.user_id, 'password.changed');
    perform keelson._email_undo_notice(found_use.user_id);
    perform keelson.webhook_emit('user.password_changed', jsonb_build_object('userId', found_use.user_id), found_use.user_id);
    return keelson.reply_with(row(ended)::keelson.password_reset);
end
$$;
comment on function keelson.password_reset(text, keelson.password) is
    'Set a new password by the token of a mail. All sessions of the user end; a second factor stays as it is. Where nobody had verified the address before, the reset does, and takes away what somebody else may have made to come back by: access keys, second factor, webhooks, stored keys, linked identities. Sign in afterwards.';
grant execute on function keelson.password_reset(text, keelson.password) to keelson_app;

create or replace function keelson.password_reset_page(token text)
returns keelson.reply
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._action_page(
        'Set a new password',
        format('At least %s characters, and nothing that is easy to guess.', current_setting('keelson.password_min_length')),
        '/api/auth/reset-password', token,
        '<label>New password<input type="password" name="password" required autocomplete="new-password" maxlength="1024"></label>',
        'Set the password', 'The password is set. Sign in with it.'
    );
end
$$;
comment on function keelson.password_reset_page(text) is
    'A page to set a new password on, for the link in the mail; it consumes nothing.';
grant execute on function keelson.password_reset_page(text) to keelson_app;
