-- The clockwork of subscriptions: periods, trials, changes of tier.

create or replace function keelson._period_next(anchor timestamp, months integer, zone text, start timestamptz)
returns timestamptz
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A period has two days at least, also where a time zone was changed.
    earliest timestamptz := start + interval '2 days';
    place timestamp := earliest at time zone zone;
    k integer := floor((
        (extract(year from place) - extract(year from anchor)) * 12 + extract(month from place) - extract(month from anchor)
    ) / months) - 1;
    boundary timestamptz;
begin
    -- From the anchor each time, so that the 31st comes back after a short month.
    loop
        boundary := (anchor + make_interval(months => k * months)) at time zone zone;
        if boundary > earliest then
            return boundary;
        end if;
        k := k + 1;
    end loop;
end
$$;
comment on function keelson._period_next(timestamp, integer, text, timestamptz) is
    'When the period ends that begins at start: so many whole times so many months after the anchor, by the wall clock of the time zone. A day that a month lacks is its last day; an hour that the change to summer time skips is the next one.';

create or replace function keelson._period_at(
    anchor timestamp,
    months integer,
    zone text,
    moment timestamptz,
    inout period_start timestamptz,
    inout period_end timestamptz
)
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $$
begin
    while period_end <= moment loop
        period_start := period_end;
        period_end := keelson._period_next(anchor, months, zone, period_start);
    end loop;
end
$$;
comment on function keelson._period_at(timestamp, integer, text, timestamptz, timestamptz, timestamptz) is
    'The period that the moment lies in, counted on from the one that is given.';

create or replace function keelson._period_of(user_id uuid, out period_start timestamptz, out period_end timestamptz)
language plpgsql
stable
as $$
begin
    select p.period_start, p.period_end into period_start, period_end
    from keelson.subscriptions as s
    cross join lateral keelson._period_at(s.anchor, s.period_months, s.time_zone, pg_catalog.now(), s.period_start, s.period_end) as p
    where s.user_id = _period_of.user_id;
    if not found then
        period_start := pg_catalog.date_trunc('month', pg_catalog.now(), 'UTC');
        period_end := (pg_catalog.date_trunc('month', pg_catalog.now() at time zone 'UTC') + interval '1 month') at time zone 'UTC';
    end if;
end
$$;
comment on function keelson._period_of(uuid) is
    'The user''s period now; the calendar month in UTC for who has no subscription.';

