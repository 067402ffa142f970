-- Rotation of the keyring: moving what rests on older master keys to the
-- primary, and letting an old key go when nothing rests on it.

create or replace function keelson._user_keys_rewrap(
    from_key_id integer,
    after_user_id uuid,
    after_key_no integer,
    batch integer,
    out seen integer,
    out moved integer,
    out last_user_id uuid,
    out last_key_no integer
)
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_user_keys_rewrap';
comment on function keelson._user_keys_rewrap(integer, uuid, integer, integer) is
    'Wrap up to batch users'' keys, those of a master key that come after the given one, with the primary; passes over those that are locked or do not open. The keys stay what they are.';

create or replace function keelson._reseal(sealed bytea, context keelson.seal_context)
returns bytea
language c
volatile
strict
parallel unsafe
as 'MODULE_PATHNAME', 'ks_reseal';
comment on function keelson._reseal(bytea, keelson.seal_context) is
    'A value of the server, sealed anew under the primary; null when it does not open.';

create or replace function keelson._sealed_key_id(sealed bytea)
returns integer
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_sealed_key_id';
comment on function keelson._sealed_key_id(bytea) is
    'The key id that a sealed value names; null for what is none.';

create or replace function keelson._transactions_wait()
returns void
language c
volatile
parallel unsafe
as 'MODULE_PATHNAME', 'ks_transactions_wait';
comment on function keelson._transactions_wait() is
    'Wait until all transactions of this database that are under way have ended, as create index concurrently does.';

create or replace function keelson.keyring_rotate()
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    ready record;
    target integer;
    running keelson.keyring_rotations;
    started bigint;
begin
    -- One after the other: the second finds what the first has begun.
    perform pg_advisory_xact_lock(hashtextextended('keelson.keyring_rotate', 0));
    ready := keelson._keyring_ready(is_use => true);
    if not ready.is_ready then
        perform keelson.raise(503, 'UNAVAILABLE', format('secrets cannot be used: %s', ready.reason));
    end if;
    select key_id into target from keelson._keyring_loaded() where is_primary;
    select * into running from keelson.keyring_rotations where finished_at is null;
    if running.to_key_id = target then
        return running.id;
    end if;
    if not exists (select from keelson.keyring_keys where key_id <> target and retired_at is null) then
        perform keelson.raise(409, 'CONFLICT', format('there is nothing to rotate: key %s is the only one that this database has known', target),
            'Add a key to the keyring, make it the primary and reload: make keyring-rotate does all of it.');
    end if;
    update keelson.keyring_rotations set finished_at = clock_timestamp(), outcome = 'superseded' where finished_at is null;
    update keelson.keyring_keys set superseded_at = null where key_id = target and superseded_at is not null;
    update keelson.keyring_keys set superseded_at = clock_timestamp() where key_id <> target and superseded_at is null;
    insert into keelson.keyring_rotations (to_key_id, started_by) values (target, session_user) returning id into started;
    perform keelson.audit('key.rotate', jsonb_build_object('what', 'keyring', 'toKeyId', target, 'databaseRole', session_user));
    return started;
end
$$;
alter function keelson.keyring_rotate() owner to keelson_system;
comment on function keelson.keyring_rotate() is
    'Begin to move all that rests on older master keys to the keyring''s primary; returns the rotation''s id, a running one''s when there is one. keelson.keyring_rewrap() does the work, batch by batch; keelson.keyring_progress() tells how far it is.';
grant execute on function keelson.keyring_rotate() to keelson_admin;

create or replace function keelson.keyring_rewrap(batch integer default 1000)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    run keelson.keyring_rotations;
    step record;
    moved bigint;
    total integer := 0;
    is_at_end boolean;
