-- The audit trail: recording, reading, partitions.

do $types$
begin
    if pg_catalog.to_regtype('keelson.audit_event') is null then
        create type keelson.audit_event as (
            id uuid,
            type text,
            outcome text,
            user_id uuid,
            actor text,
            actor_id uuid,
            data jsonb,
            ip_address inet,
            user_agent text,
            request_id uuid,
            created_at timestamptz
        );
    end if;
end
$types$;
comment on type keelson.audit_event is
    'What happened, as clients see it.';
comment on column keelson.audit_event.type is 'One of the registered types, such as auth.login.';
comment on column keelson.audit_event.outcome is 'success, failure or denied.';
comment on column keelson.audit_event.user_id is 'Whom it concerns; null where that is nobody known.';
comment on column keelson.audit_event.actor is 'Who did it: user, access_key, admin, system or anonymous.';
comment on column keelson.audit_event.actor_id is 'The user who did it; null when that is not known.';
comment on column keelson.audit_event.ip_address is 'Whence; null when unknown, or erased.';

create or replace function keelson.audit(
    event_type text,
    data jsonb default '{}',
    outcome text default 'success',
    user_id uuid default null
)
returns uuid
language c
volatile
as 'MODULE_PATHNAME', 'ks_audit_sql';
comment on function keelson.audit(text, jsonb, text, uuid) is
    'Record an event of a registered type in the running transaction; returns its id. It concerns the acting user unless another is given. Who, whence and in which request is known; secrets in data are taken out, what tells of a person is sealed.';
grant execute on function keelson.audit(text, jsonb, text, uuid) to keelson_app, keelson_admin;

create or replace function keelson._audit_at_once(event_type text, data jsonb, user_id uuid)
returns void
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks__audit_at_once';
comment on function keelson._audit_at_once(text, jsonb, uuid) is
    'Record through shared memory that something was done: nothing is written, and the record stands whatever becomes of the transaction.';

create or replace function keelson.audit_event_type(name text, description text, category text default 'product')
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null or name !~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' or char_length(name) > 63 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the name of an event type has two words or more with dots between them, such as report.export', field => 'name');
    end if;
    if coalesce(description, '') = '' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'an event type needs a description', field => 'description');
    end if;
    if exists (select from keelson.audit_event_types as t where t.name = audit_event_type.name and t.is_reserved) then
        perform keelson.raise(409, 'CONFLICT', 'this event type is the core''s', field => 'name');
    end if;
    insert into keelson.audit_event_types as t (name, category, description)
    values (audit_event_type.name, audit_event_type.category, audit_event_type.description)
    on conflict on constraint audit_event_types_pkey do update
    set category = excluded.category, description = excluded.description;
end
$$;
comment on function keelson.audit_event_type(text, text, text) is
    'Register a type of event, or describe it anew. Registered once, it stays.';
grant execute on function keelson.audit_event_type(text, text, text) to keelson_admin;

-- Time and ids.

create or replace function keelson._uuid7_time(id uuid)
returns timestamptz
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_uuid7_time';
comment on function keelson._uuid7_time(uuid) is
    'The time that a UUIDv7 was made at.';

create or replace function keelson._uuid7_floor(moment timestamptz)
returns uuid
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_uuid7_floor';
comment on function keelson._uuid7_floor(timestamptz) is
    'The lowest UUID of the millisecond: ids made from that time on are not below it. A time before 1970 or after 9998 counts as the nearest between.';

create or replace function keelson._uuid7_ceiling(moment timestamptz)
returns uuid
language sql
immutable
parallel safe
as $$
select keelson._uuid7_floor(least(moment, '9998-01-01 00:00Z') + interval '1 millisecond')
$$;
comment on function keelson._uuid7_ceiling(timestamptz) is
    'The lowest UUID after the millisecond: ids made up to that time are below it; null: all are.';

create or replace function keelson._audit_address_hash(key_id integer, address text)
returns bytea
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_audit_address_hash';
comment on function keelson._audit_address_hash(integer, text) is
    'The keyed hash of an address, by which events are found that came from it.';

-- Partitions.

create or replace function keelson._audit_ranges_index(partition text)
returns regclass
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select i.indexrelid from pg_index as i
        join pg_class as c on c.oid = i.indexrelid
        join pg_am as a on a.oid = c.relam
        where i.indrelid = to_regclass('keelson.' || partition) and a.amname = 'brin'
        order by i.indexrelid limit 1
    );
