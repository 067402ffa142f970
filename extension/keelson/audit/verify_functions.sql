-- The tree: proofs, verifying, checkpoints.

do $types$
begin
    if pg_catalog.to_regtype('keelson.audit_finding') is null then
        create type keelson.audit_finding as (
            finding text,
            event_id uuid,
            place bigint,
            detail text
        );
    end if;
end
$types$;
comment on type keelson.audit_finding is
    'What audit_verify() found: changed, removed, inserted, swapped, truncated, rewritten, tree, checkpoint, tombstone; or expired, which is no fault.';
comment on column keelson.audit_finding.event_id is 'The event that it is about; null when it is about the tree itself.';
comment on column keelson.audit_finding.place is 'The event''s place in the tree, from 0 on.';

create or replace function keelson._audit_leaf(
    id uuid,
    user_id uuid,
    era integer,
    xid xid8,
    event_type text,
    outcome text,
    actor text,
    actor_id uuid,
    request_id uuid,
    data jsonb,
    personal bytea
)
returns bytea
language c
immutable
parallel safe
as 'MODULE_PATHNAME', 'ks_audit_leaf';
comment on function keelson._audit_leaf(uuid, uuid, integer, xid8, text, text, text, uuid, uuid, jsonb, bytea) is
    'The bytes of an event''s leaf, whose SHA-256 after a zero byte is the leaf''s hash.';

create or replace function keelson._audit_row_root(hashes bytea)
returns bytea
language c
immutable
strict
parallel safe
as 'MODULE_PATHNAME', 'ks_audit_row_root';
comment on function keelson._audit_row_root(bytea) is
    'The root over a full tile''s 256 hashes; null for a tile that is not full.';

create or replace function keelson._audit_root(size bigint)
returns bytea
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_audit_root';
comment on function keelson._audit_root(bigint) is
    'The root of the tree of so many leaves, computed from the tiles; null when some are missing.';

create or replace function keelson._audit_place(event_id uuid)
returns bigint
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_audit_place';
comment on function keelson._audit_place(uuid) is
    'The event''s place in the tree; null while it is not sealed.';

create or replace function keelson._audit_inclusion(place bigint, size bigint)
returns bytea[]
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_audit_inclusion';
comment on function keelson._audit_inclusion(bigint, bigint) is
    'The inclusion proof (RFC 6962) of the leaf in the tree of that size.';

create or replace function keelson._audit_consistency(old_size bigint, size bigint)
returns bytea[]
language c
stable
strict
as 'MODULE_PATHNAME', 'ks_audit_consistency';
comment on function keelson._audit_consistency(bigint, bigint) is
    'The proof (RFC 6962) that the tree of the one size is the beginning of that of the other.';

create or replace function keelson._base64_array(items bytea[])
returns jsonb
language sql
immutable
as $$
select coalesce(pg_catalog.jsonb_agg(pg_catalog.translate(pg_catalog.encode(item, 'base64'), e'\n', '') order by n), '[]')
from pg_catalog.unnest(items) with ordinality as i (item, n)
$$;
comment on function keelson._base64_array(bytea[]) is
    'The values in base64, as a JSON array.';

create or replace function keelson._audit_key(token text)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
select s.public_key || jsonb_build_object('kid', s.kid, 'alg', s.algorithm)
from keelson.signing_keys as s
where s.kid = convert_from(decode(rpad(
    translate(split_part(token, '.', 1), '-_', '+/'), (length(split_part(token, '.', 1)) + 3) / 4 * 4, '='
), 'base64'), 'UTF8')::jsonb ->> 'kid'
$$;
alter function keelson._audit_key(text) owner to keelson_system;
comment on function keelson._audit_key(text) is
    'The public key, as a JWK, that a checkpoint or tombstone names.';

create or replace function keelson._audit_checkpoint(from_size bigint default null)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    head keelson.audit_checkpoints;
begin
    select * into head from keelson.audit_checkpoints as c order by c.size desc limit 1;
    if head.size is null then
        return null;
    end if;
    if from_size is not null and from_size not between 0 and head.size then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the trail has never had that size', field => 'from');
    end if;
    return jsonb_build_object(
        'size', head.size,
        'root', encode(head.root, 'base64'),
        'createdAt', keelson._time_text(head.created_at),
        'checkpoint', head.signature,
        'key', keelson._audit_key(head.signature)
    ) || case when from_size is null then '{}' else jsonb_build_object(
        'from', from_size,
        'consistency', keelson._base64_array(keelson._audit_consistency(from_size, head.size))
    ) end;
