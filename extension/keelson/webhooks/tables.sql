-- migration 1: endpoints, event types, events

-- Where a user wants to be told of events. Its id is the lane of its deliveries.
create table keelson.webhook_endpoints (
    user_id uuid not null,
    id uuid not null,
    url text not null,
    description text,
    events text[] not null,
    filter text,
    transform jsonb,
    headers jsonb not null default '{}',
    is_enabled boolean not null default true,
    disabled_at timestamptz,
    disabled_reason text,
    secret bytea not null,
    previous_secret bytea,
    previous_until timestamptz,
    version integer not null default 1,
    created_at timestamptz not null default pg_catalog.now(),
    updated_at timestamptz not null default pg_catalog.now(),
    constraint webhook_endpoints_pkey primary key (user_id, id),
    constraint webhook_endpoints_url_check check (pg_catalog.char_length(url) <= 2048),
    constraint webhook_endpoints_events_check check (pg_catalog.cardinality(events) between 1 and 64),
    constraint webhook_endpoints_previous_until_check check ((previous_secret is null) = (previous_until is null))
);
comment on table keelson.webhook_endpoints is
    'Where users want to be told of events. Limits and breaker stand in keelson.courier_lanes under the endpoint''s id.';
comment on column keelson.webhook_endpoints.events is 'Types or globs: user.*, *.';
comment on column keelson.webhook_endpoints.filter is 'A jsonpath predicate over the payload; only events for which it is true are sent.';
comment on column keelson.webhook_endpoints.transform is 'A template of the body to send instead; see docs/webhooks.md.';
comment on column keelson.webhook_endpoints.headers is 'Further header fields of each request.';
comment on column keelson.webhook_endpoints.disabled_reason is 'user, gone (the receiver answered 410) or failing (nothing but failures for five days).';
comment on column keelson.webhook_endpoints.secret is 'What deliveries are signed with, sealed under the user''s key.';
comment on column keelson.webhook_endpoints.previous_secret is 'The one before, sealed; it signs too until previous_until.';
comment on column keelson.webhook_endpoints.version is 'Rises with each change, so that couriers read it anew.';

create table keelson.webhook_event_types (
    name text not null,
    description text not null,
    schema jsonb not null,
    sample jsonb not null,
    is_reserved boolean not null default false,
    constraint webhook_event_types_pkey primary key (name),
    constraint webhook_event_types_name_check check (name ~ '^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$' and pg_catalog.char_length(name) <= 63)
);
comment on table keelson.webhook_event_types is
    'The events that users can be told of. A type is never removed.';
comment on column keelson.webhook_event_types.schema is 'What the payload is made of, as JSON Schema says it.';
comment on column keelson.webhook_event_types.sample is 'A payload such as is sent.';
comment on column keelson.webhook_event_types.is_reserved is 'Emitted by the core alone.';

-- Events that at least one endpoint wanted, in partitions of a day by the id.
create table keelson.webhook_events (
    user_id uuid not null,
    id uuid not null,
    event_type text not null,
    ordering_key text,
    endpoint_ids uuid[] not null,
    request_id uuid,
    traceparent text,
    body text not null,
    constraint webhook_events_pkey primary key (user_id, id)
) partition by range (id);
comment on table keelson.webhook_events is
    'What happened, as endpoints are told. An event that nobody wanted has no row.';
comment on column keelson.webhook_events.endpoint_ids is 'The endpoints that wanted it when it happened: each has one delivery of it.';
comment on column keelson.webhook_events.body is 'The very bytes that are sent and signed, unless the endpoint has a transform.';

-- migration 2: header values sealed

insert into keelson.seal_purposes (name, scope, description)
values ('webhook-headers', 'user', 'Header fields of the users'' webhook endpoints, which may be credentials of the receiver''s.');

-- The rewrite leaves nothing of what stood there in clear.
alter table keelson.webhook_endpoints
    add column header_names text[] not null default '{}';
alter table keelson.webhook_endpoints
    alter column headers drop default,
    alter column headers drop not null,
    alter column header_names type text[] using keelson._webhook_header_names(headers),
    alter column headers type bytea using keelson._webhook_headers_seal(user_id, id, headers);
comment on column keelson.webhook_endpoints.headers is 'Further header fields of each request, an object sealed under the user''s key; null: none.';
comment on column keelson.webhook_endpoints.header_names is 'The names of these.';

-- migration 3: finding what was not delivered

-- Built for days that have no rows yet, and by each new day for itself, so that
-- nobody who writes waits for it. Days that have begun go without: their rows
-- are found by user as before, until keelson.delivery_retention drops them.
create index deliveries_log_undelivered_idx on only keelson.deliveries_log (user_id, lane, id) where state <> 'delivered';
do $days$
declare
    partition text;
begin
    for partition in
        select p.name
        from keelson._partitions('deliveries_log') as p
        where p.day > (pg_catalog.now() at time zone 'UTC')::date
    loop
        execute pg_catalog.format('create index %I on keelson.%I (user_id, lane, id) where state <> %L', partition || '_undelivered_idx', partition, 'delivered');
        execute pg_catalog.format('alter index keelson.deliveries_log_undelivered_idx attach partition keelson.%I', partition || '_undelivered_idx');
    end loop;
end
$days$;
comment on index keelson.deliveries_log_undelivered_idx is 'What of an endpoint can be sent again: few of many.';