end
$$;
comment on function keelson._audit_ranges_index(text) is
    'The partition''s index of ranges.';

create or replace function keelson._audit_ranges_make(relation text)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    index_name text := relation || '_id_era_xid_idx';
begin
    execute format('create index %I on only keelson.%I using brin (id, era, xid keelson.xid8_minmax_ops) with (pages_per_range = 32)', index_name, relation);
    if relation <> 'audit_events' then
        execute format('alter index keelson.audit_events_id_era_xid_idx attach partition keelson.%I', index_name);
    end if;
    if exists (select from keelson.audit_partitions as p where p.name = relation and p.until_at > now()) then
        -- Of the pages that are being filled it is to know nothing; see keelson._audit_days_summarise().
        perform brin_desummarize_range(to_regclass('keelson.' || index_name), pg_relation_size('keelson.' || relation) / current_setting('block_size')::bigint / 32 * 32);
    end if;
end
$$;
comment on function keelson._audit_ranges_make(text) is
    'Make the index of ranges of the audit events, which new days then have from the beginning, or of one day that lacks it.';

create or replace function keelson._audit_ranges_catch_up()
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    partition text;
begin
    -- The table's is valid when all days have it.
    if (select i.indisvalid from pg_index as i where i.indexrelid = to_regclass('keelson.audit_events_id_era_xid_idx')) is not false then
        return false;
    end if;
    lock table only keelson.audit_events in access share mode;
    for partition in
        select p.name from keelson.audit_partitions as p
        where p.dropped_at is null and keelson._audit_ranges_index(p.name) is null
        order by p.from_at desc
    loop
        begin
            -- Whoever writes there would be waited for, and others behind us.
            execute format('lock table keelson.%I in share mode nowait', partition);
        exception when lock_not_available then
            continue;
        end;
        perform keelson._audit_ranges_make(partition);
        return true;
    end loop;
    return false;
end
$$;
comment on function keelson._audit_ranges_catch_up() is
    'Give the newest day that lacks its index of ranges, and that nobody writes to, the index; false where there is none. While that lasts, nobody can write to the day.';

create or replace function keelson.audit_partitions_make(days_ahead integer default 7, moment timestamptz default pg_catalog.now())
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    day timestamptz;
    partition text;
    made integer := 0;
begin
    if days_ahead is null or days_ahead not between 0 and 366 then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'partitions are made for 0 to 366 days ahead', field => 'days_ahead');
    end if;
    if moment not between '1970-01-02 00:00Z' and '9997-12-31 00:00Z' then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'partitions are made for times from 1970 to 9997', field => 'moment');
    end if;
    for day in
        select generate_series(
            date_trunc('day', moment, 'UTC') - interval '1 day', date_trunc('day', moment, 'UTC') + make_interval(days => days_ahead),
            interval '1 day'
        )
    loop
        partition := 'audit_events_' || to_char(day at time zone 'UTC', 'YYYYMMDD');
        -- Not for a day that retention has taken.
        continue when exists (select from keelson.audit_partitions as p where p.name = partition)
            or not keelson._partition_make('audit_events', day);
        -- What writes an event names the day's partition.
        execute format('grant select, insert, update, delete on keelson.%I to keelson_system', partition);
        -- An index of ranges that is made knows of the first pages, empty as they are; see keelson._audit_days_summarise().
        perform brin_desummarize_range(keelson._audit_ranges_index(partition), 0);
        insert into keelson.audit_partitions (name, from_id, until_id, from_at, until_at)
        values (partition, keelson._uuid7_floor(day), keelson._uuid7_floor(day + interval '1 day'), day, day + interval '1 day');
        made := made + 1;
    end loop;
    return made;
end
$$;
comment on function keelson.audit_partitions_make(integer, timestamptz) is
    'Make the missing partitions of audit events from yesterday''s to so many days ahead; returns how many. The keeper does it every hour.';
grant execute on function keelson.audit_partitions_make(integer, timestamptz) to keelson_admin, keelson_jobs;

create or replace function keelson._audit_partitions_ahead(batch integer)
returns bigint
language plpgsql
volatile
as $$
begin
    return least(keelson.audit_partitions_make(), batch - 1);
