-- Retention: how long events are kept, legal holds, and taking what is due.

create or replace function keelson._retention_lock()
returns void
language sql
volatile
as $$
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('keelson.audit_expire', 0))
$$;
comment on function keelson._retention_lock() is
    'One after the other: who takes events, and who says which are to be kept.';

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
    perform keelson._retention_lock();
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
    held uuid := keelson._user_find_any(who);
begin
    if coalesce(reason, '') = '' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a legal hold needs a reason', field => 'reason');
    end if;
    -- Erasure has the user locked: the hold waits for its batch to end, or the batch goes round the user.
    perform from keelson.users as u where u.id = held for no key update;
    perform keelson._retention_lock();
    insert into keelson.legal_holds (user_id, reason, placed_by)
    values (held, reason, session_user)
    on conflict on constraint legal_holds_pkey do nothing;
    if not found then
        return false;
    end if;
    -- Whose events are held is not to learn of it from them.
    perform keelson.audit(
        'admin.legal_hold', jsonb_build_object('placed', true, 'heldUserId', held, 'reason', reason, 'databaseRole', session_user),
        user_id => '00000000-0000-0000-0000-000000000000'
    );
    return true;
end
$$;
alter function keelson.legal_hold_place(text, text) owner to keelson_system;
comment on function keelson.legal_hold_place(text, text) is
    'Keep all events of the user (e-mail address or id) whatever their age, and all else of a deleted one; false when they are held already.';
grant execute on function keelson.legal_hold_place(text, text) to keelson_admin;

create or replace function keelson.legal_hold_release(who text)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held uuid := keelson._user_find_any(who);
begin
    perform keelson._retention_lock();
    delete from keelson.legal_holds as h where h.user_id = held;
    if not found then
        return false;
    end if;
    update keelson.audit_partitions as p set cleared_types = '{}' where p.dropped_at is null;
    perform keelson.audit(
        'admin.legal_hold', jsonb_build_object('placed', false, 'heldUserId', held, 'databaseRole', session_user),
        user_id => '00000000-0000-0000-0000-000000000000'
    );
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
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not keelson._partition_drop('audit_events', to_date(right(name, 8), 'YYYYMMDD')) then
        return false;
    end if;
    update keelson.audit_partitions as p set dropped_at = now() where p.name = _audit_partition_drop.name;
    return true;
end
$$;
comment on function keelson._audit_partition_drop(text) is
    'Drop a partition of audit events; false when somebody has it open. From here to the end of the transaction no event can be written.';

create or replace function keelson._audit_due(
    moment timestamptz,
    out name text,
    out from_id uuid,
    out until_id uuid,
    out is_whole boolean,
    out due text[],
    out events bigint
)
returns setof record
language plpgsql
stable
as $$
#variable_conflict use_column
declare
    head keelson.audit_checkpoints;
    place keelson.audit_partitions;
    default_keep interval := (select r.keep_for from keelson.retention_policies as r where r.event_type = '*');
    kept text[];
    unsettled text[];
begin
    select * into head from keelson.audit_checkpoints as c order by c.size desc limit 1;
    if head.size is null then
        return;
    end if;
    unsettled := keelson._audit_unsettled(head.size);
    for place in
        select p.* from keelson.audit_partitions as p
        where p.dropped_at is null
            and p.until_at <= moment - (select pg_catalog.min(r.keep_for) from keelson.retention_policies as r)
        order by p.from_at
    loop
        select coalesce(pg_catalog.array_agg(r.event_type) filter (where place.until_at > moment - r.keep_for), '{}'),
            coalesce(pg_catalog.array_agg(r.event_type) filter (where place.until_at <= moment - r.keep_for), '{}')
        into kept, due
        from keelson.retention_policies as r where r.event_type <> '*';
        is_whole := false;
        if place.until_at <= moment - default_keep then
            due := due || '*'::text;
            -- Of what types there were is known without looking through the day.
            is_whole := not exists (
                select from keelson.audit_totals as t
                where t.hour >= place.from_at and t.hour < place.until_at and t.event_type = any (kept)
            ) and not exists (
                select from keelson.legal_holds as h
                cross join lateral (
                    select from keelson.audit_events as e
                    where e.user_id = h.user_id and e.id >= place.from_id and e.id < place.until_id
                    limit 1
                ) as held
            );
        end if;
        continue when not is_whole and due <@ place.cleared_types;
        -- Nothing goes that is not sealed.
        continue when place.name = any (unsettled) and keelson._audit_has_unsealed(array[place.name], head.era, head.xid, head.event_id);
        name := place.name;
        from_id := place.from_id;
        until_id := place.until_id;
        events := coalesce((
            select pg_catalog.sum(t.events) from keelson.audit_totals as t where t.hour >= place.from_at and t.hour < place.until_at
        ), 0);
        return next;
    end loop;
