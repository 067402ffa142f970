-- Who has to have a second factor.

create or replace function keelson._factor_required_by(user_id uuid)
returns timestamptz
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select min(greatest(r.factor_since, u.created_at) + r.factor_grace)
from keelson.user_roles as held
join keelson.roles as r on r.name = held.role
join keelson.users as u on u.id = held.user_id
where held.user_id = _factor_required_by.user_id and r.factor_since is not null
$$;
alter function keelson._factor_required_by(uuid) owner to keelson_system;
comment on function keelson._factor_required_by(uuid) is
    'From when on a role of the user''s demands a second factor; null when none does.';

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
        perform keelson._factor_notice(target, 'removed by an administrator');
    end if;
    return was_there;
end
$$;
alter function keelson.factor_reset(text) owner to keelson_system;
comment on function keelson.factor_reset(text) is
    'Take the second factor of a user (e-mail address or id) who has lost it and the recovery codes: all sessions end, the user is told. Make sure who asks. False where there was none.';
grant execute on function keelson.factor_reset(text) to keelson_admin;
