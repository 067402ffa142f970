-- Addresses: who holds which, changing one's own, undoing a change. Executed by
-- the core's own functions alone.

create type keelson._email_change as (
    user_id uuid,
    id uuid,
    old_email text,
    old_verified_at timestamptz,
    new_email text,
    undo_until timestamptz
);
comment on type keelson._email_change is
    'A change of a user''s address: what it was, what it is, and until when it can be undone (null: it cannot).';

create or replace function keelson._email_take(user_id uuid, email text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Waits for another claim of the address, and sees how it ended. One that
    -- is reserved falls to its own user at any time, to others when its time is over.
    insert into keelson.user_emails as e (email, user_id)
    values (lower(_email_take.email collate "C"), _email_take.user_id)
    on conflict on constraint user_emails_pkey do update
    set user_id = excluded.user_id, reserved_until = null
    where e.reserved_until <= clock_timestamp() or e.reserved_until is not null and e.user_id = excluded.user_id;
    return found;
end
$$;
alter function keelson._email_take(uuid, text) owner to keelson_system;
comment on function keelson._email_take(uuid, text) is
    'Make the address the user''s; false when somebody else holds it, or has left it so lately that the change can be undone.';

create or replace function keelson._email_claim(user_id uuid, email text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not keelson._email_take(user_id, email) then
        perform keelson._email_raise_taken();
    end if;
end
$$;
alter function keelson._email_claim(uuid, text) owner to keelson_system;
comment on function keelson._email_claim(uuid, text) is
    'As keelson._email_take(), but 409 EMAIL_TAKEN where that is false.';

create or replace function keelson._user_add(id uuid, email text, name text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._email_claim(_user_add.id, _user_add.email);
    insert into keelson.users (id, email, name)
    values (_user_add.id, _user_add.email, normalize(_user_add.name, nfc));
    perform keelson._subscription_open(id), keelson._referral_open(id);
    perform keelson.webhook_emit('user.created', jsonb_build_object('userId', id), id);
end
$$;
alter function keelson._user_add(uuid, text, text) owner to keelson_system;
comment on function keelson._user_add(uuid, text, text) is
    'Add a person, with a subscription of the default tier and a referral code; 409 EMAIL_TAKEN when somebody holds the address.';

create or replace function keelson._email_require_free(email text)
returns void
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from keelson.user_emails as e
        where e.email = lower(_email_require_free.email collate "C")
            and (e.reserved_until is null or e.reserved_until > now())
    ) then
        perform keelson._email_raise_taken();
    end if;
end
$$;
alter function keelson._email_require_free(text) owner to keelson_system;
comment on function keelson._email_require_free(text) is
    '409 EMAIL_TAKEN when somebody holds the address: asked before the costly work, decided by keelson._email_claim().';

create or replace function keelson._email_change_charge(email text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present text := (keelson._user_words(keelson.current_user_id())).email;
begin
    if lower(email collate "C") is distinct from lower(present collate "C")
        and exists (select from keelson.rate_limits as l where l.name = 'email_change' and l.is_enabled)
    then
        perform keelson.rate_limit_take('email_change', keelson.current_user_id()::text);
    end if;
end
$$;
alter function keelson._email_change_charge(text) owner to keelson_system;
comment on function keelson._email_change_charge(text) is
    'Count a change of the acting user''s address, which mails to whomever they name, or tells them that somebody holds it; 429 when there were too many. The same mailbox written otherwise does not count.';

create or replace function keelson._email_raise_taken()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.raise(409, 'EMAIL_TAKEN', 'this e-mail address is taken', field => 'email');
end
$$;
comment on function keelson._email_raise_taken() is
    'The one refusal of an address that somebody holds.';

create or replace function keelson._email_change(user_id uuid, email text)
returns keelson._email_change
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    before keelson.users;
    change keelson._email_change;
begin
    -- Changes of one user take turns with each other and with blocking and deleting.
    select * into before from keelson.users as u
    where u.id = _email_change.user_id and u.status <> 'deleted' and u.kind = 'person'
    for no key update;
    if before.id is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such user');
    elsif before.email = _email_change.email then
        return null;
    end if;
    change := row(
        before.id, keelson.uuid7(), before.email, before.email_verified_at, _email_change.email, null
    )::keelson._email_change;
    -- The same mailbox written otherwise is no change of whose it is.
    if lower(before.email collate "C") = lower(change.new_email collate "C") then
        update keelson.users as u set email = change.new_email, updated_at = now() where u.id = before.id;
    else
        perform keelson._email_claim(before.id, change.new_email);
        change.undo_until := keelson._email_leave(change);
        update keelson.users as u
        set email = change.new_email, email_verified_at = null, updated_at = now()
        where u.id = before.id;
        perform keelson._recovery_tokens_void(before.id);
    end if;
    perform keelson.audit(
        'email.change', jsonb_build_object('oldEmail', change.old_email, 'newEmail', change.new_email, 'change', change.id),
        user_id => before.id
    );
    perform keelson.webhook_emit('user.email_changed', jsonb_build_object(
        'userId', before.id, 'oldEmail', change.old_email, 'newEmail', change.new_email
    ), before.id);
    return change;
end
$$;
alter function keelson._email_change(uuid, text) owner to keelson_system;
comment on function keelson._email_change(uuid, text) is
    'Give the user this address, not yet verified; 409 EMAIL_TAKEN when somebody holds it. What was mailed to the one before is void. Returns what was changed, and until when the old address can undo it: whom to mail to; null when nothing changed.';

create or replace function keelson._email_leave(change keelson._email_change)
returns timestamptz
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Who changes again and again reserves one address that was never shown to be theirs, and no more.
    is_reserved boolean := change.old_verified_at is not null or not exists (
        select from keelson.user_emails as e where e.user_id = change.user_id and e.reserved_until > now()
    );
    until timestamptz := now() + interval '7 days';
begin
    if not is_reserved then
        delete from keelson.user_emails as e
        where e.email = lower(change.old_email collate "C") and e.user_id = change.user_id;
        return null;
    end if;
    update keelson.user_emails as e set reserved_until = until
    where e.email = lower(change.old_email collate "C") and e.user_id = change.user_id;
    insert into keelson.email_changes (user_id, id, old_email, old_verified_at, new_email, undo_until)
    values (change.user_id, change.id, change.old_email, change.old_verified_at, change.new_email, until);
    return until;
end
$$;
alter function keelson._email_leave(keelson._email_change) owner to keelson_system;
comment on function keelson._email_leave(keelson._email_change) is
    'Let go of the address that a change leaves: reserved for seven days, until when it returns; null when it is free at once.';

create or replace function keelson._email_change_undo(user_id uuid, change_id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    change keelson.email_changes;
    present text;
begin
    select u.email into present from keelson.users as u
    where u.id = _email_change_undo.user_id and u.status <> 'deleted'
    for no key update;
    select * into change from keelson.email_changes as c
    where c.user_id = _email_change_undo.user_id and c.id = change_id and c.undone_at is null and c.undo_until > now();
    if present is null or change.id is null then
        return false;
    end if;
    perform keelson._email_claim(change.user_id, change.old_email);
    -- What came after it goes with it: nothing of whoever made the change stays.
    delete from keelson.user_emails as e
    where e.user_id = change.user_id and e.email <> lower(change.old_email collate "C")
        and e.email in (
            select lower(c.new_email collate "C") from keelson.email_changes as c
            where c.user_id = change.user_id and c.id >= change.id
            union all select lower(present collate "C")
        );
    update keelson.email_changes as c set undone_at = now()
    where c.user_id = change.user_id and c.id >= change.id and c.undone_at is null;
    update keelson.users as u
    set email = change.old_email, email_verified_at = change.old_verified_at, updated_at = now()
    where u.id = change.user_id;
    perform keelson._recovery_tokens_void(change.user_id);
    perform keelson._sessions_end(change.user_id, null, null, 'ended');
    perform keelson.audit(
        'email.change', jsonb_build_object('undone', true, 'oldEmail', present, 'newEmail', change.old_email, 'change', change.id),
        user_id => change.user_id
    );
    perform keelson.webhook_emit('user.email_changed', jsonb_build_object(
        'userId', change.user_id, 'oldEmail', present, 'newEmail', change.old_email
    ), change.user_id);
    return true;
end
$$;
alter function keelson._email_change_undo(uuid, uuid) owner to keelson_system;
comment on function keelson._email_change_undo(uuid, uuid) is
    'Undo a change of address and those that came after it, make void what was mailed to the address that goes, and end all of the user''s sessions; false when it cannot be undone (any more). Whoever calls it has proven to hold the old address.';

create or replace function keelson._email_changes_forget(user_id uuid, detail jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    change keelson.email_changes;
begin
    for change in
        delete from keelson.email_changes as c
        where c.user_id = _email_changes_forget.user_id and c.old_verified_at is null and c.undone_at is null
        returning c.*
    loop
        delete from keelson.user_emails as e
        where e.email = lower(change.old_email collate "C") and e.user_id = change.user_id and e.reserved_until is not null
            and not exists (
                select from keelson.email_changes as c
                where c.user_id = change.user_id and lower(c.old_email collate "C") = e.email and c.undone_at is null
            );
        perform keelson.audit('email.change', jsonb_build_object('what', 'undo void', 'change', change.id) || detail, user_id => change.user_id);
    end loop;
end
$$;
alter function keelson._email_changes_forget(uuid, jsonb) owner to keelson_system;
comment on function keelson._email_changes_forget(uuid, jsonb) is
    'Let go of the user''s former addresses that were never shown to be theirs: nobody takes the account back by one.';
