-- The keyring, sealing, secrets, tokens and passwords.

create type keelson.seal_context as (
    purpose text,
    user_id uuid,
    row_id uuid
);
comment on type keelson.seal_context is
    'What a sealed value belongs to: its purpose, its user (null: the server''s), and the row that it stands in. It opens in the same context alone.';

create or replace function keelson.seal(data bytea, context keelson.seal_context)
returns bytea
language c
volatile
strict
parallel unsafe
cost 10
as 'MODULE_PATHNAME', 'ks_seal_sql';
comment on function keelson.seal(bytea, keelson.seal_context) is
    'Encrypt and authenticate the data (AES-256-GCM) with the user''s key, or the server''s where the context has no user. For the owner roles alone.';

create or replace function keelson.unseal(sealed bytea, context keelson.seal_context)
returns bytea
language c
volatile
strict
parallel restricted
cost 10
as 'MODULE_PATHNAME', 'ks_unseal_sql';
comment on function keelson.unseal(bytea, keelson.seal_context) is
    'The data of a sealed value; one and the same error whatever keeps it from being opened. For the owner roles alone.';

create or replace function keelson._unseal_for(sealed bytea, context keelson.seal_context, details jsonb)
returns bytea
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_unseal_for';
comment on function keelson._unseal_for(bytea, keelson.seal_context, jsonb) is
    'As keelson.unseal(), always with an event key.use in the audit trail that has the details.';

create or replace function keelson._unseal_at_once(sealed bytea, context keelson.seal_context, details jsonb)
returns bytea
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_unseal_at_once';
comment on function keelson._unseal_at_once(bytea, keelson.seal_context, jsonb) is
    'As keelson._unseal_for(), but the event is recorded through shared memory: nothing is written, and the record stands whatever becomes of the transaction. For what is sent elsewhere at once.';

create or replace function keelson._user_keys_erase(user_id uuid)
returns integer
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_user_keys_erase';
comment on function keelson._user_keys_erase(uuid) is
    'Erase the user''s keys, and with them all that was sealed for the user; returns how many there were. Other backends forget them when this commits; for that reason rows of keelson.user_keys are deleted in no other way.';

-- The keyring.

create or replace function keelson._keyring_loaded(
    out key_id integer,
    out is_primary boolean,
    out check_value bytea
)
returns setof record
language c
volatile
parallel restricted
as 'MODULE_PATHNAME', 'ks_keyring_loaded';
comment on function keelson._keyring_loaded() is
    'The master keys that the server holds: ids and check values.';

create or replace function keelson._keyring_state(
    out generation bigint,
    out loaded_at timestamptz,
    out read_at timestamptz,
    out is_locked boolean,
    out problem text
)
language c
volatile
parallel restricted
as 'MODULE_PATHNAME', 'ks_keyring_state';
comment on function keelson._keyring_state() is
    'The keyring as a whole: how often it has changed, when it was taken and last read, whether it is locked into memory, and what was wrong with the last reading.';

create or replace function keelson._keyring_ready(
    is_use boolean default false,
    out is_ready boolean,
    out reason text
)
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_keyring_ready_sql';
comment on function keelson._keyring_ready(boolean) is
    'Whether secrets can be used: a keyring is loaded and it is this database''s; else why not. Before a use, the primary key is recorded if this database does not know it.';