end
$$;
alter function keelson._audit_checkpoint(bigint) owner to keelson_system;
comment on function keelson._audit_checkpoint(bigint) is
    'The newest checkpoint, and the proof that the tree of the given size is its beginning.';

create or replace function keelson.audit_checkpoint("from" bigint default null)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    newest jsonb;
begin
    perform keelson.permission_require('audit.read');
    newest := keelson._audit_checkpoint("from");
    if newest is null then
        perform keelson.raise(404, 'NOT_FOUND', 'nothing is sealed yet');
    end if;
    return newest;
end
$$;
comment on function keelson.audit_checkpoint(bigint) is
    'The newest signed checkpoint of the audit trail, to be kept elsewhere; with the size of one kept before, also the proof that nothing before it was rewritten.';
grant execute on function keelson.audit_checkpoint(bigint) to keelson_app;

create or replace function keelson.audit_proof(id uuid)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
-- The event by the index of ranges, as said in days_functions.sql.
set enable_seqscan = off
set random_page_cost = 10000
set jit = off
set max_parallel_workers_per_gather = 0
as $$
declare
    leaf bytea;
    place bigint;
    head keelson.audit_checkpoints;
begin
    select keelson._audit_leaf(e.id, e.user_id, e.era, e.xid, e.event_type, e.outcome, e.actor, e.actor_id, e.request_id, e.data, e.personal)
    into leaf
    from keelson.audit_events as e where e.id = audit_proof.id;
    if leaf is null then
        perform keelson.raise(404, 'NOT_FOUND', 'there is no such event', field => 'id');
    end if;
    place := keelson._audit_place(id);
    select * into head from keelson.audit_checkpoints as c order by c.size desc limit 1;
    if place is null or place >= head.size then
        perform keelson.raise(409, 'CONFLICT', 'the event is not sealed yet', 'The keeper seals every five seconds, once all earlier transactions have ended.');
    end if;
    return jsonb_build_object(
        'leaf', translate(encode(leaf, 'base64'), e'\n', ''),
        'leafHash', encode(sha256('\x00'::bytea || leaf), 'base64'),
        'leafIndex', place,
        'treeSize', head.size,
        'proof', keelson._base64_array(keelson._audit_inclusion(place, head.size)),
        'checkpoint', head.signature,
        'key', keelson._audit_key(head.signature)
    );
end
$$;
alter function keelson.audit_proof(uuid) owner to keelson_system;
comment on function keelson.audit_proof(uuid) is
    'The proof that an event is in the sealed trail, for keelson-audit-verify, which needs no database: the leaf, its path to the root, and the signed checkpoint.';
grant execute on function keelson.audit_proof(uuid) to keelson_admin;

-- Stable: all of it is seen at one moment, while the keeper goes on sealing.
create or replace function keelson.audit_verify(
    "from" timestamptz default null,
    "to" timestamptz default null,
    checkpoint text default null
)
returns setof keelson.audit_finding
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    from_at timestamptz := greatest("from", '1970-01-01 00:00Z');
    until_at timestamptz := least("to", '9998-01-01 00:00Z');
    from_id uuid := keelson._uuid7_floor(from_at);
    until_id uuid := keelson._uuid7_ceiling(until_at);
    span int8range;
    head keelson.audit_checkpoints;
begin
    if until_at < from_at then
        perform keelson.raise(400, 'VALIDATION_FAILED', 'the time ends before it begins', field => 'to');
    end if;
    span := int8range(floor(extract(epoch from from_at) * 1000)::bigint, floor(extract(epoch from until_at) * 1000)::bigint, '[]');
    select * into head from keelson.audit_checkpoints as c order by c.size desc limit 1;
    return query select * from keelson._audit_verify_checkpoints(head, from_at, until_at, checkpoint);
    return query select * from keelson._audit_verify_tree(head, span);
    return query select * from keelson._audit_verify_events(head, from_id, until_id, span);
end
$$;
alter function keelson.audit_verify(timestamptz, timestamptz, text) owner to keelson_system;
comment on function keelson.audit_verify(timestamptz, timestamptz, text) is
    'Compare the events of a time with the sealed tree, and the tree with its signed checkpoints; returns what was found to be changed, removed, inserted, swapped or truncated. Give a checkpoint that you have kept, and a history that was rewritten as a whole shows too. What retention took is expired.';
