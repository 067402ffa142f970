-- Retention: how long events are kept, legal holds, and taking what is due.

create or replace function keelson.retention_set(event_type text, keep_for interval)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if event_type is distinct from '*' and not exists (select from keelson.audit_event_types as t where t.name = retention_set.event_type) then
        perform keelson.raise(400, 'VALIDATION_FAILED', format('event type "%s" is not registered', event_type), field => 'event_type');
    end if;
    if keep_for is null and event_type <> '*' then
        delete from keelson.retention_policies as p where p.event_type = retention_set.event_type;
    elsif keep_for is null or keep_for < interval '1 day' or keep_for > interval '100 years' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'events are kept for a day to 100 years', field => 'keep_for');
    else
        insert into keelson.retention_policies as p (event_type, keep_for)
        values (retention_set.event_type, retention_set.keep_for)
        on conflict on constraint retention_policies_pkey do update
        set keep_for = excluded.keep_for, changed_at = now();
    end if;
    -- What was cleared under the old rules is looked at again.
    update keelson.audit_partitions as p set cleared_types = '{}' where p.dropped_at is null;
    perform keelson.audit('config.change', jsonb_build_object(
        'what', 'retention', 'eventType', event_type, 'keepFor', keep_for, 'databaseRole', session_user
    ));
end
$$;
comment on function keelson.retention_set(text, interval) is
    'Keep events of the type for so long; * is for all types without a rule of their own, null takes a type''s own rule away.';
grant execute on function keelson.retention_set(text, interval) to keelson_admin;

create or replace function keelson.legal_hold_place(who text, reason text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held uuid := keelson._user_find(who);
begin
    if coalesce(reason, '') = '' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a legal hold needs a reason', field => 'reason');
    end if;
    insert into keelson.legal_holds (user_id, reason, placed_by)
    values (held, reason, session_user)
    on conflict on constraint legal_holds_pkey do nothing;
    if not found then
        return false;
    end if;
    perform keelson.audit('admin.legal_hold', jsonb_build_object('placed', true, 'reason', reason, 'databaseRole', session_user), user_id => held);
    return true;
end
$$;
alter function keelson.legal_hold_place(text, text) owner to keelson_system;
comment on function keelson.legal_hold_place(text, text) is
    'Keep all events of the user (e-mail address or id) whatever their age; false when they are held already.';
grant execute on function keelson.legal_hold_place(text, text) to keelson_admin;

create or replace function keelson.legal_hold_release(who text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held uuid := keelson._user_find(who);
begin
    delete from keelson.legal_holds as h where h.user_id = held;
    if not found then
        return false;
    end if;
    update keelson.audit_partitions as p set cleared_types = '{}' where p.dropped_at is null;
    perform keelson.audit('admin.legal_hold', jsonb_build_object('placed', false, 'databaseRole', session_user), user_id => held);
    return true;
end
$$;
alter function keelson.legal_hold_release(text) owner to keelson_system;
comment on function keelson.legal_hold_release(text) is
    'End the user''s legal hold; retention then takes what is due. False when there was none.';
grant execute on function keelson.legal_hold_release(text) to keelson_admin;

create or replace function keelson._audit_tombstone_digest(tombstone bigint)
returns text
language plpgsql
stable
as $$
begin
    return (
        select pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws('|',
            t.id, t.from_id, t.until_id, coalesce(t.event_ids::text, '*'), t.events, t.reason, extract(epoch from t.created_at)
        ), 'UTF8')), 'hex')
        from keelson.audit_tombstones as t where t.id = tombstone
    );
end
$$;
comment on function keelson._audit_tombstone_digest(bigint) is
    'SHA-256 of what a tombstone says, in hexadecimal.';

create or replace function keelson._audit_tombstone_is_good(tombstone bigint)
returns boolean
language plpgsql
stable
as $$
begin
    return coalesce((
        select keelson._audit_signed(t.signature, 'audit-tombstone') ->> 'digest' = keelson._audit_tombstone_digest(t.id)
        from keelson.audit_tombstones as t where t.id = tombstone
    ), false);
end
$$;
comment on function keelson._audit_tombstone_is_good(bigint) is
    'Whether a tombstone is what was signed.';

create or replace function keelson._audit_tombstone_add(from_id uuid, until_id uuid, event_ids uuid[], events bigint, reason text)
returns void
language plpgsql
volatile
as $$
declare
    made bigint;
begin
    insert into keelson.audit_tombstones (from_id, until_id, event_ids, events, reason, signature)
    values (from_id, until_id, event_ids, events, reason, '')
    returning id into made;
    update keelson.audit_tombstones as t
    set signature = keelson._audit_sign('audit-tombstone', pg_catalog.jsonb_build_object('id', made, 'digest', keelson._audit_tombstone_digest(made)))
    where t.id = made;
    perform keelson.audit('audit.expire', pg_catalog.jsonb_build_object('tombstone', made, 'events', events, 'why', reason));
