-- Who may see what of tiers, subscriptions, quotas and referrals. Writing is the functions' alone.

select keelson._user_policies('keelson.subscriptions');
select keelson._user_policies('keelson.quota_counters');
select keelson._user_policies('keelson.quota_reservations');
select keelson._user_policies('keelson.quota_watches');
select keelson._user_policies('keelson.referrals');
select keelson._user_policies('keelson.referral_redemptions');

alter table keelson.referral_codes enable row level security;
alter table keelson.referral_codes force row level security;

grant select on keelson.tiers, keelson.tier_limits to keelson_app, keelson_admin;
grant select on keelson.subscriptions, keelson.quota_counters, keelson.quota_reservations, keelson.referrals to keelson_app;

create or replace trigger tiers_changed
after insert or update or delete or truncate on keelson.tiers
for each statement execute function keelson._tiers_changed();
create or replace trigger tier_limits_changed
after insert or update or delete or truncate on keelson.tier_limits
for each statement execute function keelson._tiers_changed();

insert into keelson.webhook_event_types (name, description, schema, sample, is_reserved)
values
    ('subscription.changed', 'The user has another tier from now on.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "from": {"type": "string"}, "to": {"type": "string"}, "status": {"type": "string"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "from": "free", "to": "pro", "status": "active"}', true),
    ('usage.quota_reached', 'A quota of the user''s is used up, or has refused what did not fit; told once in a period.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "unit": {"type": ["string", "null"]}, "feature": {"type": ["string", "null"]}, "limit": {"type": "number"}, "used": {"type": "number"}, "hard": {"type": "boolean"}, "resetAt": {"type": ["string", "null"], "format": "date-time"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "unit": "minutes", "feature": null, "limit": 1000, "used": 1002.5, "hard": false, "resetAt": "2025-02-15T09:00:00Z"}', true),
    ('subscription.updated', 'Status or period of the subscription has changed, or when it ends.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "tier": {"type": "string"}, "status": {"type": "string"}, "periodEnd": {"type": "string", "format": "date-time"}, "endsAt": {"type": ["string", "null"], "format": "date-time"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "tier": "pro", "status": "active", "periodEnd": "2025-02-15T00:00:00Z", "endsAt": null}', true),
    ('subscription.past_due', 'A payment for the subscription is late.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "tier": {"type": "string"}, "status": {"type": "string"}, "periodEnd": {"type": "string", "format": "date-time"}, "endsAt": {"type": ["string", "null"], "format": "date-time"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "tier": "pro", "status": "past_due", "periodEnd": "2025-02-15T00:00:00Z", "endsAt": null}', true),
    ('subscription.canceled', 'The subscription was cancelled: it has ended, or will at endsAt.',
        '{"type": "object", "properties": {"userId": {"type": "string", "format": "uuid"}, "tier": {"type": "string"}, "status": {"type": "string"}, "periodEnd": {"type": "string", "format": "date-time"}, "endsAt": {"type": ["string", "null"], "format": "date-time"}}}',
        '{"userId": "019300a0-5b1e-7c3a-9d5e-2f6b8a1c4d7e", "tier": "free", "status": "canceled", "periodEnd": "2025-02-15T00:00:00Z", "endsAt": null}', true)
on conflict (name) do update
set description = excluded.description, schema = excluded.schema, sample = excluded.sample, is_reserved = excluded.is_reserved
where (webhook_event_types.description, webhook_event_types.schema, webhook_event_types.sample, webhook_event_types.is_reserved)
    is distinct from (excluded.description, excluded.schema, excluded.sample, excluded.is_reserved);

insert into keelson.user_data_rules (relation, column_name, is_kept, is_hidden, open_expression, reason)
values
    ('keelson.quota_watches', '*', false, true, null, 'How the server works: what is used and allowed stands elsewhere')
on conflict (relation, column_name) do update
set is_kept = excluded.is_kept, is_hidden = excluded.is_hidden, open_expression = excluded.open_expression, reason = excluded.reason
where (user_data_rules.is_kept, user_data_rules.is_hidden, user_data_rules.open_expression, user_data_rules.reason)
    is distinct from (excluded.is_kept, excluded.is_hidden, excluded.open_expression, excluded.reason);
