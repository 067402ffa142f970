-- migration 1: audit events, their types, retention, the sealed tree

-- What may be recorded. A product adds its own types.
create table keelson.audit_event_types (
    name text not null,
    category text not null,
    description text not null,
    is_reserved boolean not null default false,
    constraint audit_event_types_pkey primary key (name),
    constraint audit_event_types_name_check check (name ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' and pg_catalog.char_length(name) <= 63),
    constraint audit_event_types_category_check check (category in (
        'authentication', 'passwords', 'email', 'keys', 'subscription', 'payment', 'referral', 'security', 'admin',
        'webhooks', 'configuration', 'users', 'product'
    ))
);
comment on table keelson.audit_event_types is
    'The types of events that may be recorded, see keelson.audit_event_type(). A type is never removed.';
comment on column keelson.audit_event_types.is_reserved is
    'Recorded by the core alone: an endpoint''s function that runs as keelson_app cannot forge it.';

-- One row for each event, in partitions of a day by the id, whose head is the
-- time. Rows are inserted and, when their time is over, deleted; the one change
-- ever made is that a person's erasure empties address_hash. No checks: the
-- server would parse them again for each insert, half of what an event costs
-- (measured); outcome and actor are written from lists in C.
create table keelson.audit_events (
    user_id uuid not null,
    id uuid not null,
    era integer not null,
    xid xid8 not null,
    event_type text not null,
    outcome text not null,
    actor text not null,
    actor_id uuid,
    request_id uuid,
    data jsonb,
    personal bytea,
    address_hash bytea,
    constraint audit_events_pkey primary key (user_id, id)
) partition by range (id);
-- By time, for administrators and for verifying; by transaction, for sealing.
create index audit_events_id_idx on keelson.audit_events (id);
create index audit_events_era_xid_id_idx on keelson.audit_events (era, xid, id);
create index audit_events_id_outcome_idx on keelson.audit_events (id) where outcome <> 'success';
comment on table keelson.audit_events is
    'What happened, who did it, and what came of it. Written in the action''s own transaction; sealed by the keeper.';
comment on column keelson.audit_events.user_id is
    'Whom it concerns; the nil UUID (zeros) where that is nobody known.';
comment on column keelson.audit_events.id is 'UUIDv7: its head is the time of the event.';
comment on column keelson.audit_events.era is 'The cluster whose transaction xid is, a number of keelson.eras.';
comment on column keelson.audit_events.xid is 'The transaction that wrote the event: it is sealed once all up to it have ended.';
comment on column keelson.audit_events.actor is
    'What kind of caller did it: user, access_key, admin (by act_as() or from psql), system, anonymous.';
comment on column keelson.audit_events.actor_id is 'The user who did it, when that is known.';
comment on column keelson.audit_events.request_id is 'The request it happened in, as in the reply''s X-Request-ID.';
comment on column keelson.audit_events.data is 'What else is to be known, without secrets and without what tells of a person; null for nothing.';
comment on column keelson.audit_events.personal is
    'Address, user agent and the personal part of data, as JSON, sealed under the user''s key: it goes when the key is erased.';
comment on column keelson.audit_events.address_hash is
    'A keyed hash of the client''s address, to look for it; not covered by the seal, emptied when the person is erased.';

-- How long events are kept. '*' is for all types that have no row of their own.
create table keelson.retention_policies (
    event_type text not null,
    keep_for interval not null,
    changed_at timestamptz not null default pg_catalog.now(),
    constraint retention_policies_pkey primary key (event_type),
    constraint retention_policies_keep_for_check check (keep_for >= interval '1 day' and keep_for <= interval '100 years')
);
comment on table keelson.retention_policies is
    'How long audit events are kept, by event type; the row * is for all others. Written by keelson.retention_set().';

create table keelson.legal_holds (
    user_id uuid not null,
    reason text not null,
    placed_by text not null,
    placed_at timestamptz not null default pg_catalog.now(),
    constraint legal_holds_pkey primary key (user_id)
);
comment on table keelson.legal_holds is
    'Users whose events are kept whatever their age. Written by keelson.legal_hold_place() and legal_hold_release().';

-- What retention has taken, signed, so that what is missing can be told from
-- what was removed.
create table keelson.audit_tombstones (
    id bigint generated always as identity,
    from_id uuid not null,
    until_id uuid not null,
    event_ids uuid[],
    events bigint not null,
    reason text not null,
    created_at timestamptz not null default pg_catalog.now(),
    signature text not null,
    constraint audit_tombstones_pkey primary key (id),
    constraint audit_tombstones_until_id_check check (until_id >= from_id)
);
create index audit_tombstones_until_id_idx on keelson.audit_tombstones (until_id);
comment on table keelson.audit_tombstones is
    'What retention has taken from keelson.audit_events, each signed by the key that signs checkpoints.';
comment on column keelson.audit_tombstones.event_ids is
    'The events taken; null: all whose id is in [from_id, until_id).';
comment on column keelson.audit_tombstones.signature is
    'A JWT (typ audit-tombstone) over the SHA-256 of the row''s other fields.';

-- The Merkle tree (RFC 6962) over all sealed events: 256 hashes a row. A row of
-- level 0 holds leaves, one of level n the roots of full rows of level n - 1.
create table keelson.audit_tiles (
    level smallint not null,
    number bigint not null,
    hashes bytea not null,
    event_ids bytea,
    event_times int8range,
    constraint audit_tiles_pkey primary key (level, number),
    constraint audit_tiles_hashes_check check (
        pg_catalog.octet_length(hashes) >= 32 and pg_catalog.octet_length(hashes) <= 8192 and pg_catalog.octet_length(hashes) % 32 = 0
    ),
    constraint audit_tiles_event_ids_check check (
        (event_ids is null) = (level > 0) and (event_times is null) = (level > 0)
        and (event_ids is null or pg_catalog.octet_length(event_ids) * 2 = pg_catalog.octet_length(hashes))
    )
);
alter table keelson.audit_tiles alter column hashes set storage external;
alter table keelson.audit_tiles alter column event_ids set storage external;
create index audit_tiles_event_times_idx on keelson.audit_tiles using gist (event_times) where level = 0;
comment on table keelson.audit_tiles is
    'The Merkle tree over all sealed events, 256 hashes a row. Outlives the events.';
comment on column keelson.audit_tiles.event_ids is 'Of level 0: the events'' ids, 16 bytes each, in the order of hashes.';
comment on column keelson.audit_tiles.event_times is 'Of level 0: the span of the events'' times, in milliseconds since 1970.';

create table keelson.audit_checkpoints (
    size bigint not null,
    root bytea not null,
    era integer not null,
    xid xid8 not null,
    event_id uuid not null,
    created_at timestamptz not null default pg_catalog.now(),
    signature text not null,
    constraint audit_checkpoints_pkey primary key (size),
    constraint audit_checkpoints_size_check check (size > 0),
    constraint audit_checkpoints_root_check check (pg_catalog.octet_length(root) = 32)
);
create index audit_checkpoints_created_at_idx on keelson.audit_checkpoints (created_at);
comment on table keelson.audit_checkpoints is
    'The signed roots of the tree as it grew. The newest says how far events are sealed.';
comment on column keelson.audit_checkpoints.event_id is 'The last event that is sealed; era and xid are its.';
comment on column keelson.audit_checkpoints.signature is
    'A JWT (typ audit-checkpoint) with size and root, the root in hexadecimal.';

-- Counted as they are sealed; what is not sealed yet is counted when asked for.
create table keelson.audit_totals (
    hour timestamptz not null,
    event_type text not null,
    outcome text not null,
    events bigint not null,
    constraint audit_totals_pkey primary key (hour, event_type, outcome)
);
comment on table keelson.audit_totals is
    'How many sealed events there were, by hour, type and outcome. Holds nothing personal and outlives the events.';

-- The days for which there are partitions, and what retention has done there.
create table keelson.audit_partitions (
    name text not null,
    from_id uuid not null,
    until_id uuid not null,
    from_at timestamptz not null,
    until_at timestamptz not null,
    cleared_types text[] not null default '{}',
    dropped_at timestamptz,
    constraint audit_partitions_pkey primary key (name),
    constraint audit_partitions_from_at_key unique (from_at),
    constraint audit_partitions_until_at_check check (until_at > from_at)
);
comment on table keelson.audit_partitions is
    'The partitions of keelson.audit_events, those that were dropped included.';
comment on column keelson.audit_partitions.cleared_types is
    'Event types of which retention has left nothing here, but for held users''.';

-- migration 2: what days are indexed for searching

alter table keelson.audit_partitions add column indexed_at timestamptz;
comment on column keelson.audit_partitions.indexed_at is
    'When the day, being over, was given the indexes by type and by address, which nothing that writes an event has to keep.';

-- migration 3: an index of ranges in place of two B-trees

-- The one that takes their place needs what the extension brings, and goes with it: policies.sql makes it.
drop index keelson.audit_events_id_idx;
drop index keelson.audit_events_era_xid_id_idx;
