-- Access keys: making, rotating and revoking them, the keeper's duties, administration.

do $types$
begin
    if pg_catalog.to_regtype('keelson.access_key') is null then
        create type keelson.access_key as (
            id uuid,
            name text,
            prefix text,
            scopes text[],
            allowed_networks text[],
            expires_at timestamptz,
            replaced_by uuid,
            last_used_at timestamptz,
            created_at timestamptz
        );
    end if;
    if pg_catalog.to_regtype('keelson.new_access_key') is null then
        create type keelson.new_access_key as (
            id uuid,
            name text,
            key text,
            prefix text,
            scopes text[],
            allowed_networks text[],
            expires_at timestamptz,
            last_used_at timestamptz,
            created_at timestamptz
        );
    end if;
end
$types$;
comment on type keelson.access_key is
    'An access key as it is listed: without the key itself.';
comment on column keelson.access_key.prefix is 'How the key begins, to know it by.';
comment on column keelson.access_key.allowed_networks is 'Whence it may be used; null: from anywhere.';
comment on column keelson.access_key.expires_at is 'When it ends; null: not by itself.';
comment on column keelson.access_key.replaced_by is 'The key that a rotation made of it; null unless it was rotated.';
comment on column keelson.access_key.last_used_at is 'When it was last used, up to a minute late; null: not yet.';
comment on type keelson.new_access_key is
    'An access key that was just made: the only time that the key itself is shown.';
comment on column keelson.new_access_key.key is 'The key, for Authorization: Bearer or X-API-Key. It is shown this once and kept nowhere.';
comment on column keelson.new_access_key.allowed_networks is 'Whence it may be used; null: from anywhere.';
comment on column keelson.new_access_key.expires_at is 'When it ends; null: not by itself.';

create or replace function keelson._access_key_make(
    user_id uuid,
    id uuid,
    out key text,
    out prefix text,
    out secret_hash bytea,
    out environment text
)
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__access_key_make';
comment on function keelson._access_key_make(uuid, uuid) is
    'A new key of this id for the user, with a secret of 256 random bits.';

create or replace function keelson.access_key_read(
    key text,
    out environment text,
    out user_id uuid,
    out id uuid
)
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_access_key_read';
comment on function keelson.access_key_read(text) is
    'Whose key this is and which, by its text alone; all null for what is no access key. Says nothing of whether it is good.';
grant execute on function keelson.access_key_read(text) to keelson_admin;

-- What a key may be.

create or replace function keelson._access_key_scopes(user_id uuid, scopes text[])
returns text[]
language plpgsql
stable
as $$
declare
    wanted text[];
    held text[] := keelson._user_permissions(user_id);
    missing text;
begin
    if coalesce(pg_catalog.cardinality(scopes), 0) not between 1 and 64 or pg_catalog.array_position(scopes, null) is not null then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a key has 1 to 64 scopes',
            'A scope is a row of keelson.scopes, or a permission that the user holds.', 'scopes');
    end if;
    wanted := array(select distinct s collate "C" from pg_catalog.unnest(scopes) as s order by 1);
    -- The cron secret's is no other credential's.
    select s into missing
    from pg_catalog.unnest(wanted) as s
    where s = 'jobs.run'
        or not exists (select from keelson.scopes as known where known.name = s)
        and not exists (select from keelson.permissions as known where known.name = s)
    limit 1;
    if found then
        perform keelson.raise(400, 'VALIDATION_FAILED', pg_catalog.format('there is no scope "%s"', pg_catalog.left(missing, 64)), field => 'scopes');
    end if;
    -- Nor more than the session that makes it: a role may demand a second factor which that has not shown.
    select s into missing
    from pg_catalog.unnest(wanted) as s
    where s <> all (held) and not exists (select from keelson.scopes as known where known.name = s)
        or s = any (held) and user_id = keelson.current_user_id() and not keelson.has_permission(s)
    limit 1;
    if found then
        perform keelson.raise(403, 'FORBIDDEN', pg_catalog.format('a key may do no more than its user, who may not "%s"', missing), field => 'scopes');
    end if;
    return wanted;
end
$$;
comment on function keelson._access_key_scopes(uuid, text[]) is
    'The scopes in order, each once; 400 for what is no scope, 403 for one that the user may not give, or not in this session.';

create or replace function keelson._access_key_networks(networks text[])
returns cidr[]
language plpgsql
immutable
as $$
declare
    network text;
    parsed cidr[] := '{}';
