-- Subscriptions that a payment provider keeps: its word is written down here.

create or replace function keelson._subscription_sync(
    user_id uuid,
    tier text,
    status text,
    period tstzrange default null,
    ends_at timestamptz default null,
    trial_ends_at timestamptz default null
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    s keelson.subscriptions;
    present keelson.subscriptions;
    before keelson._subscription_state;
    default_tier text := (select t.id from keelson.tiers as t where t.is_default);
begin
    perform keelson._subscription_open(user_id);
    select * into present from keelson.subscriptions as locked where locked.user_id = _subscription_sync.user_id for no key update;
    before := keelson._subscription_of(user_id);
    s := present;
    s.tier_id := tier;
    s.status := case when status = 'trialing' and tier = default_tier then 'active' else status end;
    s.trial_ends_at := case when s.status = 'trialing' then _subscription_sync.trial_ends_at when s.trial_ends_at > now() then now() else s.trial_ends_at end;
    s.next_tier_at := case when tier = default_tier then null when s.status = 'trialing' then s.trial_ends_at else ends_at end;
    s.next_tier_id := case when s.next_tier_at is not null then default_tier end;
    -- Whole hours, as all boundaries.
    if date_trunc('hour', upper(period) at time zone s.time_zone) > date_trunc('hour', lower(period) at time zone s.time_zone) then
        s.anchor := date_trunc('hour', lower(period) at time zone s.time_zone);
        s.period_start := s.anchor at time zone s.time_zone;
        s.period_end := date_trunc('hour', upper(period) at time zone s.time_zone) at time zone s.time_zone;
        s.period_months := (
            select m.months from unnest('{1,3,6,12}'::integer[]) as m (months)
            order by abs(extract(epoch from s.period_end - s.period_start) / 2629746 - m.months), m.months
            limit 1
        );
    end if;
    if s = present then
        return false;
    end if;
    update keelson.subscriptions as u
    set tier_id = s.tier_id, status = s.status, next_tier_id = s.next_tier_id, next_tier_at = s.next_tier_at,
        trial_ends_at = s.trial_ends_at, anchor = s.anchor, period_months = s.period_months,
        period_start = s.period_start, period_end = s.period_end, updated_at = now()
    where u.user_id = s.user_id;
    perform keelson._minutes_forget(user_id);
    perform keelson._subscription_tell(user_id, before, s.next_tier_at);
    return true;
end
$$;
alter function keelson._subscription_sync(uuid, text, text, tstzrange, timestamptz, timestamptz) owner to keelson_system;
comment on function keelson._subscription_sync(uuid, text, text, tstzrange, timestamptz, timestamptz) is
    'Make the user''s subscription what a provider says that it is: tier, status, period, and when it or its trial ends, if that is known; false when it was so already. The period''s months are those nearest to its length.';

create or replace function keelson._subscription_tell(user_id uuid, before keelson._subscription_state, ends_at timestamptz)
returns void
language plpgsql
volatile
as $$
declare
    after keelson._subscription_state := keelson._subscription_of(user_id);
    event text;
begin
    perform keelson.audit('subscription.change', pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'from', before.tier_id, 'to', after.tier_id, 'status', after.status, 'endsAt', ends_at, 'why', 'the payment provider has said so'
    )), user_id => user_id);
    perform keelson._tier_changed_tell(user_id, before.tier_id, after.tier_id, after.status);
    if after.status <> before.status and after.status in ('canceled', 'past_due') then
        event := 'subscription.' || after.status;
    elsif after.tier_id = before.tier_id then
        event := 'subscription.updated';
    end if;
    if event is not null then
        perform keelson.webhook_emit(event, pg_catalog.jsonb_build_object(
            'userId', user_id, 'tier', after.tier_id, 'status', after.status,
            'periodEnd', keelson._time_text(after.period_end), 'endsAt', keelson._time_text(ends_at)
        ), user_id);
    end if;
end
$$;
comment on function keelson._subscription_tell(uuid, keelson._subscription_state, timestamptz) is
    'Record a change of a subscription and tell the user: of another tier as always, of what else has changed at their webhook endpoints.';