create or replace function keelson.keyring_status()
returns table (
    key_id integer,
    is_primary boolean,
    state text,
    recorded_at timestamptz,
    retired_at timestamptz,
    problem text
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ring record;
begin
    select * into ring from keelson._keyring_state();
    return query
        select
            coalesce(loaded.key_id, recorded.key_id),
            coalesce(loaded.is_primary, false),
            case
                when recorded.retired_at is not null then 'retired'
                when loaded.key_id is null then 'missing'
                when recorded.key_id is null then 'unused'
                when recorded.check_value <> loaded.check_value then 'wrong'
                else 'ready'
            end,
            recorded.created_at,
            recorded.retired_at,
            case
                when loaded.key_id is null and recorded.retired_at is null then
                    'the keyring lacks this key, which the database needs'
                when recorded.retired_at is not null and loaded.is_primary then
                    'the primary was retired: another key must be'
                when recorded.retired_at is null and recorded.check_value <> loaded.check_value then
                    'the keyring''s key of this id is another than the database''s'
            end
        from keelson._keyring_loaded() as loaded
        full join keelson.keyring_keys as recorded using (key_id)
        order by 1;
    if ring.problem is not null then
        return query select null::integer, false, 'not read', null::timestamptz, null::timestamptz, ring.problem;
    end if;
end
$$;
comment on function keelson.keyring_status() is
    'Each master key that the server holds or the database needs: ready, unused (nothing is sealed under it yet), missing, wrong or retired (the keyring may do without it); and, without an id, what was wrong when the keyring was last read.';
grant execute on function keelson.keyring_status() to keelson_admin;

create or replace function keelson._keyring_register()
returns boolean
language plpgsql
as $$
declare
    ready record;
begin
    select * into ready from keelson._keyring_ready(is_use => true);
    if not ready.is_ready then
        raise log 'secrets cannot be used yet: %', ready.reason;
    end if;
    return ready.is_ready;
end
$$;
comment on function keelson._keyring_register() is
    'Record the primary master key''s check value, so that this database knows it again; false, and a line in the log, when the keyring is not ready.';

-- The server's own secrets.

create or replace function keelson.secret_set(name text, value text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    known keelson.secrets;
    stored bytea;
    salt bytea;
begin
    select * into known from keelson.secrets where secrets.name = secret_set.name for update;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no secret named "%s"', name),
            'select name from keelson.secrets lists them.', 'name');
    end if;
    if value = '' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a secret is not empty', 'Null removes it.', 'value');
    elsif name = 'smtp_url' and keelson._smtp_url_fault(value) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', keelson._smtp_url_fault(value), field => 'value');
    end if;
    if known.is_hashed then
        salt := keelson._random_bytes(16);
        stored := salt || sha256(salt || convert_to(value, 'UTF8'));
    else
        stored := keelson.seal(convert_to(value, 'UTF8'), row('secret', null, known.id)::keelson.seal_context);
    end if;
    update keelson.secrets
    set value = stored, changed_at = case when stored is not null then now() end
    where secrets.name = secret_set.name;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'secret', 'which', name, 'isSet', stored is not null, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.secret_set(text, text) is
    'Set one of the server''s own secrets, null to remove it; hand the value in as a bound parameter, so that no log shows it.';
grant execute on function keelson.secret_set(text, text) to keelson_admin;

create or replace function keelson._secret_get(name text)
returns text
language plpgsql
volatile
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known keelson.secrets;
begin
    select * into known from keelson.secrets where secrets.name = _secret_get.name;
    if not found or known.is_hashed then
        raise exception 'there is no secret named "%" that can be read', _secret_get.name
            using errcode = 'undefined_object';
    end if;
    return convert_from(keelson.unseal(known.value, row('secret', null, known.id)::keelson.seal_context), 'UTF8');
end
$$;
comment on function keelson._secret_get(text) is
    'The value of one of the server''s own secrets, null when it is not set.';

create or replace function keelson._secret_matches(name text, candidate text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known keelson.secrets;
begin
    select * into known from keelson.secrets where secrets.name = _secret_matches.name;
    if not found then
        raise exception 'there is no secret named "%"', _secret_matches.name
            using errcode = 'undefined_object';
    end if;
    if known.value is null or candidate is null then
        return false;
    end if;
    if known.is_hashed then
        return keelson._bytes_equal(
            substring(known.value from 17),
            sha256(substring(known.value from 1 for 16) || convert_to(candidate, 'UTF8'))
        );
    end if;
    return keelson._bytes_equal(
        sha256(convert_to(keelson._secret_get(_secret_matches.name), 'UTF8')),
        sha256(convert_to(candidate, 'UTF8'))
    );
end
$$;
comment on function keelson._secret_matches(text, text) is
    'Whether the candidate is the secret, compared in constant time; false when the secret is not set.';

-- Tokens and passwords.

create or replace function keelson.token_new()
returns text
language c
volatile
parallel safe
as 'MODULE_PATHNAME', 'ks_token_new';
comment on function keelson.token_new() is
    'A new secret of 32 random bytes, as 43 characters of base64url.';
grant execute on function keelson.token_new() to keelson_app, keelson_admin;

create or replace function keelson.token_hash(token text)
returns bytea
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_token_hash';
comment on function keelson.token_hash(text) is
    'SHA-256 of a token, for storing; fit for random tokens, not for passwords.';
grant execute on function keelson.token_hash(text) to keelson_app, keelson_admin;

create or replace function keelson._bytes_equal(a bytea, b bytea)
returns boolean
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_bytes_equal';
comment on function keelson._bytes_equal(bytea, bytea) is
    'Whether both are the same, in a time that tells nothing but their lengths.';

create or replace function keelson._random_bytes(count integer)
returns bytea
language c
volatile
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_random_bytes';
comment on function keelson._random_bytes(integer) is
    'Random bytes from the server''s strong source, 1 to 1024 of them.';

create or replace function keelson.password_hash(password text)
returns text
language c
volatile
strict
parallel restricted
cost 1000000
as 'MODULE_PATHNAME', 'ks_password_hash';
comment on function keelson.password_hash(text) is
    'The argon2id hash (PHC string) of a password, normalised to NFC; without a pepper. At most keelson.password_hash_slots run at once.';
grant execute on function keelson.password_hash(text) to keelson_app, keelson_admin;

create or replace function keelson.password_verify(password text, hash text)
returns boolean
language c
volatile
strict
parallel restricted
cost 1000000
as 'MODULE_PATHNAME', 'ks_password_verify';
comment on function keelson.password_verify(text, text) is
    'Whether the hash, argon2id or bcrypt, is of this password. A hash of another kind takes as long and does not match.';
grant execute on function keelson.password_verify(text, text) to keelson_app, keelson_admin;

create or replace function keelson._password_store(
    password text,
    out hash text,
    out pepper_key_id integer
)
language c
volatile
strict
parallel restricted
cost 1000000
as 'MODULE_PATHNAME', 'ks_password_store';
comment on function keelson._password_store(text) is
    'What to store for a password: the argon2id hash of its HMAC under the primary key''s pepper, and that key''s id.';

create or replace function keelson._password_check(
    password text,
    hash text,
    pepper_key_id integer,
    out is_match boolean,
    out needs_rehash boolean
)
language c
volatile
parallel restricted
cost 1000000
as 'MODULE_PATHNAME', 'ks_password_check';
comment on function keelson._password_check(text, text, integer) is
    'Whether the password is the stored one (pepper key id 0: stored without a pepper), and whether it should be stored anew. With a null hash, for a user that does not exist, it takes as long and does not match.';

create or replace function keelson._password_queue(
    out running integer,
    out waiting integer,
    out refused bigint
)
language c
volatile
parallel restricted
as 'MODULE_PATHNAME', 'ks__password_queue';
comment on function keelson._password_queue() is
    'Hashes of passwords that are being made, that wait, and that were refused for want of room or time since the server started.';

-- Signed tokens.

create or replace function keelson._signing_key_make(active_from timestamptz)
returns text
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_signing_key_make';
comment on function keelson._signing_key_make(timestamptz) is
    'Make a P-256 key that signs from that time on, and is published at once; returns its kid.';

create or replace function keelson._signing_keys_changed()
returns void
language c
volatile
parallel unsafe
as 'MODULE_PATHNAME', 'ks_signing_keys_changed';
comment on function keelson._signing_keys_changed() is
    'Have every backend read keelson.signing_keys again when this transaction commits.';

create or replace function keelson._signing_key_ensure()
returns void
language plpgsql
volatile
as $$
begin
    if not (select is_ready from keelson._keyring_ready()) then
        return;
    end if;
    if exists (select from keelson.signing_keys where revoked_at is null and active_from <= pg_catalog.now()) then
        return;
    end if;
    -- One at a time: whoever comes second finds the key of the first.
    lock table keelson.signing_keys in share row exclusive mode;
    if not exists (select from keelson.signing_keys where revoked_at is null and active_from <= pg_catalog.now()) then
        perform keelson._signing_key_make(pg_catalog.now());
    end if;
end
$$;
comment on function keelson._signing_key_ensure() is
    'Make a key that signs from now on unless there is one; does nothing without a keyring.';

create or replace function keelson.signing_key_rotate(active_in interval default '24 hours')
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if active_in is null or active_in < '24 hours' or active_in > '1 year' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a key is published for 24 hours to a year before it signs',
            'When a key has leaked, use keelson.signing_key_revoke().', 'active_in');
    end if;
    if exists (select from keelson.signing_keys where revoked_at is null and active_from > now()) then
        perform keelson.raise(409, 'CONFLICT', 'there is a next key already, and it has not begun to sign');
    end if;
    perform keelson.audit('key.rotate', jsonb_build_object('what', 'signing key', 'databaseRole', session_user));
    return keelson._signing_key_make(now() + active_in);
end
$$;
comment on function keelson.signing_key_rotate(interval) is
    'Make the next key for signing tokens: published at once, signing after the interval (24 hours at least, so that nobody meets an unknown key); returns its kid. Tokens of the present key stay good until they expire.';
grant execute on function keelson.signing_key_rotate(interval) to keelson_admin;

create or replace function keelson.signing_key_revoke(kid text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.signing_keys
    set revoked_at = now()
    where signing_keys.kid = signing_key_revoke.kid and revoked_at is null;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such key for signing tokens', null, 'kid');
    end if;
    perform keelson._signing_keys_changed();
    perform keelson._signing_key_ensure();
    perform keelson.audit('key.revoke', jsonb_build_object('what', 'signing key', 'kid', kid, 'databaseRole', session_user));
end
$$;
comment on function keelson.signing_key_revoke(text) is
    'Make a key that has leaked count no more, at once: every access token that it signed is refused, and a new key signs if it was the present one.';
grant execute on function keelson.signing_key_revoke(text) to keelson_admin;

create or replace function keelson.jwks()
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('keys', coalesce(
        jsonb_agg(
            public_key || jsonb_build_object('kid', kid, 'alg', algorithm, 'use', 'sig')
            order by active_from desc, id desc
        ),
        '[]'
    ))
    from (
        select *, lag(active_from) over (order by active_from desc, id desc) as successor_from
        from keelson.signing_keys
        where revoked_at is null
    ) as candidates
    where successor_from is null or successor_from > now() - interval '1 hour'
$$;
comment on function keelson.jwks() is
    'The JWK set of the keys whose tokens count now or will: what /.well-known/jwks.json says.';
grant execute on function keelson.jwks() to keelson_app, keelson_admin;

create or replace function keelson.jwks_document()
returns keelson.reply
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return row(
        200,
        pg_catalog.jsonb_build_object(
            'Content-Type', 'application/json',
            'Cache-Control', 'public, max-age=900',
            ':raw', true
        ),
        pg_catalog.convert_to(keelson.jwks()::pg_catalog.text, 'UTF8')
    )::keelson.reply;
end
$$;
comment on function keelson.jwks_document() is
    'The public keys (JWK set, RFC 7517) that access tokens are signed with. Keys are published 24 hours before they sign; a copy may be kept for 15 minutes.';
grant execute on function keelson.jwks_document() to keelson_app;

create or replace function keelson.jwt_sign(claims jsonb, typ text default 'JWT')
returns text
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_jwt_sign';
comment on function keelson.jwt_sign(jsonb, text) is
    'A JWT of the claims (exp is required), signed with ES256 and the key in force. For the owner roles alone; give each purpose a typ of its own.';

create or replace function keelson.jwt_verify(
    token text,
    keys jsonb default null,
    pem text default null,
    algorithms text[] default null,
    issuer text default null,
    audience text[] default null,
    typ text default null,
    leeway integer default 30
)
returns jsonb
language c
volatile
parallel restricted
as 'MODULE_PATHNAME', 'ks_jwt_verify';
comment on function keelson.jwt_verify(text, jsonb, text, text[], text, text[], text, integer) is
    'The claims of a JWT whose signature (ES256, RS256, PS256 or EdDSA, by our own keys or by those given as a JWK set or in PEM) and times are good, and whose issuer, audience and typ are as asked for; else KS401. A null argument is not asked for.';
grant execute on function keelson.jwt_verify(text, jsonb, text, text[], text, text[], text, integer) to keelson_app, keelson_admin;

create or replace function keelson._access_token_sign(user_id uuid, session_id uuid, aal integer, lifetime integer)
returns text
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_access_token_sign_sql';
comment on function keelson._access_token_sign(uuid, uuid, integer, integer) is
    'An access token for the session, good for that many seconds.';

create or replace function keelson._access_token_verify(
    token text,
    out state text,
    out user_id uuid,
    out session_id uuid,
    out aal integer,
    out expires_at timestamptz
)
language c
volatile
strict
parallel restricted
as 'MODULE_PATHNAME', 'ks_access_token_verify_sql';
comment on function keelson._access_token_verify(text) is
    'What an access token of ours says, and whether it is valid, expired or invalid (then the rest is null).';