begin
    if networks is null then
        return null;
    end if;
    if pg_catalog.cardinality(networks) not between 1 and 32 or pg_catalog.array_ndims(networks) <> 1 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a key is bound to 1 to 32 networks, or to none by leaving them out', field => 'allowed_networks');
    end if;
    foreach network in array networks loop
        begin
            if network is null or pg_catalog.char_length(network) > 64 then
                raise invalid_text_representation;
            end if;
            parsed := parsed || network::cidr;
        exception when invalid_text_representation then
            perform keelson.raise(400, 'VALIDATION_FAILED', 'an allowed network is an address or a network such as 192.0.2.0/24 or 2001:db8::/32',
                'The bits behind the length of a network are zero.', 'allowed_networks');
        end;
    end loop;
    return parsed;
end
$$;
comment on function keelson._access_key_networks(text[]) is
    'The networks as such; 400 where one is none. Null stays null.';

-- Across users: executed by the core's own functions alone.

create or replace function keelson._access_key_room(user_id uuid)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    most integer := current_setting('keelson.access_key_max');
begin
    -- Making keys takes turns with itself, and with blocking and deleting.
    perform from keelson.users as u
    where u.id = _access_key_room.user_id and u.status = 'active'
    for no key update;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such user');
    end if;
    -- Whoever ended it while we waited wants no key of it.
    if user_id = keelson.current_user_id() and keelson.current_session_id() is not null
        and not keelson._session_is_live(user_id, keelson.current_session_id())
    then
        perform keelson.raise(401, 'UNAUTHENTICATED', 'the session has ended');
    end if;
    if (
        select count(*) from keelson.access_keys as k
        where k.user_id = _access_key_room.user_id and k.revoked_at is null and k.replaced_by is null
            and (k.expires_at is null or k.expires_at > now())
    ) >= most then
        perform keelson.raise(409, 'CONFLICT', format('a user has at most %s access keys', most), 'Revoke one that is not used.');
    end if;
end
$$;
alter function keelson._access_key_room(uuid) owner to keelson_system;
comment on function keelson._access_key_room(uuid) is
    'Lock the user until the transaction ends; 404 unless they are active, 401 when the session that asks has ended, 409 when they have as many keys as they may.';

create or replace function keelson._access_key_add(
    user_id uuid,
    name text,
    scopes text[],
    allowed_networks cidr[],
    expires_at timestamptz
)
returns keelson.new_access_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    id uuid := keelson.uuid7();
    made record;
    result keelson.new_access_key;
begin
    made := keelson._access_key_make(user_id, id);
    insert into keelson.access_keys (user_id, id, name, prefix, secret_hash, environment, scopes, allowed_networks, expires_at)
    values (
        _access_key_add.user_id, id, _access_key_add.name, made.prefix, made.secret_hash, made.environment,
        _access_key_add.scopes, _access_key_add.allowed_networks, _access_key_add.expires_at
    );
    perform keelson._notice(user_id, 'access_key.created', jsonb_build_object('key', name, 'prefix', made.prefix));
    result.id := id;
    result.name := name;
    result.key := made.key;
    result.prefix := made.prefix;
    result.scopes := scopes;
    result.allowed_networks := allowed_networks::text[];
    result.expires_at := expires_at;
    result.created_at := now();
    return result;
end
$$;
alter function keelson._access_key_add(uuid, text, text[], cidr[], timestamptz) owner to keelson_system;
comment on function keelson._access_key_add(uuid, text, text[], cidr[], timestamptz) is
    'Make a key of the user, write down all of it but the key itself, and tell the user by mail. Whoever calls it has checked everything.';

create or replace function keelson._access_key_create(
    user_id uuid,
    name text,
    scopes text[],
    expires_at timestamptz,
    allowed_networks text[],
    detail jsonb default '{}'
)
returns keelson.new_access_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    made keelson.new_access_key;
begin
    perform keelson._require(name, 'name');
    if expires_at <= now() or not isfinite(expires_at) then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the key would have expired already, or has no time to expire at',
            'Leave it out for a key that does not expire by itself.', 'expires_at');
    end if;
    scopes := keelson._access_key_scopes(user_id, scopes);
    perform keelson._access_key_room(user_id);
    made := keelson._access_key_add(
        user_id, normalize(name, nfc), scopes, keelson._access_key_networks(allowed_networks), expires_at
    );
    perform keelson.audit(
        'key.create',
        jsonb_build_object('keyId', made.id, 'kind', 'access key', 'scopes', scopes, 'expiresAt', expires_at) || detail,
        user_id => user_id
    );
    perform keelson.webhook_emit('access_key.created', jsonb_build_object('keyId', made.id, 'name', normalize(name, nfc)), user_id);
    return made;
