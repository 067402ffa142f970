-- migration 1: incoming webhooks

-- Ways in which others sign; data, so that one more is a row.
create table keelson.webhook_presets (
    name text not null,
    description text not null,
    settings jsonb not null,
    constraint webhook_presets_pkey primary key (name),
    constraint webhook_presets_name_check check (name ~ '^[a-z][a-z0-9-]{0,39}$')
);
comment on table keelson.webhook_presets is
    'How providers sign their webhooks, and where their events say what they are; docs/incoming.md lists the members of settings.';

create table keelson.webhook_sources (
    name text not null,
    preset text not null,
    settings jsonb not null default '{}',
    server_secret text,
    is_enabled boolean not null default true,
    created_at timestamptz not null default pg_catalog.now(),
    updated_at timestamptz not null default pg_catalog.now(),
    constraint webhook_sources_pkey primary key (name),
    constraint webhook_sources_preset_fkey foreign key (preset) references keelson.webhook_presets (name),
    constraint webhook_sources_name_check check (name ~ '^[a-z][a-z0-9_-]{0,39}$' and name not in ('health', 'event-types')),
    constraint webhook_sources_settings_check check (pg_catalog.jsonb_typeof(settings) = 'object')
);
comment on table keelson.webhook_sources is
    'Who may send us webhooks: POST /webhooks/<name>. Written by keelson.webhook_source_set().';
comment on column keelson.webhook_sources.settings is 'What is otherwise than in the preset.';
comment on column keelson.webhook_sources.server_secret is 'The name of one of keelson.secrets that counts among its secrets.';

create table keelson.webhook_source_secrets (
    source text not null,
    id uuid not null,
    secret bytea not null,
    expires_at timestamptz,
    created_at timestamptz not null default pg_catalog.now(),
    constraint webhook_source_secrets_pkey primary key (id),
    constraint webhook_source_secrets_source_fkey foreign key (source) references keelson.webhook_sources (name) on delete cascade
);
create index webhook_source_secrets_source_idx on keelson.webhook_source_secrets (source);
comment on table keelson.webhook_source_secrets is
    'What a source''s signatures are checked with: secrets, or public keys.';
comment on column keelson.webhook_source_secrets.secret is 'Sealed under the server''s key (purpose webhook-secret).';
comment on column keelson.webhook_source_secrets.expires_at is 'It counts until then; null: until it is removed.';

-- One small row for each event that ever came, for ever.
create table keelson.webhook_receipts (
    id_hash bytea not null,
    received_at timestamptz not null default pg_catalog.now(),
    constraint webhook_receipts_pkey primary key (id_hash),
    constraint webhook_receipts_id_hash_check check (pg_catalog.octet_length(id_hash) = 32)
);
comment on table keelson.webhook_receipts is
    'Which events have come: an event that is here already is acknowledged, and nothing else is done.';
comment on column keelson.webhook_receipts.id_hash is 'SHA-256 of the source''s name, a zero byte and the event''s id there.';

create table keelson.incoming_events (
    id uuid not null,
    source text not null,
    external_id text not null,
    event_type text not null,
    occurred_at timestamptz,
    received_at timestamptz not null default pg_catalog.now(),
    headers jsonb not null,
    body bytea not null,
    due_at timestamptz,
    tries integer not null default 0,
    processed_at timestamptz,
    handlers integer not null default 0,
    constraint incoming_events_pkey primary key (id),
    constraint incoming_events_external_id_check check (pg_catalog.char_length(external_id) between 1 and 255),
    constraint incoming_events_event_type_check check (pg_catalog.char_length(event_type) <= 255)
) with (fillfactor = 90);
create index incoming_events_due_at_idx on keelson.incoming_events (due_at, id) where due_at is not null;
create index incoming_events_processed_at_idx on keelson.incoming_events (processed_at) where processed_at is not null;
comment on table keelson.incoming_events is
    'Events that others have sent, and whose signature was good. Handled by the worker, kept for seven days after that.';
