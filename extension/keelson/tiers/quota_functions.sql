-- Quotas: what a user has taken of a limit. The counter's row is locked first,
-- each time, and everything is decided under that lock: a hard limit is exact.

create or replace function keelson._quota_charge(user_id uuid, feature text, minutes numeric)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_quota_charge_one';
comment on function keelson._quota_charge(uuid, text, numeric) is
    'Charge minutes of a feature, used now, where a hard limit counts them; 429 QUOTA_EXCEEDED when they do not fit.';

create or replace function keelson._quota_charge(user_ids uuid[], features text[], minutes numeric[], occurred_at timestamptz[])
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_quota_charge_many';
comment on function keelson._quota_charge(uuid[], text[], numeric[], timestamptz[]) is
    'Charge many at once (null in occurred_at: now). What lies outside the user''s present period is not charged; 429 QUOTA_EXCEEDED when anything does not fit.';

create or replace function keelson._quota_apply(
    user_id uuid,
    kind text,
    name text,
    used_change numeric,
    reserved_change numeric default 0
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson._subscription_state := keelson._subscription_of(user_id);
    quota keelson.tier_limits;
    counter keelson.quota_counters;
    is_minutes boolean := kind = 'feature' or name = 'minutes';
    start timestamptz;
    expired numeric;
begin
    select * into quota from keelson.tier_limits as l
    where l.tier_id = s.tier_id and l.kind = _quota_apply.kind and l.name = _quota_apply.name;
    -- A tier without a limit counts on as the others do, for the day of a change.
    start := case coalesce(quota.resets, (
        select min(l.resets) from keelson.tier_limits as l where l.kind = _quota_apply.kind and l.name = _quota_apply.name
    ), 'period') when 'period' then s.period_start else '-infinity' end;
    loop
        select * into counter from keelson.quota_counters as c
        where c.user_id = _quota_apply.user_id and c.kind = _quota_apply.kind and c.name = _quota_apply.name
        for no key update;
        exit when found;
        insert into keelson.quota_counters (user_id, kind, name, period_start)
        values (_quota_apply.user_id, _quota_apply.kind, _quota_apply.name, '-infinity')
        on conflict on constraint quota_counters_pkey do nothing;
    end loop;
    if counter.period_start <> start then
        counter.used := case when is_minutes
            then keelson._minutes_used(user_id, case when kind = 'feature' then name end, s.period_start, s.period_end) else 0 end;
    end if;
    if counter.reserved > 0 then
        with gone as (
            delete from keelson.quota_reservations as r
            where r.user_id = _quota_apply.user_id and r.kind = _quota_apply.kind and r.name = _quota_apply.name
                and r.expires_at <= clock_timestamp()
            returning r.amount
        )
        select coalesce(sum(gone.amount), 0) into expired from gone;
        counter.reserved := counter.reserved - expired;
    end if;
    counter.used := greatest(counter.used + used_change, 0);
    counter.reserved := greatest(counter.reserved + reserved_change, 0);
    if quota.is_hard and used_change + reserved_change > 0 and counter.used + counter.reserved > quota.amount then
        perform keelson._quota_refused(user_id, kind, name);
        perform keelson.raise(
            429, 'QUOTA_EXCEEDED',
            format('this would be over the quota of %s %s', trim_scale(quota.amount), case when kind = 'feature' then 'minutes of ' || name else name end),
            case when isfinite(start) then format('It begins anew at %s.', keelson._time_text(s.period_end)) end
        );
    end if;
    if used_change > 0 and counter.used >= quota.amount and counter.told_period is distinct from s.period_start then
        counter.told_period := s.period_start;
        perform keelson._quota_reached_tell(
            user_id, kind, name, quota.amount, counter.used, quota.is_hard, case quota.resets when 'period' then s.period_end end
        );
    end if;
    update keelson.quota_counters as c
    set used = counter.used, reserved = counter.reserved, period_start = start, told_period = counter.told_period, updated_at = now()
    where c.user_id = _quota_apply.user_id and c.kind = _quota_apply.kind and c.name = _quota_apply.name;
end
$$;
alter function keelson._quota_apply(uuid, text, text, numeric, numeric) owner to keelson_system;
comment on function keelson._quota_apply(uuid, text, text, numeric, numeric) is
    'Change what the user has used and reserved of a quota, under the lock of its row: 429 QUOTA_EXCEEDED when the limit is hard and more would not fit. Begins anew with the period, lets go of reservations that have expired, and tells the user once in a period that the limit is reached.';

create or replace function keelson._quota_charge_minutes(user_id uuid, feature text, minutes numeric)
returns void
language plpgsql
volatile
as $$
declare
    quota record;
begin
    -- The whole first, its parts after it: everybody locks in this order.
    for quota in
        select l.kind, l.name from keelson.tier_limits as l
        where l.tier_id = keelson._tier_of(user_id) and l.is_hard
            and (l.kind = 'unit' and l.name = 'minutes' or l.kind = 'feature' and l.name = feature)
        order by l.kind desc
    loop
        perform keelson._quota_apply(user_id, quota.kind, quota.name, minutes);
    end loop;
end
$$;
comment on function keelson._quota_charge_minutes(uuid, text, numeric) is
    'Charge minutes to the hard quotas that count them.';

create or replace function keelson._quota_charge_batch(user_ids uuid[], features text[], minutes numeric[], occurred_at timestamptz[])
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    charge record;
begin
    for charge in
        with events as materialized (
            select e.user_id, e.feature, e.minutes, s.tier_id
            from unnest(user_ids, features, minutes, occurred_at) as e (user_id, feature, minutes, occurred_at)
            join lateral keelson._subscription_of(e.user_id) as s
                on coalesce(e.occurred_at, pg_catalog.now()) between s.period_start and s.period_end - interval '1 microsecond'
        )
        select e.user_id, l.kind, l.name, pg_catalog.sum(e.minutes) as minutes
        from events as e
        join keelson.tier_limits as l
            on l.tier_id = e.tier_id and l.is_hard
            and (l.kind = 'unit' and l.name = 'minutes' or l.kind = 'feature' and l.name = e.feature)
        group by e.user_id, l.kind, l.name
        order by e.user_id, l.kind desc, l.name
    loop
        perform keelson._quota_apply(charge.user_id, charge.kind, charge.name, charge.minutes);
    end loop;
end
$$;
comment on function keelson._quota_charge_batch(uuid[], text[], numeric[], timestamptz[]) is
    'Charge what was used within the users'' present periods to the hard quotas that count it.';

-- For endpoint functions: quotas of the acting user.

create or replace function keelson._quota_require(unit text, amount numeric)
returns uuid
language plpgsql
stable
as $$
begin
    perform keelson.acting_user_id();
    if unit = 'minutes' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'minutes are taken by recording usage', field => 'unit');
    elsif not exists (select from keelson.tier_limits as l where l.kind = 'unit' and l.name = unit) then
        perform keelson.raise(400, 'VALIDATION_FAILED', pg_catalog.format('no tier has a quota of "%s"', coalesce(unit, '')), field => 'unit');
    elsif not coalesce(amount > 0 and amount <= 1e15, false) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an amount is more than 0 and at most 1e15', field => 'amount');
    end if;
    return keelson.current_user_id();
