-- Telling users that a quota is reached: used up, or refused something. Once in
-- each period of the subscription.
--
-- What is counted is told of by who counts (keelson._quota_apply()). A refusal
-- rolls back, so the keeper tells of it. Soft minutes are not counted: the
-- keeper looks while it folds, at those users alone whose usage has come far
-- enough since it looked last.

create or replace function keelson._quota_refused(user_id uuid, kind text, name text)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_quota_refused';
comment on function keelson._quota_refused(uuid, text, text) is
    'Count a refusal and have the keeper tell the user of it, though the transaction rolls back.';

create or replace function keelson._quota_refusals()
returns bigint
language c
volatile
as 'MODULE_PATHNAME', 'ks_quota_refusals';
comment on function keelson._quota_refusals() is
    'How often hard quotas have refused something since the server started.';

create or replace function keelson._quota_reached_tell(user_id uuid, kind text, name text, amount numeric, used numeric, is_hard boolean, reset_at timestamptz)
returns void
language plpgsql
volatile
as $$
begin
    perform keelson.webhook_emit('usage.quota_reached', pg_catalog.jsonb_build_object(
        'userId', user_id,
        'unit', case when kind = 'unit' then name end,
        'feature', case when kind = 'feature' then name end,
        'limit', amount, 'used', used, 'hard', is_hard,
        'resetAt', keelson._time_text(reset_at)
    ), user_id);
end
$$;
comment on function keelson._quota_reached_tell(uuid, text, text, numeric, numeric, boolean, timestamptz) is
    'Tell the user''s endpoints that the quota is reached.';

create or replace function keelson._quota_refused_tell(user_id uuid, kind text, name text)
returns void
language plpgsql
volatile
as $$
declare
    s keelson._subscription_state := keelson._subscription_of(user_id);
    refused record;
begin
    -- Who holds the row may be about to tell, and the next refusal is noted again: nobody is waited for.
    select c.used, l.amount, l.is_hard, l.resets into refused
    from keelson.quota_counters as c
    join keelson.tier_limits as l on l.tier_id = s.tier_id and l.kind = c.kind and l.name = c.name
    where c.user_id = _quota_refused_tell.user_id and c.kind = _quota_refused_tell.kind and c.name = _quota_refused_tell.name
        and l.is_hard and c.used > 0 and c.told_period is distinct from s.period_start
        and c.period_start = case l.resets when 'period' then s.period_start else '-infinity' end
    for no key update of c skip locked;
    if not found then
        return;
    end if;
    update keelson.quota_counters as c
    set told_period = s.period_start
    where c.user_id = _quota_refused_tell.user_id and c.kind = _quota_refused_tell.kind and c.name = _quota_refused_tell.name;
    perform keelson._quota_reached_tell(
        user_id, kind, name, refused.amount, refused.used, true, case refused.resets when 'period' then s.period_end end
    );
end
$$;
comment on function keelson._quota_refused_tell(uuid, text, text) is
    'Tell the user that a hard quota of which something is used has refused more, unless they know it in this period.';

create or replace function keelson._quotas_watch(user_ids uuid[])
returns integer
language plpgsql
volatile
-- Each user is looked up by the keys of all tables, which this very transaction has filled: statistics do not know it yet.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    due record;
    looked integer := 0;
begin
    for due in
        select u.user_id, l.kind, l.name, l.amount, all_time.minutes, w.told_period
        from pg_catalog.unnest(user_ids) as u (user_id)
        join keelson.tier_limits as l
            on l.tier_id = keelson._tier_of(u.user_id) and not l.is_hard and (l.kind = 'feature' or l.kind = 'unit' and l.name = 'minutes')
        left join keelson.quota_watches as w on w.user_id = u.user_id and w.kind = l.kind and w.name = l.name
        cross join lateral (
            select coalesce(pg_catalog.sum(t.minutes), 0) from keelson.usage_totals as t
            where t.user_id = u.user_id and (l.kind = 'unit' or t.feature = l.name)
        ) as all_time (minutes)
        -- Who has used less than the limit since ever has not reached it: for most there is nothing to be noted.
        where all_time.minutes >= l.amount and (w.user_id is null or w.look_again_at <= pg_catalog.now() or w.minutes_due <= all_time.minutes)
        order by u.user_id, l.kind desc, l.name
    loop
        perform keelson._quota_look(due.user_id, due.kind, due.name, due.amount, due.minutes, due.told_period);
        looked := looked + 1;
    end loop;
    return looked;
exception when others then
    -- Of no importance beside the folding that it is part of; each turn tries again.
    raise warning 'could not look at soft quotas: %', sqlerrm;
    return 0;
end
$$;
comment on function keelson._quotas_watch(uuid[]) is
    'Look at the soft quotas of minutes of these users, those that may be reached, and tell who has reached one; returns how many were looked at. For who folds, under the lock of whoever writes rollups.';

create or replace function keelson._quota_look(user_id uuid, kind text, name text, amount numeric, all_time numeric, told_period timestamptz)
returns void
language plpgsql
volatile
as $$
declare
    s keelson._subscription_state := keelson._subscription_of(user_id);
    used numeric := keelson._minutes_used(user_id, case when kind = 'feature' then name end, s.period_start, s.period_end);
    again_at timestamptz := least(s.period_end, (
        select c.next_tier_at from keelson.subscriptions as c where c.user_id = _quota_look.user_id and c.next_tier_at > pg_catalog.now()
    ));
begin
    if used >= amount and told_period is distinct from s.period_start then
        perform keelson._quota_reached_tell(user_id, kind, name, amount, used, false, s.period_end);
        told_period := s.period_start;
    end if;
    -- What was used before the period, or is not folded yet, makes the next look early, never late.
    insert into keelson.quota_watches as w (user_id, kind, name, minutes_due, look_again_at, told_period)
    values (
        _quota_look.user_id, _quota_look.kind, _quota_look.name,
        case when used >= amount then 'Infinity' else all_time + amount - used end, again_at, _quota_look.told_period
    )
    on conflict on constraint quota_watches_pkey do update
    set minutes_due = excluded.minutes_due, look_again_at = excluded.look_again_at, told_period = excluded.told_period;
end
$$;
comment on function keelson._quota_look(uuid, text, text, numeric, numeric, timestamptz) is
    'Hold what the user has used against a soft quota of minutes: tell them if it is reached, and note when to look again.';

create or replace function keelson._tier_changed_tell(user_id uuid, before text, tier text, status text)
returns void
language plpgsql
volatile
as $$
begin
    if before = tier then
        return;
    end if;
    perform keelson.webhook_emit('subscription.changed', pg_catalog.jsonb_build_object(
        'userId', user_id, 'from', before, 'to', tier, 'status', status
    ), user_id);
    perform keelson._notice(user_id, 'tier.changed', pg_catalog.jsonb_build_object(
        'tier', (select t.name from keelson.tiers as t where t.id = tier)
    ));
end
$$;
comment on function keelson._tier_changed_tell(uuid, text, text, text) is
    'Tell the user, by mail and at their endpoints, that they have another tier from now on.';

create or replace function keelson._quota_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language plpgsql
volatile
as $$
begin
    return query
    select 'keelson_quota_refusals_total', null::jsonb, keelson._quota_refusals()::double precision, 'counter',
        'What hard quotas have refused.';
end
$$;
comment on function keelson._quota_metrics() is
    'Samples of quotas.';