end
$$;
comment on function keelson._audit_due(timestamptz) is
    'The days of which something is due and all is sealed: the event types that are (* for those without a rule), or the whole of it, and how many events there were.';

create or replace function keelson._audit_expire_some(place record, most bigint)
returns bigint
language plpgsql
volatile
as $$
declare
    taken uuid[];
begin
    with doomed as (
        select e.user_id, e.id from keelson.audit_events as e
        where e.id >= place.from_id and e.id < place.until_id
            and (e.event_type = any (place.due) or '*' = any (place.due) and not exists (
                select from keelson.retention_policies as r where r.event_type = e.event_type
            ))
            and not exists (select from keelson.legal_holds as h where h.user_id = e.user_id)
        limit most
    ),
    gone as (
        delete from keelson.audit_events as e using doomed as d
        where e.user_id = d.user_id and e.id = d.id and e.id >= place.from_id and e.id < place.until_id
        returning e.id
    )
    select pg_catalog.array_agg(g.id order by g.id) into taken from gone as g;
    if taken is not null then
        perform keelson._audit_tombstone_add(
            place.from_id, place.until_id, taken, pg_catalog.cardinality(taken), 'events in ' || place.name || ' were due'
        );
    end if;
    if coalesce(pg_catalog.cardinality(taken), 0) < most then
        update keelson.audit_partitions as p set cleared_types = place.due where p.name = place.name;
    end if;
    return coalesce(pg_catalog.cardinality(taken), 0);
end
$$;
comment on function keelson._audit_expire_some(record, bigint) is
    'Take so many of a day''s events that are due, at most; returns how many.';

create or replace function keelson.audit_expire(batch integer default 10000, moment timestamptz default pg_catalog.now())
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place record;
    taken bigint := 0;
    dropped bigint := 0;
begin
    if batch is null or batch not between 1 and 100000 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'a batch is 1 to 100,000 events', field => 'batch');
    end if;
    perform keelson._retention_lock();
    perform keelson._audit_checkpoints_thin(batch, moment);
    -- Whole days last, since from the first drop on nobody else can write.
    for place in select * from keelson._audit_due(moment) as d order by d.is_whole, d.from_id loop
        if not place.is_whole then
            continue when taken >= batch;
            taken := taken + keelson._audit_expire_some(place, batch - taken);
        elsif keelson._audit_partition_drop(place.name) then
            perform keelson._audit_tombstone_add(place.from_id, place.until_id, null, place.events, 'the partition ' || place.name || ' was due');
            dropped := dropped + place.events;
        end if;
    end loop;
    return taken + dropped;
end
$$;
alter function keelson.audit_expire(integer, timestamptz) owner to keelson_system;
comment on function keelson.audit_expire(integer, timestamptz) is
    'Take events whose time is over: whole days by dropping their partition, else so many at most; returns how many. What goes is sealed before and leaves a signed tombstone. The keeper does it every hour.';
grant execute on function keelson.audit_expire(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._audit_checkpoints_thin(batch integer, moment timestamptz)
returns void
language sql
volatile
as $$
delete from keelson.audit_checkpoints as c
where c.size in (
    select o.size from keelson.audit_checkpoints as o
    where o.created_at < moment - interval '7 days'
        and exists (
            select from keelson.audit_checkpoints as later
            where later.created_at > o.created_at
                and later.created_at < pg_catalog.date_trunc('hour', o.created_at, 'UTC') + interval '1 hour'
        )
    limit batch
)
$$;
comment on function keelson._audit_checkpoints_thin(integer, timestamptz) is
    'Of checkpoints older than a week keep the last of each hour: of long ago that is as good as one every five seconds.';

create or replace function keelson._audit_forget(user_id uuid, row_limit integer default 2147483647)
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
    where e.user_id = _audit_forget.user_id and e.id in (
        select f.id from keelson.audit_events as f
        where f.user_id = _audit_forget.user_id and f.address_hash is not null
        limit row_limit
    );
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;
alter function keelson._audit_forget(uuid, integer) owner to keelson_system;
comment on function keelson._audit_forget(uuid, integer) is
    'Empty the hashes of addresses in so many of the user''s events at most, for their erasure, which erases the user''s keys too; returns in how many. The seal does not cover them.';