end
$$;
comment on function keelson._audit_partitions_ahead(integer) is
    'Make the missing partitions of audit events for the days to come; returns how many. The second line behind the keeper.';

create or replace function keelson._audit_partitions_index(batch integer default 10, moment timestamptz default pg_catalog.now())
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place record;
    made bigint := 0;
begin
    for place in
        select p.name from keelson.audit_partitions as p
        -- An hour for what is late: by the ring, or by a long transaction.
        where p.dropped_at is null and p.indexed_at is null and p.until_at <= moment - interval '1 hour'
        order by p.from_at desc limit least(batch, 10)
    loop
        execute format('create index %I on keelson.%I (event_type, id)', place.name || '_event_type_id_idx', place.name);
        execute format('create index %I on keelson.%I (address_hash, id) where address_hash is not null', place.name || '_address_hash_id_idx', place.name);
        -- Nobody is to come any more who would have to change what the index of ranges knows of the last pages.
        perform brin_summarize_new_values(keelson._audit_ranges_index(place.name));
        update keelson.audit_partitions as p set indexed_at = clock_timestamp() where p.name = place.name;
        made := made + 1;
    end loop;
    return made;
end
$$;
comment on function keelson._audit_partitions_index(integer, timestamptz) is
    'Index days that are over by type and by address, the newest first, ten at most; returns how many. Until then a search looks through the day itself, so that nothing which writes an event pays for it.';

-- Sealing. What the tree is, and how it grows, stands in audit/README.md.

create or replace function keelson.audit_seal(batch integer default 4096)
returns bigint
language c
volatile
strict
as 'MODULE_PATHNAME', 'ks_audit_seal';
comment on function keelson.audit_seal(integer) is
    'Seal up to so many events whose transactions have ended; returns how many. The keeper does it every five seconds.';
grant execute on function keelson.audit_seal(integer) to keelson_admin, keelson_jobs;

create or replace function keelson._audit_sign(typ text, claims jsonb)
returns text
language sql
volatile
as $$
-- Signed for good: the year 9999.
select keelson.jwt_sign(
    claims || pg_catalog.jsonb_build_object(
        'iss', pg_catalog.current_setting('keelson.public_url'),
        'iat', pg_catalog.floor(extract(epoch from pg_catalog.clock_timestamp()))::bigint,
        'exp', 253402300799
    ),
    typ
)
$$;
comment on function keelson._audit_sign(text, jsonb) is
    'A JWT of the claims that does not expire, for checkpoints and tombstones.';

create or replace function keelson._audit_signed(token text, typ text)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    keys jsonb;
begin
    -- By the keys of all times: what a key signed while it signed stands.
    select jsonb_build_object('keys', jsonb_agg(
        s.public_key || jsonb_build_object('kid', s.kid, 'alg', s.algorithm, 'use', 'sig')
    )) into keys
    from keelson.signing_keys as s
    where s.kid = convert_from(decode(rpad(
        translate(split_part(token, '.', 1), '-_', '+/'), (length(split_part(token, '.', 1)) + 3) / 4 * 4, '='
    ), 'base64'), 'UTF8')::jsonb ->> 'kid';
    if keys -> 'keys' is null or jsonb_typeof(keys -> 'keys') <> 'array' then
        return null;
    end if;
    return keelson.jwt_verify(token, keys, typ => typ);
exception when sqlstate 'KS401' or data_exception then
    return null;
end
$$;
alter function keelson._audit_signed(text, text) owner to keelson_system;
comment on function keelson._audit_signed(text, text) is
    'The claims of what one of our keys has signed for this purpose, whenever that was; null when none has.';

create or replace function keelson._audit_checkpoint_add(size bigint, root bytea, era integer, xid xid8, event_id uuid)
returns void
language plpgsql
volatile
as $$
declare
    signed text := keelson._audit_sign(
        'audit-checkpoint', pg_catalog.jsonb_build_object('size', size, 'root', pg_catalog.encode(root, 'hex'))
    );
begin
    insert into keelson.audit_checkpoints (size, root, era, xid, event_id, signature)
    values (size, root, era, xid, event_id, signed);
    -- A copy that does not lie in the database.
    raise log 'audit checkpoint: %', signed;
end
$$;
comment on function keelson._audit_checkpoint_add(bigint, bytea, integer, xid8, uuid) is
    'Sign the root of the tree of this size, keep it, and write it to the server''s log.';
