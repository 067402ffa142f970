-- Second factors: enrolling an authenticator, its codes, recovery codes.

do $types$
begin
    if pg_catalog.to_regtype('keelson.totp_enrolment') is null then
        create type keelson.totp_enrolment as (
            secret text,
            otpauth_url text,
            qr_svg text
        );
    end if;
    if pg_catalog.to_regtype('keelson.recovery_code_set') is null then
        create type keelson.recovery_code_set as (
            recovery_codes text[]
        );
    end if;
    if pg_catalog.to_regtype('keelson.totp_confirmation') is null then
        create type keelson.totp_confirmation as (
            recovery_codes text[]
        );
    end if;
    if not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'keelson.totp_confirmation'::pg_catalog.regclass and a.attname = 'access_token'
    ) then
        alter type keelson.totp_confirmation
            add attribute access_token text,
            add attribute refresh_token text,
            add attribute expires_in integer;
    end if;
    if pg_catalog.to_regtype('keelson.factor_state') is null then
        create type keelson.factor_state as (
            is_enabled boolean,
            confirmed_at timestamptz,
            recovery_codes_left integer,
            required_by timestamptz
        );
    end if;
end
$types$;
comment on type keelson.totp_enrolment is
    'What an authenticator app needs, shown once: the secret in base-32, the otpauth URI, and that as a QR code.';
comment on column keelson.totp_enrolment.qr_svg is 'An SVG image.';
comment on type keelson.recovery_code_set is
    'The codes that stand in for a lost authenticator, shown once; each works once.';
comment on type keelson.totp_confirmation is
    'The codes that stand in for a lost authenticator, shown once, and the tokens of the session at assurance level 2.';
comment on type keelson.factor_state is
    'The second factor of the user who is signed in.';
comment on column keelson.factor_state.required_by is 'From when on a role of the user''s demands one; null when none does.';

create or replace function keelson._base32(data bytea)
returns text
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks__base32';
comment on function keelson._base32(bytea) is
    'The bytes in base-32 (RFC 4648), without padding.';

create or replace function keelson._totp_code(secret bytea, moment timestamptz, algorithm text default 'SHA1', digits integer default 6)
returns text
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks__totp_code';
comment on function keelson._totp_code(bytea, timestamptz, text, integer) is
    'The one-time password of RFC 6238 at that moment, in steps of 30 seconds.';

create or replace function keelson._totp_step(secret bytea, code text, moment timestamptz, ahead boolean, algorithm text default 'SHA1')
returns bigint
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks__totp_step';
comment on function keelson._totp_step(bytea, text, timestamptz, boolean, text) is
    'The time step that the code of six digits belongs to: the present one or the one before, with ahead the next one too; null for a code of none.';

create or replace function keelson._qr_svg(content text)
returns text
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks__qr_svg';
comment on function keelson._qr_svg(text) is
    'The text as a QR code (ISO/IEC 18004, error correction M), drawn as SVG.';

-- Across users: executed by the core's own functions alone. Each is called
-- under keelson._failures_lock(), so what is guessed is counted.

create or replace function keelson._factor_is_on(user_id uuid)
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select exists (
    select from keelson.totp_factors as f
    where f.user_id = _factor_is_on.user_id and f.confirmed_at is not null
)
$$;
alter function keelson._factor_is_on(uuid) owner to keelson_system;
comment on function keelson._factor_is_on(uuid) is
    'Whether the user has a second factor in force.';

create or replace function keelson._totp_take(user_id uuid, code text, is_confirming boolean default false)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    factor record;
    step bigint;
