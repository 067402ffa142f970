-- Access keys: the endpoints. A key cannot call them: none of them has a scope.

create or replace function keelson._access_key_owner()
returns uuid
language plpgsql
stable
as $$
begin
    perform keelson.acting_user_id();
    if keelson.current_actor() = 'access_key' then
        perform keelson.raise(403, 'FORBIDDEN', 'an access key cannot make, change or see access keys');
    end if;
    return keelson.current_user_id();
end
$$;
comment on function keelson._access_key_owner() is
    'The acting user; 401 when there is none, 403 for an access key, whatever endpoint a product has put it behind.';

create or replace function keelson._access_key_maker()
returns uuid
language plpgsql
stable
as $$
declare
    maker uuid := keelson._access_key_owner();
begin
    -- A key is served without a second factor: it is not to be the way around one.
    if keelson.current_actor() = 'user' and keelson.current_aal() < 2
        and keelson._proof_missing(maker, keelson.current_session_id(), false, 0, true) is not null
    then
        perform keelson.raise(401, 'SECOND_FACTOR_REQUIRED', 'your tier demands a second factor of who makes an access key',
            'Enrol one, and log in with it.');
    end if;
    return maker;
end
$$;
comment on function keelson._access_key_maker() is
    'As keelson._access_key_owner(); 401 besides for a session without the second factor that the user''s tier demands.';

create or replace function keelson.user_access_keys("limit" integer default 20, cursor text default null)
returns setof keelson.access_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    owner_id uuid := keelson._access_key_owner();
    before_id uuid := keelson.cursor_decode(cursor) ->> 'id';
begin
    return query
    select k.id, k.name, k.prefix, k.scopes, k.allowed_networks::text[], k.expires_at, k.replaced_by, k.last_used_at, k.created_at
    from keelson.access_keys as k
    where k.user_id = owner_id and k.revoked_at is null and (before_id is null or k.id < before_id)
    order by k.id desc
    limit keelson.page_by("limit", 'id');
end
$$;
comment on function keelson.user_access_keys(integer, text) is
    'The access keys of the user who is signed in, the latest first; expired ones stay for 30 days, revoked ones are not shown.';
grant execute on function keelson.user_access_keys(integer, text) to keelson_app;

create or replace function keelson.user_access_key_create(
    name keelson.display_name,
    scopes text[],
    expires_at timestamptz default null,
    allowed_networks text[] default null
)
returns keelson.new_access_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._access_key_create(keelson._access_key_maker(), name, scopes, expires_at, allowed_networks);
end
$$;
comment on function keelson.user_access_key_create(keelson.display_name, text[], timestamptz, text[]) is
    'Make an access key for a service that acts for the user who is signed in: with scopes no wider than the user''s own, until the time or for good, from these networks or from anywhere. The key is shown this once.';
grant execute on function keelson.user_access_key_create(keelson.display_name, text[], timestamptz, text[]) to keelson_app;

create or replace function keelson.user_access_key_rotate(id uuid, overlap_seconds integer default 86400)
returns keelson.new_access_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if overlap_seconds is null or overlap_seconds not between 0 and 2592000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an overlap is 0 to 2,592,000 seconds (30 days)', field => 'overlap_seconds');
    end if;
    return keelson._access_key_rotate(keelson._access_key_maker(), id, make_interval(secs => overlap_seconds));
end
$$;
comment on function keelson.user_access_key_rotate(uuid, integer) is
    'Replace an access key by a new one with the same name, scopes, networks, expiry and rate limits. The old one stays good for a day, or for as many seconds as are given; the new one is shown this once.';
grant execute on function keelson.user_access_key_rotate(uuid, integer) to keelson_app;

create or replace function keelson.user_access_key_revoke(id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not keelson._access_key_revoke(keelson._access_key_owner(), id) then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such access key');
    end if;
end
$$;
comment on function keelson.user_access_key_revoke(uuid) is
    'End an access key at once: the next request with it is refused.';
grant execute on function keelson.user_access_key_revoke(uuid) to keelson_app;
