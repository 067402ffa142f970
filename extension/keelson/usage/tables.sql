-- migration 1: usage events, their keys, rollups

-- Features that are declared. The row * says whether others may be recorded too.
create table keelson.usage_features (
    name text not null,
    is_open boolean not null,
    description text,
    changed_at timestamptz not null default pg_catalog.now(),
    constraint usage_features_pkey primary key (name),
    constraint usage_features_name_check check (name ~ '^([a-z][a-z0-9_.-]{0,62}|\*)$')
);
comment on table keelson.usage_features is
    'The features whose use is declared; the row * is for all others. Written by keelson.usage_feature().';
comment on column keelson.usage_features.is_open is 'Whether use may be recorded.';

-- One row for each event, in partitions of a day by the id, whose head is the
-- time of recording. Rows are inserted, and go with their partition. No checks:
-- the server would parse them again for each insert; C has checked all before.
create table keelson.usage_events (
    user_id uuid not null,
    id uuid not null,
    era integer not null,
    xid xid8 not null,
    feature text not null,
    minutes numeric not null,
    requests integer not null,
    occurred_at timestamptz not null,
    constraint usage_events_pkey primary key (user_id, era, xid, id)
) partition by range (id);
-- For folding. By time there is an index of the partitions that are settled, see
-- keelson._usage_partitions_settle(): kept up with each insert it would cost as
-- much as the row (measured).
create index usage_events_era_xid_id_idx on keelson.usage_events (era, xid, id);
comment on table keelson.usage_events is
    'What was used, by whom, when: each event once. Written by keelson.usage_record() in the caller''s transaction.';
comment on column keelson.usage_events.id is 'UUIDv7: its head is the time of recording.';
comment on column keelson.usage_events.era is 'The cluster whose transaction xid is, a number of keelson.eras.';
comment on column keelson.usage_events.xid is 'The transaction that recorded the event: it is folded once all up to it have ended.';
comment on column keelson.usage_events.minutes is 'What was used, exact; more than 0.';
comment on column keelson.usage_events.requests is 'In how many requests.';
comment on column keelson.usage_events.occurred_at is 'When it was used: up to 35 days before it was recorded, or 5 minutes after.';

-- Which keys have been counted. Hashes are the first 128 bits of SHA-256, in the
-- type that compares as many fastest.
create table keelson.usage_keys (
    user_id uuid not null,
    key_hash uuid not null,
    content_hash uuid not null,
    recorded_on date not null,
    constraint usage_keys_pkey primary key (user_id, key_hash)
);
comment on table keelson.usage_keys is
    'The idempotency keys of usage events: a key is counted once for as long as its event is kept.';
comment on column keelson.usage_keys.content_hash is
    'Of what was recorded under the key, as it was given: the same key with other content is refused.';
comment on column keelson.usage_keys.recorded_on is 'The day, UTC, of the event''s partition: the key goes when that goes.';

-- The events up to the watermark, added up. A row changes with each turn of the
-- keeper in which its user was active: pages keep room for that.
create table keelson.usage_quarters (
    user_id uuid not null,
    quarter_at timestamptz not null,
    feature text not null,
    minutes numeric not null,
    requests bigint not null,
    constraint usage_quarters_pkey primary key (user_id, quarter_at, feature)
) with (fillfactor = 80);
create index usage_quarters_quarter_at_idx on keelson.usage_quarters using brin (quarter_at);
comment on table keelson.usage_quarters is
    'Usage by quarter of an hour: days begin on one in every time zone. Kept as long as the events.';

create table keelson.usage_days (
    user_id uuid not null,
    day date not null,
    feature text not null,
    minutes numeric not null,
    requests bigint not null,
    constraint usage_days_pkey primary key (user_id, day, feature)
) with (fillfactor = 80);
-- For aggregating a day again and for reconciling.
create index usage_days_day_idx on keelson.usage_days (day);
comment on table keelson.usage_days is 'Usage by day, UTC. Outlives the events.';

create table keelson.usage_totals (
    user_id uuid not null,
    feature text not null,
    minutes numeric not null,
    requests bigint not null,
    constraint usage_totals_pkey primary key (user_id, feature)
) with (fillfactor = 80);
comment on table keelson.usage_totals is 'Usage of all time. Outlives the events.';

create table keelson.usage_watermark (
    is_only boolean not null default true,
    era integer not null,
    xid xid8 not null,
    event_id uuid not null,
    tail_from date not null,
    next_from date,
    next_era integer,
    next_xid xid8,
    expired_until date,
    cleared_until date,
    folded_at timestamptz not null default pg_catalog.now(),
    constraint usage_watermark_pkey primary key (is_only),
    constraint usage_watermark_is_only_check check (is_only),
    constraint usage_watermark_next_check check (
        (next_from is null) = (next_xid is null) and (next_from is null) = (next_era is null)
    )
);
comment on table keelson.usage_watermark is
    'One row: the last event, in the order (era, xid, id), that the rollups hold.';
comment on column keelson.usage_watermark.tail_from is
    'No event that is not folded lies in a partition before this day''s, and none will.';
comment on column keelson.usage_watermark.next_from is
    'What tail_from will be, once all transactions before (next_era, next_xid) are folded: later ones record from this day on.';
comment on column keelson.usage_watermark.expired_until is 'The last day whose partition retention has dropped.';
comment on column keelson.usage_watermark.cleared_until is 'The last day whose keys are gone too.';