begin
    select f.id, f.secret, f.algorithm into factor
    from keelson.totp_factors as f
    where f.user_id = _totp_take.user_id and (f.confirmed_at is null) = is_confirming;
    if factor.id is null or code is null then
        return false;
    end if;
    step := keelson._totp_step(
        keelson.unseal(factor.secret, row('totp', _totp_take.user_id, factor.id)::keelson.seal_context),
        regexp_replace(code, '[[:space:]]', '', 'g'),
        clock_timestamp(),
        current_setting('keelson.totp_accept_next')::boolean,
        factor.algorithm
    );
    -- Of any number with the same code at once, one finds an earlier step.
    update keelson.totp_factors as f
    set last_step = step, confirmed_at = coalesce(f.confirmed_at, now())
    where f.user_id = _totp_take.user_id and f.id = factor.id and f.last_step < step;
    return found;
end
$$;
alter function keelson._totp_take(uuid, text, boolean) owner to keelson_system;
comment on function keelson._totp_take(uuid, text, boolean) is
    'Take a code of the user''s authenticator: true once for each code, and for none that is older. is_confirming: the first code of one that is not in force yet.';

create or replace function keelson._recovery_code_take(user_id uuid, code text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.recovery_codes as c
    set used_at = clock_timestamp()
    where c.user_id = _recovery_code_take.user_id
        and c.code_hash = keelson.token_hash(upper(regexp_replace(code, '[[:space:]-]', '', 'g') collate "C"))
        and c.used_at is null;
    return found;
end
$$;
alter function keelson._recovery_code_take(uuid, text) owner to keelson_system;
comment on function keelson._recovery_code_take(uuid, text) is
    'Take one of the user''s recovery codes: true once for each.';

create or replace function keelson._factor_take(user_id uuid, totp text, recovery_code text)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if totp is not null and keelson._totp_take(user_id, totp) then
        return 'totp';
    elsif recovery_code is not null and keelson._recovery_code_take(user_id, recovery_code) then
        perform keelson._notice(user_id, 'factor.changed', '{"change": "stood in for by a recovery code"}');
        return 'recovery_code';
    end if;
    return null;
end
$$;
comment on function keelson._factor_take(uuid, text, text) is
    'Take a second factor: which of the two it was, null when neither is good. The user is told of a recovery code.';

create or replace function keelson._recovery_codes_make(user_id uuid)
returns text[]
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    codes text[];
begin
    select array_agg(keelson._base32(keelson._random_bytes(15))) into codes
    from generate_series(1, 10);
    delete from keelson.recovery_codes as c where c.user_id = _recovery_codes_make.user_id;
    insert into keelson.recovery_codes (user_id, code_hash)
    select _recovery_codes_make.user_id, keelson.token_hash(code)
    from unnest(codes) as code;
    return array(
        select trim(trailing '-' from regexp_replace(code, '(.{4})', '\1-', 'g'))
        from unnest(codes) as code
    );
end
$$;
alter function keelson._recovery_codes_make(uuid) owner to keelson_system;
comment on function keelson._recovery_codes_make(uuid) is
    'Ten new recovery codes of 120 bits, in groups of four; the old ones are gone.';

create or replace function keelson._session_step_up(user_id uuid, session_id uuid)
returns keelson._open_session
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    old keelson.sessions;
begin
    if session_id is null then
        return null;
    end if;
    -- Blocking, deleting and changing the password take turns with it, as with a login.
    perform from keelson.users as u where u.id = _session_step_up.user_id for no key update;
    select * into old
    from keelson.sessions as s
    where s.user_id = _session_step_up.user_id and s.id = _session_step_up.session_id;
    if keelson._sessions_end(user_id, session_id, null, 'replaced') = 0 then
        perform keelson.raise(401, 'TOKEN_EXPIRED', 'the session has ended');
    end if;
    return keelson._session_add(user_id, old.is_cookie, 2::smallint,
        least(old.expires_at, now() + keelson._session_lifetime(2::smallint)), old.created_at);
end
$$;
alter function keelson._session_step_up(uuid, uuid) owner to keelson_system;
comment on function keelson._session_step_up(uuid, uuid) is
    'The session has just shown a second factor: another takes its place at assurance level 2, whose tokens are new (ASVS 7.2.4), and which lasts no longer. Null without a session.';

create or replace function keelson._step_up_reply(user_id uuid, words jsonb default '{}')
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._session_reply(user_id, keelson._session_step_up(user_id, keelson.current_session_id()),
        (keelson.current_request()).via is not distinct from 'cookie', words);
end
$$;
comment on function keelson._step_up_reply(uuid, jsonb) is
    'The reply to a second factor: these fields, and the tokens of the session that takes the place of the one that asked.';

create or replace function keelson._session_age(user_id uuid, session_id uuid)
returns interval
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select now() - s.created_at
from keelson.sessions as s
where s.user_id = _session_age.user_id and s.id = _session_age.session_id
$$;
alter function keelson._session_age(uuid, uuid) owner to keelson_system;
comment on function keelson._session_age(uuid, uuid) is
    'How long ago the session was opened; null without one.';

-- Endpoints of the user who is signed in.

create or replace function keelson._factor_actor()
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    if keelson.current_actor() = 'access_key' then
        perform keelson.raise(403, 'FORBIDDEN', 'an access key has no second factor');
    end if;
    return keelson.current_user_id();
end
$$;
comment on function keelson._factor_actor() is
    'The person who is acting; 401 and 403 where that is nobody, or a machine.';

create or replace function keelson.factor_state()
returns keelson.factor_state
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._factor_state(keelson._factor_actor());
end
$$;
comment on function keelson.factor_state() is
    'Whether the user who is signed in has a second factor, how many recovery codes are left, and from when on one is demanded.';
grant execute on function keelson.factor_state() to keelson_app;

create or replace function keelson._factor_state(user_id uuid)
returns keelson.factor_state
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select
    f.confirmed_at is not null,
    f.confirmed_at,
    (select count(*)::integer from keelson.recovery_codes as c where c.user_id = _factor_state.user_id and c.used_at is null),
    keelson._factor_required_by(_factor_state.user_id)
from (select _factor_state.user_id as id) as who
left join keelson.totp_factors as f on f.user_id = who.id and f.confirmed_at is not null
$$;
alter function keelson._factor_state(uuid) owner to keelson_system;
comment on function keelson._factor_state(uuid) is
    'The second factor of the user.';

create or replace function keelson._totp_enrol(user_id uuid, secret bytea, algorithm text default 'SHA1')
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    factor_id uuid := keelson.uuid7();
    address text;
begin
    insert into keelson.totp_factors as f (user_id, id, algorithm, secret)
    values (
        _totp_enrol.user_id, factor_id, _totp_enrol.algorithm,
        keelson.seal(_totp_enrol.secret, row('totp', _totp_enrol.user_id, factor_id)::keelson.seal_context)
    )
    on conflict on constraint totp_factors_pkey do update
    set id = excluded.id, algorithm = excluded.algorithm, secret = excluded.secret, created_at = excluded.created_at, last_step = 0
    where f.confirmed_at is null;
    if not found then
        return null;
    end if;
    select u.email into address from keelson.users as u where u.id = _totp_enrol.user_id;
    return coalesce(address, '');
end
$$;
alter function keelson._totp_enrol(uuid, bytea, text) owner to keelson_system;
comment on function keelson._totp_enrol(uuid, bytea, text) is
    'Keep the secret of a new authenticator until its first code comes; the user''s address, null where one is in force already.';

create or replace function keelson._url_escape(value text)
returns text
language sql
immutable
strict
parallel safe
as $$
select coalesce(pg_catalog.string_agg(
    case
        when byte between 48 and 57 or byte between 65 and 90 or byte between 97 and 122 or byte in (45, 46, 95, 126) then pg_catalog.chr(byte)
        else '%' || pg_catalog.upper(pg_catalog.lpad(pg_catalog.to_hex(byte), 2, '0'))
    end, '' order by place), '')
from (
    select place, pg_catalog.get_byte(bytes, place) as byte
    from (select pg_catalog.convert_to(value, 'UTF8') as bytes) as given,
        pg_catalog.generate_series(0, pg_catalog.octet_length(bytes) - 1) as place
) as each
$$;
comment on function keelson._url_escape(text) is
    'The text percent-encoded (RFC 3986), all but unreserved characters.';

create or replace function keelson.totp_enroll(current_password keelson.password default null)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson._factor_actor();
    algorithm text := current_setting('keelson.totp_algorithm');
    -- As many bytes as the digest has (RFC 6238, appendix B).
    secret bytea := keelson._random_bytes(case algorithm when 'SHA256' then 32 when 'SHA512' then 64 else 20 end);
    address text;
    enrolment keelson.totp_enrolment;
    refusal keelson.reply := keelson._factor_fresh_login(current_password);
begin
    if refusal.status is not null then
        return refusal;
    end if;
    address := keelson._totp_enrol(acting, secret, algorithm);
    if address is null then
        perform keelson.raise(409, 'CONFLICT', 'a second factor is in force', 'Disable it first.');
    end if;
    enrolment.secret := keelson._base32(secret);
    enrolment.otpauth_url := format('otpauth://totp/%s:%s?secret=%s&issuer=%s&algorithm=%s&digits=6&period=30',
        keelson._url_escape(keelson._product_name()), keelson._url_escape(address), enrolment.secret,
        keelson._url_escape(keelson._product_name()), algorithm);
    enrolment.qr_svg := keelson._qr_svg(enrolment.otpauth_url);
    perform keelson.audit('factor.enroll');
    return keelson.reply_with(enrolment);
end
$$;
comment on function keelson.totp_enroll(keelson.password) is
    'Begin to use an authenticator app: its secret, shown once. It is in force when its first code has been confirmed. Needs the current password unless the login was less than five minutes ago.';
grant execute on function keelson.totp_enroll(keelson.password) to keelson_app;

create or replace function keelson.totp_confirm(code text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson._factor_actor();
    refusal keelson.reply;
begin
    perform keelson._require(code, 'code');
    refusal := keelson._factor_confirm(acting, code, null, is_confirming => true);
    if refusal.status is not null then
        return refusal;
    end if;
    perform keelson.audit('factor.change', '{"change": "enabled"}');
    perform keelson._notice(acting, 'factor.changed', '{"change": "enabled"}');
    return keelson._step_up_reply(acting, jsonb_build_object('recoveryCodes', keelson._recovery_codes_make(acting)));
end
$$;
comment on function keelson.totp_confirm(text) is
    'Put the enrolled authenticator in force by its first code. Returns ten recovery codes, shown once, and the tokens of a session at assurance level 2, which takes the place of the one that asked.';
grant execute on function keelson.totp_confirm(text) to keelson_app;

create or replace function keelson.totp_verify(code text default null, recovery_code text default null)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson._factor_actor();
    refusal keelson.reply := keelson._factor_confirm(acting, code, recovery_code);
begin
    if refusal.status is not null then
        return refusal;
    end if;
    perform keelson.audit('factor.use');
    return keelson._step_up_reply(acting);
end
$$;
comment on function keelson.totp_verify(text, text) is
    'Show the second factor anew, for what demands a fresh one. Returns the tokens of a session at assurance level 2, which takes the place of the one that asked.';
grant execute on function keelson.totp_verify(text, text) to keelson_app;

create or replace function keelson.totp_disable(
    password keelson.password default null,
    code text default null,
    recovery_code text default null
)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson._factor_actor();
    refusal keelson.reply;
begin
    perform keelson._require(password, 'password');
    -- Who knows the password has as many tries at the code as at login.
    refusal := keelson._password_confirm(keelson._credential_of(acting), password, 'factor.change', is_all => false, field => 'password');
    if refusal.status is null then
        refusal := keelson._factor_confirm(acting, code, recovery_code);
    end if;
    if refusal.status is not null then
        return refusal;
    end if;
    if keelson._factor_required_by(acting) is not null then
        perform keelson.raise(403, 'FORBIDDEN', 'a role of yours demands a second factor');
    end if;
    perform keelson._factor_remove(acting);
    perform keelson.audit('factor.change', '{"change": "disabled"}');
    perform keelson._notice(acting, 'factor.changed', '{"change": "disabled"}');
    return null;
end
$$;
comment on function keelson.totp_disable(keelson.password, text, text) is
    'Do without the second factor, by the password and a code of it or a recovery code.';
grant execute on function keelson.totp_disable(keelson.password, text, text) to keelson_app;

create or replace function keelson.recovery_codes_renew(code text)
returns keelson.reply
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson._factor_actor();
    refusal keelson.reply;
begin
    perform keelson._require(code, 'code');
    refusal := keelson._factor_confirm(acting, code, null);
    if refusal.status is not null then
        return refusal;
    end if;
    perform keelson.audit('factor.change', '{"change": "recovery codes renewed"}');
    perform keelson._notice(acting, 'factor.changed', '{"change": "given new recovery codes"}');
    return keelson.reply_with(row(keelson._recovery_codes_make(acting))::keelson.recovery_code_set);
end
$$;
comment on function keelson.recovery_codes_renew(text) is
    'Ten new recovery codes, by a code of the authenticator; the old ones are void.';
grant execute on function keelson.recovery_codes_renew(text) to keelson_app;

create or replace function keelson._factor_confirm(user_id uuid, code text, recovery_code text, is_confirming boolean default false)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- As for passwords: a session has a budget of its own.
    asking uuid := coalesce(keelson.current_session_id(), '00000000-0000-0000-0000-000000000000');
    locked_until timestamptz;
begin
    if code is null and recovery_code is null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a code is needed', field => 'code');
    end if;
    locked_until := keelson._failures_lock(user_id, asking);
    if locked_until is not null then
        return keelson._locked_reply(locked_until);
    end if;
    if is_confirming and keelson._totp_take(user_id, code, true)
        or not is_confirming and keelson._factor_take(user_id, code, recovery_code) is not null
    then
        perform keelson._failures_forgive(user_id, asking);
        return null;
    end if;
    perform keelson._failure_record(user_id, asking);
    perform keelson.audit('factor.use', outcome => 'failure');
    return keelson.refuse(401, 'INVALID_CREDENTIALS', 'the code is wrong, was used before, or is too old', 'code');
end
$$;
comment on function keelson._factor_confirm(uuid, text, text, boolean) is
    'Ask the acting user for the second factor: null when it is right, else the refusal to return. Wrong ones lock, as at login.';

create or replace function keelson._factor_fresh_login(current_password text)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    acting uuid := keelson.current_user_id();
begin
    if keelson.current_actor() = 'admin' or keelson._session_age(acting, keelson.current_session_id()) < interval '5 minutes' then
        return null;
    elsif current_password is null then
        return keelson.refuse(403, 'FORBIDDEN', 'give the current password, or log in again first', 'current_password');
    end if;
    return keelson._password_confirm(keelson._credential_of(acting), current_password, 'factor.change');
end
$$;
comment on function keelson._factor_fresh_login(text) is
    'A refusal unless the session was opened less than five minutes ago or the current password is given (ASVS 7.5.1); null when all is well.';

create or replace function keelson._factor_remove(user_id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.recovery_codes as c where c.user_id = _factor_remove.user_id;
    delete from keelson.totp_factors as f where f.user_id = _factor_remove.user_id;
    return found;
end
$$;
alter function keelson._factor_remove(uuid) owner to keelson_system;
comment on function keelson._factor_remove(uuid) is
    'Take the user''s second factor and recovery codes away; false where there was none.';