end
$$;
alter function keelson._access_key_create(uuid, text, text[], timestamptz, text[], jsonb) owner to keelson_system;
comment on function keelson._access_key_create(uuid, text, text[], timestamptz, text[], jsonb) is
    'Make a key of the user, no wider than the user; recorded.';

create or replace function keelson._access_key_rotate(user_id uuid, id uuid, overlap interval, detail jsonb default '{}')
returns keelson.new_access_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    old keelson.access_keys;
    made keelson.new_access_key;
    good_until timestamptz;
    present timestamptz;
begin
    -- Two rotations of one key take turns, and the second is refused.
    select * into old
    from keelson.access_keys as k
    where k.user_id = _access_key_rotate.user_id and k.id = _access_key_rotate.id
    for no key update;
    present := clock_timestamp();
    if old.id is null or old.revoked_at is not null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such access key');
    elsif old.replaced_by is not null then
        perform keelson.raise(409, 'CONFLICT', format('the key has been replaced by the key %s', old.replaced_by),
            'Rotate that one, or revoke it should its text be lost.');
    elsif old.expires_at <= present then
        perform keelson.raise(409, 'CONFLICT', 'the key has expired', 'Make a new one.');
    end if;
    made := keelson._access_key_add(
        user_id, old.name, keelson._access_key_scopes(user_id, old.scopes), old.allowed_networks, old.expires_at
    );
    good_until := least(old.expires_at, present + overlap);
    update keelson.access_keys as k
    set replaced_by = made.id, expires_at = good_until
    where k.user_id = old.user_id and k.id = old.id;
    perform keelson._rate_limits_inherit(user_id, old.id, made.id);
    perform keelson.audit(
        'key.rotate',
        jsonb_build_object('keyId', made.id, 'replaced', old.id, 'kind', 'access key', 'goodUntil', good_until) || detail,
        user_id => user_id
    );
    perform keelson.webhook_emit('access_key.rotated', jsonb_build_object('keyId', old.id, 'successorId', made.id), user_id);
    return made;
end
$$;
alter function keelson._access_key_rotate(uuid, uuid, interval, jsonb) owner to keelson_system;
comment on function keelson._access_key_rotate(uuid, uuid, interval, jsonb) is
    'Make a successor of the key with all that is its own; the old one stays good for the overlap. 409 when it has one already.';

create or replace function keelson._rate_limits_inherit(user_id uuid, from_id uuid, to_id uuid)
returns void
language plpgsql
volatile
as $$
begin
    insert into keelson.user_rate_limits (user_id, access_key_id, name, max_requests, time_window, reason, created_by, expires_at)
    select u.user_id, to_id, u.name, u.max_requests, u.time_window, u.reason, u.created_by, u.expires_at
    from keelson.user_rate_limits as u
    where u.user_id = _rate_limits_inherit.user_id and u.access_key_id = from_id;
    if found then
        perform keelson._user_rate_limits_changed();
    end if;
end
$$;
comment on function keelson._rate_limits_inherit(uuid, uuid, uuid) is
    'Let the limits that hold for one access key hold for another too.';

create or replace function keelson._access_key_revoke(user_id uuid, id uuid, detail jsonb default '{}')
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update keelson.access_keys as k
    set revoked_at = clock_timestamp()
    where k.user_id = _access_key_revoke.user_id and k.id = _access_key_revoke.id and k.revoked_at is null;
    if not found then
        return false;
    end if;
    perform keelson.audit('key.revoke', jsonb_build_object('keyId', id, 'kind', 'access key') || detail, user_id => user_id);
    perform keelson.webhook_emit('access_key.revoked', jsonb_build_object('keyId', id), user_id);
    return true;
end
$$;
alter function keelson._access_key_revoke(uuid, uuid, jsonb) owner to keelson_system;
comment on function keelson._access_key_revoke(uuid, uuid, jsonb) is
    'End the key at once; false when there is none.';

-- The keeper's duties.

create or replace function keelson._access_keys_revoke(user_id uuid, detail jsonb)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    key_id uuid;
begin
    -- Who waits for a rotation that goes on sees the successor at the next look alone.
    loop
        select k.id into key_id from keelson.access_keys as k
        where k.user_id = _access_keys_revoke.user_id and k.revoked_at is null
        limit 1;
        exit when key_id is null;
        perform keelson._access_key_revoke(user_id, key_id, detail);
    end loop;
end
$$;
alter function keelson._access_keys_revoke(uuid, jsonb) owner to keelson_system;
comment on function keelson._access_keys_revoke(uuid, jsonb) is
    'End all keys of the user at once.';