begin
    if batch is null or batch not between 1 and 100000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a batch has 1 to 100,000 values', field => 'batch');
    end if;
    if not exists (select from keelson.keyring_rotations where finished_at is null) then
        return null;
    end if;
    -- Somebody else's batch is under way: this one moves nothing.
    select * into run from keelson.keyring_rotations where finished_at is null for update skip locked;
    if not found then
        return 0;
    end if;
    if run.to_key_id <> (select key_id from keelson._keyring_loaded() where is_primary) then
        perform keelson.raise(409, 'CONFLICT', 'another key has become the primary since the rotation began',
            'select keelson.keyring_rotate() begins one to the present primary.');
    end if;
    while total < batch and run.finished_at is null loop
        if run.from_key_id is null then
            moved := keelson._server_values_reseal(batch - total);
            run.server_values := run.server_values + moved;
            is_at_end := moved < batch - total;
        else
            step := keelson._user_keys_rewrap(run.from_key_id, run.after_user_id, run.after_key_no, batch - total);
            moved := step.moved;
            run.user_keys := run.user_keys + moved;
            run.after_user_id := step.last_user_id;
            run.after_key_no := step.last_key_no;
            is_at_end := step.seen < batch - total;
        end if;
        total := total + moved;
        run.moved_in_pass := run.moved_in_pass + moved;
        if is_at_end then
            run.from_key_id := keelson._keyring_next_old(run.to_key_id, coalesce(run.from_key_id, 0));
            run.after_user_id := '00000000-0000-0000-0000-000000000000';
            run.after_key_no := 0;
            -- A pass that has moved something is followed by another, for what was locked or came meanwhile.
            if run.from_key_id is null then
                if run.moved_in_pass = 0 then
                    run.finished_at := clock_timestamp();
                end if;
                run.moved_in_pass := 0;
            end if;
        end if;
    end loop;
    if run.finished_at is not null then
        run.outcome := case
            when exists (
                select from keelson.keyring_keys as k, lateral keelson.keyring_needs(k.key_id) as n
                where k.key_id <> run.to_key_id and k.retired_at is null and n.is_essential
            ) then 'incomplete'
            else 'done'
        end;
        perform keelson.audit('key.rotate', jsonb_build_object(
            'what', 'keyring', 'toKeyId', run.to_key_id, 'outcome', run.outcome,
            'userKeys', run.user_keys, 'serverValues', run.server_values
        ));
    end if;
    update keelson.keyring_rotations as r
    set from_key_id = run.from_key_id, after_user_id = run.after_user_id, after_key_no = run.after_key_no,
        moved_in_pass = run.moved_in_pass, user_keys = run.user_keys, server_values = run.server_values,
        finished_at = run.finished_at, outcome = run.outcome
    where r.id = run.id;
    return total;
end
$$;
alter function keelson.keyring_rewrap(integer) owner to keelson_system;
comment on function keelson.keyring_rewrap(integer) is
    'One batch of a running rotation, for a transaction of its own: wraps users'' keys, or seals the server''s values, anew under the primary. Returns how many it has moved; null when no rotation runs. Call it until it is null.';
grant execute on function keelson.keyring_rewrap(integer) to keelson_admin, keelson_jobs;

create or replace function keelson._keyring_rewrap_job(batch integer)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- What was locked or could not be opened the last time is tried once more.
    if (select r.outcome = 'incomplete' and r.finished_at < now() - interval '1 hour' from keelson.keyring_rotations as r order by r.id desc limit 1) then
        perform keelson.keyring_rotate();
    end if;
    return coalesce(keelson.keyring_rewrap(batch), 0);
end
$$;
alter function keelson._keyring_rewrap_job(integer) owner to keelson_system;
comment on function keelson._keyring_rewrap_job(integer) is
    'The step of the job rotation: a batch of the rotation that runs, or of another where the last one was incomplete.';

create or replace function keelson._keyring_next_old(target integer, after_key_id integer)
returns integer
language sql
stable
as $$
select pg_catalog.min(k.key_id)
from keelson.keyring_keys as k
where k.key_id <> target and k.key_id > after_key_id and k.retired_at is null
$$;
comment on function keelson._keyring_next_old(integer, integer) is
    'The next master key, by id, that something may rest on and that is not the target; null after the last.';

create or replace function keelson._server_values_reseal(batch integer)
returns bigint
language plpgsql
volatile
as $$
declare
    use record;
    changed bigint;
    moved bigint := 0;
begin
    for use in
        select relation, key_column, id_column, purpose, condition
        from keelson.keyring_uses
        where kind = 'sealed' and pg_catalog.to_regclass(relation) is not null
        order by name
    loop
        execute pg_catalog.format(
            'with old as materialized ('
            '    select f.place, f.sealed'
            '    from ('
            '        select t.ctid as place, keelson._reseal(t.%1$I, row(%2$L, null, %3$s)::keelson.seal_context) as sealed'
            '        from %4$s as t'
            '        where t.%1$I is not null and (%5$s) and keelson._sealed_key_id(t.%1$I) <> ('
            '            select l.key_id from keelson._keyring_loaded() as l where l.is_primary'
            '        )'
            '        for no key update skip locked'
            '    ) as f'
            '    where f.sealed is not null'
            '    limit %6$s'
            ') update %4$s as t set %1$I = old.sealed from old where t.ctid = old.place',
            use.key_column, use.purpose, coalesce('t.' || pg_catalog.quote_ident(use.id_column), 'null'),
            pg_catalog.to_regclass(use.relation), coalesce(use.condition, 'true'), batch - moved
        );
        get diagnostics changed = row_count;
        moved := moved + changed;
        exit when moved >= batch;
    end loop;
    return moved;
