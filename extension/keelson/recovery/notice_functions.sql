-- Telling users what happened to their account. On by default; who gets them
-- cannot unsubscribe.

create or replace function keelson._notice_is_on(template text)
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select not exists (select from keelson.mail_templates as t where t.name = _notice_is_on.template and not t.is_enabled)
$$;
alter function keelson._notice_is_on(text) owner to keelson_system;
comment on function keelson._notice_is_on(text) is
    'Whether notices of the template are sent.';

create or replace function keelson._notice(user_id uuid, template text, "values" jsonb default '{}')
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    who record;
begin
    select * into who from keelson._user_words(user_id);
    if who.email is null or not keelson._notice_is_on(template) then
        return;
    elsif who.email_verified then
        perform keelson._notice_to(user_id, who.email, template, "values");
    elsif keelson._mails_lately(user_id) < 5 then
        -- A stranger may read it, whom somebody wants to say something to.
        perform keelson._notice_to(user_id, who.email, template, (
            select jsonb_object_agg(v.key, keelson._mail_plain(v.value)) from jsonb_each_text("values") as v
        ));
    end if;
end
$$;
comment on function keelson._notice(uuid, text, jsonb) is
    'Tell the user by mail what happened to the account, when this transaction commits; nothing for who has no address, or where such notices are off. An address that was not shown to be the user''s gets no links of theirs, and no more than five mails an hour.';

create or replace function keelson._mails_lately(user_id uuid)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select count(*)
from keelson.mail_messages as m
where m.user_id = _mails_lately.user_id and m.id >= keelson._uuid7_floor(now() - interval '1 hour')
$$;
alter function keelson._mails_lately(uuid) owner to keelson_system;
comment on function keelson._mails_lately(uuid) is
    'How many mails about the user were written in the last hour.';

create or replace function keelson._notice_to(
    user_id uuid,
    recipient text,
    template text,
    "values" jsonb default '{}',
    keep_for interval default '3 days'
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._mail_queue(user_id, template, recipient, "values", keep_for);
exception
    -- A template that was spoiled in its table: nobody's password stays as it is because of that.
    when sqlstate 'KS400' or sqlstate 'KS404' then
        raise warning 'the notice "%" could not be written: %', template, sqlerrm;
end
$$;
comment on function keelson._notice_to(uuid, text, text, jsonb, interval) is
    'The same to a given address, on or off. What is wrong with the template is a warning in the server''s log and keeps nothing from happening.';

create or replace function keelson.mail_notice_set(template text, is_enabled boolean)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._require(template, 'template'), keelson._require(is_enabled::text, 'is_enabled');
    if template in ('email.verify', 'password.reset', 'alert') then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('"%s" is no notice: nothing works without it', template), field => 'template');
    end if;
    update keelson.mail_templates as t
    set is_enabled = mail_notice_set.is_enabled
    where t.name = mail_notice_set.template and t.is_core;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no notice "%s"', template),
            'select distinct name from keelson.mail_templates where is_core lists them.', 'template');
    end if;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'mail notice', 'which', template, 'isEnabled', is_enabled, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.mail_notice_set(text, boolean) is
    'Send the notices of one of Keelson''s own templates, such as session.new_device, or do not. All are sent by default.';
grant execute on function keelson.mail_notice_set(text, boolean) to keelson_admin;

-- Signing in with a device that is not known.

create or replace function keelson._device_is_new(user_id uuid)
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select count(*) > 0 and not coalesce(bool_or(
    s.user_agent is not distinct from left(keelson.current_user_agent(), 512)
    and s.ip_address is not distinct from keelson.current_ip()
), false)
from (
    select earlier.user_agent, earlier.ip_address
    from keelson.sessions as earlier
    where earlier.user_id = _device_is_new.user_id
    order by earlier.id desc
    limit 50
) as s
$$;
alter function keelson._device_is_new(uuid) owner to keelson_system;
comment on function keelson._device_is_new(uuid) is
    'Whether the user has signed in before, and none of the latest 50 sessions came from this address with this program.';