comment on column keelson.incoming_events.occurred_at is 'When it happened, as the event says; null where it does not.';
comment on column keelson.incoming_events.headers is 'The header fields that the source''s settings name.';
comment on column keelson.incoming_events.body is 'The very bytes that came.';
comment on column keelson.incoming_events.due_at is 'When it is to be handled; null: it was, or waits for somebody.';
comment on column keelson.incoming_events.tries is
    'How often handling it was begun without coming to an end: three times, and it waits for somebody.';
comment on column keelson.incoming_events.processed_at is 'When it was handled; null: it was not.';
comment on column keelson.incoming_events.handlers is 'How many handlers wanted it.';

create table keelson.failed_webhook_events (
    id uuid not null,
    source text not null,
    external_id text not null,
    event_type text not null,
    state text not null,
    failures integer not null,
    step integer not null default 1,
    error_code text not null,
    error text not null,
    handler text,
    first_failed_at timestamptz not null default pg_catalog.now(),
    last_failed_at timestamptz not null default pg_catalog.now(),
    next_retry_at timestamptz,
    resolved_at timestamptz,
    constraint failed_webhook_events_pkey primary key (id),
    constraint failed_webhook_events_state_check check (
        case state
            when 'failed' then next_retry_at is not null and resolved_at is null
            when 'exhausted' then next_retry_at is null and resolved_at is null
            when 'resolved' then next_retry_at is null and resolved_at is not null
            else false
        end
    )
);
create index failed_webhook_events_state_id_idx on keelson.failed_webhook_events (state, id);
create index failed_webhook_events_resolved_at_idx on keelson.failed_webhook_events (resolved_at) where resolved_at is not null;
comment on table keelson.failed_webhook_events is
    'Incoming events whose handling has failed: again after 15, 30 and 60 minutes, then by hand. Resolved ones are kept for 30 days.';
comment on column keelson.failed_webhook_events.state is 'failed: again at next_retry_at; exhausted: by keelson.webhook_retry(); resolved: it was handled after all, or dismissed.';
comment on column keelson.failed_webhook_events.failures is 'How often it has failed.';
comment on column keelson.failed_webhook_events.step is 'Which wait comes after the next failure: 15, 30, 60 minutes, then none.';
comment on column keelson.failed_webhook_events.error_code is 'The error''s SQLSTATE, or crash.';
comment on column keelson.failed_webhook_events.error is 'What the handler said, without what looks like a secret.';
comment on column keelson.failed_webhook_events.handler is 'The function that failed.';

-- Who handles what.
create table keelson.webhook_handlers (
    source text not null,
    event_type text not null,
    function text not null,
    owner text not null,
    role name,
    created_at timestamptz not null default pg_catalog.now(),
    constraint webhook_handlers_pkey primary key (source, event_type, function),
    constraint webhook_handlers_event_type_check check (pg_catalog.char_length(event_type) between 1 and 255)
);
comment on table keelson.webhook_handlers is
    'The functions that are called for an event, in the order of their names. Written by keelson.webhook_handler().';
comment on column keelson.webhook_handlers.event_type is 'A type or a glob: invoice.*';
comment on column keelson.webhook_handlers.role is 'As whom it runs; null: the core''s own.';

create table keelson.webhook_rejections (
    source text not null,
    fault text not null,
    rejections bigint not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    last_address text,
    last_user_agent text,
    constraint webhook_rejections_pkey primary key (source, fault)
);
comment on table keelson.webhook_rejections is
    'Requests that were not taken, counted by source and fault, with a sample of the latest. Written every few seconds.';
comment on column keelson.webhook_rejections.source is 'Empty: a source that there is none of.';

create table keelson.webhook_exhaustions (
    day date not null,
    exhausted integer not null,
    constraint webhook_exhaustions_pkey primary key (day)
);
comment on table keelson.webhook_exhaustions is
    'How many incoming events of a day (UTC) nobody tries any more; the sixth is recorded in the audit trail.';