end
$$;
comment on function keelson._server_values_reseal(integer) is
    'Seal up to batch values of the server that are under older keys anew under the primary, passing over what does not open; returns how many.';

create or replace function keelson.keyring_needs(of_key_id integer default null)
returns table (
    key_id integer,
    name text,
    is_essential boolean,
    values_count bigint,
    needed_until timestamptz,
    loss text
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    key record;
    use record;
begin
    for key in
        select k.key_id, k.superseded_at from keelson.keyring_keys as k
        where k.retired_at is null and (of_key_id is null or k.key_id = of_key_id)
        order by k.key_id
    loop
        for use in select u.* from keelson.keyring_uses as u order by u.name loop
            key_id := key.key_id;
            name := use.name;
            is_essential := use.kind in ('wrapped', 'sealed');
            loss := use.loss;
            values_count := null;
            needed_until := null;
            if use.kind = 'token' then
                needed_until := key.superseded_at + use.lifetime;
                continue when needed_until <= now();
            else
                continue when to_regclass(use.relation) is null;
                execute case use.kind
                    when 'events' then format('select count(*) from (select from %s as t where t.id < $2 limit 1) as first', to_regclass(use.relation))
                    when 'sealed' then format('select count(*) from %s as t where (%s) and keelson._sealed_key_id(t.%I) = $1',
                        to_regclass(use.relation), coalesce(use.condition, 'true'), use.key_column)
                    else format('select count(*) from %s as t where (%s) and t.%I = $1',
                        to_regclass(use.relation), coalesce(use.condition, 'true'), use.key_column)
                end
                into values_count
                using key.key_id, keelson._uuid7_floor(coalesce(key.superseded_at, now() + interval '1 day'));
                continue when values_count = 0;
                if use.kind = 'events' then
                    values_count := null;
                end if;
            end if;
            return next;
        end loop;
    end loop;
end
$$;
alter function keelson.keyring_needs(integer) owner to keelson_system;
comment on function keelson.keyring_needs(integer) is
    'What rests on a master key, or on each: how many values, or until when, and what would be lost with it. What is essential moves with a rotation; the rest goes with time.';
grant execute on function keelson.keyring_needs(integer) to keelson_admin;

create or replace function keelson.keyring_progress()
returns table (
    rotation_id bigint,
    to_key_id integer,
    started_at timestamptz,
    finished_at timestamptz,
    outcome text,
    moved bigint,
    remaining bigint
)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
select r.id, r.to_key_id, r.started_at, r.finished_at, r.outcome, r.user_keys + r.server_values,
    (
        select coalesce(sum(n.values_count), 0)::bigint
        from keelson.keyring_keys as k, lateral keelson.keyring_needs(k.key_id) as n
        where k.key_id <> r.to_key_id and n.is_essential
    )
from keelson.keyring_rotations as r
order by r.id desc
limit 1
$$;
alter function keelson.keyring_progress() owner to keelson_system;
comment on function keelson.keyring_progress() is
    'How far the last rotation is: how many users'' keys and values of the server it has moved to the new key, and how many are still under an older one.';
grant execute on function keelson.keyring_progress() to keelson_admin;

create or replace function keelson.keyring_retire(key_id integer, accept text[] default '{}')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    known keelson.keyring_keys;
    needed text;
begin
    -- A snapshot from before the wait does not see what was written meanwhile.
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        perform keelson.raise(409, 'CONFLICT', 'a key is retired in a transaction that is read committed, and in no other',
            'begin transaction isolation level read committed;');
    end if;
    select * into known from keelson.keyring_keys as k where k.key_id = keyring_retire.key_id and k.retired_at is null;
    if not found then
        perform keelson.raise(404, 'NOT_FOUND', 'this database needs no key of that id', 'select * from keelson.keyring_status() lists them.', 'key_id');
    end if;
    if known.superseded_at is null or exists (
        select from keelson._keyring_loaded() as l where l.key_id = keyring_retire.key_id and l.is_primary
    ) then
        perform keelson.raise(409, 'CONFLICT', format('key %s has not been superseded', keyring_retire.key_id),
            'Make another key the primary and call keelson.keyring_rotate() first.', 'key_id');
    end if;
    -- Who sealed under it before it was superseded has committed, or never will.
    perform keelson._transactions_wait();
    select string_agg(format('%s%s', n.name, coalesce(' (' || n.values_count || ')', ' until ' || n.needed_until::text, '')), ', ' order by n.name)
    into needed
    from keelson.keyring_needs(keyring_retire.key_id) as n
    where n.is_essential or n.name <> all (coalesce(accept, '{}'));
    if needed is not null then
        perform keelson.raise(409, 'CONFLICT', format('key %s is still needed: %s', keyring_retire.key_id, needed),
            'select * from keelson.keyring_needs() says what would be lost. What is not essential may be named in accept.', 'key_id');
    end if;
    update keelson.keyring_keys as k set retired_at = now() where k.key_id = keyring_retire.key_id;
    perform keelson.audit('key.revoke', jsonb_build_object(
        'what', 'master key', 'keyId', keyring_retire.key_id, 'accepted', to_jsonb(accept), 'databaseRole', session_user
    ));
end
$$;
alter function keelson.keyring_retire(integer, text[]) owner to keelson_system;
comment on function keelson.keyring_retire(integer, text[]) is
    'Let a master key go that nothing rests on: from then on the keyring may do without it. Refuses, and says why, while something does; accept names what may be lost. Waits for the transactions that are under way, so that it is for transactions that are read committed.';
grant execute on function keelson.keyring_retire(integer, text[]) to keelson_admin;

create or replace function keelson._unseal_failures()
returns bigint
language c
volatile
parallel restricted
as 'MODULE_PATHNAME', 'ks_unseal_failures';
comment on function keelson._unseal_failures() is
    'How many sealed values did not open since the server started.';

create or replace function keelson._secrets_metrics()
returns table (name text, labels jsonb, value double precision, type text, help text)
language sql
volatile
as $$
select 'keelson_unseal_failures_total', null::jsonb, keelson._unseal_failures()::double precision, 'counter',
    'Sealed values that did not open: changed, moved, or without their key.'
union all
select 'keelson_keyring_keys', null, pg_catalog.count(*)::double precision, 'gauge', 'Master keys that the server holds.'
from keelson._keyring_loaded()
union all
select 'keelson_keyring_rotation_running', null, pg_catalog.count(*)::double precision, 'gauge', 'Whether a rotation of the keyring is under way.'
from keelson.keyring_rotations
where finished_at is null
union all
select 'keelson_keyring_rotation_moved_total', null, coalesce(pg_catalog.sum(user_keys + server_values), 0)::double precision, 'counter',
    'Users'' keys and values of the server that rotations have moved to a new master key.'
from keelson.keyring_rotations
union all
select metric.name, metric.labels, metric.value, metric.type, metric.help
from keelson._password_queue() as q,
    lateral (values
        ('keelson_password_hashes', '{"state": "running"}'::jsonb, q.running::double precision, 'gauge', 'Hashes of passwords that are being made, and that wait.'),
        ('keelson_password_hashes', '{"state": "waiting"}', q.waiting, 'gauge', 'Hashes of passwords that are being made, and that wait.'),
        ('keelson_password_hashes_refused_total', null, q.refused, 'counter', 'Hashes of passwords refused, since too many waited or for too long.')
    ) as metric (name, labels, value, type, help)
$$;
comment on function keelson._secrets_metrics() is
    'Samples of sealing, the keyring and the hashing of passwords.';

create or replace function keelson.key_inventory()
returns table (
    kind text,
    name text,
    algorithm text,
    keys_count bigint,
    protects text,
    ends text
)
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
select 'master key', 'key ' || s.key_id, '256 bits, HKDF-SHA-256', 1::bigint,
    case when s.is_primary then 'What is sealed from now on.' else 'What was sealed while it was the primary.' end,
    s.state || coalesce(', ' || s.problem, '')
from keelson.keyring_status() as s
where s.key_id is not null
union all
select 'users'' keys', 'wrapped by key ' || k.wrap_key_id, 'AES-256-GCM', count(*),
    'What is sealed for users: ' || (select string_agg(p.name, ', ' order by p.name) from keelson.seal_purposes as p where p.scope = 'user') || '.',
    'With the user''s erasure; another follows after 2^30 values.'
from keelson.user_keys as k
group by k.wrap_key_id
union all
select 'server''s keys', p.name, 'HKDF-SHA-256, AES-256-GCM', 1, p.description, 'With the master key that each is derived from.'
from keelson.seal_purposes as p
where p.scope = 'server'
union all
select 'server''s keys', u.name, 'HKDF-SHA-256, HMAC-SHA-256', 1, u.loss, coalesce('After ' || u.lifetime, 'With the rows that name it.')
from keelson.keyring_uses as u
where u.kind in ('derived', 'token', 'events')
union all
select 'signing keys', g.kid, 'ECDSA P-256, SHA-256', 1, 'Access tokens, checkpoints of the audit trail.',
    case when g.revoked_at is not null then 'Revoked.' else 'An hour after its successor began; it signs from ' || g.active_from || '.' end
from keelson.signing_keys as g
order by 1, 2
$$;
alter function keelson.key_inventory() owner to keelson_system;
comment on function keelson.key_inventory() is
    'Every key that there is: its kind, algorithm, how many, what it protects, and when it ends. Shows no key.';
grant execute on function keelson.key_inventory() to keelson_admin;
