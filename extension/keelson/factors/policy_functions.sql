-- Who has to have a second factor.

create or replace function keelson._factor_required_by(user_id uuid)
returns timestamptz
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select min(greatest(demand.since, u.created_at) + demand.grace)
from keelson.users as u
cross join lateral (
    select r.factor_since, r.factor_grace
    from keelson.user_roles as held
    join keelson.roles as r on r.name = held.role
    where held.user_id = u.id
    union all
    select t.factor_since, t.factor_grace
    from keelson.tiers as t
    where t.factor_since is not null and t.id = keelson._tier_of(u.id)
) as demand (since, grace)
where u.id = _factor_required_by.user_id and demand.since is not null
$$;
alter function keelson._factor_required_by(uuid) owner to keelson_system;
comment on function keelson._factor_required_by(uuid) is
    'From when on a role of the user''s, or the tier, demands a second factor; null when none does.';

create or replace function keelson._proof_missing(
    user_id uuid,
    session_id uuid,
    needs_verified_email boolean,
    factor_within_s integer,
    is_tier_asked boolean
)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if needs_verified_email and not exists (
        select from keelson.users as u where u.id = _proof_missing.user_id and u.email_verified_at is not null
    ) then
        return 'EMAIL_UNVERIFIED';
    elsif factor_within_s > 0 and not exists (
        select from keelson.sessions as s
        where s.user_id = _proof_missing.user_id and s.id = _proof_missing.session_id
            and s.aal >= 2 and s.factor_at > now() - make_interval(secs => factor_within_s)
    ) then
        return 'SECOND_FACTOR_REQUIRED';
    elsif is_tier_asked and exists (
        select from keelson.users as u
        join keelson.tiers as t on t.id = keelson._tier_of(u.id)
        where u.id = _proof_missing.user_id and greatest(t.factor_since, u.created_at) + t.factor_grace <= now()
    ) then
        return 'SECOND_FACTOR_REQUIRED';
    end if;
    return null;
end
$$;
alter function keelson._proof_missing(uuid, uuid, boolean, integer, boolean) owner to keelson_system;
comment on function keelson._proof_missing(uuid, uuid, boolean, integer, boolean) is
    'The code of what an endpoint demands and the caller has not shown, null when it has all been: a verified address, a second factor within so many seconds, and one at all where the tier demands it.';

create or replace function keelson.factor_require(role text, grace interval default '14 days')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._require(role, 'role');
    if role = 'user' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the role user is everybody''s and gives nothing that could be withheld', field => 'role');
    elsif grace is not null and grace not between interval '0' and interval '90 days' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the grace is between nothing and 90 days', field => 'grace');
    end if;
    update keelson.roles as r
    set factor_since = case when grace is not null then coalesce(r.factor_since, now()) end,
        factor_grace = grace
    where r.name = factor_require.role;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no role "%s"', role), field => 'role');
    end if;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'second factor', 'which', role, 'grace', grace::text, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.factor_require(text, interval) is
    'Let the role give its permissions only to sessions that have shown a second factor, once the grace is over; with null, to all again.';
grant execute on function keelson.factor_require(text, interval) to keelson_admin;

create or replace function keelson.factor_require_tier(tier text, grace interval default '14 days')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson._require(tier, 'tier');
    if grace is not null and grace not between interval '0' and interval '90 days' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the grace is between nothing and 90 days', field => 'grace');
    end if;
    update keelson.tiers as t
    set factor_since = case when grace is not null then coalesce(t.factor_since, now()) end,
        factor_grace = grace
    where t.id = factor_require_tier.tier;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', format('there is no tier "%s"', tier), field => 'tier');
    end if;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'second factor', 'which', 'tier ' || tier, 'grace', grace::text, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.factor_require_tier(text, interval) is
    'Let endpoints that demand a tier serve this tier''s users only in sessions that have shown a second factor, once the grace is over; with null, in all again.';
grant execute on function keelson.factor_require_tier(text, interval) to keelson_admin;

create or replace function keelson.factor_reset(who text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := keelson._user_find(who);
    was_there boolean := keelson._factor_remove(target);
begin
    if was_there then
        perform keelson._sessions_end(target, null, null, 'ended');
        perform keelson.audit('factor.change', jsonb_build_object('change', 'reset', 'databaseRole', session_user), user_id => target);
        perform keelson._notice(target, 'factor.changed', '{"change": "removed by an administrator"}');
    end if;
    return was_there;
end
$$;
alter function keelson.factor_reset(text) owner to keelson_system;
comment on function keelson.factor_reset(text) is
    'Take the second factor of a user (e-mail address or id) who has lost it and the recovery codes: all sessions end, the user is told. Make sure who asks. False where there was none.';
grant execute on function keelson.factor_reset(text) to keelson_admin;