grant execute on function keelson.audit_verify(timestamptz, timestamptz, text) to keelson_admin;

create or replace function keelson._audit_verify_checkpoints(
    head record, from_at timestamptz, until_at timestamptz, kept text
)
returns setof keelson.audit_finding
language plpgsql
stable
as $$
declare
    claims jsonb;
    point record;
    is_newest boolean;
begin
    for point in
        select c.* from keelson.audit_checkpoints as c
        where c.size = head.size
            or c.created_at >= from_at and c.created_at <= until_at
        order by c.size
    loop
        claims := keelson._audit_signed(point.signature, 'audit-checkpoint');
        if claims is null or (claims ->> 'size')::bigint <> point.size or claims ->> 'root' <> pg_catalog.encode(point.root, 'hex') then
            return next row('checkpoint', null, point.size, 'the checkpoint''s signature is not good')::keelson.audit_finding;
        elsif keelson._audit_root(point.size) is distinct from point.root then
            return next row('checkpoint', null, point.size, 'the tree does not lead to the root that was signed')::keelson.audit_finding;
        end if;
    end loop;
    if kept is not null then
        claims := keelson._audit_signed(kept, 'audit-checkpoint');
        if claims is null then
            return next row('checkpoint', null, null, 'the checkpoint given was not signed by a key that is known here')::keelson.audit_finding;
        elsif head.size is null or (claims ->> 'size')::bigint > head.size then
            return next row('truncated', null, head.size, 'the trail was longer when the checkpoint given was signed: ' || (claims ->> 'size'))::keelson.audit_finding;
        elsif pg_catalog.encode(keelson._audit_root((claims ->> 'size')::bigint), 'hex') is distinct from claims ->> 'root' then
            return next row('rewritten', null, (claims ->> 'size')::bigint, 'the trail is not the one that the checkpoint given was signed for')::keelson.audit_finding;
        end if;
    end if;
end
$$;
comment on function keelson._audit_verify_checkpoints(record, timestamptz, timestamptz, text) is
    'Of audit_verify(): are the checkpoints signed, and are they the tree''s, and is the one that was kept?';

create or replace function keelson._audit_verify_tree(head record, span int8range)
returns setof keelson.audit_finding
language plpgsql
stable
as $$
#variable_conflict use_column
begin
    return query
-- Each full tile's root stands in the tile above.
select 'tree', null::uuid, t.number * (256 ^ (t.level + 1))::bigint, pg_catalog.format(
    'the tile %s of level %s does not lead to its root', t.number, t.level
)
from keelson.audit_tiles as t
left join keelson.audit_tiles as above on above.level = t.level + 1 and above.number = t.number / 256
where (t.level > 0 or t.event_times && span)
    and keelson._audit_row_root(t.hashes) <> coalesce(pg_catalog.substring(above.hashes, (t.number % 256 * 32)::integer + 1, 32), '')
union all
-- As many leaves as were signed.
select
    case when exists (
        select from keelson.audit_tiles as later where later.level = 0 and later.number > missing.number
    ) then 'tree' else 'truncated' end, null::uuid, missing.number * 256, pg_catalog.format(
        'the leaves %s to %s are missing', missing.number * 256 + missing.held, missing.number * 256 + missing.wanted - 1
    )
from (
    select n as number, coalesce(pg_catalog.octet_length(t.hashes) / 32, 0) as held,
        least(head.size - n * 256, 256) as wanted
    from pg_catalog.generate_series(0, (head.size - 1) / 256) as n
    left join keelson.audit_tiles as t on t.level = 0 and t.number = n
) as missing
where missing.held < missing.wanted
union all
select 'inserted', null::uuid, head.size, 'the tree has leaves that were never signed'
from (
    select pg_catalog.sum(pg_catalog.octet_length(t.hashes) / 32) as held
    from keelson.audit_tiles as t where t.level = 0 and t.number >= coalesce(head.size, 0) / 256
) as tail
where tail.held > coalesce(head.size, 0) % 256;
end
$$;
comment on function keelson._audit_verify_tree(record, int8range) is
    'Of audit_verify(): do the tiles belong together, and are all there?';