create or replace function keelson._device_notice(user_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if keelson._device_is_new(user_id) then
        perform keelson._notice(user_id, 'session.new_device', jsonb_build_object(
            'device', coalesce(nullif(keelson._mail_plain(left(keelson.current_user_agent(), 200)), ''), 'an unknown program')
        ));
    end if;
end
$$;
comment on function keelson._device_notice(uuid) is
    'Tell the user of a login from a device that has shown no token of its own and that does not look like an earlier one. Called before the session is there.';

-- A change of address: verified at the new one, told to the old one, which can undo it.

create or replace function keelson._email_change_tell(change keelson._email_change, is_to_verify boolean default true)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    token text;
    -- To a stranger, perhaps: no link in what the user wrote.
    words constant jsonb := case when change.old_verified_at is null then jsonb_build_object('email', keelson._mail_plain(change.new_email)) else '{}' end;
begin
    -- The same mailbox, written otherwise.
    if change.user_id is null or lower(change.old_email collate "C") = lower(change.new_email collate "C") then
        return;
    end if;
    if is_to_verify then
        perform keelson._verification_send(change.user_id);
    end if;
    if change.old_email is null then
        return;
    elsif change.undo_until is null then
        if keelson._notice_is_on('email.changed_for_good') then
            perform keelson._notice_to(change.user_id, change.old_email, 'email.changed_for_good', words);
        end if;
    elsif keelson._notice_is_on('email.changed') then
        token := 'ksu_' || replace(change.user_id::text || change.id::text, '-', '') || keelson.token_new();
        update keelson.email_changes as c
        set undo_hash = keelson.token_hash(token)
        where c.user_id = change.user_id and c.id = change.id;
        perform keelson._notice_to(change.user_id, change.old_email, 'email.changed',
            words || jsonb_build_object('link', keelson._link('undo-email-change', 'auth/undo-email-change', token)),
            change.undo_until - now());
    end if;
end
$$;
alter function keelson._email_change_tell(keelson._email_change, boolean) owner to keelson_system;
comment on function keelson._email_change_tell(keelson._email_change, boolean) is
    'Mail what follows from a change of address: to the new one a link to verify it, to the old one what happened, with a link to undo it while that is possible.';

create or replace function keelson._email_undo_open_until(user_id uuid)
returns timestamptz
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select max(c.undo_until)
from keelson.email_changes as c
where c.user_id = _email_undo_open_until.user_id
    and c.old_verified_at is not null and c.undo_hash is not null and c.undone_at is null and c.undo_until > now()
$$;
alter function keelson._email_undo_open_until(uuid) owner to keelson_system;
comment on function keelson._email_undo_open_until(uuid) is
    'Until when who has shown a former address of the user''s to be theirs can take it back by a link that was mailed there; null: nobody can.';

create or replace function keelson._email_undo_notice(user_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    until timestamptz := keelson._email_undo_open_until(user_id);
begin
    -- A thief who resets the password must not end what the owner can undo. So whoever has reset it is told that somebody can.
    if until is not null then
        perform keelson._notice(user_id, 'email.undo_open', jsonb_build_object('until', keelson._mail_time(until)));
    end if;
end
$$;
comment on function keelson._email_undo_notice(uuid) is
    'Tell the user, who has just set a new password by a link, that a former address can take the account back, where one can.';

create or replace function keelson._email_change_of(token text, out user_id uuid, out change_id uuid)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Whose change, which, 256 random bits.
    if token ~ '^ksu_[0-9a-f]{64}[A-Za-z0-9_-]{43}$' then
        select c.user_id, c.id into user_id, change_id
        from keelson.email_changes as c
        where c.user_id = substring(token from 5 for 32)::uuid
            and c.id = substring(token from 37 for 32)::uuid
            and c.undo_hash = keelson.token_hash(token);
    end if;
end
$$;
alter function keelson._email_change_of(text) owner to keelson_system;
comment on function keelson._email_change_of(text) is
    'Which change the token undoes; null for one that is none.';

create or replace function keelson.email_change_undo(token text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    change record;
    words record;
begin
    perform keelson._require(token, 'token');
    change := keelson._email_change_of(token);
    if change.user_id is null or not keelson._email_change_undo(change.user_id, change.change_id) then
        return keelson._token_refusal('email.change');
    end if;
    select * into words from keelson._user_words(change.user_id);
    return keelson.reply_with(row(words.email, words.email_verified)::keelson.verification);
end
$$;
comment on function keelson.email_change_undo(text) is
    'Take back a change of your e-mail address, and those that came after it, by the token that was mailed to the old address: once, for seven days. All sessions end. Set a new password afterwards, since somebody else may know yours.';
grant execute on function keelson.email_change_undo(text) to keelson_app;

create or replace function keelson.email_change_undo_page(token text)
returns keelson.reply
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._action_page(
        'Undo the change of your e-mail address',
        'One click, and this address is that of your account again. All sessions end.',
        '/api/auth/undo-email-change', token, '', 'Undo the change',
        'The address is yours again. Set a new password now: somebody else may know yours.'
    );
end
$$;
comment on function keelson.email_change_undo_page(text) is
    'A page with a button to take back a change of address, for the link in the mail; it consumes nothing.';
grant execute on function keelson.email_change_undo_page(text) to keelson_app;