end
$$;
comment on function keelson._quota_require(text, numeric) is
    'The acting user''s id; an error for what is no amount of a unit that is counted.';

create or replace function keelson.quota_take(unit text, amount numeric default 1)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._quota_apply(keelson._quota_require(unit, amount), 'unit', unit, amount);
end
$$;
comment on function keelson.quota_take(text, numeric) is
    'Take so much of the acting user''s quota of a unit, in this transaction; 429 QUOTA_EXCEEDED when the limit is hard and it does not fit. Never over the limit, however many do it at once.';
grant execute on function keelson.quota_take(text, numeric) to keelson_app, keelson_admin;

create or replace function keelson.quota_give_back(unit text, amount numeric default 1)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._quota_apply(keelson._quota_require(unit, amount), 'unit', unit, -amount);
end
$$;
comment on function keelson.quota_give_back(text, numeric) is
    'Give back what was taken of a quota: a project that was deleted.';
grant execute on function keelson.quota_give_back(text, numeric) to keelson_app, keelson_admin;

create or replace function keelson.quota_reserve(
    amount numeric,
    unit text default null,
    feature text default null,
    expires_in interval default '15 minutes'
)
returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    reservation uuid := keelson.uuid7();
    place record;
begin
    if (unit is null) = (feature is null) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'either a unit or a feature is reserved', field => 'unit');
    elsif expires_in is null or expires_in < interval '1 second' or expires_in > interval '7 days' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a reservation lasts a second to 7 days', field => 'expires_in');
    elsif unit is not null then
        me := keelson._quota_require(unit, amount);
    elsif feature !~ '^[A-Za-z][A-Za-z0-9_.-]{0,63}$' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a feature is a name of letters, digits, _, . and -', field => 'feature');
    elsif not coalesce(amount > 0 and amount <= 1e15, false) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an amount is more than 0 and at most 1e15', field => 'amount');
    end if;
    for place in
        select 'unit' as kind, coalesce(unit, 'minutes') as name
        union all
        select l.kind, l.name from keelson.tier_limits as l
        where l.tier_id = keelson._tier_of(me) and l.kind = 'feature' and l.name = feature
        order by kind desc
    loop
        perform keelson._quota_apply(me, place.kind, place.name, 0, amount);
        insert into keelson.quota_reservations (user_id, id, kind, name, feature, amount, expires_at)
        values (me, reservation, place.kind, place.name, quota_reserve.feature, quota_reserve.amount, clock_timestamp() + expires_in);
    end loop;
    return reservation;
end
$$;
comment on function keelson.quota_reserve(numeric, text, text, interval) is
    'Hold so much of the acting user''s quota of a unit, or so many minutes of a feature, for work that takes a while; 429 QUOTA_EXCEEDED when it does not fit. Returns what quota_commit() and quota_release() take; let go when it expires.';