-- Older events never win over newer ones.
create table keelson.webhook_versions (
    source text not null,
    object text not null,
    occurred_at timestamptz not null,
    rank integer not null,
    constraint webhook_versions_pkey primary key (source, object),
    constraint webhook_versions_object_check check (pg_catalog.char_length(object) between 1 and 255)
);
comment on table keelson.webhook_versions is
    'How new the newest event is that was taken for an object of a source. Written by keelson.webhook_is_newer().';

-- Stripe. What its events have said, joined so that their order does not matter.
create table keelson.stripe_prices (
    price_id text not null,
    tier_id text not null,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint stripe_prices_pkey primary key (price_id),
    constraint stripe_prices_tier_id_fkey foreign key (tier_id) references keelson.tiers (id) on update cascade,
    constraint stripe_prices_price_id_check check (pg_catalog.char_length(price_id) between 1 and 255)
);
create index stripe_prices_tier_id_idx on keelson.stripe_prices (tier_id);
comment on table keelson.stripe_prices is
    'Which tier a price of Stripe buys. Written by keelson.stripe_price_set().';

-- No foreign key: found by Stripe's id, users are found by theirs on any node.
create table keelson.stripe_links (
    object_id text not null,
    user_id uuid not null,
    linked_at timestamptz not null default pg_catalog.now(),
    constraint stripe_links_pkey primary key (object_id),
    constraint stripe_links_object_id_check check (pg_catalog.char_length(object_id) between 1 and 255)
);
create index stripe_links_user_id_idx on keelson.stripe_links (user_id);
comment on table keelson.stripe_links is
    'Whose a customer or a subscription of Stripe is. The first to say so is right: keelson.stripe_link() says otherwise.';

create table keelson.stripe_subscriptions (
    id text not null,
    customer_id text,
    status text,
    price_id text,
    period_start timestamptz,
    period_end timestamptz,
    trial_end timestamptz,
    ends_at timestamptz,
    state_at timestamptz,
    state_rank integer,
    state_key text,
    payment text,
    payment_at timestamptz,
    payment_key text,
    paid_price_id text,
    paid_start timestamptz,
    paid_end timestamptz,
    paid_at timestamptz,
    paid_key text,
    has_begun boolean not null default false,
    updated_at timestamptz not null default pg_catalog.now(),
    constraint stripe_subscriptions_pkey primary key (id),
    constraint stripe_subscriptions_id_check check (pg_catalog.char_length(id) between 1 and 255),
    constraint stripe_subscriptions_payment_check check (payment in ('failed', 'succeeded'))
);
create index stripe_subscriptions_customer_id_idx on keelson.stripe_subscriptions (customer_id);
create index stripe_subscriptions_updated_at_idx on keelson.stripe_subscriptions (updated_at);
comment on table keelson.stripe_subscriptions is
    'The newest that Stripe has said of each subscription: of its state, of its latest payment, of its latest payment that came. Joined with each event, so that the same events make the same row in any order.';
comment on column keelson.stripe_subscriptions.ends_at is 'When it ends, if that is known: cancelled, or to be.';
comment on column keelson.stripe_subscriptions.state_rank is 'Which of two states of one second wins; 100 and above: the end, which is final.';
comment on column keelson.stripe_subscriptions.has_begun is 'Whether it was ever active, or paid for.';

-- migration 2: objects of which nothing is heard any more

create index webhook_versions_occurred_at_idx on keelson.webhook_versions (occurred_at);
comment on index keelson.webhook_versions_occurred_at_idx is 'What the clean-up takes.';

-- migration 3: exhausted events are kept for a time

comment on table keelson.incoming_events is
    'Events that others have sent, and whose signature was good. Handled by the worker, kept for seven days after that; exhausted ones for 90.';
comment on table keelson.failed_webhook_events is
    'Incoming events whose handling has failed: again after 15, 30 and 60 minutes, then by hand. Resolved ones are kept for 30 days, exhausted ones for 90.';