create or replace function keelson._audit_verify_events(head record, from_id uuid, until_id uuid, span int8range)
returns setof keelson.audit_finding
language plpgsql
stable
-- The events by the index of ranges, as said in days_functions.sql.
set enable_seqscan = off
set random_page_cost = 10000
set jit = off
as $$
#variable_conflict use_column
begin
    return query
with leaves as materialized (
    select t.number * 256 + i as place,
        pg_catalog.encode(pg_catalog.substring(t.event_ids, i * 16 + 1, 16), 'hex')::uuid as id,
        pg_catalog.substring(t.hashes, i * 32 + 1, 32) as hash
    from keelson.audit_tiles as t
    cross join lateral pg_catalog.generate_series(0, pg_catalog.octet_length(t.event_ids) / 16 - 1) as i
    where t.level = 0 and t.event_times && span
),
events as materialized (
    select e.id, e.user_id, (e.era, e.xid, e.id) <= (head.era, head.xid, head.event_id) as is_settled,
        pg_catalog.sha256('\x00'::bytea || keelson._audit_leaf(
            e.id, e.user_id, e.era, e.xid, e.event_type, e.outcome, e.actor, e.actor_id, e.request_id, e.data, e.personal
        )) as hash
    from keelson.audit_events as e
    where e.id >= from_id and e.id < until_id
),
compared as materialized (
    select coalesce(l.id, e.id) as id, l.place, l.hash as sealed_hash, e.hash, e.user_id, e.is_settled
    from (select * from leaves where leaves.id >= from_id and leaves.id < until_id) as l
    full join events as e on e.id = l.id
    where l.hash is distinct from e.hash
),
-- At most 256 are compared with one another.
changed as materialized (
    select c.id, c.place, c.sealed_hash, e.user_id, e.era, e.xid, e.event_type, e.outcome, e.actor, e.actor_id, e.request_id, e.data, e.personal
    from compared as c
    join keelson.audit_events as e on e.id = c.id and e.user_id = c.user_id
    where c.sealed_hash is not null
    limit 256
),
swapped as materialized (
    select distinct a.id, b.id as other_id
    from changed as a
    join changed as b on b.id <> a.id
    where pg_catalog.sha256('\x00'::bytea || keelson._audit_leaf(
            a.id, b.user_id, b.era, b.xid, b.event_type, b.outcome, b.actor, b.actor_id, b.request_id, b.data, b.personal)) = a.sealed_hash
        or pg_catalog.sha256('\x00'::bytea || keelson._audit_leaf(
            a.id, a.user_id, a.era, a.xid, a.event_type, a.outcome, a.actor, a.actor_id, a.request_id, b.data, a.personal)) = a.sealed_hash
),
tombstones as materialized (
    select t.id, t.from_id, t.until_id, t.event_ids, t.reason, keelson._audit_tombstone_is_good(t.id) as is_good
    from keelson.audit_tombstones as t
    where t.until_id > _audit_verify_events.from_id and t.from_id < _audit_verify_events.until_id
),
judged as (
    select c.id, c.place, c.hash, c.sealed_hash, c.is_settled, s.other_id, t.id as tombstone_id
    from compared as c
    left join swapped as s on s.id = c.id
    left join lateral (
        select t.id from tombstones as t
        where t.is_good and c.hash is null and c.id >= t.from_id and c.id < t.until_id
            and (t.event_ids is null or c.id = any (t.event_ids))
        limit 1
    ) as t on true
)
select
    case when j.sealed_hash is null then 'inserted' when j.hash is null then 'removed' when j.other_id is not null then 'swapped' else 'changed' end,
    j.id, j.place,
    case when j.sealed_hash is null then 'the event was added behind the seal'
        when j.hash is null then 'the event is gone, and retention did not take it'
        when j.other_id is not null then 'the event has changed places with ' || j.other_id
        else 'the event is not what was sealed' end
from judged as j
where j.tombstone_id is null and (j.sealed_hash is not null or coalesce(j.is_settled, false))
union all
select 'expired', null::uuid, null::bigint, pg_catalog.format('%s events: %s', pg_catalog.count(*), t.reason)
from judged as j
join tombstones as t on t.id = j.tombstone_id
group by t.id, t.reason
union all
select 'tombstone', null::uuid, null::bigint, 'a tombstone''s signature is not good: ' || t.id
from tombstones as t
where not t.is_good;
end
$$;
comment on function keelson._audit_verify_events(record, uuid, uuid, int8range) is
    'Of audit_verify(): are the events what was sealed, no more and no less?';