grant execute on function keelson.quota_reserve(numeric, text, text, interval) to keelson_app, keelson_admin;

create or replace function keelson._quota_let_go(user_id uuid, reservation uuid, out unit text, out feature text, out amount numeric)
language plpgsql
volatile
as $$
#variable_conflict use_column
declare
    held record;
begin
    for held in
        select r.kind, r.name, r.feature, r.amount
        from keelson.quota_reservations as r
        where r.user_id = _quota_let_go.user_id and r.id = reservation
        order by r.kind desc
    loop
        -- Locks the counter, and takes the reservation away where it has expired.
        perform keelson._quota_apply(user_id, held.kind, held.name, 0, 0);
        delete from keelson.quota_reservations as r
        where r.user_id = _quota_let_go.user_id and r.id = reservation and r.kind = held.kind and r.name = held.name;
        continue when not found;
        perform keelson._quota_apply(user_id, held.kind, held.name, 0, -held.amount);
        if held.kind = 'unit' then
            unit := held.name;
            feature := held.feature;
            amount := held.amount;
        end if;
    end loop;
    if unit is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such reservation, or it has expired', field => 'reservation');
    end if;
end
$$;
comment on function keelson._quota_let_go(uuid, uuid) is
    'End the user''s reservation and tell what it held; 404 when there is none.';

create or replace function keelson.quota_commit(reservation uuid, amount numeric default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    held record;
    used numeric;
begin
    if amount is not null and not (amount >= 0 and amount <= 1e15) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an amount is 0 to 1e15', field => 'amount');
    end if;
    held := keelson._quota_let_go(me, reservation);
    used := coalesce(amount, held.amount);
    if used = 0 then
        return;
    elsif held.feature is null then
        perform keelson._quota_apply(me, 'unit', held.unit, used);
    else
        -- Once: the reservation goes with it. Without a key, since keys are the user's own to give away.
        perform keelson.usage_record(user_id => me, feature => held.feature, minutes => used);
    end if;
end
$$;
comment on function keelson.quota_commit(uuid, numeric) is
    'End a reservation with what was really used (null: all that was held): taken of the quota, or recorded as usage of the feature. More than was held has to fit, 429 QUOTA_EXCEEDED; 404 when the reservation has ended or expired.';
grant execute on function keelson.quota_commit(uuid, numeric) to keelson_app, keelson_admin;

create or replace function keelson.quota_release(reservation uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    perform keelson._quota_let_go(keelson.current_user_id(), reservation);
end
$$;
comment on function keelson.quota_release(uuid) is
    'End a reservation without taking anything; 404 when it has ended or expired.';
grant execute on function keelson.quota_release(uuid) to keelson_app, keelson_admin;

create or replace function keelson._quota_reservations_expire(batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    place record;
    expired bigint := 0;
begin
    for place in
        select distinct due.user_id, due.kind, due.name
        from (
            select r.user_id, r.kind, r.name from keelson.quota_reservations as r
            where r.expires_at <= pg_catalog.now() order by r.expires_at limit batch
        ) as due
        order by due.user_id, due.kind desc, due.name
    loop
        perform keelson._quota_apply(place.user_id, place.kind, place.name, 0);
        expired := expired + 1;
    end loop;
    return expired;
end
$$;
comment on function keelson._quota_reservations_expire(integer) is
    'Let go of reservations that have expired, at most so many; returns of how many quotas.';

create or replace function keelson.user_quota()
returns setof keelson.quota
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    me uuid := keelson.acting_user_id();
    s keelson._subscription_state;
begin
    s := keelson._subscription_of(me);
    return query
    select
        case when l.kind = 'unit' then l.name end, case when l.kind = 'feature' then l.name end,
        l.amount, taken.used, taken.reserved, greatest(l.amount - taken.used - taken.reserved, 0), l.is_hard,
        case when l.resets = 'period' then s.period_end end
    from keelson.tier_limits as l
    left join keelson.quota_counters as c on c.user_id = me and c.kind = l.kind and c.name = l.name
    cross join lateral (
        select
            case
                when l.kind = 'feature' or l.name = 'minutes'
                    then keelson._minutes_used(me, case when l.kind = 'feature' then l.name end, s.period_start, s.period_end)
                when l.resets = 'never' or c.period_start = s.period_start then coalesce(c.used, 0)
                else 0
            end,
            coalesce((
                select sum(r.amount) from keelson.quota_reservations as r
                where r.user_id = me and r.kind = l.kind and r.name = l.name and r.expires_at > clock_timestamp()
            ), 0)
    ) as taken (used, reserved)
    where l.tier_id = s.tier_id and l.kind <> 'cap'
    order by l.kind desc, l.name;
end
$$;
comment on function keelson.user_quota() is
    'Every quota of the user who is signed in: limit, used, reserved, remaining, and when it begins anew.';
grant execute on function keelson.user_quota() to keelson_app;