end
$$;
comment on function keelson._audit_tombstone_add(uuid, uuid, uuid[], bigint, text) is
    'Leave a signed word about what retention takes, in this transaction.';

create or replace function keelson._audit_partition_drop(name text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if name !~ '^audit_events_[0-9]{8}$' then
        raise exception 'there is no such partition';
    end if;
    -- Whoever holds a partition open must not hold up all who write behind us.
    perform set_config('lock_timeout', '1s', true);
    execute format('drop table keelson.%I', name);
    perform set_config('lock_timeout', '0', true);
    update keelson.audit_partitions as p set dropped_at = now() where p.name = _audit_partition_drop.name;
end
$$;
comment on function keelson._audit_partition_drop(text) is
    'Drop a partition of audit events.';

create or replace function keelson.audit_expire(batch integer default 10000, moment timestamptz default pg_catalog.now())
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    head record;
    place record;
    default_keep interval := (select r.keep_for from keelson.retention_policies as r where r.event_type = '*');
    ruled text[] := (select coalesce(array_agg(r.event_type), '{}') from keelson.retention_policies as r where r.event_type <> '*');
    kept text[];
    due text[];
    is_default_due boolean;
    taken uuid[];
    total bigint := 0;
    events bigint;
begin
    if batch is null or batch not between 1 and 100000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a batch is 1 to 100,000 events', field => 'batch');
    end if;
    perform pg_advisory_xact_lock(hashtextextended('keelson.audit_expire', 0));
    select c.era, c.xid, c.event_id into head from keelson.audit_checkpoints as c order by c.size desc limit 1;
    for place in
        select p.* from keelson.audit_partitions as p
        where p.dropped_at is null
            and p.until_at <= moment - (select min(r.keep_for) from keelson.retention_policies as r)
        order by p.from_at
    loop
        -- Nothing goes that is not sealed.
        continue when head.era is null or exists (
            select from keelson.audit_events as e
            where e.id >= place.from_id and e.id < place.until_id and (e.era, e.xid, e.id) > (head.era, head.xid, head.event_id)
        );
        is_default_due := place.until_at <= moment - default_keep;
        select coalesce(array_agg(r.event_type) filter (where place.until_at > moment - r.keep_for), '{}'),
            coalesce(array_agg(r.event_type) filter (where place.until_at <= moment - r.keep_for), '{}')
        into kept, due
        from keelson.retention_policies as r where r.event_type <> '*';
        if is_default_due
            and (kept = '{}' or not exists (
                select from keelson.audit_events as e
                where e.id >= place.from_id and e.id < place.until_id and e.event_type = any (kept)
            ))
            and not exists (
                select from keelson.legal_holds as h
                join keelson.audit_events as e on e.user_id = h.user_id and e.id >= place.from_id and e.id < place.until_id
            )
        then
            events := coalesce((
                select sum(t.events) from keelson.audit_totals as t where t.hour >= place.from_at and t.hour < place.until_at
            ), 0);
            perform keelson._audit_tombstone_add(place.from_id, place.until_id, null, events, 'the partition ' || place.name || ' was due');
            perform keelson._audit_partition_drop(place.name);
            total := total + events;
            continue;
        end if;
        if is_default_due then
            due := due || '*'::text;
        end if;
        continue when due <@ place.cleared_types;
        with doomed as (
            select e.user_id, e.id from keelson.audit_events as e
            where e.id >= place.from_id and e.id < place.until_id
                and (e.event_type = any (due) or is_default_due and e.event_type <> all (ruled))
                and not exists (select from keelson.legal_holds as h where h.user_id = e.user_id)
            limit batch - least(total, batch)
        ),
        gone as (
            delete from keelson.audit_events as e using doomed as d
            where e.user_id = d.user_id and e.id = d.id and e.id >= place.from_id and e.id < place.until_id
            returning e.id
        )
        select array_agg(g.id order by g.id) into taken from gone as g;
        events := coalesce(cardinality(taken), 0);
        if events > 0 then
            perform keelson._audit_tombstone_add(place.from_id, place.until_id, taken, events, 'events in ' || place.name || ' were due');
        end if;
        total := total + events;
        exit when total >= batch;
        update keelson.audit_partitions as p set cleared_types = due where p.name = place.name;
    end loop;
    return total;
end
$$;
alter function keelson.audit_expire(integer, timestamptz) owner to keelson_system;
comment on function keelson.audit_expire(integer, timestamptz) is
    'Take events whose time is over: whole days by dropping their partition, else so many at most; returns how many. What goes is sealed before and leaves a signed tombstone.';
grant execute on function keelson.audit_expire(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._audit_forget(user_id uuid)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    forgotten bigint;
begin
    update keelson.audit_events as e set address_hash = null
    where e.user_id = _audit_forget.user_id and e.address_hash is not null;
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;
alter function keelson._audit_forget(uuid) owner to keelson_system;
comment on function keelson._audit_forget(uuid) is
    'Empty the hashes of addresses in the user''s events, for their erasure, which erases the user''s keys too. The seal does not cover them.';
