-- Passwords: the rules for new ones, storing and changing.

create or replace function keelson._password_fault(password text, own text[], min_length integer)
returns text
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__password_fault';
comment on function keelson._password_fault(text, text[], integer) is
    'What speaks against a new password in NFC, as a sentence for its user, or null: too short, commonly used, made of the user''s own words, repeats or sequences.';

create or replace function keelson._password_require(password text, field text, email text, name text)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    fault text := keelson._password_fault(
        normalize(password, nfc),
        array[
            normalize(email, nfc),
            normalize(name, nfc),
            split_part(split_part(current_setting('keelson.public_url'), '://', 2), '/', 1),
            split_part(split_part(current_setting('keelson.app_url'), '://', 2), '/', 1)
        ],
        current_setting('keelson.password_min_length')::integer
    );
begin
    if fault is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', fault, field => field);
    end if;
end
$$;
comment on function keelson._password_require(text, text, text, text) is
    'Raise 400 naming the field unless the password keeps the rules for new ones.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._credential_find(email text)
returns keelson._credential
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    user_id uuid;
    credential keelson._credential;
begin
    select e.user_id into user_id from keelson.user_emails as e
    where e.email = lower(_credential_find.email collate "C") and e.reserved_until is null;
    -- An address that nobody holds costs the same look-ups.
    return keelson._credential_of(coalesce(user_id, keelson.uuid7()));
end
$$;
alter function keelson._credential_find(text) owner to keelson_system;
comment on function keelson._credential_find(text) is
    'What the holder of the address logs in with; all null when nobody holds it.';

create or replace function keelson._password_decoy(nobody uuid, out hash text, out pepper_key_id integer)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place constant bigint := uuid_hash_extended(nobody, 0);
    neighbour uuid;
begin
    select e.user_id into neighbour from keelson.user_emails as e
    where hashtextextended(e.email, 0) >= place
    order by hashtextextended(e.email, 0)
    limit 1;
    if not found then
        -- After the last comes the first.
        select e.user_id into neighbour from keelson.user_emails as e
        order by hashtextextended(e.email, 0)
        limit 1;
    end if;
    select p.hash, p.pepper_key_id into hash, pepper_key_id from keelson.passwords as p where p.user_id = neighbour;
end
$$;
alter function keelson._password_decoy(uuid, out text, out integer) owner to keelson_system;
comment on function keelson._password_decoy(uuid) is
    'Whose hash a login with an address that nobody holds (keelson._nobody_id() of it) is compared with, so that it takes as long as one of those that somebody holds: always the same for an address, drawn from all by the keyring. Null where who was drawn has no password. What comes of the comparison must not count.';

create or replace function keelson._credential_of(user_id uuid)
returns keelson._credential
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    credential keelson._credential;
begin
    select u.id, u.status, u.email, u.name, p.hash, p.pepper_key_id, p.normalisation, p.changed_at
    into credential
    from keelson.users as u
    join keelson.passwords as p on p.user_id = u.id
    where u.id = _credential_of.user_id and u.kind = 'person';
    return credential;
end
$$;
alter function keelson._credential_of(uuid) owner to keelson_system;
comment on function keelson._credential_of(uuid) is
    'What the user logs in with; all null for a user without a password.';

create or replace function keelson._password_set(
    user_id uuid,
    hash text,
    pepper_key_id integer,
    normalisation text default 'nfc'
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into keelson.passwords as p (user_id, hash, pepper_key_id, normalisation)
    values (
        _password_set.user_id, _password_set.hash, _password_set.pepper_key_id, _password_set.normalisation
    )
    on conflict on constraint passwords_pkey do update
    set hash = excluded.hash,
        pepper_key_id = excluded.pepper_key_id,
        normalisation = excluded.normalisation,
        changed_at = clock_timestamp();
    perform keelson._recovery_tokens_void(user_id, 'reset_password');
end
$$;
alter function keelson._password_set(uuid, text, integer, text) owner to keelson_system;
comment on function keelson._password_set(uuid, text, integer, text) is
    'Give the user this password. Links to reset the one before are void.';

create or replace function keelson._password_rehash(user_id uuid, old_hash text, hash text, pepper_key_id integer)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
update keelson.passwords as p
set hash = _password_rehash.hash,
    pepper_key_id = _password_rehash.pepper_key_id,
    normalisation = 'nfc'
where p.user_id = _password_rehash.user_id and p.hash = _password_rehash.old_hash
$$;
alter function keelson._password_rehash(uuid, text, text, integer) owner to keelson_system;
comment on function keelson._password_rehash(uuid, text, text, integer) is
    'Store the same password''s newer hash, unless it was changed meanwhile.';

create or replace function keelson._password_confirm(
    credential keelson._credential,
    current_password text,
    event_type text,
    is_all boolean default true,
    field text default 'current_password'
)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson.current_user_id();
    -- A session has a budget of its own: who has taken it over cannot lock the
    -- login, and strangers at the login cannot lock it.
    asking uuid := coalesce(keelson.current_session_id(), '00000000-0000-0000-0000-000000000000');
    locked_until timestamptz := keelson._failures_lock(acting, asking);
begin
    if locked_until is not null then
        return keelson._locked_reply(locked_until);
    end if;
    if (keelson._password_check(current_password, credential.hash, credential.pepper_key_id)).is_match then
        if is_all then
            perform keelson._failures_forgive(acting, asking);
        end if;
        return null;
    end if;
    perform keelson._failure_record(acting, asking);
    perform keelson.audit(event_type, outcome => 'failure');
    return keelson.refuse(401, 'INVALID_CREDENTIALS', 'the current password is wrong', field => field);
end
$$;
comment on function keelson._password_confirm(keelson._credential, text, text, boolean, text) is
    'Ask the acting user for the password they have (credential, of keelson._credential_of()): null when it is right, else the refusal to return, recorded as a failure of the event type. Wrong ones lock, as at login. is_all: nothing else is asked for, so earlier failures are forgiven. field: what the argument is called.';

create or replace function keelson._password_change(current_password text, new_password text, new_name text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson.current_user_id();
    credential keelson._credential;
    digest record;
    refusal keelson.reply;
begin
    if current_password is null then
        perform keelson.raise(400, 'VALIDATION_FAILED',
            'the current password is needed to set a new one', field => 'current_password');
    end if;
    credential := keelson._credential_of(acting);
    perform keelson._password_require(new_password, 'new_password', credential.email, coalesce(new_name, credential.name));
    if normalize(new_password, nfc) = normalize(current_password, nfc) then
        perform keelson.raise(400, 'VALIDATION_FAILED',
            'the new password must differ from the current one', field => 'new_password');
    end if;
    refusal := keelson._password_confirm(credential, current_password, 'password.change');
    if refusal.status is not null then
        return refusal;
    end if;
    digest := keelson._password_store(new_password);
    -- From here on a login with the old password finds it changed.
    if not keelson._user_lock(acting, credential.changed_at) then
        perform keelson.raise(409, 'CONFLICT', 'the password was changed meanwhile');
    end if;
    perform keelson._password_set(acting, digest.hash, digest.pepper_key_id);
    perform keelson._sessions_end(acting, null, keelson.current_session_id(), 'password_changed');
    perform keelson.audit('password.change');
    perform keelson._notice(acting, 'password.changed');
    perform keelson.webhook_emit('user.password_changed', jsonb_build_object('userId', acting));
    return null;
end
$$;
comment on function keelson._password_change(text, text, text) is
    'Give the acting user a new password and end the other sessions; a refusal to return when the current password is wrong, else null.';
