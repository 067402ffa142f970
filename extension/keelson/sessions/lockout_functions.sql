-- Lock-out: so many failures, and an account is locked for a while.
--
-- Whatever authenticates (a password, a second factor) does the same three
-- things in one transaction: _failures_lock() before it looks at what was
-- given, then _failure_record() or _failures_forgive(). The lock is held until
-- the transaction ends, so that of any number at once no more get through than
-- the budget has room for.

create or replace function keelson._nobody_id(email text)
returns uuid
language c
stable
strict
as 'MODULE_PATHNAME', 'ks__nobody_id';
comment on function keelson._nobody_id(text) is
    'The account that an address has while nobody holds it: UUID version 8 of its HMAC under a key of the keyring.';

create or replace function keelson._failures_locked_until(user_id uuid, device_id uuid)
returns timestamptz
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Five of a budget within a window lock that budget for a window from the
    -- last of them; a hundred of the account within an hour lock all of it
    -- until the first of these is an hour old.
    budget constant integer := 5;
    budget_window constant interval := '15 minutes';
    most constant integer := 100;
    most_window constant interval := '1 hour';
    present timestamptz := clock_timestamp();
    locked_until timestamptz;
begin
    with recent as (
        select f.failed_at, f.device_id, f.is_forgiven
        from keelson.authentication_failures as f
        where f.user_id = _failures_locked_until.user_id and f.failed_at > present - most_window
        order by f.failed_at desc
        limit most
    ),
    last_of_budget as (
        select max(own.failed_at) as failed_at
        from (
            select r.failed_at
            from recent as r
            where r.device_id = _failures_locked_until.device_id and not r.is_forgiven
            order by r.failed_at desc
            limit budget
        ) as own
        having count(*) = budget and max(own.failed_at) - min(own.failed_at) < budget_window
    )
    select greatest(
        (select l.failed_at + budget_window from last_of_budget as l),
        (select min(r.failed_at) + most_window from recent as r having count(*) = most)
    ) into locked_until;
    return case when locked_until > present then locked_until end;
end
$$;
alter function keelson._failures_locked_until(uuid, uuid) owner to keelson_system;
comment on function keelson._failures_locked_until(uuid, uuid) is
    'Until when the account is locked for the device (all zeros: for strangers); null while it is not.';

create or replace function keelson._failures_settle(user_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present timestamptz := clock_timestamp();
begin
    update keelson.authentication_failures as f
    set failed_at = present - ahead.place * interval '1 microsecond'
    from (
        select l.failed_at, row_number() over (order by l.failed_at desc) as place
        from keelson.authentication_failures as l
        where l.user_id = _failures_settle.user_id and l.failed_at > present + interval '1 minute'
    ) as ahead
    where f.user_id = _failures_settle.user_id and f.failed_at = ahead.failed_at;
end
$$;
alter function keelson._failures_settle(uuid) owner to keelson_system;
comment on function keelson._failures_settle(uuid) is
    'Let failures that a clock, since put back, has left in the future be of now, so that they lock no longer than others.';

create or replace function keelson._failures_lock(user_id uuid, device_id uuid)
returns timestamptz
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('keelson.authentication_failures ' || user_id, 0));
    perform keelson._failures_settle(user_id);
    return keelson._failures_locked_until(user_id, device_id);
end
$$;
comment on function keelson._failures_lock(uuid, uuid) is
    'Take turns with whoever else authenticates for this account, until the transaction ends; then as keelson._failures_locked_until(). Taken before keelson._user_lock(), never after.';

create or replace function keelson._failure_record(user_id uuid, device_id uuid)
returns timestamptz
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Later than the last one, whatever the clock says.
    insert into keelson.authentication_failures (user_id, failed_at, device_id)
    select _failure_record.user_id,
        greatest(clock_timestamp(), max(f.failed_at) + interval '1 microsecond'),
        _failure_record.device_id
    from keelson.authentication_failures as f
    where f.user_id = _failure_record.user_id;
    return keelson._failures_locked_until(user_id, device_id);
end
$$;
alter function keelson._failure_record(uuid, uuid) owner to keelson_system;
comment on function keelson._failure_record(uuid, uuid) is
    'Count a failure against the device''s budget and the account''s; returns until when that locks it, or null. The caller holds keelson._failures_lock(), and returns a refusal: an error would undo the count.';

create or replace function keelson._failures_forgive(user_id uuid, device_id uuid)
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
update keelson.authentication_failures as f
set is_forgiven = true
where f.user_id = _failures_forgive.user_id
    and f.device_id = _failures_forgive.device_id
    and not f.is_forgiven
$$;
alter function keelson._failures_forgive(uuid, uuid) owner to keelson_system;
comment on function keelson._failures_forgive(uuid, uuid) is
    'A success: the device''s budget is whole again. The account''s limit of an hour is not.';

create or replace function keelson._failures_count(user_id uuid)
returns integer
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select count(*)::integer
from keelson.authentication_failures as f
where f.user_id = _failures_count.user_id
    and f.failed_at > now() - interval '15 minutes'
    and f.device_id = '00000000-0000-0000-0000-000000000000'
    and not f.is_forgiven
$$;
alter function keelson._failures_count(uuid) owner to keelson_system;
comment on function keelson._failures_count(uuid) is
    'How many failures of strangers the account has in the last 15 minutes.';

create or replace function keelson._locked_reply(locked_until timestamptz)
returns keelson.reply
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson.refuse(
        423, 'ACCOUNT_LOCKED', 'too many attempts have failed, so the account is locked for a while',
        headers => jsonb_build_object(
            'Retry-After', greatest(ceil(extract(epoch from locked_until - clock_timestamp()))::integer, 1)::text
        )
    );
end
$$;
comment on function keelson._locked_reply(timestamptz) is
    'The refusal of an account that is locked until then, the same whether the account exists or not.';

create or replace function keelson._authentication_purge(row_limit integer)
returns integer
language sql
volatile
as $$
select greatest(
    keelson._purge('keelson.authentication_failures', 'failed_at', pg_catalog.now() - interval '1 hour', row_limit),
    keelson._purge('keelson.sessions', 'expires_at', pg_catalog.now() - interval '1 day', row_limit)
)::integer
$$;
comment on function keelson._authentication_purge(integer) is
    'Delete failures older than an hour and sessions whose time was over a day ago, at most so many of each; returns the greater number. The keeper calls it.';