create or replace function keelson._access_keys_used(user_ids uuid[], ids uuid[], used_at timestamptz[])
returns setof integer
language sql
volatile
as $$
with used as (
    select *
    from rows from (pg_catalog.unnest(user_ids), pg_catalog.unnest(ids), pg_catalog.unnest(used_at))
        with ordinality as u (user_id, id, used_at, place)
),
free as (
    select k.user_id, k.id
    from keelson.access_keys as k
    join used as u on k.user_id = u.user_id and k.id = u.id
    for no key update of k skip locked
),
written as (
    update keelson.access_keys as k
    set last_used_at = greatest(k.last_used_at, u.used_at)
    from used as u
    join free as f on f.user_id = u.user_id and f.id = u.id
    where k.user_id = u.user_id and k.id = u.id
    returning k.id
)
select u.place::integer
from used as u
where u.id not in (select w.id from written as w)
    and exists (select from keelson.access_keys as k where k.user_id = u.user_id and k.id = u.id)
union all
select place from keelson._user_api_keys_used(user_ids, ids, used_at) as place
order by 1
$$;
comment on function keelson._access_keys_used(uuid[], uuid[], timestamptz[]) is
    'Write down when keys were last used; returns the places of those that somebody has locked just now.';

create or replace function keelson._key_used(user_id uuid, id uuid)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__key_used';
comment on function keelson._key_used(uuid, uuid) is
    'Note in shared memory that a key was used, an access key or an API key of the user''s own; the keeper writes it down within a minute.';

create or replace function keelson._access_keys_write_down()
returns void
language c
volatile
as 'MODULE_PATHNAME', 'ks__access_keys_write_down';
comment on function keelson._access_keys_write_down() is
    'Write down now when keys were last used, as the keeper does every minute.';

create or replace function keelson._access_keys_purge(row_limit integer)
returns integer
language plpgsql
volatile
as $$
declare
    purged integer;
begin
    with ended as (
        select k.user_id, k.id
        from keelson.access_keys as k
        -- What the index is of, said as it says it.
        where (k.expires_at is not null or k.revoked_at is not null)
            and least(k.expires_at, k.revoked_at) < pg_catalog.now() - interval '30 days'
        order by least(k.expires_at, k.revoked_at)
        limit row_limit
        for update skip locked
    ),
    limits as (
        delete from keelson.user_rate_limits as u
        using ended
        where u.user_id = ended.user_id and u.access_key_id = ended.id
    )
    delete from keelson.access_keys as k
    using ended
    where k.user_id = ended.user_id and k.id = ended.id;
    get diagnostics purged = row_count;
    return purged;
end
$$;
comment on function keelson._access_keys_purge(integer) is
    'Delete keys that ended 30 days ago, with their rate limits, at most so many; returns how many. The keeper calls it.';

-- Administration.

create or replace function keelson.access_key_create(
    who text,
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
    return keelson._access_key_create(
        keelson._user_find(who), name, scopes, expires_at, allowed_networks, jsonb_build_object('databaseRole', session_user)
    );
end
$$;
comment on function keelson.access_key_create(text, keelson.display_name, text[], timestamptz, text[]) is
    'Make an access key for the user (e-mail address or id), with scopes no wider than the user''s own. The column key is shown this once.';
alter function keelson.access_key_create(text, keelson.display_name, text[], timestamptz, text[]) owner to keelson_system;
grant execute on function keelson.access_key_create(text, keelson.display_name, text[], timestamptz, text[]) to keelson_admin;

create or replace function keelson.access_key_rotate(who text, id uuid, overlap interval default '24 hours')
returns keelson.new_access_key
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if overlap is null or overlap not between '0' and '30 days' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an overlap is 0 to 30 days', field => 'overlap');
    end if;
    return keelson._access_key_rotate(keelson._user_find(who), id, overlap, jsonb_build_object('databaseRole', session_user));
end
$$;
comment on function keelson.access_key_rotate(text, uuid, interval) is
    'Make a successor of a user''s access key; the old one stays good for the overlap. The column key is shown this once.';
alter function keelson.access_key_rotate(text, uuid, interval) owner to keelson_system;
grant execute on function keelson.access_key_rotate(text, uuid, interval) to keelson_admin;

create or replace function keelson.access_key_revoke(who text, id uuid)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return keelson._access_key_revoke(keelson._user_find(who), id, jsonb_build_object('databaseRole', session_user));
end
$$;
comment on function keelson.access_key_revoke(text, uuid) is
    'End a user''s access key at once; false when there is none.';
alter function keelson.access_key_revoke(text, uuid) owner to keelson_system;
grant execute on function keelson.access_key_revoke(text, uuid) to keelson_admin;
