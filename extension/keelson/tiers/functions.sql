-- Tiers: what they are, which one a user has, and what that allows.

do $types$
begin
    if pg_catalog.to_regtype('keelson.tier_object') is null then
        create type keelson.tier_object as (
            id text,
            name text,
            minutes_limit numeric,
            hard_limit boolean,
            features text[],
            limits jsonb
        );
    end if;
    if pg_catalog.to_regtype('keelson.trial') is null then
        create type keelson.trial as (
            ends_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.subscription') is null then
        create type keelson.subscription as (
            tier text,
            status text,
            minutes_used numeric,
            minutes_limit numeric,
            period_end timestamptz,
            trial keelson.trial
        );
    end if;
    if pg_catalog.to_regtype('keelson.referral') is null then
        create type keelson.referral as (
            code text,
            redemptions integer
        );
    end if;
    if pg_catalog.to_regtype('keelson.quota') is null then
        create type keelson.quota as (
            unit text,
            feature text,
            "limit" numeric,
            used numeric,
            reserved numeric,
            remaining numeric,
            hard boolean,
            reset_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson._subscription_state') is null then
        create type keelson._subscription_state as (
            tier_id text,
            status text,
            period_start timestamptz,
            period_end timestamptz,
            minutes_limit numeric,
            is_hard boolean,
            trial_ends_at timestamptz,
            time_zone text
        );
    end if;
    -- The profile's other parts are the identity's.
    if not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = 'keelson.profile'::pg_catalog.regclass and a.attname = 'subscription'
    ) then
        alter type keelson.profile
            add attribute subscription keelson.subscription,
            add attribute referral keelson.referral;
    end if;
end
$types$;
comment on type keelson.tier_object is 'A tier, as clients see it.';
comment on column keelson.tier_object.minutes_limit is 'Minutes in a period; null for no limit.';
comment on column keelson.tier_object.hard_limit is 'Whether minutes beyond the limit are refused.';
comment on column keelson.tier_object.limits is 'Its other limits by name.';
comment on type keelson.trial is 'A trial that goes on.';
comment on type keelson.subscription is 'A user''s subscription, as clients see it.';
comment on column keelson.subscription.status is 'active, trialing, past_due or canceled.';
comment on column keelson.subscription.minutes_used is 'Minutes in this period.';
comment on column keelson.subscription.minutes_limit is 'Minutes that a period has; null for no limit.';
comment on column keelson.subscription.period_end is 'When the next period begins.';
comment on column keelson.subscription.trial is 'Null without a trial.';
comment on type keelson.referral is 'A user''s referral code, and how many new users came by it.';
comment on type keelson.quota is 'A quota: of a unit, or of the minutes of a feature.';
comment on column keelson.quota.reserved is 'Held for work that goes on.';
comment on column keelson.quota.remaining is 'What may still be taken; 0 when more is used than the limit.';
comment on column keelson.quota.hard is 'Whether more is refused.';
comment on column keelson.quota.reset_at is 'When counting begins anew; null: never.';
comment on type keelson._subscription_state is 'Tier and period of a user, as they are now.';
comment on column keelson.profile.subscription is 'Tier, and what was used of it.';
comment on column keelson.profile.referral is 'The user''s own code.';

create or replace function keelson._tiers_changed()
returns trigger
language c
as 'MODULE_PATHNAME', 'ks_tiers_changed';
comment on function keelson._tiers_changed() is
    'Trigger: make every backend read the tiers anew.';

create or replace function keelson._tier_of(user_id uuid)
returns text
language c
stable
strict
parallel restricted
as 'MODULE_PATHNAME', 'ks_tier_of_sql';
comment on function keelson._tier_of(uuid) is
    'The id of the tier that the user has now.';

create or replace function keelson._subscription_of(user_id uuid)
returns keelson._subscription_state
language c
stable
strict
parallel restricted
as 'MODULE_PATHNAME', 'ks_subscription_of';
comment on function keelson._subscription_of(uuid) is
    'Tier and period of the user, as they are now, whether or not the clockwork has written them down; always a row.';

create or replace function keelson.has_tier(tier text)
returns boolean
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_has_tier';
comment on function keelson.has_tier(text) is
    'Whether the acting user has this tier or a higher one. In policies write (select keelson.has_tier(...)), asked once a statement.';
grant execute on function keelson.has_tier(text) to keelson_app, keelson_admin;

create or replace function keelson.has_feature(feature text)
returns boolean
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_has_feature';
comment on function keelson.has_feature(text) is
    'Whether the acting user''s tier has the feature. In policies write (select keelson.has_feature(...)), asked once a statement.';
grant execute on function keelson.has_feature(text) to keelson_app, keelson_admin;

create or replace function keelson.require_tier(tier text)
returns void
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_require_tier';
comment on function keelson.require_tier(text) is
    'Raise 401 when nobody is known, 403 TIER_REQUIRED unless keelson.has_tier(tier).';
grant execute on function keelson.require_tier(text) to keelson_app, keelson_admin;

create or replace function keelson.require_feature(feature text)
returns void
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_require_feature';
comment on function keelson.require_feature(text) is
    'Raise 401 when nobody is known, 403 TIER_REQUIRED unless keelson.has_feature(feature).';
grant execute on function keelson.require_feature(text) to keelson_app, keelson_admin;

create or replace function keelson._tier_limit(user_id uuid, name text)
returns numeric
language c
stable
parallel restricted
as 'MODULE_PATHNAME', 'ks_tier_limit_sql';
comment on function keelson._tier_limit(uuid, text) is
    'How much the user''s tier has of something, be it counted or not; null where it is not limited.';

create or replace function keelson.tier_limit(name text)
returns numeric
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._tier_limit(keelson.current_user_id(), name);
end
$$;
comment on function keelson.tier_limit(text) is
    'How much the acting user''s tier has of something; null where it is not limited.';
grant execute on function keelson.tier_limit(text) to keelson_app, keelson_admin;

-- Reading.

create or replace function keelson._tier_object(tier_id text)
returns keelson.tier_object
language sql
stable
as $$
select
    t.id, t.name, minutes.amount, coalesce(minutes.is_hard, false), t.features,
    coalesce((
        select pg_catalog.jsonb_object_agg(l.name, l.amount)
        from keelson.tier_limits as l
        where l.tier_id = t.id and l.kind <> 'feature' and l.name <> 'minutes'
    ), '{}')
from keelson.tiers as t
left join keelson.tier_limits as minutes on minutes.tier_id = t.id and minutes.kind = 'unit' and minutes.name = 'minutes'
where t.id = _tier_object.tier_id
$$;
comment on function keelson._tier_object(text) is
    'The tier as clients see it.';

create or replace function keelson.tiers_list()
returns setof keelson.tier_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select shown.* from keelson.tiers as t cross join lateral keelson._tier_object(t.id) as shown
    where t.is_public
    order by t.rank;
end
$$;
comment on function keelson.tiers_list() is
    'The tiers that there are to choose from, with features and limits, the lowest first.';
grant execute on function keelson.tiers_list() to keelson_app;

create or replace function keelson.user_tier()
returns keelson.tier_object
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform keelson.acting_user_id();
    return keelson._tier_object(keelson._tier_of(keelson.current_user_id()));
end
$$;
comment on function keelson.user_tier() is
    'The tier of the user who is signed in.';
grant execute on function keelson.user_tier() to keelson_app;

-- Administration: what the tiers are.

create or replace function keelson.tier_set(
    id text,
    name text,
    rank integer,
    features text[] default '{}',
    is_default boolean default false,
    is_public boolean default true
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if id is null or id !~ '^[a-z][a-z0-9_]{0,39}$' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the id of a tier is made of small letters, digits and _, such as pro', field => 'id');
    elsif name is null or char_length(name) not between 1 and 100 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of a tier has 1 to 100 characters', field => 'name');
    elsif rank is null or rank not between 0 and 1000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a rank is 0 to 1,000', field => 'rank');
    elsif exists (select from keelson.tiers as t where t.rank = tier_set.rank and t.id <> tier_set.id) then
        perform keelson.raise(409, 'CONFLICT', 'another tier has this rank', field => 'rank');
    elsif features is null or exists (select from unnest(features) as f where f is null or f !~ '^[A-Za-z][A-Za-z0-9_.-]{0,63}$') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a feature is a name of letters, digits, _, . and -, at most 64', field => 'features');
    end if;
    perform pg_advisory_xact_lock(hashtextextended('keelson.tiers', 0));
    if is_default then
        update keelson.tiers as t set is_default = false where t.is_default and t.id <> tier_set.id;
    elsif not exists (select from keelson.tiers as t where t.is_default and t.id <> tier_set.id) then
        perform keelson.raise(409, 'CONFLICT', 'one tier has to be the default', 'Make another the default first.', 'is_default');
    end if;
    insert into keelson.tiers as t (id, name, rank, features, is_default, is_public)
    values (
        tier_set.id, tier_set.name, tier_set.rank, array(select distinct f from unnest(tier_set.features) as f order by f),
        coalesce(tier_set.is_default, false), coalesce(tier_set.is_public, true)
    )
    on conflict on constraint tiers_pkey do update
    set name = excluded.name, rank = excluded.rank, features = excluded.features, is_default = excluded.is_default,
        is_public = excluded.is_public, updated_at = now();
    perform keelson.audit('config.change', jsonb_build_object('what', 'tier', 'tier', id, 'databaseRole', session_user));
end
$$;
comment on function keelson.tier_set(text, text, integer, text[], boolean, boolean) is
    'Add a tier, or change it; holds for the next statement of its users. Limits: keelson.tier_limit_set().';
grant execute on function keelson.tier_set(text, text, integer, text[], boolean, boolean) to keelson_admin;

create or replace function keelson.tier_remove(id text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from keelson.tiers as t where t.id = tier_remove.id and t.is_default) then
        perform keelson.raise(409, 'CONFLICT', 'it is the default', 'Make another tier the default first.', 'id');
    end if;
    delete from keelson.tiers as t where t.id = tier_remove.id;
    if not found then
        return false;
    end if;
    delete from keelson.tier_rate_limits as l where l.tier = tier_remove.id;
    delete from keelson.tier_ranks as r where r.tier = tier_remove.id;
    perform keelson.audit('config.change', jsonb_build_object('what', 'tier', 'tier', id, 'isRemoved', true, 'databaseRole', session_user));
    return true;
exception when foreign_key_violation then
    perform keelson.raise(409, 'CONFLICT', 'users have this tier', 'Give them another one first.', 'id');
end
$$;
comment on function keelson.tier_remove(text) is
    'Take a tier away that no user has; false when there is none.';
grant execute on function keelson.tier_remove(text) to keelson_admin;

create or replace function keelson.tier_limit_set(
    tier text,
    name text,
    amount numeric,
    kind text default 'unit',
    is_hard boolean default false,
    resets text default 'period'
)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from keelson.tiers as t where t.id = tier_limit_set.tier) then
        perform keelson.raise(404, 'NOT_FOUND', format('tier "%s" does not exist', tier), field => 'tier');
    elsif name is null or name !~ '^[A-Za-z][A-Za-z0-9_.-]{0,63}$' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a limit is a name of letters, digits, _, . and -, at most 64', field => 'name');
    elsif kind is null or kind not in ('unit', 'feature', 'cap') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the kind is unit, feature or cap', field => 'kind');
    elsif resets is null or resets not in ('period', 'never') or resets = 'never' and (kind = 'feature' or name = 'minutes') then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'it resets with the period or never; minutes reset with the period', field => 'resets');
    elsif name = 'minutes' and kind = 'cap' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'minutes are a unit', field => 'kind');
    elsif not coalesce(amount >= 0 and amount <= 1e15, false) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an amount is 0 to 1e15', 'Without a limit: keelson.tier_limit_remove().', 'amount');
    elsif exists (
        select from keelson.tier_limits as l
        where l.tier_id = tier_limit_set.tier and l.name = tier_limit_set.name
            and l.kind <> tier_limit_set.kind and 'feature' not in (l.kind, tier_limit_set.kind)
    ) then
        perform keelson.raise(409, 'CONFLICT', 'the tier has a limit of this name and another kind', field => 'kind');
    end if;
    insert into keelson.tier_limits (tier_id, kind, name, amount, is_hard, resets)
    values (
        tier_limit_set.tier, tier_limit_set.kind, tier_limit_set.name, tier_limit_set.amount,
        coalesce(tier_limit_set.is_hard, false) and kind <> 'cap', tier_limit_set.resets
    )
    on conflict on constraint tier_limits_pkey do update
    set amount = excluded.amount, is_hard = excluded.is_hard, resets = excluded.resets;
    perform keelson._minutes_forget(null, tier);
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'limit of a tier', 'tier', tier, 'kind', kind, 'name', name, 'amount', amount, 'isHard', is_hard,
        'resets', resets, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.tier_limit_set(text, text, numeric, text, boolean, text) is
    'Say how much a tier has of something: of a unit (minutes, projects), of the minutes of a feature, or as a cap that is not counted. is_hard: more is refused with QUOTA_EXCEEDED.';
grant execute on function keelson.tier_limit_set(text, text, numeric, text, boolean, text) to keelson_admin;

create or replace function keelson.tier_limit_remove(tier text, name text, kind text default 'unit')
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from keelson.tier_limits as l
    where l.tier_id = tier_limit_remove.tier and l.kind = tier_limit_remove.kind and l.name = tier_limit_remove.name;
    if not found then
        return false;
    end if;
    perform keelson._minutes_forget(null, tier);
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'limit of a tier', 'tier', tier, 'kind', kind, 'name', name, 'isRemoved', true, 'databaseRole', session_user
    ));
    return true;
end
$$;
comment on function keelson.tier_limit_remove(text, text, text) is
    'Have the tier be without this limit; false when it was.';
grant execute on function keelson.tier_limit_remove(text, text, text) to keelson_admin;
