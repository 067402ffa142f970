-- migration 1: deliveries, their log and attempts, lanes, the fence

-- What is to be sent and has not been settled. Rows come with the business
-- transaction that asks for them and leave for the log when they are done, so
-- that the table stays as large as what waits. The courier reads it by lane;
-- claiming touches no indexed column. No checks: the server would parse them
-- again for each insert.
create table keelson.deliveries (
    user_id uuid not null,
    id uuid not null,
    lane uuid not null,
    kind text not null,
    ref uuid not null default '00000000-0000-0000-0000-000000000000',
    due_at timestamptz not null,
    attempts integer not null default 0,
    attempts_before integer not null default 0,
    claim_id bigint,
    lease_until timestamptz,
    is_quarantined boolean not null default false,
    ordering_key text,
    constraint deliveries_pkey primary key (user_id, id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.2);
create index deliveries_lane_due_at_id_idx on keelson.deliveries (lane, due_at, id);
create index deliveries_lane_ordering_key_id_idx on keelson.deliveries (lane, ordering_key, id) where ordering_key is not null;
comment on table keelson.deliveries is
    'What waits to be sent or is being sent: webhooks, mail, requests of the server itself. What is done stands in keelson.deliveries_log.';
comment on column keelson.deliveries.user_id is 'Whose it is; the nil UUID (zeros) for the server''s own.';
comment on column keelson.deliveries.id is 'UUIDv7: its head is the time it was asked for.';
comment on column keelson.deliveries.lane is 'What shares limits, order and breaker: a webhook''s endpoint, a mail server. See keelson.courier_lanes.';
comment on column keelson.deliveries.kind is 'Which capability makes the request of it: webhook, http, and others.';
comment on column keelson.deliveries.ref is 'The row that is sent, as the kind knows it.';
comment on column keelson.deliveries.due_at is 'When it is to be sent, again perhaps; infinity: when what it waits for is over (an earlier one of its ordering key, quarantine).';
comment on column keelson.deliveries.attempts is 'How many have been made.';
comment on column keelson.deliveries.attempts_before is 'How many of these were made before it was replayed: the schedule counts from there.';
comment on column keelson.deliveries.claim_id is 'Of the claim under which it is in flight, null when it is not: settling names it, so that nobody settles another''s.';
comment on column keelson.deliveries.lease_until is 'When somebody else may claim it, should it never be settled.';
comment on column keelson.deliveries.is_quarantined is 'It was there when the database came back from a backup, and waits for keelson.deliveries_release().';
comment on column keelson.deliveries.ordering_key is 'Those of one key and lane are sent one after the other, in the order of their ids.';

-- What is done, with its last attempt; in partitions of a day by the id.
create table keelson.deliveries_log (
    user_id uuid not null,
    id uuid not null,
    lane uuid not null,
    kind text not null,
    ref uuid not null,
    state text not null,
    attempts integer not null,
    ordering_key text,
    finished_at timestamptz not null,
    started_at timestamptz,
    status integer,
    code text,
    error text,
    address text,
    http_version integer,
    name_us integer,
    connect_us integer,
    tls_us integer,
    first_byte_us integer,
    total_us integer,
    response text,
    response_size integer,
    constraint deliveries_log_pkey primary key (user_id, id)
) partition by range (id);
comment on table keelson.deliveries_log is
    'What was delivered, exhausted or cancelled, and how its last attempt went.';
comment on column keelson.deliveries_log.state is 'delivered, exhausted or cancelled.';
comment on column keelson.deliveries_log.status is 'The receiver''s status; null where it gave none.';
comment on column keelson.deliveries_log.code is 'Why there was no status, for programs: timeout, dns, connect, tls, reset, protocol, too_large, blocked, refused.';
comment on column keelson.deliveries_log.total_us is 'Microseconds until the end; the others: until the name was resolved, the connection made, TLS agreed on, the first byte received.';
comment on column keelson.deliveries_log.response is 'The first 16 KiB of what the receiver answered.';

-- The attempts that failed and were followed by others.
create table keelson.delivery_attempts (
    user_id uuid not null,
    delivery_id uuid not null,
    number integer not null,
    started_at timestamptz not null,
    status integer,
    code text,
    error text,
    address text,
    http_version integer,
    name_us integer,
    connect_us integer,
    tls_us integer,
    first_byte_us integer,
    total_us integer,
    response text,
    response_size integer,
    constraint delivery_attempts_pkey primary key (user_id, delivery_id, number)
) partition by range (delivery_id);
comment on table keelson.delivery_attempts is
    'Attempts at deliveries before the last one; the last stands in keelson.deliveries_log.';

-- Limits and breaker of a lane; one without a row has the settings'.
create table keelson.courier_lanes (
    user_id uuid not null,
    lane uuid not null,
    is_paused boolean not null default false,
    max_in_flight integer,
    rate double precision,
    schedule integer[],
    breaker text not null default 'closed',
    breaker_until timestamptz,
    breaker_trips integer not null default 0,
    failing_since timestamptz,
    changed_at timestamptz not null default pg_catalog.now(),
    constraint courier_lanes_pkey primary key (user_id, lane),
    constraint courier_lanes_max_in_flight_check check (max_in_flight between 1 and 1000),
    constraint courier_lanes_rate_check check (rate > 0 and rate <= 100000),
    constraint courier_lanes_schedule_check check (pg_catalog.cardinality(schedule) between 1 and 32),
    constraint courier_lanes_breaker_check check (breaker in ('closed', 'open', 'half_open', 'forced_open', 'forced_closed'))
) with (fillfactor = 70);
comment on table keelson.courier_lanes is
    'What deliveries of a lane are limited by, and the state of its circuit breaker.';
comment on column keelson.courier_lanes.rate is 'At most so many deliveries a second; null: as many as go.';
comment on column keelson.courier_lanes.schedule is 'Seconds to wait after each failure; null: the kind''s own.';
comment on column keelson.courier_lanes.breaker is 'closed, open, half_open, or forced_open and forced_closed by an administrator.';
comment on column keelson.courier_lanes.breaker_trips is 'How often it has opened since it was last closed: each time for longer.';
comment on column keelson.courier_lanes.failing_since is 'Since when every attempt has failed; null: the last one did not.';

create table keelson.courier_fence (
    is_only boolean not null default true,
    counter bigint not null,
    restored_at timestamptz,
    constraint courier_fence_pkey primary key (is_only),
    constraint courier_fence_is_only_check check (is_only)
);
comment on table keelson.courier_fence is
    'One row: how often the courier has started, which a file outside the database says too. Where they differ the database came from a backup.';
comment on column keelson.courier_fence.restored_at is 'When it was last seen that it did.';

-- Requests of the server itself that wait to be sent.
create table keelson.http_requests (
    user_id uuid not null,
    id uuid not null,
    purpose text not null,
    url text not null,
    method text,
    headers jsonb not null default '{}',
    body text,
    timeout_ms integer not null,
    is_trusted boolean not null,
    handler text not null,
    context jsonb,
    constraint http_requests_pkey primary key (user_id, id),
    constraint http_requests_timeout_ms_check check (timeout_ms between 100 and 60000)
);
comment on table keelson.http_requests is
    'Requests that the server itself makes, each with the function that gets the answer. See keelson._http_request().';
comment on column keelson.http_requests.is_trusted is 'Whether an operator gave the URL: private addresses are allowed.';
comment on column keelson.http_requests.handler is
    'A function of (context jsonb, status integer, body text, error text, cache_control text, is_last boolean); called for each attempt.';
