-- One-time tokens of verification and of resets.

do $types$
begin
    if pg_catalog.to_regtype('keelson._recovery_token_use') is null then
        create type keelson._recovery_token_use as (
            user_id uuid,
            email text
        );
    end if;
end
$types$;
comment on type keelson._recovery_token_use is
    'Whose token was used, and the address it was mailed to; null for one that is no good.';

create or replace function keelson._recovery_token_make(user_id uuid, purpose text, email text, lifetime interval)
returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    token text := case purpose
            when 'verify_email' then 'ksv_'
            when 'reset_password' then 'ksp_'
        end || replace(user_id::text, '-', '') || keelson.token_new();
begin
    perform keelson._recovery_tokens_void(user_id, purpose);
    insert into keelson.recovery_tokens (user_id, purpose, token_hash, email, expires_at)
    values (user_id, purpose, keelson.token_hash(token), email, now() + lifetime);
    return token;
end
$$;
alter function keelson._recovery_token_make(uuid, text, text, interval) owner to keelson_system;
comment on function keelson._recovery_token_make(uuid, text, text, interval) is
    'A new one-time token of the user, 256 bits random; older ones for the same purpose are void. ksv_ verifies an address, ksp_ resets a password; the user''s id in hexadecimal comes next.';

create or replace function keelson._recovery_tokens_void(user_id uuid, purpose text default null)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
update keelson.recovery_tokens as t
set used_at = now()
where t.user_id = _recovery_tokens_void.user_id
    and (_recovery_tokens_void.purpose is null or t.purpose = _recovery_tokens_void.purpose)
    and t.used_at is null
$$;
alter function keelson._recovery_tokens_void(uuid, text) owner to keelson_system;
comment on function keelson._recovery_tokens_void(uuid, text) is
    'Make the user''s tokens for the purpose void, or all.';

create or replace function keelson._recovery_token_find(token text, purpose text, is_used boolean)
returns keelson._recovery_token_use
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_use keelson._recovery_token_use;
    owner_id uuid;
begin
    if token !~ '^ks[vp]_[0-9a-f]{32}[A-Za-z0-9_-]{43}$' then
        return null;
    end if;
    owner_id := substring(token from 5 for 32);
    if is_used then
        -- Whoever comes at the same moment waits here, and finds it used.
        update keelson.recovery_tokens as t
        set used_at = clock_timestamp()
        where t.user_id = owner_id
            and t.purpose = _recovery_token_find.purpose
            and t.token_hash = keelson.token_hash(token)
            and t.used_at is null
            and t.expires_at > clock_timestamp()
        returning t.user_id, t.email into found_use;
    else
        select t.user_id, t.email into found_use
        from keelson.recovery_tokens as t
        where t.user_id = owner_id
            and t.purpose = _recovery_token_find.purpose
            and t.token_hash = keelson.token_hash(token)
            and t.used_at is null
            and t.expires_at > now();
    end if;
    return found_use;
end
$$;
alter function keelson._recovery_token_find(text, text, boolean) owner to keelson_system;
comment on function keelson._recovery_token_find(text, text, boolean) is
    'Whose token this is, and with is_used spend it, once; null for one that is unknown, used, void, expired or for something else.';

create or replace function keelson._recovery_count(what text, times bigint default 1)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
insert into keelson.recovery_days as d (day, what, count)
values ((now() at time zone 'UTC')::date, _recovery_count.what, times)
on conflict on constraint recovery_days_pkey do update set count = d.count + excluded.count
$$;
alter function keelson._recovery_count(text, bigint) owner to keelson_system;
comment on function keelson._recovery_count(text, bigint) is
    'Count what happened to a reset today.';

create or replace function keelson._recovery_tokens_purge(row_limit integer, purpose text default null)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    purged bigint;
    expired bigint;
begin
    with batch as (
        select t.user_id, t.purpose, t.token_hash
        from keelson.recovery_tokens as t
        where (t.expires_at <= now() or t.used_at is not null)
            and (_recovery_tokens_purge.purpose is null or t.purpose = _recovery_tokens_purge.purpose)
        order by t.expires_at
        limit row_limit
        for update skip locked
    ), gone as (
        delete from keelson.recovery_tokens as t
        using batch
        where t.user_id = batch.user_id and t.purpose = batch.purpose and t.token_hash = batch.token_hash
        returning t.purpose, t.used_at
    )
    select count(*), count(*) filter (where gone.purpose = 'reset_password' and gone.used_at is null)
    into purged, expired
    from gone;
    if expired > 0 then
        perform keelson._recovery_count('reset_expired', expired);
    end if;
    return purged;
end
$$;
alter function keelson._recovery_tokens_purge(integer, text) owner to keelson_system;
comment on function keelson._recovery_tokens_purge(integer, text) is
    'Delete one-time tokens (of a purpose, or all) that were used or have expired, at most so many; returns how many.';

create or replace function keelson._reset_tokens_purge(batch integer)
returns bigint
language sql
volatile
as $$ select keelson._recovery_tokens_purge(batch, 'reset_password') $$;
comment on function keelson._reset_tokens_purge(integer) is
    'Delete tokens of password resets that were used or have expired, at most so many; returns how many.';