create or replace function keelson._subscription_open(user_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    anchor timestamp := date_trunc('hour', now() at time zone 'UTC');
begin
    insert into keelson.subscriptions (user_id, tier_id, anchor, period_start, period_end)
    select _subscription_open.user_id, t.id, anchor, anchor at time zone 'UTC', keelson._period_next(anchor, 1, 'UTC', anchor at time zone 'UTC')
    from keelson.tiers as t
    where t.is_default
    on conflict on constraint subscriptions_pkey do nothing;
end
$$;
alter function keelson._subscription_open(uuid) owner to keelson_system;
comment on function keelson._subscription_open(uuid) is
    'Give the user a subscription of the default tier, whose periods begin at this hour; none if they have one.';

create or replace function keelson._subscriptions_fill()
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._subscription_open(u.id), keelson._referral_open(u.id)
    from keelson.users as u
    where u.kind = 'person' and u.status <> 'deleted';
end
$$;
alter function keelson._subscriptions_fill() owner to keelson_system;
comment on function keelson._subscriptions_fill() is
    'Give all users a subscription and a referral code who have none: once, for those who were there before.';

create or replace function keelson._minutes_forget(user_id uuid, tier text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The next charge counts anew from what was recorded.
    update keelson.quota_counters as c
    set period_start = '-infinity', used = 0
    where (c.kind = 'feature' or c.name = 'minutes')
        and c.period_start <> '-infinity'
        and case when _minutes_forget.user_id is not null then c.user_id = _minutes_forget.user_id
            else c.user_id in (select s.user_id from keelson.subscriptions as s where tier in (s.tier_id, s.next_tier_id)) end;
    -- And the next fold looks whether they have reached it.
    update keelson.quota_watches as w
    set minutes_due = 0
    where w.minutes_due <> 0
        and case when _minutes_forget.user_id is not null then w.user_id = _minutes_forget.user_id
            else w.user_id in (select s.user_id from keelson.subscriptions as s where tier in (s.tier_id, s.next_tier_id)) end;
end
$$;
alter function keelson._minutes_forget(uuid, text) owner to keelson_system;
comment on function keelson._minutes_forget(uuid, text) is
    'Forget the counters of minutes of a user, or of all users of a tier: what was recorded while a limit was soft is not in them.';

create or replace function keelson._subscription_change(
    user_id uuid,
    tier text,
    trial interval default null,
    at_period_end boolean default false
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson.subscriptions;
    before keelson._subscription_state;
    default_tier text := (select t.id from keelson.tiers as t where t.is_default);
begin
    if not exists (select from keelson.tiers as t where t.id = _subscription_change.tier) then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('tier "%s" does not exist', coalesce(tier, '')), field => 'tier');
    elsif trial is not null and (trial < interval '1 hour' or trial > interval '366 days') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a trial lasts an hour to 366 days', field => 'trial');
    elsif trial is not null and (tier = default_tier or at_period_end) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a trial begins at once, and is of another tier than the default',
            field => case when at_period_end then 'at_period_end' else 'tier' end);
    end if;
    perform keelson._subscription_open(user_id);
    select * into s from keelson.subscriptions as locked where locked.user_id = _subscription_change.user_id for no key update;
    before := keelson._subscription_of(user_id);
    s.tier_id := before.tier_id;
    s.status := before.status;
    s.period_start := before.period_start;
    s.period_end := before.period_end;
    if at_period_end then
        if s.status = 'trialing' then
            perform keelson.raise(409, 'CONFLICT', 'a trial ends in the default tier, at its own time', field => 'at_period_end');
        end if;
        -- To stay takes back what was to come.
        s.next_tier_id := nullif(tier, s.tier_id);
        s.next_tier_at := case when tier <> s.tier_id then s.period_end end;
    else
        s.tier_id := tier;
        s.status := case when trial is null then 'active' else 'trialing' end;
        s.next_tier_id := case when trial is not null then default_tier end;
        s.next_tier_at := now() + trial;
        s.trial_ends_at := case when trial is not null then now() + trial when s.trial_ends_at > now() then now() else s.trial_ends_at end;
    end if;
    update keelson.subscriptions as u
    set tier_id = s.tier_id, status = s.status, next_tier_id = s.next_tier_id, next_tier_at = s.next_tier_at,
        trial_ends_at = s.trial_ends_at, period_start = s.period_start, period_end = s.period_end, updated_at = now()
    where u.user_id = s.user_id
        and (u.tier_id, u.status, u.next_tier_id, u.next_tier_at, u.trial_ends_at)
            is distinct from (s.tier_id, s.status, s.next_tier_id, s.next_tier_at, s.trial_ends_at);
    if not found then
        return false;
    end if;
    perform keelson._minutes_forget(user_id);
    perform keelson.audit('subscription.change', jsonb_strip_nulls(jsonb_build_object(
        'from', before.tier_id, 'to', tier, 'at', s.next_tier_at, 'trialEndsAt', case when trial is not null then s.trial_ends_at end,
        'databaseRole', case when keelson.current_actor() is null then session_user end
    )), user_id => _subscription_change.user_id);
    perform keelson._tier_changed_tell(user_id, before.tier_id, s.tier_id, s.status);
    return true;
end
$$;
alter function keelson._subscription_change(uuid, text, interval, boolean) owner to keelson_system;
comment on function keelson._subscription_change(uuid, text, interval, boolean) is
    'Change the user''s tier: now, for a trial, or when the period ends; false when it was so already. Holds for the next statement.';

create or replace function keelson.user_tier_set(who text, tier text, trial interval default null, at_period_end boolean default false)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._subscription_change(keelson._user_find(who), tier, trial, coalesce(at_period_end, false));
end
$$;
alter function keelson.user_tier_set(text, text, interval, boolean) owner to keelson_system;
comment on function keelson.user_tier_set(text, text, interval, boolean) is
    'Give the user (e-mail address or id) the tier: at once, as a trial for so long, or when the period ends; false when nothing changed. Audited; holds for the user''s next statement.';
grant execute on function keelson.user_tier_set(text, text, interval, boolean) to keelson_admin;

create or replace function keelson.admin_user_tier_set(
    id uuid,
    tier text,
    trial_days integer default null,
    at_period_end boolean default false
)
returns keelson.subscription
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.permission_require('tiers.write');
    perform keelson._require(tier, 'tier');
    if trial_days not between 1 and 366 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a trial lasts 1 to 366 days', field => 'trial_days');
    end if;
    if not keelson._user_exists(id) then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such user');
    end if;
    perform keelson._subscription_change(id, tier, make_interval(days => trial_days), coalesce(at_period_end, false));
    return keelson._subscription_shown(id);
end
$$;
comment on function keelson.admin_user_tier_set(uuid, text, integer, boolean) is
    'Give a user the tier: at once, as a trial of so many days, or when the period ends. Audited.';
grant execute on function keelson.admin_user_tier_set(uuid, text, integer, boolean) to keelson_app;

create or replace function keelson._user_exists(user_id uuid)
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$ select exists (select from keelson.users as u where u.id = user_id and u.status <> 'deleted') $$;
alter function keelson._user_exists(uuid) owner to keelson_system;
comment on function keelson._user_exists(uuid) is
    'Whether there is such a user, not deleted.';

create or replace function keelson.user_time_zone_set(time_zone text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    if not exists (select from pg_timezone_names as z where z.name = time_zone) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a time zone is a name such as Europe/Berlin', field => 'time_zone');
    end if;
    perform keelson._subscription_open(keelson.current_user_id());
    update keelson.subscriptions as s
    set time_zone = user_time_zone_set.time_zone, updated_at = now()
    where s.user_id = keelson.current_user_id() and s.time_zone <> user_time_zone_set.time_zone;
end
$$;
comment on function keelson.user_time_zone_set(text) is
    'Set the time zone of the user who is signed in: of the days in analytics, and of the periods after the running one.';
grant execute on function keelson.user_time_zone_set(text) to keelson_app;

create or replace function keelson._minutes_used(user_id uuid, feature text, from_at timestamptz, until_at timestamptz)
returns numeric
language plpgsql
stable
as $$
begin
    return coalesce(keelson._usage_minutes(user_id, feature, from_at, until_at), 0);
end
$$;
comment on function keelson._minutes_used(uuid, text, timestamptz, timestamptz) is
    'Minutes that the user has used, of a feature or of all (null), exactly.';

create or replace function keelson._subscription_shown(user_id uuid)
returns keelson.subscription
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson._subscription_state := keelson._subscription_of(user_id);
    shown keelson.subscription;
begin
    shown.tier := s.tier_id;
    shown.status := s.status;
    shown.minutes_used := keelson._minutes_used(user_id, null, s.period_start, s.period_end);
    shown.minutes_limit := s.minutes_limit;
    shown.period_end := s.period_end;
    if s.status = 'trialing' then
        shown.trial := row(s.trial_ends_at)::keelson.trial;
    end if;
    return shown;
end
$$;
alter function keelson._subscription_shown(uuid) owner to keelson_system;
comment on function keelson._subscription_shown(uuid) is
    'The user''s subscription as clients see it.';

-- The jobs' steps. What they write down holds already.

create or replace function keelson._changes_apply(trialing boolean, batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    due record;
    changed bigint := 0;
begin
    for due in
        select s.user_id, s.tier_id, s.next_tier_id, s.next_tier_at
        from keelson.subscriptions as s
        where s.next_tier_at <= pg_catalog.now() and (s.status = 'trialing') = trialing
        order by s.next_tier_at
        limit batch
        for no key update skip locked
    loop
        update keelson.subscriptions as s
        set tier_id = due.next_tier_id, status = 'active', next_tier_id = null, next_tier_at = null, updated_at = pg_catalog.now()
        where s.user_id = due.user_id;
        perform keelson._minutes_forget(due.user_id);
        perform keelson.audit('subscription.change', pg_catalog.jsonb_build_object(
            'from', due.tier_id, 'to', due.next_tier_id, 'why', case when trialing then 'the trial has ended' else 'the period has ended' end,
            'since', due.next_tier_at
        ), user_id => due.user_id);
        perform keelson._tier_changed_tell(due.user_id, due.tier_id, due.next_tier_id, 'active');
        changed := changed + 1;
    end loop;
    return changed;
end
$$;
comment on function keelson._changes_apply(boolean, integer) is
    'Write down changes of tier whose time has come, of trials or of all others, at most so many; returns how many.';

create or replace function keelson._trials_expire(batch integer)
returns bigint
language sql
volatile
as $$ select keelson._changes_apply(true, batch) $$;
comment on function keelson._trials_expire(integer) is
    'End the trials whose time is over, at most so many; returns how many.';

create or replace function keelson._tier_changes_apply(batch integer)
returns bigint
language sql
volatile
as $$ select keelson._changes_apply(false, batch) $$;
comment on function keelson._tier_changes_apply(integer) is
    'Write down changes of tier that were to come with the period''s end, at most so many; returns how many.';

create or replace function keelson._periods_roll(batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    rolled bigint;
begin
    update keelson.subscriptions as s
    set (period_start, period_end) = (
        select p.period_start, p.period_end
        from keelson._period_at(s.anchor, s.period_months, s.time_zone, pg_catalog.now(), s.period_start, s.period_end) as p
    )
    where s.user_id = any (array(
        select due.user_id from keelson.subscriptions as due
        where due.period_end <= pg_catalog.now()
        order by due.period_end
        limit batch
        for no key update skip locked
    )) and s.period_end <= pg_catalog.now();
    get diagnostics rolled = row_count;
    return rolled;
end
$$;
comment on function keelson._periods_roll(integer) is
    'Write down the periods that have begun, at most of so many users; returns how many.';
